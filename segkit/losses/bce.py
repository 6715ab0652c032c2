"""Sigmoid cross-entropy: each class is its own yes-or-no question, against all others."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from segkit.losses.pixels import PixelLoss, PixelScores, sum_of_weights
from segkit.losses.settings import checked_number, class_values


def bce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Mean sigmoid cross-entropy of one-hot targets; the settings are those of BCELoss.

    Args:
        logits: Raw scores, float (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, integer (N, H, W).
        ignore_index: Target value left out of both the sum and the mean.
        label_smoothing: Share of the label that is spread evenly over all classes.
        class_weights: One weight per class, of the pixels of that class.

    Returns:
        A float32 scalar (float64 for float64 logits).

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
        >>> bce_loss(logits, target)  # sigmoid = 0.5 for both classes: ln 2
        tensor(0.6931)
    """
    loss = BCELoss(label_smoothing, class_weights, ignore_index)
    return loss.forward(logits, target)


class BCELoss(PixelLoss):
    """Mean over valid pixels and classes of ``softplus(x) - t x``.

    ``x`` is a logit and ``t`` its one-hot label, smoothed to ``(1 - s) t + s / C``. The one-hot is
    never made: the label only picks the true class's logit. Class weights mean what they mean in
    cross-entropy: a pixel is weighted by its true class, and the mean divides by the sum of the
    weights, so a batch with no valid pixel (or only of weight 0) gives 0 with a zero gradient.

    Args:
        label_smoothing: ``s``, in [0, 1].
        class_weights: None or one weight per class, each at least 0.
        ignore_index: Target value of the pixels that have no part in the loss.

    Raises:
        ValueError: For settings outside their range or a weighting given by name.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(ignore_index)
        self.label_smoothing = checked_number("label_smoothing", label_smoothing, high=1.0)
        self.register_buffer("class_weights", class_values("class_weights", class_weights))

    def amount(self, target: Tensor) -> Tensor:
        return sum_of_weights(target, self.ignore_index, self.class_weights)

    def on(self, pixels: PixelScores) -> Tensor:
        x, num_classes = pixels.logits, pixels.num_classes
        # Above 40 softplus(x) is x to the last bit of float64; torch's 20 would cut float64 short.
        values = F.softplus(x, threshold=40.0).sum(1)
        values = values - (1.0 - self.label_smoothing) * pixels.of_true_class(x)
        if self.label_smoothing > 0.0:
            values = values - self.label_smoothing * x.mean(1)
        return pixels.mean(values, self.class_weights) / num_classes
