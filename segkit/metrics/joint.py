"""Region, boundary and trimap counts of an image in one pass over its pixels."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from segkit.metrics.boundary import (
    BoundaryIoU,
    label_changes,
    near_change,
    trimap,
    with_ignored,
)
from segkit.metrics.confusion import ConfusionMatrix
from segkit.metrics.counting import occurrences, row_strips

PIXELS = 2**18  # counted together
MOST_NUMBERS = 2**22  # different ones; with more classes the counts of each would take the time


class JointCounts:
    """What a :class:`ConfusionMatrix`, :class:`BoundaryIoU` and trimaps count, for less.

    Each pixel has one number, which says its pair of classes, the borders that it lies in and its
    band of the trimaps: so how often each number occurs is all that they count, to the last pixel.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value of the pixels that are not counted.
        dilation_ratio: Width of the boundary IoU's border by the image's diagonal.
        trimap_widths: Half widths of the bands around label borders, in pixels, each at least 1.

    Attributes:
        matrix: Confusion matrix of all pixels.
        boundary: Boundary IoU of the classes.
        trimaps: Confusion matrix by width, of the pixels that are so close to a label border of
            the target.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        *,
        dilation_ratio: float = 0.02,
        trimap_widths: Sequence[int] = (),
    ) -> None:
        if wrong := [width for width in trimap_widths if width < 1]:
            raise ValueError(f"width must be at least 1, got {wrong[0]}")
        self.matrix = ConfusionMatrix(num_classes, ignore_index)
        self.boundary = BoundaryIoU(num_classes, ignore_index, dilation_ratio)
        self.trimaps = {
            width: ConfusionMatrix(num_classes, ignore_index) for width in trimap_widths
        }

    def update(self, pred: Tensor, target: Tensor) -> Tensor:
        """Count images of one size, and return their own confusion matrix, int64 (C, C).

        Args:
            pred: Class ids, integer (N, H, W).
            target: Class ids or ``ignore_index``, integer (N, H, W).

        Raises:
            ValueError: As :meth:`ConfusionMatrix.update`. Nothing is counted then.
        """
        pred = self.matrix.checked(pred, target)
        num_pairs, num_bins = self.matrix.num_classes**2, self.matrix.num_bins
        places = 4 * (1 + len(self.trimaps))
        if places * num_bins > MOST_NUMBERS:
            return self._one_by_one(pred, target)
        layers = self._layers(pred, target)
        counts = torch.zeros(places * num_bins, dtype=torch.int64, device=target.device)
        for rows in self._strips(target):
            bins = self.matrix.bins(pred[:, rows], target[:, rows])
            bins += layers[:, rows].int() * num_bins
            counts += occurrences(bins, len(counts))
        # (bands of the trimaps, in the prediction's border or not, in the target's, bins)
        by_band = counts.view(-1, 2, 2, num_bins)
        self.matrix.add(by_band.sum((0, 1, 2)))
        shape = (2, 2, *self.matrix.matrix.shape)
        pairs = by_band.sum(0)[..., :num_pairs].view(shape)
        self.boundary.counts = self.boundary.counts.to(target.device) + torch.stack(
            [pairs[1, 1].diagonal(), pairs[:, 1].sum((0, 2)), pairs[1].sum((0, 1))]
        )
        # The innermost band is the last one: it is within all widths.
        for wider, width in enumerate(sorted(self.trimaps, reverse=True)):
            self.trimaps[width].add(by_band[1 + wider :].sum((0, 1, 2)))
        return pairs.sum((0, 1))

    def _layers(self, pred: Tensor, target: Tensor) -> Tensor:
        """Integer (N, H, W): 1 in the target's border + 2 in the prediction's + 4 per trimap."""
        width = self.boundary.width(target)
        changes = label_changes(target)
        layers = near_change(changes, width, edges=True).view(torch.uint8)
        if 3 + 4 * len(self.trimaps) > torch.iinfo(torch.uint8).max:
            layers = layers.int()
        for trimap_width in self.trimaps:
            near = near_change(changes, trimap_width, edges=False)
            layers.add_(near.view(torch.uint8), alpha=4)
        found = label_changes(with_ignored(pred, target == self.matrix.ignore_index))
        return layers.add_(near_change(found, width, edges=True).view(torch.uint8), alpha=2)

    @staticmethod
    def _strips(target: Tensor) -> Iterator[slice]:
        num_images, height, width = target.shape
        return row_strips(slice(0, height), num_images * width, PIXELS)

    def _one_by_one(self, pred: Tensor, target: Tensor) -> Tensor:
        """:meth:`update` for very many classes."""
        one = ConfusionMatrix(self.matrix.num_classes, self.matrix.ignore_index)
        for rows in self._strips(target):
            one.update(pred[:, rows], target[:, rows])
        self.matrix.merge(one)
        self.boundary.update(pred, target)
        for width, matrix in self.trimaps.items():
            near = trimap(target, width, self.matrix.ignore_index)
            for rows in self._strips(target):
                matrix.update(pred[:, rows], near[:, rows])
        return one.matrix
