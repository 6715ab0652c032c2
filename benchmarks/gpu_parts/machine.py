"""What the numbers were seen on."""

import importlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import segkit
from gpu_parts import Cases, Options, Row, Unavailable

PACKAGES = ("torchvision", "triton", "albumentations", "segmentation-models-pytorch")


def cases(options: Options) -> Cases:
    return {"machine": lambda: machine(options)}


def machine(options: Options) -> Iterator[Row]:
    import torch

    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device (--device cpu --quick tries the script)")
    yield {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
        "segkit": segkit.__version__,
        "torch": str(torch.__version__),
        "cuDNN": torch.backends.cudnn.version() if cuda else None,
    } | {name: version(name) for name in PACKAGES}


def version(name: str) -> str | None:
    """Of a package that is installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def smp() -> Any:
    """segmentation_models.pytorch, the peer.

    Raises:
        Unavailable: It cannot be imported.
    """
    try:
        return importlib.import_module("segmentation_models_pytorch")
    except Exception as error:  # of the packages that it needs, too
        raise Unavailable(f"no segmentation_models.pytorch: {error}") from error
