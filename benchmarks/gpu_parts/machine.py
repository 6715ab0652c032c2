"""What the numbers were seen on."""

import importlib.util
import os
import platform
from collections.abc import Iterator
from typing import Any

from gpu_parts import Cases, Options, Row, Unavailable


def cases(options: Options) -> Cases:
    return {"machine": lambda: machine(options)}


def machine(options: Options) -> Iterator[Row]:
    import torch

    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device (--device cpu --quick tries the script)")
    import torchvision

    import segkit

    packages = ("triton", "segmentation_models_pytorch")
    yield {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
        "segkit": segkit.__version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "cuDNN": torch.backends.cudnn.version() if cuda else None,
    } | {name: version(name) for name in packages}


def version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    return str(importlib.import_module(name).__version__)


def smp() -> Any:
    """segmentation_models.pytorch, the peer.

    Raises:
        Unavailable: It is not installed.
    """
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        raise Unavailable("segmentation_models.pytorch is not installed")
    return importlib.import_module("segmentation_models_pytorch")
