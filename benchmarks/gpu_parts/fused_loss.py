"""The fused loss on the device: equal to float64, and how fast."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_parts import Cases, Options, Row
from gpu_parts.measure import Work, measure
from gpu_parts.training import random_images
from segkit.losses import CrossEntropyLoss, DiceLoss, FocalLoss, WeightedSum

TERMS = {"CE": ("ce",), "CE+focal+dice": ("ce", "focal", "dice")}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CHECKED = 2  # images that are computed in float64


def cases(options: Options) -> Cases:
    every = product((21, 150), DTYPES, TERMS)
    return {
        f"{classes} classes, {dtype} logits, {loss}": partial(row, options, classes, dtype, loss)
        for classes, dtype, loss in every
    }


def row(options: Options, classes: int, dtype: str, loss: str) -> Iterator[Row]:
    low, target = inputs(options, classes, DTYPES[dtype])
    exact = value_and_slope(of(loss, False), low[:CHECKED].double(), target[:CHECKED])
    computed = {
        "fused": value_and_slope(of(loss, True), low[:CHECKED], target[:CHECKED]),
        "full": value_and_slope(of(loss, False), low[:CHECKED], target[:CHECKED]),
    }
    errors: Row = {}
    for name, both in computed.items():
        for what, mine, right in zip(("value", "gradient"), both, exact, strict=True):
            errors[f"{name} {what} error"] = relative(mine, right)
    makers: dict[str, Callable[[], Work]] = {
        "fused": lambda: timed(of(loss, True), low, target),
        "full": lambda: timed(of(loss, False), low, target),
    }
    if loss == "CE":
        makers["F"] = lambda: timed(nn.CrossEntropyLoss(ignore_index=255), low, target)
    found = measure(options, makers)
    plain = found.get("F")
    yield errors | {
        "fused ms": found["fused"].ms,
        "full ms": found["full"].ms,
        "F ms": plain and plain.ms,
        "full / fused": found["full"].ms / found["fused"].ms,
        "fused MiB": found["fused"].mib,
        "full MiB": found["full"].mib,
        "F MiB": plain and plain.mib,
    }


def inputs(options: Options, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits (N, C, H/4, W/4) with channels last, as the network gives them, and a target."""
    size = options.size
    _, target = random_images(options.batch_size, (size, size), classes)
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_size, size // 4, size // 4, classes)
    low = torch.randn(shape, generator=generator).mul_(3).permute(0, 3, 1, 2)
    return low.to(options.device, dtype), target.to(options.device)


def of(loss: str, fused: bool) -> WeightedSum:
    kinds = {"ce": CrossEntropyLoss, "focal": FocalLoss, "dice": DiceLoss}
    terms = {name: {"weight": 1.0, "loss": kinds[name]()} for name in TERMS[loss]}
    return WeightedSum(terms, fused=fused)


def value(loss_fn: nn.Module, low: Tensor, target: Tensor) -> Tensor:
    if getattr(loss_fn, "fused", False):
        return loss_fn(low, target)
    # As a step does it: autocast resizes in float32 on CUDA.
    low = low.to(torch.promote_types(low.dtype, torch.float32))
    full = F.interpolate(low, target.shape[1:], mode="bilinear", align_corners=False)
    return loss_fn(full, target.long())


def value_and_slope(loss_fn: nn.Module, low: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    low = low.detach().requires_grad_()
    result = value(loss_fn, low, target)
    return result.detach(), torch.autograd.grad(result, low)[0]


def relative(mine: Tensor, right: Tensor) -> float:
    return float((mine.double() - right).norm() / right.norm())


def timed(loss_fn: nn.Module, low: Tensor, target: Tensor) -> Work:
    def work(count: int) -> None:
        for _ in range(count):
            value_and_slope(loss_fn, low, target)

    return work
