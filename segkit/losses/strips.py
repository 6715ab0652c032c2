"""The loss of an image too large to hold the softmax of all its pixels at once."""

import torch
from torch import Tensor, nn

from segkit.losses.pixels import PixelLoss
from segkit.losses.processes import across_processes, collecting
from segkit.losses.weighted_sum import summands

STRIP = 2**22
"""Scores in a strip: 16 MiB in float32."""


@torch.no_grad()
def loss_in_strips(loss_fn: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """``loss_fn(logits, target)`` without its gradient, computed over some rows at a time.

    Our losses are functions of sums over pixels: these are collected strip by strip, and the loss
    is read off them. So the maps that it needs have the size of a strip. Any other loss, as a term
    too, gets the whole image.

    Args:
        loss_fn: A loss or a WeightedSum; its ``last_terms`` are those of the whole.
        logits: Float (N, C, H, W).
        target: Class ids or ``ignore_index``, integer (N, H, W).

    Returns:
        A scalar. Sums are added strip by strip, so its last digits may differ.
    """
    height = logits.shape[2] if logits.ndim == 4 else 0
    rows = max(1, STRIP * height // max(1, logits.numel()))
    same = logits.ndim == 4 and target.shape == (len(logits), *logits.shape[2:])
    ours = all(isinstance(loss, PixelLoss) for loss in summands(loss_fn))
    if rows >= height or not same or not ours:
        return loss_fn(logits, target)  # type: ignore[no-any-return]
    sums: list[Tensor] = []
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        with collecting() as seen:
            loss_fn(logits[:, :, strip], target[:, strip])
        sums = [a + b for a, b in zip(sums, seen, strict=True)] if sums else seen
    # Given the sums of the whole, the value of any pixels is that of the whole.
    with across_processes(1, sums):
        return loss_fn(logits[:, :, :1], target[:, :1])  # type: ignore[no-any-return]
