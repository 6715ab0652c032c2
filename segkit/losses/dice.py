"""Soft Dice loss (Milletari et al. 2016, arXiv:1606.04797; Sudre et al. 2017, arXiv:1707.03237)."""

from collections.abc import Sequence

from torch import Tensor

from segkit.losses.class_mean import Average
from segkit.losses.overlap import OverlapLoss
from segkit.losses.pixels import ratio
from segkit.losses.settings import checked_number


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


class DiceLoss(OverlapLoss):
    """Mean over classes of ``1 - ((1 + beta^2) tp + s) / ((1 + beta^2) tp + beta^2 fn + fp + s)``.

    The sums and the mean are those of :class:`~segkit.losses.overlap.OverlapLoss`: over the valid
    pixels of the whole step, and the classes that its target shows.

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

    def __init__(
        self,
        beta: float = 1.0,
        smooth: float = 1.0,
        average: Average = "present",
        include_background: bool = True,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(smooth, average, include_background, class_weights, ignore_index)
        self.beta = checked_number("beta", beta)
        if self.beta == 0.0:
            raise ValueError("beta must be above 0: with 0 no missed pixel would count, got 0")

    def of_classes(self, tp: Tensor, labelled: Tensor, predicted: Tensor) -> Tensor:
        missed = self.beta**2 * (labelled - tp)
        # The score's complement, (denominator - numerator) / denominator, has no 0/0 to define.
        return ratio(missed + predicted - tp, self.beta**2 * labelled + predicted + self.smooth)
