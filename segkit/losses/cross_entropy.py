"""Softmax cross-entropy with class weights and label smoothing.

Smoothing is from Szegedy et al. 2016, arXiv:1512.00567.
"""

from collections.abc import Sequence

from torch import Tensor

from segkit.losses.class_sums import ClassSums
from segkit.losses.pixels import PixelLoss, PixelScores, ratio_of_sums, sum_of_weights
from segkit.losses.settings import checked_number, class_values


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Sequence[float] | Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean of ``-log p_t`` over the valid pixels; the settings are those of CrossEntropyLoss.

    Args:
        logits: Raw scores, float (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, integer (N, H, W).
        ignore_index: Target value left out of both the sum and the mean.
        class_weights: One weight per class.
        label_smoothing: Share of the label that is spread evenly over all classes.

    Returns:
        A float32 scalar (float64 for float64 logits).

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
        >>> cross_entropy(logits, target)  # p_t = 0.5: ln 2
        tensor(0.6931)
    """
    loss = CrossEntropyLoss(class_weights, label_smoothing, ignore_index)
    return loss.forward(logits, target)


class CrossEntropyLoss(PixelLoss):
    """``F.cross_entropy`` with a safe mean: the same number, but 0 where torch gives NaN.

    The weighted mean divides by the sum of the weights of the valid pixels' true classes. Where
    that sum is 0 (all pixels ignored, or all of weight 0) the loss is 0 with a zero gradient.

    Args:
        class_weights: One weight per class, each at least 0; None weighs all pixels alike.
        label_smoothing: In [0, 1]; as in torch, the spread share of class c is weighted by the
            weight of c.
        ignore_index: Target value of the pixels that have no part in the loss.

    Raises:
        ValueError: For settings outside their range or a weighting given by name.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        class_weights: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(ignore_index)
        self.register_buffer("class_weights", class_values("class_weights", class_weights))
        self.label_smoothing = checked_number("label_smoothing", label_smoothing, high=1.0)

    def amount(self, target: Tensor) -> Tensor:
        return sum_of_weights(target, self.ignore_index, self.class_weights)

    def on(self, pixels: PixelScores) -> Tensor:
        per_class = None
        if self.class_weights is not None:
            per_class = pixels.per_class(self.class_weights, "class_weights")
        spread = None
        if self.label_smoothing > 0.0:
            spread = pixels.sum_of_log_probs(per_class) / pixels.num_classes
        weights = pixels.weights(self.class_weights)
        values = pixels.nll if per_class is None else weights * pixels.nll
        if spread is not None:
            values = (1.0 - self.label_smoothing) * values - self.label_smoothing * spread
        # Not pixels.mean: the weights are inside already, only their sum is divided by.
        return ratio_of_sums(values, weights)

    def of_sums(self, sums: ClassSums) -> Tensor:
        weights = sums.per_class(self.class_weights, "class_weights")
        values = (1.0 - self.label_smoothing) * weights * sums.nll
        if self.label_smoothing > 0.0:
            spread = weights * sums.log_probs / sums.num_classes
            values = values - self.label_smoothing * spread
        return ratio_of_sums(values, weights * sums.count).to(sums.dtype)
