"""The typed configuration, its check before a run, and what builds objects from it.

The only reader of Hydra. One rule for holes: every node is either in the schema or a ``_target_``
node, whose schema is its constructor's signature. Importing this package does not import torch,
so that a mistake in a key ends a run at once.
"""

from segkit.config.build import build, build_augment, rebuild, without_effects
from segkit.config.check import check_config
from segkit.config.command import check_command_line, run, typed_overrides
from segkit.config.explain import did_you_mean
from segkit.config.resume import choices, resumed
from segkit.config.saved import absolute_paths, plain_config
from segkit.config.weightings import (
    check_class_values,
    fill_class_weights,
    needs_class_counts,
)

__all__ = [
    "absolute_paths",
    "build",
    "build_augment",
    "check_class_values",
    "check_command_line",
    "check_config",
    "choices",
    "did_you_mean",
    "fill_class_weights",
    "needs_class_counts",
    "plain_config",
    "rebuild",
    "resumed",
    "run",
    "typed_overrides",
    "without_effects",
]
