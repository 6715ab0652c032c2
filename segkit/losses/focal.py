"""Focal loss for multi-class segmentation (Lin et al. 2017, arXiv:1708.02002)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.losses.class_sums import ClassSums
from segkit.losses.pixels import PixelLoss, PixelScores, ratio_of_sums, sum_of_weights
from segkit.losses.settings import checked_number, class_values


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    gamma: float = 2.0,
    alpha: float | Sequence[float] | Tensor | None = None,
    class_weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Mean of ``-alpha_t * (1 - p_t)**gamma * log p_t``; the settings are those of FocalLoss.

    Args:
        logits: Raw scores, float (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, integer (N, H, W).
        ignore_index: Target value left out of both the sum and the mean.
        gamma: Focusing strength, at least 0.
        alpha: A factor for all pixels, or one per class.
        class_weights: One weight per class, of the mean.

    Returns:
        A float32 scalar (float64 for float64 logits).

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
        >>> focal_loss(logits, target, gamma=1.0)  # p_t = 0.5: 0.5 * ln 2
        tensor(0.3466)
    """
    loss = FocalLoss(gamma, alpha, class_weights, ignore_index)
    return loss.forward(logits, target)


class FocalLoss(PixelLoss):
    """Cross-entropy in which a pixel counts less, the surer and righter the model is about it.

    ``p_t`` is the softmax probability of the true class; with ``gamma=0`` this is cross-entropy
    with the same class weights. The two kinds of weights differ in the mean: alpha only
    multiplies the pixel's loss, class weights also enter the sum that the mean divides by.

    Args:
        gamma: Focusing strength, at least 0. The paper's choice is 2.
        alpha: None, one factor for all pixels, or one per class, each at least 0.
        class_weights: None or one weight per class, each at least 0; never part of ``p_t``.
        ignore_index: Target value of the pixels that have no part in the loss.

    Raises:
        ValueError: For settings outside their range or a weighting given by name.
    """

    alpha: Tensor | None
    class_weights: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | Tensor | None = None,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(ignore_index)
        self.gamma = checked_number("gamma", gamma)
        if isinstance(alpha, (int, float)):
            self.register_buffer("alpha", torch.tensor(checked_number("alpha", alpha)))
        else:
            self.register_buffer("alpha", class_values("alpha", alpha))
        self.register_buffer("class_weights", class_values("class_weights", class_weights))

    def amount(self, target: Tensor) -> Tensor:
        return sum_of_weights(target, self.ignore_index, self.class_weights)

    def on(self, pixels: PixelScores) -> Tensor:
        # For 0 < gamma < 1 the slope of x**gamma is infinite at x = 0 (p_t = 1), so clamp.
        tiny = torch.finfo(pixels.nll.dtype).eps
        one_minus_p = (-torch.expm1(-pixels.nll)).clamp(min=tiny)
        values = one_minus_p**self.gamma * pixels.nll
        if self.alpha is not None and self.alpha.ndim == 0:
            values = values * self.alpha.to(values)
        elif self.alpha is not None:
            values = values * pixels.of_class(pixels.per_class(self.alpha, "alpha"))
        return pixels.mean(values, self.class_weights)

    def of_sums(self, sums: ClassSums) -> Tensor:
        weights = sums.per_class(self.class_weights, "class_weights")
        values = weights * sums.focal
        if self.alpha is not None and self.alpha.ndim == 0:
            values = values * self.alpha.to(values)
        elif self.alpha is not None:
            values = values * sums.per_class(self.alpha, "alpha")
        return ratio_of_sums(values, weights * sums.count).to(sums.dtype)
