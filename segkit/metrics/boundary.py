"""Scores near the borders between classes, where region scores hardly look.

Both measures ask the same question of a mask: which pixels have another label within so many
pixels in any direction, diagonals included. Ignored pixels are a label of their own, in the target
and in the prediction: VOC draws its borders with them.
"""

import math
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.metrics.confusion import mean, ratio

IGNORED = -1


class BoundaryScores(TypedDict):
    """Plain numbers, ready for strict JSON; None as in :class:`segkit.metrics.Scores`."""

    miou: float | None
    iou: list[float | None]


class BoundaryIoU:
    """IoU of the inner borders of each class (Cheng et al. 2021, arXiv:2103.16562).

    The inner border of a class are its pixels at most ``d`` from another label or from the end of
    the image, in the target and in the prediction. One count over the whole split, as for the mean
    IoU. Integers only, so the result depends neither on order nor on the number of processes.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value of the pixels that are not counted.
        dilation_ratio: ``d`` over the diagonal of the image; at least one pixel.

    Attributes:
        counts: int64 (3, C): pixels of a class in both borders, the target's, the prediction's.
    """

    def __init__(
        self, num_classes: int, ignore_index: int = 255, dilation_ratio: float = 0.02
    ) -> None:
        if not dilation_ratio > 0:
            raise ValueError(f"dilation_ratio must be above 0, got {dilation_ratio}")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.dilation_ratio = dilation_ratio
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Count images of one size: class ids, and class ids or ``ignore_index``, (N, H, W)."""
        ignored = target == self.ignore_index
        true, found = (_labels(ids, ignored) for ids in (target, pred))
        width = max(1, round(self.dilation_ratio * math.hypot(*target.shape[1:])))
        in_true, in_found = (near_other_label(ids, width, edges=True) for ids in (true, found))
        counts = [
            self._count(true, in_true & in_found & (true == found)),
            self._count(true, in_true),
            self._count(found, in_found),
        ]
        self.counts = self.counts.to(target.device) + torch.stack(counts)

    def compute(self) -> BoundaryScores:
        """Per class, and the mean over the classes that either border shows."""
        both, true, found = self.counts.tolist()
        iou = [ratio(b, t + f - b) for b, t, f in zip(both, true, found, strict=True)]
        return BoundaryScores(miou=mean(iou), iou=iou)

    def _count(self, ids: Tensor, where: Tensor) -> Tensor:
        """How many pixels of each class are in ``where``; ignored ones are in none."""
        bins = ids.masked_fill(~where | (ids == IGNORED), self.num_classes)
        return torch.bincount(bins.flatten(), minlength=self.num_classes + 1)[: self.num_classes]


def trimap(target: Tensor, width: int, ignore_index: int = 255) -> Tensor:
    """The target with everything ignored that is farther than ``width`` from a label border.

    Scored with a :class:`~segkit.metrics.ConfusionMatrix` it gives the trimap IoU (Kohli et al.
    2009; Chen et al. 2015, arXiv:1412.7062). The end of the image is no border here.

    Args:
        target: Class ids or ``ignore_index``, integer (N, H, W).
        width: In pixels, at least 1: 1 leaves the two pixels on either side of a border.
        ignore_index: What becomes of the others.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    labels = _labels(target, target == ignore_index)
    return target.masked_fill(~near_other_label(labels, width, edges=False), ignore_index)


def near_other_label(labels: Tensor, radius: int, *, edges: bool) -> Tensor:
    """Which pixels have another label in the square of ``2 * radius + 1`` pixels around them.

    Args:
        labels: int16 (N, H, W), -1 or more.
        radius: At least 1.
        edges: What lies outside of the image is another label.

    Returns:
        bool (N, H, W).
    """
    # A label other than the middle's is in the square if the largest or the smallest one is.
    # All classes at once: per class this is the erosion of its mask, as the authors write it.
    kind = torch.iinfo(labels.dtype)
    outside = kind.max if edges else kind.min
    return (_local_max(labels, radius, outside) != labels) | (
        _local_max(-labels, radius, outside) != -labels
    )


def _labels(ids: Tensor, ignored: Tensor) -> Tensor:
    """int16, which is enough for class ids, and small for large images."""
    return ids.to(torch.int16).masked_fill(ignored, IGNORED)


def _local_max(values: Tensor, radius: int, outside: int) -> Tensor:
    """Maximum over the square around each pixel, (N, H, W), with ``outside`` around the image."""
    for dim, pad in ((1, (0, 0, radius, radius)), (2, (radius, radius))):
        size, length = values.shape[dim], 2 * radius + 1
        values = F.pad(values, pad, value=outside)
        reached = 1  # values[i] is the maximum of so many, from i on; doubled as often as it goes
        while 2 * reached <= length:
            rest = values.shape[dim] - reached
            values = torch.maximum(values.narrow(dim, 0, rest), values.narrow(dim, reached, rest))
            reached *= 2
        last = values.narrow(dim, length - reached, size)
        values = torch.maximum(values.narrow(dim, 0, size), last)
    return values
