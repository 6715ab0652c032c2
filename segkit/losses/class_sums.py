"""Sums per class over the valid pixels: all that CE, focal, dice and MSE need to know."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassSums:
    """Sums over valid pixels of functions of their softmax p, each float64 (C,).

    The first four are over the pixels of each true class t, the others over all pixels.

    Attributes:
        count: 1.
        nll: ``-log p_t``.
        focal: ``(1 - p_t)**gamma * -log p_t``, with the gamma of the focal terms.
        p_true: ``p_t``.
        probs: ``p_c``.
        log_probs: ``log p_c``.
        squares: ``p_c**2``.
    """

    count: Tensor
    nll: Tensor
    focal: Tensor
    p_true: Tensor
    probs: Tensor
    log_probs: Tensor
    squares: Tensor

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.count)

    @property
    def dtype(self) -> torch.dtype:
        """Of the losses that are read off."""
        return torch.float32

    def per_class(self, values: Tensor | None, name: str) -> Tensor:
        """One setting per class as float64, 1 where there is none, its length checked."""
        if values is None:
            return torch.ones_like(self.count)
        return checked_per_class(values, name, self.num_classes).to(self.count)


def checked_per_class(values: Tensor, name: str, num_classes: int) -> Tensor:
    """The values, refused unless there is one for each class."""
    if values.shape != (num_classes,):
        raise ValueError(
            f"{name} has {values.numel()} values for logits with {num_classes} classes"
        )
    return values
