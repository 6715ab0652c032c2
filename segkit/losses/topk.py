"""Cross-entropy of the hardest pixels (Shrivastava et al. 2016, arXiv:1604.03540: OHEM)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.losses.bins import bin_of, sums_of_bins
from segkit.losses.pixels import PixelLoss, PixelScores, ratio
from segkit.losses.processes import all_reduce_sum
from segkit.losses.settings import checked_number, class_values


def topk_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    fraction: float = 0.25,
    class_weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Mean of ``-log p_t`` over the hardest pixels; the settings are those of TopKLoss.

    Args:
        logits: Raw scores, float (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, integer (N, H, W).
        ignore_index: Target value left out of both the sum and the mean.
        fraction: Of the valid pixels that count.
        class_weights: One weight per class, of the mean.

    Returns:
        A float32 scalar (float64 for float64 logits).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[[0.0, 9.0]], [[0.0, 0.0]]]])  # the second pixel is easy
        >>> target = torch.zeros(1, 1, 2, dtype=torch.int64)
        >>> topk_loss(logits, target, fraction=0.5)  # p_t = 0.5: ln 2
        tensor(0.6931)
    """
    return TopKLoss(fraction, class_weights, ignore_index).forward(logits, target)


class TopKLoss(PixelLoss):
    """Cross-entropy over the share of the valid pixels whose ``p_t`` is lowest.

    Pixels whose ``p_t`` lie in the same of 1024 bins are equally hard: where the share ends within
    a bin, all of its pixels count in part. So it is a function of sums over pixels: the share is
    one of the valid pixels of the whole step, of all processes and accumulated batches together,
    and nothing is sorted. No valid pixel gives 0 with a zero gradient.

    Args:
        fraction: Above 0, at most 1, which is cross-entropy.
        class_weights: None or one weight per class, each at least 0, of the mean; they do not
            change which pixels are the hardest.
        ignore_index: Target value of the pixels that have no part in the loss.

    Raises:
        ValueError: For settings outside their range or a weighting given by name.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        fraction: float = 0.25,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(ignore_index)
        self.fraction = checked_number("fraction", fraction, high=1.0)
        if self.fraction == 0.0:
            raise ValueError("fraction must be above 0: with 0 no pixel would count, got 0")
        self.register_buffer("class_weights", class_values("class_weights", class_weights))

    def on(self, pixels: PixelScores) -> Tensor:
        hardness = bin_of(-torch.expm1(-pixels.nll))  # 1 - p_t
        weights = pixels.weights(self.class_weights)
        amounts = (pixels.valid.to(weights), weights, weights * pixels.nll)
        counts, amount, values = all_reduce_sum(sums_of_bins(hardness, amounts))
        harder = counts.flip(0).cumsum(0).flip(0) - counts
        room = (self.fraction * counts.sum() - harder).clamp(min=0)
        share = ratio(torch.minimum(room, counts), counts).detach()  # of each bin
        return ratio((share * values).sum(), (share * amount).sum()).to(pixels.dtype)
