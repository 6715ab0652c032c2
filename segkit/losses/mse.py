"""Brier score of the softmax (Brier 1950), to compare with cross-entropy."""

import torch
from torch import Tensor

from segkit.losses.class_sums import ClassSums
from segkit.losses.pixels import PixelLoss, PixelScores, ratio_of_sums, sum_of_weights


def mse_loss(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Mean over valid pixels of the squared distance between softmax and one-hot label.

    Args:
        logits: Raw scores, float (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, integer (N, H, W).
        ignore_index: Target value left out of both the sum and the mean.

    Returns:
        A float32 scalar (float64 for float64 logits), in [0, 2].

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
        >>> mse_loss(logits, target)  # 0.5**2 + 0.5**2
        tensor(0.5000)
    """
    return MSELoss(ignore_index).forward(logits, target)


class MSELoss(PixelLoss):
    """Mean over valid pixels of ``sum_c (p_c - y_c)^2``, summed and not averaged over the classes.

    No valid pixel gives 0 with a zero gradient.

    Args:
        ignore_index: Target value of the pixels that have no part in the loss.
    """

    def amount(self, target: Tensor) -> Tensor:
        return sum_of_weights(target, self.ignore_index)

    def on(self, pixels: PixelScores) -> Tensor:
        # sum_c (p_c - y_c)^2 multiplied out, so that the one-hot y is never made.
        return pixels.mean(pixels.probs.square().sum(1) - 2.0 * torch.exp(-pixels.nll) + 1.0)

    def of_sums(self, sums: ClassSums) -> Tensor:
        values = sums.squares - 2.0 * sums.p_true + sums.count
        return ratio_of_sums(values, sums.count).to(sums.dtype)
