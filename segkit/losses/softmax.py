"""The softmax and what the losses read off it, with a gradient that is written in one pass.

Taken apart into PyTorch's operations, cross-entropy copies the scores of all classes five times in
a step: to clear ignored pixels, for the ``log_softmax``, and in each of three backward steps. Here
it is twice: the probabilities, which are kept, and the gradient. Shapes: N images, C classes, H x W
pixels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MANY_CLASSES = 16
"""From which on a pixel's scores in a row are long enough for the processor's vectors."""

LEAST_P = 1e-30
"""Far above where float32 loses digits: about 1e-38."""


class Softmax(torch.autograd.Function):
    """``-log p_t`` (N, H, W), the softmax p (N, C, H, W), and ``sum_c w_c log p_c`` (N, H, W).

    All are 0 at ignored pixels; the last is None where no weights are given.

    Args of ``apply``:
        logits: float32 or float64 (N, C, H, W).
        target: Class ids t in ``[0, C)``, int64 (N, H, W).
        ignored: bool (N, H, W); the logits there have no influence and a gradient of exactly 0.
        weights: None or w, one per class, of the logits' dtype, (C,).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, ignored: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if weights is None and (found := nll_by_softmax(logits, target, ignored)) is not None:
            nll, probs, over = *found, None
        else:
            log_probs = over_classes(F.log_softmax, logits)
            nll = of_true_class(log_probs, target).neg_().masked_fill_(ignored, 0.0)
            over = None if weights is None else weighted_sum(log_probs, weights, ignored)
            probs = log_probs.exp_()
        # Clearing ignored pixels here, not in the logits, saves a copy of these.
        clear(probs, ignored)
        ctx.save_for_backward(probs, target, ignored, weights)
        ctx.channels_last = not logits.is_contiguous()
        ctx.set_materialize_grads(False)
        return nll, probs, over

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_nll: Tensor | None, of_probs: Tensor | None, of_over: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        probs, target, ignored, weights = ctx.saved_tensors
        # d(-log p_t)/dz_k = p_k - [k = t];  d(sum_c w_c log p_c)/dz_k = w_k - p_k sum_c w_c;
        # d p_c/dz_k = p_c ([k = c] - p_k). What is common to all classes is gathered in `common`.
        of_nll, of_over = (
            None if slope is None else slope.masked_fill(ignored, 0.0).unsqueeze(1)
            for slope in (of_nll, of_over)
        )
        common = of_nll
        if of_over is not None:
            of_all = of_over * -weights.sum()
            common = of_all if common is None else common + of_all
        # In the order of the logits, whatever that of the probabilities is: the resize before them
        # goes back up to six times faster in channels_last.
        order = torch.channels_last if ctx.channels_last else torch.contiguous_format
        grad = torch.empty_like(probs, memory_format=order)
        if of_probs is not None:
            grad = product(probs, of_probs, grad)
            inner = grad.sum(1, keepdim=True)
            grad.addcmul_(probs, -inner if common is None else common - inner)
            clear(grad, ignored)  # of_probs may hold NaN there
        elif common is not None:
            grad = product(probs, common, grad)
        else:
            return None, None, None, None
        if of_over is not None:
            grad.addcmul_(of_over, weights.view(-1, 1, 1))
        if of_nll is not None:
            grad.scatter_add_(1, target.unsqueeze(1), -of_nll)
        return grad, None, None, None


class SumOfMargins(torch.autograd.Function):
    """``sum_c w_c (z_c - z_t)`` with z_t the logit of the true class, (N, H, W); 0 if ignored.

    Args of ``apply``: those of Softmax, of which the weights must not be None.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, ignored: Tensor, weights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(target, ignored, weights)
        true = of_true_class(logits, target).masked_fill_(ignored, 0.0)
        return weighted_sum(logits, weights, ignored).sub_(true.mul_(weights.sum()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor) -> tuple[Tensor, None, None, None]:
        target, ignored, weights = ctx.saved_tensors
        slope = of_sum.masked_fill(ignored, 0.0).unsqueeze(1)
        grad = slope * weights.view(-1, 1, 1)
        grad.scatter_add_(1, target.unsqueeze(1), slope * -weights.sum())
        return grad, None, None, None


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """``a * b``, written to ``out``; in a graph, which orders its memory itself, anywhere."""
    return a * b if torch.compiler.is_compiling() else torch.mul(a, b, out=out)


def clear(scores: Tensor, ignored: Tensor) -> None:
    """Set scores (N, C, H, W) to 0 at ignored pixels (N, H, W), in place."""
    if not cleared_one_by_one(scores, ignored):
        scores.masked_fill_(ignored.unsqueeze(1), 0.0)


def cleared_one_by_one(scores: Tensor, ignored: Tensor) -> bool:
    """The same two to three times as fast on the CPU, where the ignored pixels are looked up.

    Most often they are few. False, with nothing done, on devices, where the look would wait.
    """
    by_pixel = scores.permute(0, 2, 3, 1)
    if scores.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if by_pixel.is_contiguous():
        by_pixel.flatten(0, 2).index_fill_(0, ignored.flatten().nonzero().squeeze(1), 0.0)
    elif scores.is_contiguous():
        for image, gone in zip(scores.flatten(2), ignored.flatten(1), strict=True):
            image.index_fill_(1, gone.nonzero().squeeze(1), 0.0)
    else:
        return False
    return True


def of_true_class(scores: Tensor, target: Tensor) -> Tensor:
    """The entry of each pixel's true class: (N, C, H, W) -> (N, H, W)."""
    return scores.gather(1, target.unsqueeze(1)).squeeze(1)


def over_classes(softmax: Callable[..., Tensor], logits: Tensor) -> Tensor:
    """``softmax(logits, dim=1)``, without the copy of channels_last logits on the CPU."""
    by_pixel = logits.permute(0, 2, 3, 1)
    many = logits.shape[1] >= MANY_CLASSES
    if logits.device.type == "cpu" and many and by_pixel.is_contiguous():
        return softmax(by_pixel, dim=-1).permute(0, 3, 1, 2)
    return softmax(logits, dim=1)


def nll_by_softmax(logits: Tensor, target: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor] | None:
    """``-log p_t``, 0 where ignored, and p, a third faster than by ``log_softmax`` on the CPU.

    None where that would lose digits, since a p_t is next to nothing or NaN, and on devices, where
    the look at all p_t would wait.
    """
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    probs = over_classes(F.softmax, logits)
    p_true = of_true_class(probs, target).masked_fill_(ignored, 1.0)
    if p_true.numel() and not p_true.min() >= LEAST_P:
        return None
    return p_true.log_().neg_(), probs


def weighted_sum(scores: Tensor, weights: Tensor, ignored: Tensor) -> Tensor:
    """``sum_c w_c x_c`` of scores x (N, C, H, W), 0 where ignored, (N, H, W).

    Not by a matrix product, which may be set to compute in fewer digits than float32 has.
    """
    over = scores.new_zeros(ignored.shape)
    if scores.device.type == "cpu" and scores.is_contiguous():  # a product of full size costs more
        for scores_of_class, weight in zip(scores.unbind(1), weights, strict=True):
            over.addcmul_(scores_of_class, weight)
    else:
        torch.sum(scores * weights.view(-1, 1, 1), 1, out=over)
    return over.masked_fill_(ignored, 0.0)
