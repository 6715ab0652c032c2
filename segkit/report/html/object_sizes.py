"""How well objects are found, by their size."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.metrics.objects import objects_of_classes

# Side of a square with as many pixels: below the first, from each to the next, from the last on.
SIDES = (8, 16, 32, 64, 128, 256, 512)


class SizeBin(NamedTuple):
    """The objects of one size.

    Attributes:
        text: Their side in pixels, as ``16-32``.
        objects: How many.
        found: Share of them of which at least half is predicted right; None without objects.
        recall: Share of their pixels that is; None without objects.
    """

    text: str
    objects: int
    found: float | None
    recall: float | None


class ObjectSizes:
    """Counts of objects, which are connected areas of one class in the target, by their size.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value of the pixels that are no object.

    Attributes:
        counts: int64 (C, sizes, 4): objects, found ones, their pixels, pixels predicted right.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index
        self.counts = np.zeros((num_classes, len(SIDES) + 1, 4), np.int64)

    def update(self, target: NDArray[np.integer[Any]], pred: NDArray[np.integer[Any]]) -> None:
        """Count one image: class ids or ``ignore_index``, (H, W), and class ids, (H, W)."""
        areas = objects_of_classes(target, target == pred)
        class_ids, pixels, right = areas[areas[:, 0] != self.ignore_index].T
        columns = (np.ones_like(pixels), 2 * right >= pixels, pixels, right)
        bins = np.searchsorted(np.square(SIDES), pixels, side="right")
        np.add.at(self.counts, (class_ids, bins), np.stack(columns, axis=1))

    def merge(self, other: "ObjectSizes") -> None:
        """Add the counts of another process."""
        self.counts = self.counts + other.counts

    def bins(self, class_id: int | None = None) -> list[SizeBin]:
        """Of one class, or of all together."""
        counts = self.counts.sum(0) if class_id is None else self.counts[class_id]
        between = (f"{low}-{high}" for low, high in pairwise(SIDES))
        texts = [f"< {SIDES[0]}", *between, f">= {SIDES[-1]}"]
        return [
            SizeBin(text, n, found / n if n else None, right / pixels if n else None)
            for text, (n, found, pixels, right) in zip(texts, counts.tolist(), strict=True)
        ]
