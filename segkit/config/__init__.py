"""The typed configuration, its checks, and what builds objects from it; no argv, no torch.

One rule for holes: every node is either in the schema or a ``_target_`` node, whose schema is its
constructor's signature.
"""

from segkit.config.build import build, build_augment, rebuild, without_effects
from segkit.config.problems import check_config
from segkit.config.saved import absolute_paths, plain_config
from segkit.config.weightings import (
    check_class_values,
    fill_class_weights,
    needs_class_counts,
    rare_class_hint,
)

__all__ = [
    "absolute_paths",
    "build",
    "build_augment",
    "check_class_values",
    "check_config",
    "fill_class_weights",
    "needs_class_counts",
    "plain_config",
    "rare_class_hint",
    "rebuild",
    "without_effects",
]
