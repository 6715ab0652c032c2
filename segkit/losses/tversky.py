"""Tversky loss (Salehi et al. 2017, arXiv:1706.05721; Abraham & Khan 2018, arXiv:1810.07842)."""

from collections.abc import Sequence

from torch import Tensor

from segkit.losses.class_mean import Average
from segkit.losses.overlap import OverlapLoss
from segkit.losses.pixels import ratio
from segkit.losses.settings import checked_number


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    smooth: float = 1.0,
    average: Average = "present",
    include_background: bool = True,
    class_weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """One minus the soft Tversky index, averaged over classes; the settings of TverskyLoss.

    Args:
        logits: Raw scores, float (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, integer (N, H, W).
        ignore_index: Target value whose pixels enter none of the sums.
        alpha: What a false pixel counts.
        beta: What a missed pixel counts.
        gamma: Exponent of each class's loss.
        smooth: Pixels added to numerator and denominator.
        average: Mean over the classes ``present`` in the target of the batch, or over ``all``.
        include_background: Whether class 0 is one of the averaged classes.
        class_weights: One weight per class, of the mean over classes.

    Returns:
        A float32 scalar (float64 for float64 logits).

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
        >>> tversky_loss(logits, target, smooth=0.0)  # 1 - 0.5 / (0.5 + 0.7 * 0.5)
        tensor(0.4118)
    """
    loss = TverskyLoss(
        alpha, beta, gamma, smooth, average, include_background, class_weights, ignore_index
    )
    return loss.forward(logits, target)


class TverskyLoss(OverlapLoss):
    """Mean over classes of ``(1 - (tp + s) / (tp + alpha fp + beta fn + s))^gamma``.

    Dice is ``alpha = beta = 0.5`` with half of the smoothing, the soft IoU ``alpha = beta = 1``.
    The sums and the mean are those of :class:`~segkit.losses.overlap.OverlapLoss`: over the valid
    pixels of the whole step, and the classes that its target shows.

    Args:
        alpha: What a false pixel (``fp``) counts, at least 0. The paper's choice is 0.3.
        beta: What a missed pixel (``fn``) counts, above 0. The paper's choice is 0.7.
        gamma: Above 0. Below 1 classes that are learned well keep a gradient; Abraham & Khan take
            0.75 (their exponent is 1 / gamma = 4 / 3).
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

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        smooth: float = 1.0,
        average: Average = "present",
        include_background: bool = True,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(smooth, average, include_background, class_weights, ignore_index)
        self.alpha = checked_number("alpha", alpha)
        self.beta, self.gamma = checked_number("beta", beta), checked_number("gamma", gamma)
        if self.beta == 0.0:
            raise ValueError("beta must be above 0: with 0 no missed pixel would count, got 0")
        if self.gamma == 0.0:
            raise ValueError("gamma must be above 0: with 0 the loss is constant, got 0")

    def of_classes(self, tp: Tensor, labelled: Tensor, predicted: Tensor) -> Tensor:
        wrong = self.beta * (labelled - tp) + self.alpha * (predicted - tp)
        loss = ratio(wrong, tp + wrong + self.smooth)
        if self.gamma == 1.0:
            return loss
        # The slope of x**gamma below 1 is infinite at x = 0, where all is right: so clamp.
        return loss * loss.clamp(min=1e-7) ** (self.gamma - 1.0)
