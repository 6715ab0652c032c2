"""Soft Dice loss (Milletari et al. 2016, arXiv:1606.04797; Sudre et al. 2017, arXiv:1707.03237)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segkit.losses.class_sums import ClassSums
from segkit.losses.pixels import PixelLoss, PixelScores, ratio
from segkit.losses.processes import all_reduce_sum
from segkit.losses.settings import checked_number, class_values

Average = Literal["present", "all"]


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    beta: float = 1.0,
    smooth: float = 1.0,
    average: Average = "present",
    include_background: bool = True,
    class_weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """One minus the soft F-beta score, averaged over classes; the settings are those of DiceLoss.

    Args:
        logits: Raw scores, float (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, integer (N, H, W).
        ignore_index: Target value whose pixels enter none of the sums.
        beta: How much more a missed pixel counts than a false one; 1 is Dice.
        smooth: Pixels added to numerator and denominator.
        average: Mean over the classes ``present`` in the target of the batch, or over ``all``.
        include_background: Whether class 0 is one of the averaged classes.
        class_weights: One weight per class, of the mean over classes.

    Returns:
        A float32 scalar (float64 for float64 logits).

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
        >>> dice_loss(logits, target, smooth=0.0)  # 1 - 2 * 0.5 / (0.5 + 1)
        tensor(0.3333)
    """
    loss = DiceLoss(beta, smooth, average, include_background, class_weights, ignore_index)
    return loss.forward(logits, target)


class DiceLoss(PixelLoss):
    """Mean over classes of ``1 - ((1 + beta^2) tp + s) / ((1 + beta^2) tp + beta^2 fn + fp + s)``.

    ``tp``, ``fn`` and ``fp`` are sums of softmax probabilities over the valid pixels of the whole
    step, of all processes and accumulated batches together. A class absent from its target has no
    say by default: it can neither dilute the mean with easy zeros nor reward predicting nothing.
    Without any class to average (all pixels ignored, or all of classes that are left out or have
    weight 0) the loss is 0 with a zero gradient.

    Args:
        beta: Above 0; larger values punish missed pixels (``fn``) more than false ones (``fp``).
        smooth: ``s`` in pixels, at least 0. The default of one pixel calms classes of a few pixels
            and does not show in larger ones. With ``average="all"`` keep it above 0: it is what
            gives an absent class a gradient against being predicted.
        average: Mean over the classes ``present`` in the target of the batch, or over ``all``.
        include_background: Whether class 0 is one of the averaged classes.
        class_weights: None or one weight per class, each at least 0, of the mean over classes.
        ignore_index: Target value of the pixels that have no part in the loss.

    Raises:
        ValueError: For settings outside their range or a weighting given by name.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        beta: float = 1.0,
        smooth: float = 1.0,
        average: Average = "present",
        include_background: bool = True,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(ignore_index)
        self.beta = checked_number("beta", beta)
        if self.beta == 0.0:
            raise ValueError("beta must be above 0: with 0 no missed pixel would count, got 0")
        self.smooth = checked_number("smooth", smooth)
        if average not in ("present", "all"):
            raise ValueError(f"average must be 'present' or 'all', got {average!r}")
        self.average = average
        self.include_background = include_background
        self.register_buffer("class_weights", class_values("class_weights", class_weights))

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
        missed = self.beta**2 * (labelled - tp)
        # The score's complement, (denominator - numerator) / denominator, has no 0/0 to define.
        loss = ratio(missed + predicted - tp, self.beta**2 * labelled + predicted + self.smooth)
        weights = self.weights_of_classes(pixels, labelled)
        return ratio((weights * loss).sum(), weights.sum()).to(pixels.dtype)

    def weights_of_classes(self, pixels: PixelScores | ClassSums, labelled: Tensor) -> Tensor:
        """Weight of each class in the mean, (C,); 0 for those that are left out."""
        if self.class_weights is None:
            weights = torch.ones_like(labelled)
        else:
            weights = pixels.per_class(self.class_weights, "class_weights").to(labelled.dtype)
        if self.average == "present":
            weights = weights * (labelled > 0)
        if not self.include_background:
            weights = torch.cat((torch.zeros_like(weights[:1]), weights[1:]))
        return weights
