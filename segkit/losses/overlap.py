"""Losses of the overlap of prediction and label, class by class: what Dice and Tversky share."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.losses.class_mean import Average, ClassMeanLoss
from segkit.losses.class_sums import ClassSums
from segkit.losses.pixels import PixelScores
from segkit.losses.processes import all_reduce_sum
from segkit.losses.settings import checked_number


class OverlapLoss(ClassMeanLoss):
    """Mean over classes of a function of ``tp``, ``fn`` and ``fp``.

    These are sums of softmax probabilities over the valid pixels of the whole step, of all
    processes and accumulated batches together.

    Args:
        smooth: In pixels, at least 0, added to numerator and denominator. One pixel calms classes
            of a few pixels and does not show in larger ones. With ``average="all"`` keep it above
            0: it is what gives an absent class a gradient against being predicted.
        average: Mean over the classes ``present`` in the target of the step, or over ``all``.
        include_background: Whether class 0 is one of the averaged classes.
        class_weights: None or one weight per class, each at least 0, of the mean over classes.
        ignore_index: Target value of the pixels that have no part in the loss.

    Raises:
        ValueError: For settings outside their range or a weighting given by name.
    """

    def __init__(
        self,
        smooth: float,
        average: Average,
        include_background: bool,
        class_weights: Sequence[float] | Tensor | None,
        ignore_index: int,
    ) -> None:
        super().__init__(average, class_weights, ignore_index, include_background)
        self.smooth = checked_number("smooth", smooth)

    @abstractmethod
    def of_classes(self, tp: Tensor, labelled: Tensor, predicted: Tensor) -> Tensor:
        """The loss of each class, (C,).

        Args:
            tp: Sum of the class's probability over its own pixels, (C,).
            labelled: Number of its pixels, ``tp + fn``, (C,).
            predicted: Sum of its probability over all pixels, ``tp + fp``, (C,).
        """

    def on(self, pixels: PixelScores) -> Tensor:
        p_true = torch.exp(-pixels.nll)
        tp = pixels.sum_per_class(p_true)  # (C,)
        labelled = pixels.sum_per_class(torch.ones_like(p_true))
        predicted = pixels.probs.sum((2, 3)).to(tp.dtype).sum(0)
        return self.of_pixels_and_sums(pixels, tp, labelled, predicted)

    def of_sums(self, sums: ClassSums) -> Tensor:
        return self.of_pixels_and_sums(sums, sums.p_true, sums.count, sums.probs)

    def of_pixels_and_sums(
        self, pixels: PixelScores | ClassSums, tp: Tensor, labelled: Tensor, predicted: Tensor
    ) -> Tensor:
        """The loss of the local sums over the pixels of each class, each (C,)."""
        tp, labelled, predicted = all_reduce_sum(torch.stack((tp, labelled, predicted)))
        loss = self.of_classes(tp, labelled, predicted)
        return self.mean_over_classes(pixels, loss, labelled)
