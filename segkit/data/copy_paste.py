"""Objects of other images, pasted (Ghiasi et al. 2021, arXiv:2012.07177)."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.data.arrays import Mask, Pixels
from segkit.data.dataset import SegmentationDataset

MOST = 4
"""Objects that one image gets."""
TRIES = 4
"""Images that are read for each of them, at most."""
LEAST_PIXELS = 16
"""Of an object: fewer are specks of labelling."""
BORDER = 5
"""Pixels around an object that come with it where they are ignored, as VOC's borders are."""
SHIFT = 0.25
"""Of the image's sides, the furthest that an object lands from its own place."""


class CopyPaste:
    """Pastes whole objects of rare classes into an image, before all other transforms.

    An object is a connected region of a class that does not touch the edge of its image, with the
    ignored pixels around it. Pixels and labels are copied as they are; what lies below is gone. It
    lands about where it was in its own image, mirrored or not.

    Args:
        dataset: Where objects come from.
        shows: Which image of it shows which class, (N, C).
        class_pixels: Pixels of each class; a class is drawn by 1 over these.
        p: Probability that an image gets objects, 1 to ``MOST`` of them.
        ignore_index: Mask value without a label.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        shows: NDArray[np.bool_],
        class_pixels: Sequence[int],
        *,
        p: float,
        ignore_index: int = 255,
    ) -> None:
        self.dataset, self.p, self.ignore_index = dataset, p, ignore_index
        pixels = np.asarray(class_pixels, np.float64)
        self.images = [np.flatnonzero(column) for column in shows.T]
        rarity = np.divide(1, pixels, out=np.zeros_like(pixels), where=pixels > 0)
        self.shares = rarity / rarity.sum()

    def __call__(self, image: Pixels, mask: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """Image (H, W, C) and integer (H, W) with objects; the given ones are not written to.

        Raises:
            DataError: The file of another image cannot be read.
        """
        if rng.random() >= self.p:
            return image, mask
        image, mask = image.copy(), mask.copy()
        wanted = int(rng.integers(1, MOST + 1))
        for _ in range(TRIES * wanted):
            if not wanted:
                break
            class_id = int(rng.choice(len(self.shares), p=self.shares))
            index = int(rng.choice(self.images[class_id]))
            mirrored, moves = rng.random() < 0.5, rng.uniform(-SHIFT, SHIFT, 2)
            other, labels = self.dataset.read(index)
            found = whole_objects(labels, class_id)
            if not found or other.shape[2:] != image.shape[2:] or other.dtype != image.dtype:
                continue  # specks, or at the edge: another object in its place
            wanted -= 1
            mask = mask.astype(np.promote_types(mask.dtype, labels.dtype), copy=False)
            chosen = found[int(rng.integers(len(found)))]
            self._paste(image, mask, other, labels, chosen, mirrored, moves)
        return image, mask

    def _paste(
        self,
        image: Pixels,
        mask: Mask,
        other: Pixels,
        labels: Mask,
        chosen: NDArray[np.bool_],
        mirrored: bool,
        moves: NDArray[np.float64],
    ) -> None:
        """Copy the chosen pixels of another image, and the ignored ones around them, in place."""
        around = cv2.dilate(chosen.view(np.uint8), np.ones((2 * BORDER + 1,) * 2, np.uint8))
        region = chosen | ((around > 0) & (labels == self.ignore_index))
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        region, other, labels = region[box], other[box], labels[box]
        if mirrored:
            region, other, labels = region[:, ::-1], other[:, ::-1], labels[:, ::-1]
        sides = np.array(mask.shape)
        room = sides - region.shape
        if room.min() < 0:  # larger than the image
            return
        scale = sides / chosen.shape  # of the place: images may have different sizes
        start = np.rint(np.array([rows[0], columns[0]]) * scale + moves * sides)
        row, column = start.clip(0, room).astype(int)
        target = slice(row, row + region.shape[0]), slice(column, column + region.shape[1])
        image[target][region], mask[target][region] = other[region], labels[region]


def whole_objects(mask: Mask, class_id: int) -> list[NDArray[np.bool_]]:
    """The regions of a class, each (H, W), that no edge of the image cuts."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats(
        (mask == class_id).astype(np.uint8), connectivity=8
    )
    height, width = mask.shape
    found = []
    for number in range(1, count):
        left, top, wide, high, pixels = stats[number]
        inside = left > 0 and top > 0 and left + wide < width and top + high < height
        if inside and pixels >= LEAST_PIXELS:
            found.append(regions == number)
    return found
