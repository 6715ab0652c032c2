"""segkit: end-to-end training of semantic segmentation models on VOC-style masks.

Importing this package is quick and silent: torch and friends load with the modules that use them.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.cli.python import evaluate as evaluate
    from segkit.cli.python import train as train
    from segkit.inference.model import load_model as load_model

__all__ = ["__version__", "evaluate", "load_model", "train"]
__version__ = "0.1.0"

if sys.version_info >= (3, 14):
    raise SystemExit(
        f"segkit: Python {sys.version.split()[0]} found, 3.10 to 3.13 needed: Hydra 1.3, which "
        "reads the configuration, does not start on 3.14. Make a virtual environment with "
        "python3.13."
    )

# They must be set before the library in question is first imported or used. Busy-waiting OpenMP
# threads make a training step up to 20 times slower when loader workers share the cores;
# albumentations asks the network for a newer version at import, which hangs on machines without a
# route; cuBLAS reads once what its workspace is, which trainer.deterministic=true needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


if sys.argv[:1] == ["-m"]:  # python -m segkit.tools.stats, say, whose imports take a moment
    from segkit.ending import ending

    ending.begin()


def __getattr__(name: str) -> Any:
    """``segkit.train``, ``segkit.load_model``: imported, which takes seconds, when asked for."""
    if name in ("train", "evaluate"):
        from segkit.cli import python

        return getattr(python, name)
    if name == "load_model":
        from segkit.inference.model import load_model

        return load_model
    raise AttributeError(f"module 'segkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """With what is not imported yet, for a notebook's completion."""
    return sorted({*globals(), *__all__})
