"""Precision and recall of each class at every threshold of its probability, from counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segkit.metrics.counting import occurrences, row_strips

STRIP = 2**20  # numbers whose softmax is in memory at once


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
    """Counts how probable classes were at pixels that are of them, and at those that are not.

    Integers over the whole split, so the curves depend neither on batches nor on their order. An
    image is looked at in strips: what is in memory beside its logits does not grow with it.

    Args:
        num_classes: C.
        ignore_index: Target value of the pixels that are not counted.
        bins: Thresholds of a curve.
        classes: Ids of the classes to count, each once; None is all of them. Each costs time.

    Attributes:
        counts: int64 (K, 2, bins), in the order of ``classes``: not of the class, of the class.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        bins: int = 101,
        classes: Sequence[int] | None = None,
    ) -> None:
        self.classes = list(range(num_classes) if classes is None else classes)
        if len({*self.classes} & {*range(num_classes)}) < len(self.classes):
            raise ValueError(
                f"classes must be different ids in [0, {num_classes}), got {self.classes}"
            )
        self.num_classes, self.ignore_index, self.bins = num_classes, ignore_index, bins
        self.counts = torch.zeros(len(self.classes), 2, bins, dtype=torch.int64)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count logits, float (N, C, H, W), and class ids or ``ignore_index``, (N, H, W)."""
        size, outside = target.shape, self.counts.numel()
        first_bins = torch.arange(0, outside, 2 * self.bins, device=target.device)
        found = torch.zeros(outside + 1, dtype=torch.int64, device=target.device)
        per_row = size[0] * self.num_classes * size[2]
        for rows in row_strips(slice(0, size[1]), per_row, STRIP) if self.classes else ():
            part, labels = logits[:, :, rows], target[:, rows]
            probs = self._probabilities(part)
            # The last threshold that the probability reaches.
            # NaN, of weights that diverged, reaches the first alone.
            bins = probs.nan_to_num_().mul_(self.bins - 1).int()
            bins.clamp_(max=self.bins - 1)
            for own, class_id in zip(bins, self.classes, strict=True):
                own.add_(labels == class_id, alpha=self.bins)
            bins += first_bins.int()[:, None, None, None]
            bins.masked_fill_(labels == self.ignore_index, outside)
            found += occurrences(bins, outside + 1)
        self.counts = self.counts.to(target.device) + found[:outside].view_as(self.counts)

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of the classes that are counted, (K, N, H, W), of a strip."""
        if logits.stride(1) == 1 and self.num_classes >= 16 and logits.device.type == "cpu":
            # Of numbers that lie one after the other; of fewer than a vector holds it is slow.
            every = logits.permute(0, 2, 3, 1).softmax(-1)
            return torch.stack([every[..., c] for c in self.classes])
        exps = (logits - logits.amax(1, keepdim=True)).exp_()
        return torch.stack([exps[:, c] for c in self.classes]).div_(exps.sum(1))

    def curve(self, class_id: int) -> Curve:
        """At threshold i / (bins - 1) a pixel is predicted if its probability is at least that.

        Raises:
            ValueError: The class is none of ``classes``.
        """
        if class_id not in self.classes:
            raise ValueError(f"class {class_id} is not counted, only {self.classes}")
        negative, positive = self.counts[self.classes.index(class_id)].double().cpu()
        # Predicted at a threshold is what lies in its bin or a higher one.
        false_positives = negative.flip(0).cumsum(0).flip(0)
        true_positives = positive.flip(0).cumsum(0).flip(0)
        return Curve(
            true_positives,
            false_positives,
            negative.sum() - false_positives,
            positive.sum() - true_positives,
        )


def rarest_classes(pixels: Sequence[int], count: int) -> list[int]:
    """Ids of the ``count`` classes with the fewest pixels, rarest first; absent ones are left out.

    Args:
        pixels: Of each class, in the split.
        count: How many at most.
    """
    there = [class_id for class_id, number in enumerate(pixels) if number]
    return sorted(there, key=lambda class_id: pixels[class_id])[:count]
