"""Sums over the pixels of each bin of a value in [0, 1], in the place of a sort.

A rank in a sorted list belongs to all pixels at once: no sum over the pixels of one batch, or of
one process, tells it. How many pixels lie in each bin is such a sum, and tells the rank to within
a bin.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkit.losses.pixels import sum_dtype

BINS = 1024


def bin_of(values: Tensor) -> Tensor:
    """The bin of each value in [0, 1], from 0, int16 of the same shape."""
    return (values.detach() * BINS).clamp_(0, BINS - 1).to(torch.int16)


def sums_of_bins(bins: Tensor, amounts: Sequence[Tensor]) -> Tensor:
    """The sum of each amount in each bin, (amounts, BINS), with a gradient by the amounts.

    Args:
        bins: Of :func:`bin_of`, any shape.
        amounts: Each float, of the same shape.
    """
    places = bins.flatten().long()
    flat = [amount.flatten().to(sum_dtype(amount)) for amount in amounts]
    return torch.stack([one.new_zeros(BINS).scatter_add(0, places, one) for one in flat])


class ErrorSums(torch.autograd.Function):
    """Of each bin of each class: how many pixels, how many of the class, and the sum of errors.

    That is (3, C, BINS). The error of class c at a pixel is ``1 - p_c`` where the target is c, else
    ``p_c``. Only the sums of errors have a gradient. What is kept of a pixel and class takes two
    bytes.

    Args of ``apply``:
        probs: Softmax, float (N, C, H, W).
        target: Class ids, int64 (N, H, W).
        valid: bool (N, H, W); no other pixel is counted.
    """

    @staticmethod
    def forward(ctx: Any, probs: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        kept = valid.to(probs.dtype)
        bins = torch.empty(probs.shape, dtype=torch.int16, device=probs.device)
        sums = []
        for c in range(probs.shape[1]):  # a map of float64 of each class in turn
            error = torch.where(target == c, 1 - probs[:, c], probs[:, c])
            bins[:, c] = bin_of(error)
            sums.append(sums_of_bins(bins[:, c], [kept, error * kept]))
        counts, errors = torch.stack(sums, dim=1)
        places = target * BINS + bins.gather(1, target[:, None])[:, 0]
        own = counts.new_zeros(counts.numel()).scatter_add(
            0, places.flatten(), kept.flatten().to(counts.dtype)
        )
        ctx.save_for_backward(bins, target, valid)
        ctx.dtype = probs.dtype
        return torch.stack([counts, own.view_as(counts), errors])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None]:
        bins, target, valid = ctx.saved_tensors
        grad = torch.empty(bins.shape, dtype=ctx.dtype, device=bins.device)
        for c, slope in enumerate(slopes[2].to(ctx.dtype)):
            grad[:, c] = slope[bins[:, c].long()]
        grad.scatter_(1, target[:, None], -grad.gather(1, target[:, None]))
        return grad.masked_fill_(~valid[:, None], 0.0), None, None
