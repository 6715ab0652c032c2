"""Sums over pixels from low-resolution logits, of which CE, focal, dice, Tversky, MSE are read.

Importable without Triton; see :func:`unavailable`.
"""

import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segkit.losses.class_sums import ClassSums
from segkit.losses.focal import FocalLoss
from segkit.losses.pixels import PixelLoss, check_class_ids

BLOCK, GATHER_BLOCK, CLASSES = 64, 32, 16
"""Pixels per program of the first two kernels and of the third, and classes at a time.

The largest for which nothing is spilled from the registers of sm_90; not tuned on a device yet.
"""
SUMS = 7  # of each class


def unavailable(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"its kernels run on CUDA devices, and the logits are on {device}"
    return None


def can_be_fused(losses: Sequence[nn.Module]) -> bool:
    """Whether the sums of one pass say what all of these are: CE, focal, dice, MSE of ours."""
    gammas = {gamma_of(loss) for loss in losses} - {None}
    return len(gammas) <= 1 and all(map(_reads_sums, losses))


def gamma_of(loss: nn.Module) -> float | None:
    """Focusing strength of a focal loss; None of others."""
    return loss.gamma if isinstance(loss, FocalLoss) else None


def _reads_sums(loss: nn.Module) -> bool:
    if not isinstance(loss, PixelLoss):
        return False
    # A class of one's own that only says `on` anew must not be taken for what it derives from.
    definer = next(cls for cls in type(loss).__mro__ if "on" in vars(cls))
    return "of_sums" in vars(definer)


def fits(logits: Tensor, target: Tensor) -> bool:
    """Whether the kernels take this batch: float32 or less, no larger than the target, and some."""
    height, width = target.shape[1:]
    rows = target.shape[0] * math.ceil(height * width / BLOCK)  # of sums, one for each program
    return (
        logits.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and 0 < logits.shape[2] <= height
        and 0 < logits.shape[3] <= width
        and 0 < target.numel() < 2**31
        and logits.numel() < 2**31
        and rows * SUMS * logits.shape[1] < 2**31
    )


def class_sums(
    logits: Tensor, target: Tensor, ignore_index: int, losses: Sequence[nn.Module]
) -> ClassSums:
    """The sums of the resized logits' softmax, with a gradient in the logits.

    Args:
        logits: float32, bfloat16 or float16 (N, C, h, w).
        target: Class ids or ``ignore_index``, integer (N, H, W), with H >= h and W >= w. On CUDA an
            id that is neither makes the sums NaN.
        ignore_index: Target value of the pixels to leave out.
        losses: That :func:`can_be_fused`.
    """
    if target.device.type == "cpu":
        check_class_ids(
            target.masked_fill(target == ignore_index, 0), logits.shape[1], ignore_index
        )
    gamma = next((gamma for loss in losses if (gamma := gamma_of(loss)) is not None), 0.0)
    sums: Tensor = FusedSums.apply(logits, target.contiguous(), ignore_index, gamma)
    return ClassSums(*sums)


class FusedSums(torch.autograd.Function):
    """The rows of sums of :mod:`segkit.losses.fused_kernels`, float64 (7, C)."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, target: Tensor, ignore: int, gamma: float) -> Tensor:
        from segkit.losses.fused_kernels import forward_kernel

        images, classes, h, w = low.shape
        height, width = target.shape[1:]
        low = low if low.is_contiguous(memory_format=torch.channels_last) else low.contiguous()
        chunk = min(CLASSES, 1 << (classes - 1).bit_length())
        blocks = math.ceil(height * width / BLOCK)
        lse = torch.empty(target.shape, dtype=torch.float32, device=low.device)
        nll = torch.empty_like(lse)
        partial = lse.new_empty((images * blocks, SUMS, classes))
        geometry = (classes, height, width, h, w, *low.stride(), h / height, w / width, ignore)
        forward_kernel[(blocks, images)](
            low, target, lse, nll, partial, *geometry, gamma, BLOCK=BLOCK, CB=chunk
        )
        ctx.save_for_backward(low, target, lse, nll)
        ctx.settings = geometry, gamma, blocks, chunk
        return partial.sum(0, dtype=torch.float64)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None, None]:
        from segkit.losses.fused_kernels import gather_kernel, slopes_kernel

        low, target, lse, nll = ctx.saved_tensors
        geometry, gamma, blocks, chunk = ctx.settings
        images, classes, h, w = low.shape
        height, width = target.shape[1:]
        slopes = slopes.float().contiguous()
        a, k = torch.empty_like(lse), torch.empty_like(lse)
        slopes_kernel[(blocks, images)](
            low, target, lse, nll, slopes, a, k, *geometry, gamma, BLOCK=BLOCK, CB=chunk
        )
        grad = torch.empty_like(low)  # with the same strides
        taps = (math.ceil(2 * height / h) + 1, math.ceil(2 * width / w) + 1)
        gather_kernel[(math.ceil(h * w / GATHER_BLOCK), images, math.ceil(classes / chunk))](
            low, target, lse, a, k, slopes, grad, *geometry,
            KY=taps[0], KX=taps[1], BLOCK=GATHER_BLOCK, CB=chunk,
        )  # fmt: skip
        return grad, None, None, None
