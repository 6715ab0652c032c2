"""The class with the largest score at each pixel, and what a softmax over the classes needs."""

import torch
from torch import Tensor

from segkit.metrics.counting import row_strips

STRIP = 2**20  # scores that are looked at together
HUGE = 1e38  # twice of it makes whole numbers of the smallest differences of float32


def best_class(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The largest score of each pixel and its class, as ``scores.max(1)`` gives them.

    Of equal scores the first class counts. Where a score is NaN, the largest one is NaN, and the
    class has no meaning.

    Args:
        scores: Float (N, C, H, W).

    Returns:
        Scores (N, H, W) and class ids int64 (N, H, W).
    """
    if not _in_planes(scores):
        best = scores.max(1)
        return best.values, best.indices
    num_images, num_classes, height, width = scores.shape
    values = scores.new_empty(num_images, height, width)
    ids = torch.empty(values.shape, dtype=torch.int64)
    for rows in row_strips(slice(0, height), num_images * num_classes * width, STRIP):
        part = scores[:, :, rows]
        values[:, rows] = part.amax(1)
        ids[:, rows] = _first_zero(part - values[:, None, rows])
    return values, ids


def best_and_exps(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The class of the largest score of each pixel, and the exponentials that softmax divides.

    Args:
        scores: Float (N, C, H, W); a strip of an image, since the exponentials are as large.

    Returns:
        Class ids (N, H, W), and ``exp(scores - largest)`` (N, C, H, W): 1 at these classes.
    """
    if not _in_planes(scores):
        best = scores.max(1)
        return best.indices, (scores - best.values[:, None]).exp_()
    behind = scores - scores.amax(1, keepdim=True)
    return _first_zero(behind), behind.exp_()


def _in_planes(scores: Tensor) -> bool:
    """Whether it is faster to find the largest value first, and its place then: on the CPU."""
    return scores.device.type == "cpu" and scores.dtype == torch.float32 and scores.stride(3) == 1


def _first_zero(behind: Tensor) -> Tensor:
    """First class (N, H, W) that is 0, of numbers (N, C, H, W) that are 0 or below; any for NaN."""
    # The CPU finds the largest value about ten times as fast as its place. So classes get numbers,
    # the first one the largest, and those that are behind are pushed below all of them.
    num_classes = behind.shape[1]
    numbers = torch.arange(num_classes, 0, -1, dtype=behind.dtype).view(1, -1, 1, 1)
    largest = behind.mul(HUGE).mul_(HUGE).add_(numbers).amax(1)
    return num_classes - largest.nan_to_num_().long()
