"""How much scores owe to the choice of the images: the bootstrap (Efron 1979).

The images are drawn again, as many as there are and with repetition, and scored as one split.
Where two models are scored with the same seed they get the same draws, so that their differences
are paired: an image that is hard for both makes neither look worse.
"""

import torch
from torch import Tensor

WEIGHTS = 2**22  # numbers in memory at once


def class_counts(matrix: Tensor) -> Tensor:
    """What IoU needs of a confusion matrix (C, C): int64 (3, C) hits, target, predicted pixels."""
    return torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])


def bootstrap_iou(counts: Tensor, resamples: int = 1000, seed: int = 0) -> Tensor:
    """Scores of splits that are drawn from the images of one.

    Args:
        counts: :func:`class_counts` of each image, int64 (N, 3, C), N at least 1.
        resamples: Number of splits.
        seed: Of the draws, which depend on nothing else but N.

    Returns:
        float64 (resamples, 1 + C): mean IoU, then the IoU of each class; NaN where a class is in
        none of the images that were drawn. It is not averaged then, as in the whole split.
    """
    num_images, _, num_classes = counts.shape
    flat = counts.flatten(1).to("cpu", torch.float64)  # exact below 2**53 pixels
    generator = torch.Generator().manual_seed(seed)
    sums = []
    at_once = max(1, WEIGHTS // num_images)
    for first in range(0, resamples, at_once):
        number = min(at_once, resamples - first)
        drawn = torch.randint(num_images, (number, num_images), generator=generator)
        times = torch.zeros(number, num_images, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(times))
        sums.append(times @ flat)
    hits, target, predicted = torch.cat(sums).view(-1, 3, num_classes).unbind(1)
    iou = hits / (target + predicted - hits)
    return torch.cat([iou.nanmean(1, keepdim=True), iou], dim=1)


def interval(values: Tensor, level: float = 0.95) -> tuple[float, float] | None:
    """The middle ``level`` of the values (R,): a percentile interval. None if all are NaN."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    defined = values[~values.isnan()]
    if not len(defined):
        return None
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype)
    low, high = torch.quantile(defined, ends).tolist()
    return low, high


def p_value(differences: Tensor) -> float | None:
    """How surprising differences (R,) on both sides of 0 are: two-sided, None if all are NaN.

    Twice the share on the rarer side, zeros on both, with the one split that was really seen
    counted in, so that it is never 0.
    """
    defined = differences[~differences.isnan()]
    if not len(defined):
        return None
    rarer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(defined) + 1))
