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
        true, found = (with_ignored(ids, ignored) for ids in (target, pred))
        width = self.width(target)
        in_true, in_found = (near_other_label(ids, width, edges=True) for ids in (true, found))
        counts = [
            self._count(true, in_true & in_found & (true == found)),
            self._count(true, in_true),
            self._count(found, in_found),
        ]
        self.counts = self.counts.to(target.device) + torch.stack(counts)

    def width(self, target: Tensor) -> int:
        """``d`` of images (N, H, W), in pixels."""
        return max(1, round(self.dilation_ratio * math.hypot(*target.shape[1:])))

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
    # What is ignored has a label of its own already.
    return target.masked_fill(~near_other_label(target, width, edges=False), ignore_index)


def near_other_label(labels: Tensor, radius: int, *, edges: bool) -> Tensor:
    """Which pixels have another label in the square of ``2 * radius + 1`` pixels around them.

    Args:
        labels: Integer (N, H, W).
        radius: At least 1.
        edges: What lies outside of the image is another label.

    Returns:
        bool (N, H, W).
    """
    return near_change(label_changes(labels), radius, edges=edges)


def label_changes(labels: Tensor) -> Tensor:
    """Where labels (N, H, W) change to the pixel below and to the one right: bool (2, N, H, W).

    False in the last row, and in the last column.
    """
    changes = torch.zeros(2, *labels.shape, dtype=torch.bool, device=labels.device)
    torch.ne(labels[:, 1:], labels[:, :-1], out=changes[0, :, :-1])
    torch.ne(labels[..., 1:], labels[..., :-1], out=changes[1, ..., :-1])
    return changes


def near_change(changes: Tensor, radius: int, *, edges: bool) -> Tensor:
    """:func:`near_other_label` of labels with these :func:`label_changes`."""
    # All of a square is of one label if no row of it changes along itself, and its middle column
    # does not. All classes at once: per class this is the erosion of its mask, as the authors
    # write it, and separable.
    below, right = changes
    across = _any_of(right, 2, radius, radius - 1)
    near = _any_of(across, 1, radius, radius)
    near |= _any_of(below, 1, radius, radius - 1)
    if edges:
        for rows_or_columns in (near, near.transpose(1, 2)):
            rows_or_columns[:, :radius] = True
            rows_or_columns[:, -radius:] = True
    return near


def with_ignored(ids: Tensor, ignored: Tensor) -> Tensor:
    """int16, which is enough for class ids, and small for large images; -1 where ignored."""
    return ids.to(torch.int16).masked_fill(ignored, IGNORED)


def _any_of(flags: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Whether any flag (N, H, W) is set from ``before`` pixels before to ``after`` behind."""
    size, length = flags.shape[dim], before + after + 1
    pad = (before, after) if dim == 2 else (0, 0, before, after)
    flags = F.pad(flags, pad)
    reached = 1  # flags[i] is the answer for so many, from i on; doubled as often as it goes
    while 2 * reached <= length:
        rest = flags.shape[dim] - reached
        flags = flags.narrow(dim, 0, rest) | flags.narrow(dim, reached, rest)
        reached *= 2
    return flags.narrow(dim, 0, size) | flags.narrow(dim, length - reached, size)
