"""Whether an exported file computes what the network did that it was made of, and how fast."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import CheckpointError

CHECKED_SIZES = ((192, 256), (161, 129))
CHECKED_BATCHES = (1, 3)


class Tolerance(NamedTuple):
    """How far a file may be off.

    Attributes:
        difference: Largest difference of logits over the largest logit.
        same: Least share of pixels with the same class.
    """

    difference: float
    same: float


TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.999),
    "fp16": Tolerance(3e-2, 0.99),
    # Eight bits move logits a lot; what counts is which one is the largest.
    "int8_dynamic": Tolerance(0.5, 0.9),
    "int8_static": Tolerance(0.5, 0.9),
}


@dataclass(frozen=True)
class Parity:
    """How far a file is off, over all images that were tried.

    Attributes:
        difference: Largest difference of logits over the largest logit.
        same: Share of pixels with the same class, 0 to 1.
        shapes: Shapes (N, H, W) of the images that were compared.
    """

    difference: float
    same: float
    shapes: list[tuple[int, ...]]

    def __str__(self) -> str:
        sizes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return (
            f"largest difference {self.difference:.1e} of the largest logit, "
            f"{100 * self.same:.3f} % of pixels with the same class ({sizes})"
        )


@torch.no_grad()
def check_parity(
    model: nn.Module,
    exported: Callable[[Tensor], Tensor],
    images: Sequence[Tensor],
    tolerance: Tolerance,
    size: tuple[int, int] | None = None,
) -> Parity:
    """Compare the logits of two sizes and two batch sizes, or of one by one of a fixed size.

    Args:
        model: The original.
        exported: What must do the same.
        images: What both take, (1, 3, H, W) each; they are resized.
        tolerance: What is let pass.
        size: The height and width that the file takes; None is any.

    Raises:
        CheckpointError: They differ by more, are no numbers, or the file fails.
    """
    difference = largest = 0.0
    same = pixels = 0
    shapes = []
    for batch in _batches(images, size):
        shapes.append(tuple(batch.shape))
        expected = model(batch)
        try:
            found = exported(batch)
        except Exception as error:  # of any runtime
            text = f"fails on an image of shape {shapes[-1]} ({in_short(error)})"
            raise CheckpointError(text) from error
        if found.shape != expected.shape:
            raise CheckpointError(f"logits of shape {found.shape}, expected {expected.shape}")
        for whose, logits in (("the checkpoint's", expected), ("its", found)):
            if not logits.isfinite().all():  # NaN would pass: neither max nor argmax minds it
                raise CheckpointError(
                    f"{whose} logits of an image of shape {shapes[-1]} hold NaN or infinity; "
                    "expected numbers"
                )
        difference = max(difference, float((found - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
        same += int((found.max(1).indices == expected.max(1).indices).sum())
        pixels += found[:, 0].numel()
    parity = Parity(difference / largest if largest else difference, same / pixels, shapes)
    if parity.difference > tolerance.difference or parity.same < tolerance.same:
        raise CheckpointError(
            f"computes something else than the checkpoint: {parity}; expected at most "
            f"{tolerance.difference:.0e}, and at least {100 * tolerance.same:g} %"
        )
    return parity


def in_short(error: Exception) -> str:
    """The beginning of what a runtime or exporter said, which may be pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _batches(images: Sequence[Tensor], size: tuple[int, int] | None) -> Iterator[Tensor]:
    if size is not None:
        yield from (resized(image, size) for image in images)
        return
    for count, one_size in product(CHECKED_BATCHES, CHECKED_SIZES):
        yield torch.cat([resized(images[i % len(images)], one_size) for i in range(count)])


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (1, C, H, W) of bytes or floats at another height and width, of the same type."""
    pixels = F.interpolate(image.float(), size, mode="bilinear", align_corners=False)
    return pixels if image.is_floating_point() else pixels.round().to(image.dtype)


@torch.no_grad()
def latency(compute: Callable[[Tensor], Tensor], image: Tensor, *, runs: int) -> float:
    """Seconds for one call, the median of ``runs`` after three that do not count."""
    times = []
    for _ in range(3 + runs):
        started = time.perf_counter()
        compute(image)
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])
