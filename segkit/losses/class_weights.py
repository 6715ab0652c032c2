"""Class weights out of the pixel counts of the training split.

Each function takes the number of labelled pixels per class and returns one weight per class.
A class that never occurs gets weight 0: nothing in the split could say how much it should count.
"""

import math
import statistics
from collections.abc import Callable, Iterable

MAX_WEIGHT = 10.0
"""Cap of the weights that grow as 1/frequency: beyond it a few rare pixels outvote whole images."""


def balanced(pixel_counts: Iterable[int]) -> list[float]:
    """``total / (C * count)``, at most MAX_WEIGHT: each class has the same say in total.

    This is scikit-learn's "balanced" up to the cap. C counts all classes, absent ones too.
    """
    counts = checked_counts(pixel_counts)
    share = sum(counts) / len(counts)
    return [min(share / count, MAX_WEIGHT) if count else 0.0 for count in counts]


def median_frequency(pixel_counts: Iterable[int]) -> list[float]:
    """``median / count``, at most MAX_WEIGHT, with the median over the classes that occur.

    Median frequency balancing (Eigen and Fergus 2015, arXiv:1411.4734), with the frequencies taken
    over the pixels of the whole split rather than over the images that show the class.
    """
    counts = checked_counts(pixel_counts)
    median = statistics.median(count for count in counts if count)
    return [min(median / count, MAX_WEIGHT) if count else 0.0 for count in counts]


def enet(pixel_counts: Iterable[int]) -> list[float]:
    """``1 / ln(1.02 + p)`` for a class that has the share p of all pixels (1.42 to 50.5).

    From ENet (Paszke et al. 2016, arXiv:1606.02147).
    """
    counts = checked_counts(pixel_counts)
    total = sum(counts)
    return [1.0 / math.log(1.02 + count / total) if count else 0.0 for count in counts]


WEIGHTINGS: dict[str, Callable[[Iterable[int]], list[float]]] = {
    "balanced": balanced,
    "median_frequency": median_frequency,
    "enet": enet,
}
"""What ``class_weights=NAME`` in a loss config stands for."""


def checked_counts(pixel_counts: Iterable[int]) -> list[int]:
    """The counts (C,) of a list, array or tensor as ints; negative or all-zero ones are refused."""
    counts = [int(count) for count in pixel_counts]
    if not any(counts) or min(counts) < 0:
        raise ValueError(
            "class weights need the labelled pixels of each class, none negative and not all 0, "
            f"got {counts}"
        )
    return counts
