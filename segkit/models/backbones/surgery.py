"""What turns an image classifier into a backbone: dilation, input channels, pretrained tensors."""

from collections.abc import Callable, Iterable
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from segkit.errors import CheckpointError, ConfigError
from segkit.files import path_problem
from segkit.models.foreign import plain_weights
from segkit.models.layers import SafeConv2d
from segkit.models.weights import copy_tensors, match_tensors, read_tensors


def torchvision_models() -> ModuleType:
    """``torchvision.models``, by an import of seconds that the tiny backbone does without.

    Raises:
        ConfigError: torchvision is of another release or build than PyTorch, or is missing.
    """
    try:
        return import_module("torchvision.models")
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"torchvision cannot be imported with torch {torch.__version__} "
            f"({' '.join(str(error).split())}): they must be of one release and build. Install "
            "both with one command: python -m pip install --force-reinstall torch torchvision; "
            "without a GPU, with --index-url https://download.pytorch.org/whl/cpu at its end"
        ) from error


def dilate(blocks: Iterable[nn.Module], *, stride: int, output_stride: int) -> None:
    """Trade stride for dilation in ``blocks``, in place, so that they end at ``output_stride``.

    From the block on where the stride would exceed ``output_stride``, strides become 1 and what
    follows is dilated. The strided convolution itself keeps the dilation from before, as in
    torchvision: so every ``k``-th pixel of the result equals the undilated network's result.
    Grouped layers become :class:`SafeConv2d`, under the same name with the same parameters.

    Args:
        blocks: Blocks in the order of the data, their convolutions in the order of registration.
        stride: Stride of what enters the first block.
        output_stride: 8 or 16.

    Raises:
        ValueError: For another ``output_stride``.
    """
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
    dilation = 1
    for block in blocks:
        convolutions = [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Conv2d)]
        step = max(conv.stride[0] for _, conv in convolutions)
        if stride * step <= output_stride:
            stride, step = stride * step, 1
        for name, conv in convolutions:
            if step > 1 and conv.stride[0] == step:
                conv.stride = (1, 1)
                _set_dilation(block, name, conv, dilation)
            else:
                _set_dilation(block, name, conv, dilation * step)
        dilation *= step


def _set_dilation(block: nn.Module, name: str, conv: nn.Conv2d, dilation: int) -> None:
    if conv.kernel_size == (1, 1) or dilation == 1:
        return
    if conv.groups > 1:
        safe = SafeConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",  # draws no random numbers: the parameters come from conv
        )
        safe.weight, safe.bias = conv.weight, conv.bias
        block.set_submodule(name, safe)
        conv = safe
    conv.dilation = (dilation, dilation)
    conv.padding = tuple(dilation * (size // 2) for size in conv.kernel_size)


def with_in_channels(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """``conv`` itself if it takes ``in_channels`` already, else a new one like it that does."""
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, got {in_channels}")
    if in_channels == conv.in_channels:
        return conv
    new = nn.Conv2d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def load_pretrained(
    backbone: nn.Module,
    name: str,
    weights: str | None,
    *,
    first_conv: str | Iterable[str],
    leftover: tuple[str, ...],
    download: Callable[[], dict[str, Any]],
    origin: str = "torchvision",
) -> None:
    """Fill ``backbone`` with the tensors of a classifier; all of them or an error.

    Where the backbone takes other than three channels, the kernel of its first convolution is, as
    in timm, the sum over red, green and blue for one channel, so that a grey image gives the same
    response as before; for N it is repeated, red, green, blue, red, ..., and scaled by 3 / N.

    Args:
        backbone: Module whose state-dict keys are those of ``origin``.
        name: Network, for messages.
        weights: None (nothing is loaded), ``imagenet``, or the path of a state-dict file.
        first_conv: Key of the first convolution's weight, or of several side by side.
        leftover: Beginnings of the keys of the parts that were cut off.
        download: Returns the state dict of ``origin``, from its cache or the network.
        origin: Whose network it is, for messages.

    Raises:
        CheckpointError: If the download fails, the file cannot be read or is of another network.
    """
    if weights is None:
        return
    if weights == "imagenet":
        tensors = _download(name, download, origin)
    else:
        tensors = plain_weights(read_tensors(Path(weights)))
    tensors = {key: value for key, value in tensors.items() if not key.startswith(leftover)}
    own = backbone.state_dict()
    # What a classifier of timm calls stages.0 is stages_0 in a feature extractor.
    known = {key.replace("_", "."): key for key in own}
    tensors = {known.get(key.replace("_", "."), key): value for key, value in tensors.items()}
    # Files from before PyTorch 0.4.1 do not count batches.
    counters = {k: v for k, v in own.items() if k.endswith(".num_batches_tracked")}
    tensors = {**counters, **tensors}
    for key in [first_conv] if isinstance(first_conv, str) else first_conv:
        if isinstance(kernel := tensors.get(key), Tensor) and kernel.ndim == 4:
            tensors[key] = _adapt_kernel(kernel, in_channels=own[key].shape[1])
    report = match_tensors(backbone, tensors, model_name=name)
    if report.skipped:
        raise CheckpointError(
            f"{weights}: not the weights of {name}: {len(report.skipped)} tensors do not fit "
            f"({len(report.taken) - len(counters)} of {report.total - len(counters)} do): "
            f"{report.reasons()}"
        )
    copy_tensors(backbone, tensors, report.taken)


def _adapt_kernel(kernel: Tensor, in_channels: int) -> Tensor:
    if kernel.shape[1] == in_channels:
        return kernel
    given = kernel.shape[1]
    if in_channels == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, -(-in_channels // given), 1, 1)[:, :in_channels]
    return repeated * (given / in_channels)


def _download(name: str, download: Callable[[], dict[str, Any]], origin: str) -> dict[str, Any]:
    # Without a home folder torch.hub would make one that is called ~ in the working folder.
    if problem := path_problem(torch.hub.get_dir()):
        raise CheckpointError(
            f"the ImageNet weights of {name} cannot be kept: {problem.partition('. ')[0]}. Set "
            "TORCH_HOME=FOLDER in the environment, a folder to keep downloads in"
        )
    try:
        return download()
    # A broken connection, a wrong hash, a damaged file in the cache.
    except (OSError, HTTPException, RuntimeError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"the ImageNet weights of {name} could not be downloaded ({error}). Without network: "
            "model.backbone.weights=null trains from random start, model.backbone.weights=PATH "
            f"takes {origin}'s file from disk."
        ) from error
