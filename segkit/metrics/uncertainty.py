"""How much scores owe to the choice of the images, each of which counts as one observation.

Intervals are Student's, with the standard error of the jackknife (Tukey 1958): the score of the
split without one image after the other. For few images they cover the true value far more often
than percentiles of a bootstrap, and they know of classes that only one image shows; the table is in
docs/metrics.md, made by benchmarks/intervals.py.

Whether two models differ is tested by swapping their answers to single images at random: if they
are equally good, no such swap makes a difference, so the share of swaps that differ at least as
much is a p value that is exact for any number of images (Fisher 1935; Pitman 1937).
"""

import math
from typing import NamedTuple

import torch
from scipy import special
from torch import Tensor

WEIGHTS = 2**22  # numbers in memory at once

# Images -> how often a 95 % interval of the mean IoU holds the true value, in percent: the least
# and the most of the kinds of data in benchmarks/intervals.py.
COVERAGE = {
    2: (85.2, 95.7),
    3: (85.7, 94.8),
    5: (88.9, 95.5),
    10: (92.9, 95.0),
    20: (94.0, 95.9),
    30: (93.6, 94.9),
    100: (94.8, 95.2),
}
FEW = 20  # below it the words ask for care


METHOD = "jackknife over the images, Student's t"


class Interval(NamedTuple):
    """Where a score lies, at the level that was asked for."""

    low: float
    high: float


def class_counts(matrix: Tensor) -> Tensor:
    """What IoU needs of a confusion matrix (C, C): int64 (3, C) hits, target, predicted pixels."""
    return torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])


def iou_of_sums(sums: Tensor) -> Tensor:
    """Scores of splits, given the sums of their images' :func:`class_counts`.

    Args:
        sums: float64 (..., 3, C).

    Returns:
        float64 (..., 1 + C): mean IoU, then the IoU of each class; NaN where the split does not
        show a class. It is not averaged then.
    """
    hits, target, predicted = sums.unbind(-2)
    iou = hits / (target + predicted - hits)
    return torch.cat([iou.nanmean(-1, keepdim=True), iou], dim=-1)


def iou_intervals(counts: Tensor, level: float = 0.95) -> list[Interval | None]:
    """Of the mean IoU, then of the IoU of each class.

    They are Student's on the scale of ``log(x / (1 - x))``, so that both ends are in [0, 1].

    Args:
        counts: :func:`class_counts` of each image, int64 (N, 3, C).
        level: How often an interval is to hold the true value, between 0 and 1.

    Returns:
        None where fewer than two images show a class: nothing says how much another would differ.
    """
    check_level(level)
    scores, without, counted = _leave_one_out(counts.to("cpu", torch.float64))
    found: list[Interval | None] = []
    for i, score in enumerate(scores.tolist()):
        half = _half_width(without[counted[:, i], i], level)
        if half is None or math.isnan(score):
            found.append(None)
        elif not 0 < score < 1:
            found.append(Interval(score, score))
        else:
            middle, half = math.log(score / (1 - score)), half / (score * (1 - score))
            ends = special.expit([middle - half, middle + half])
            found.append(Interval(*ends.tolist()))
    return found


def difference_intervals(
    first: Tensor, second: Tensor, level: float = 0.95
) -> list[Interval | None]:
    """Likewise of second minus first, for the counts of two models on the same images.

    They are paired: an image that is hard for both makes neither look worse.
    """
    check_level(level)
    ours, theirs = (_leave_one_out(c.to("cpu", torch.float64)) for c in (first, second))
    without, counted = theirs[1] - ours[1], theirs[2] | ours[2]
    found: list[Interval | None] = []
    for i, difference in enumerate((theirs[0] - ours[0]).tolist()):
        half = _half_width(without[counted[:, i], i], level)
        if half is None or math.isnan(difference + half):
            found.append(None)
        else:
            found.append(Interval(max(difference - half, -1.0), min(difference + half, 1.0)))
    return found


def swap_p_values(
    first: Tensor, second: Tensor, resamples: int = 1000, seed: int = 0
) -> list[float | None]:
    """How surprising the differences of two models are if both are equally good: two-sided.

    The share of swaps that differ at least as much as what was seen, which is one of them. All
    swaps are made where there are no more than ``resamples``, else so many at random. With n images
    on which the models differ no value is below ``2 / 2**n``.

    Args:
        first: :func:`class_counts` of the images by one model, int64 (N, 3, C).
        second: The same counts of the other model.
        resamples: At least 1.
        seed: Seed of the random swaps.

    Returns:
        Of the mean IoU, then of the IoU of each class; None where one has no score.
    """
    one, two = (counts.to("cpu", torch.float64) for counts in (first, second))
    seen = iou_of_sums(two.sum(0)) - iou_of_sums(one.sum(0))
    change = (two - one)[(one != two).flatten(1).any(1)].flatten(1)
    images = len(change)
    if every := images < 63 and 2**images <= resamples:
        resamples = 2**images
    generator = torch.Generator().manual_seed(seed)
    extreme = torch.zeros_like(seen, dtype=torch.int64)
    at_once = max(1, WEIGHTS // max(1, images))
    for start in range(0, resamples, at_once):
        number = min(at_once, resamples - start)
        if every:
            swapped = torch.arange(start, start + number)[:, None] >> torch.arange(images) & 1
        else:
            swapped = torch.randint(2, (number, images), generator=generator)
        moved = (swapped.double() @ change).view(number, *one.shape[1:])
        found = iou_of_sums(two.sum(0) - moved) - iou_of_sums(one.sum(0) + moved)
        # A class that a swap takes away from one model could be anything: that is no reason to
        # be less careful. Equal differences may come out unequal in their last bits.
        extreme += (~(found.abs() < seen.abs() - 1e-12)).sum(0)
    # At random, what was seen comes on top.
    rarely = extreme.double()
    share = rarely / resamples if every else (rarely + 1) / (resamples + 1)
    return [
        None if math.isnan(difference) else p
        for difference, p in zip(seen.tolist(), share.tolist(), strict=True)
    ]


def trust(images: int) -> str:
    """How far an interval of the mean IoU over so many images can be trusted, in words."""
    if images < min(COVERAGE):
        return f"{images} image says nothing about others"
    low, high = COVERAGE[max(n for n in COVERAGE if n <= images)]
    share = f"{low:.0f}" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f} to {high:.0f}"
    held = f"{share} % of 95 % intervals held the true value in simulations"
    if images < FEW:
        return f"few images, {images}: {held}; take it for a rough idea"
    return held


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def _leave_one_out(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (1 + C), those without each image (N, 1 + C), and where an image counts."""
    sums = counts.sum(0)
    shown = counts[:, 1] + counts[:, 2] > 0  # (N, C)
    counted = torch.cat([shown.any(1, keepdim=True), shown], dim=1)
    return iou_of_sums(sums), iou_of_sums(sums - counts), counted


def _half_width(without: Tensor, level: float) -> float | None:
    """Of Student's interval, by the scores without one of the images that count, (N,)."""
    images = len(without)
    if images < 2:
        return None
    spread = ((without - without.mean()) ** 2).sum().item()
    error = math.sqrt((images - 1) / images * spread)
    return float(special.stdtrit(images - 1, (1 + level) / 2)) * error
