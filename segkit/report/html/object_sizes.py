"""How well objects are found, by their size."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.metrics.objects import NEIGHBOURS

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
        squares = np.square(SIDES)
        codes = np.where(target == self.ignore_index, 0, target.astype(np.int32) + 1)
        boxes = ndimage.find_objects(codes, len(self.counts))
        for class_id, box in enumerate(boxes):
            if box is None:
                continue
            areas, count = ndimage.label(codes[box] == class_id + 1, NEIGHBOURS)
            pixels = np.bincount(areas.ravel(), minlength=count + 1)[1:]
            right = np.bincount(areas[pred[box] == class_id], minlength=count + 1)[1:]
            columns = (np.ones_like(pixels), 2 * right >= pixels, pixels, right)
            bins = np.searchsorted(squares, pixels, side="right")
            np.add.at(self.counts[class_id], bins, np.stack(columns, axis=1))

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
