"""Lovasz-softmax: a convex surrogate of the IoU (Berman et al. 2018, arXiv:1705.08790)."""

from collections.abc import Sequence

from torch import Tensor

from segkit.losses.bins import ErrorSums
from segkit.losses.class_mean import Average, ClassMeanLoss
from segkit.losses.pixels import PixelScores, ratio
from segkit.losses.processes import all_reduce_sum


def lovasz_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    average: Average = "present",
    class_weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Mean over classes of the Lovasz extension of the Jaccard loss; the settings of LovaszLoss.

    Args:
        logits: Raw scores, float (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, integer (N, H, W).
        ignore_index: Target value of the pixels that are left out.
        average: Mean over the classes ``present`` in the target of the batch, or over ``all``.
        class_weights: One weight per class, of the mean over classes.

    Returns:
        A float32 scalar (float64 for float64 logits), in [0, 1].

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
        >>> lovasz_loss(logits, target)  # the only pixel of its class: 1 - p_t
        tensor(0.5000)
    """
    return LovaszLoss(average, class_weights, ignore_index).forward(logits, target)


class LovaszLoss(ClassMeanLoss):
    """Mean over classes of ``sum_i m_i (J_i - J_(i-1))`` with the errors m in falling order.

    The error of a pixel is ``1 - p_c`` where its label is c, else ``p_c``; ``J_i`` is the Jaccard
    loss ``1 - IoU`` of class c if exactly the i pixels of largest error were wrong. Pixels whose
    errors lie in the same of 1024 bins share their place in the order, which changes the loss by
    less than 1/1024. So it is a function of sums over pixels: the valid pixels are those of the
    whole step, of all processes and accumulated batches together, and nothing is sorted.

    Without any class to average the loss is 0 with a zero gradient. Its gradient vanishes where all
    pixels of a class are wrong but one; take it beside cross-entropy.

    Args:
        average: Mean over the classes ``present`` in the target of the step, or over ``all``.
        class_weights: None or one weight per class, each at least 0, of the mean over classes.
        ignore_index: Target value of the pixels that have no part in the loss.

    Raises:
        ValueError: For settings outside their range or a weighting given by name.
    """

    def __init__(
        self,
        average: Average = "present",
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(average, class_weights, ignore_index)

    def on(self, pixels: PixelScores) -> Tensor:
        sums = ErrorSums.apply(pixels.probs, pixels.target, pixels.valid)
        counts, own, errors = all_reduce_sum(sums)
        # From the bin of the largest errors down: pixels of the class and others that are wrong.
        wrong = counts.flip(1).cumsum(1)
        missed = own.flip(1).cumsum(1)
        labelled = missed[:, -1:]
        union = labelled + wrong - missed
        jaccard = ratio(wrong, union).detach()  # 1 - (labelled - missed) / union
        rise = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
        loss = (rise * ratio(errors, counts).flip(1)).sum(1)
        return self.mean_over_classes(pixels, loss, labelled[:, 0])
