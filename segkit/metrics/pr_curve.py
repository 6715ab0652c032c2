"""Precision and recall of each class at every threshold of its probability, from counts."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """Counts of one class at ``bins`` thresholds, rising from 0: float64 (bins,) each."""

    true_positives: Tensor
    false_positives: Tensor
    true_negatives: Tensor
    false_negatives: Tensor

    @property
    def precision(self) -> Tensor:
        """1 where nothing is predicted, as TensorBoard draws it."""
        predicted = self.true_positives + self.false_positives
        return torch.where(predicted > 0, self.true_positives / predicted.clamp(min=1), 1.0)

    @property
    def recall(self) -> Tensor:
        """0 where the target does not show the class."""
        return self.true_positives / (self.true_positives + self.false_negatives).clamp(min=1)


class PRCurves:
    """Counts how probable each class was at pixels that are of it, and at those that are not.

    Integers over the whole split, so the curves depend neither on batches nor on their order.

    Args:
        num_classes: C.
        ignore_index: Target value of the pixels that are not counted.
        bins: Thresholds of a curve.

    Attributes:
        counts: int64 (C, 2, bins): not of the class, of the class.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, bins: int = 101) -> None:
        self.num_classes, self.ignore_index, self.bins = num_classes, ignore_index, bins
        self.counts = torch.zeros(num_classes, 2, bins, dtype=torch.int64)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count logits, float (N, C, H, W), and class ids or ``ignore_index``, (N, H, W)."""
        valid = target != self.ignore_index
        probs = logits.softmax(1).movedim(1, 0)[:, valid]  # (C, pixels)
        # The last threshold that the probability reaches.
        # NaN, of weights that diverged, reaches the first alone.
        bins = (probs.nan_to_num() * (self.bins - 1)).long().clamp(max=self.bins - 1)
        classes = torch.arange(self.num_classes, device=target.device)[:, None]
        is_class = (target[valid][None] == classes).long()
        flat = (classes * 2 + is_class) * self.bins + bins
        counts = torch.bincount(flat.flatten(), minlength=self.counts.numel())
        self.counts = self.counts.to(counts.device) + counts.view_as(self.counts)

    def curve(self, class_id: int) -> Curve:
        """At threshold i / (bins - 1) a pixel is predicted if its probability is at least that."""
        negative, positive = self.counts[class_id].double().cpu()
        # Predicted at a threshold is what lies in its bin or a higher one.
        false_positives = negative.flip(0).cumsum(0).flip(0)
        true_positives = positive.flip(0).cumsum(0).flip(0)
        return Curve(
            true_positives,
            false_positives,
            negative.sum() - false_positives,
            positive.sum() - true_positives,
        )
