"""One confusion matrix over a whole split, and every score that is read off it."""

from typing import TypedDict

import torch
from torch import Tensor

from segkit.metrics.best_class import best_class
from segkit.metrics.counting import occurrences


class Scores(TypedDict):
    """Plain numbers, ready for strict JSON. None stands where a score is not defined.

    A class that neither the target nor the prediction shows has no IoU, and no part in a mean; one
    that is only predicted has IoU 0 and does. A class that is never predicted has no precision,
    one that the target does not show no recall.
    """

    miou: float | None  # mean IoU over num_classes_averaged classes
    mean_accuracy: float | None  # mean recall over the classes in the target
    mean_f1: float | None  # mean F1, which is the Dice score, over num_classes_averaged classes
    pixel_accuracy: float | None
    fw_iou: float | None  # IoU averaged by the classes' share of the target
    num_classes_averaged: int
    iou: list[float | None]
    precision: list[float | None]
    recall: list[float | None]
    f1: list[float | None]
    support: list[int]  # target pixels


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all pixels that are not ignored.

    Integers only, so the result depends neither on batch sizes nor on their order. The counts live
    on the device of the last update.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value of the pixels that are not counted; may be a class id.

    Attributes:
        matrix: int64 (C, C); rows are true classes, columns predicted ones.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        for name, value in (("num_classes", num_classes), ("ignore_index", ignore_index)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} must be an int, got {value!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget every count."""
        self.matrix = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        self.outside = torch.zeros(2, dtype=torch.int64)  # impossible ids: (target, prediction)

    def update(self, pred_or_logits: Tensor, target: Tensor) -> None:
        """Count one batch.

        Args:
            pred_or_logits: Logits, float (N, C, H, W), or class ids, integer (N, H, W) or (H, W).
            target: Class ids or ``ignore_index``, integer, of the same N, H and W.

        Raises:
            ValueError: For shapes, dtypes or a number of classes that do not fit. A target or
                prediction that is no class id (at a pixel that counts) raises here on the CPU;
                elsewhere that would wait for the device, so :meth:`compute` raises.
        """
        pred = self.checked(pred_or_logits, target)
        self.add(occurrences(self.bins(pred, target), self.num_bins))

    @property
    def num_bins(self) -> int:
        """Each pixel is in one: a pair of classes, ignored, bad target, bad prediction."""
        return self.num_classes**2 + 3

    def checked(self, pred_or_logits: Tensor, target: Tensor) -> Tensor:
        """Predicted ids, after a check of shapes and dtypes; see :meth:`update`."""
        pred = self.class_ids(pred_or_logits)
        if not is_integer(target):
            raise ValueError(f"target must hold class ids, an integer dtype, got {target.dtype}")
        if pred.shape != target.shape:
            raise ValueError(
                "prediction and target must have the same N, H and W, "
                f"got {tuple(pred_or_logits.shape)} and {tuple(target.shape)}"
            )
        return pred

    def bins(self, pred: Tensor, target: Tensor) -> Tensor:
        """The bin of each pixel, integer of the same shape: see :attr:`num_bins`."""
        num_pairs = self.num_classes**2
        bins = target.to(torch.int32 if self.num_bins < 2**31 else torch.int64)
        bins = bins.mul(self.num_classes).add_(pred)
        bins.masked_fill_(self.is_no_class(pred), num_pairs + 2)
        bins.masked_fill_(self.is_no_class(target), num_pairs + 1)
        return bins.masked_fill_(target == self.ignore_index, num_pairs)

    def add(self, counts: Tensor) -> None:
        """Add how many pixels are in each bin, int64 (num_bins,).

        Raises:
            ValueError: On the CPU, for pixels in the last two. Nothing is added then.
        """
        num_pairs = self.num_classes**2
        outside = counts[num_pairs + 1 :]
        if outside.device.type == "cpu":
            self.refuse(outside)
        self.matrix = self.matrix.to(counts.device) + counts[:num_pairs].view_as(self.matrix)
        self.outside = self.outside.to(counts.device) + outside

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another matrix, made by another process or over another part."""
        mine, theirs = ((m.num_classes, m.ignore_index) for m in (self, other))
        if mine != theirs:
            raise ValueError(f"(num_classes, ignore_index) is {mine} here, {theirs} in the other")
        self.matrix = self.matrix + other.matrix.to(self.matrix.device)
        self.outside = self.outside + other.outside.to(self.outside.device)

    def compute(self) -> Scores:
        """Every score of the counts so far, as plain numbers computed in float64."""
        self.refuse(self.outside)
        return scores(self.matrix.tolist())

    def class_ids(self, pred_or_logits: Tensor) -> Tensor:
        """Predicted ids (N, H, W) or (H, W) of logits or ids."""
        shape = tuple(pred_or_logits.shape)
        if pred_or_logits.is_floating_point():
            if len(shape) != 4 or shape[1] != self.num_classes:
                raise ValueError(f"logits must be (N, {self.num_classes}, H, W), got {shape}")
            # NaN, which max takes for a score like any other, and infinity become no class.
            values, ids = best_class(pred_or_logits)
            return ids.masked_fill_(~values.isfinite(), -1)
        if not is_integer(pred_or_logits) or len(shape) not in (2, 3):
            raise ValueError(
                "a prediction must be float logits (N, C, H, W) or integer class ids (N, H, W) or "
                f"(H, W), got {pred_or_logits.dtype} {shape}"
            )
        return pred_or_logits

    def is_no_class(self, ids: Tensor) -> Tensor:
        return (ids < 0) | (ids >= self.num_classes)

    def refuse(self, outside: Tensor) -> None:
        for name, count in zip(("target", "prediction"), outside.tolist(), strict=True):
            if count:
                logits = "; none is that of NaN or infinity" * (name == "prediction")
                raise ValueError(
                    f"the {name} of {count} pixels is no class id in [0, {self.num_classes}) where "
                    f"the target is not ignore_index={self.ignore_index}{logits}"
                )


def scores(matrix: list[list[int]]) -> Scores:
    """What a matrix of counts (rows: true classes, columns: predicted ones) says."""
    classes = range(len(matrix))
    hits = [matrix[c][c] for c in classes]
    support = [sum(row) for row in matrix]
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    total = sum(support)
    iou = [ratio(hits[c], support[c] + predicted[c] - hits[c]) for c in classes]
    recall = [ratio(hits[c], support[c]) for c in classes]
    f1 = [ratio(2 * hits[c], support[c] + predicted[c]) for c in classes]
    return Scores(
        miou=mean(iou),
        mean_accuracy=mean(recall),
        mean_f1=mean(f1),
        pixel_accuracy=ratio(sum(hits), total),
        # An absent class has no IoU, and no share of the target either.
        fw_iou=ratio(sum(n * (score or 0.0) for n, score in zip(support, iou, strict=True)), total),
        num_classes_averaged=sum(score is not None for score in iou),
        iou=iou,
        precision=[ratio(hits[c], predicted[c]) for c in classes],
        recall=recall,
        f1=f1,
        support=support,
    )


def ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
