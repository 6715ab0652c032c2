"""Bytes to the floats that a network takes, and how they lie in memory."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalize:
    """Bytes to the floats that the network was trained on, on the device.

    Attributes:
        mean: Per channel, of values in [0, 1].
        std: Per channel.
        channels_last: Memory order of the result.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool = True

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 or uint16 (N, C, H, W) to float32 (N, C, H, W)."""
        return self.by(image, *self.constants(image.device))

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on a device, float32 (C, 1, 1)."""
        return per_channel(self.mean, device), per_channel(self.std, device)

    def by(self, image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """The same with the :meth:`constants` at hand, for a graph, which could not keep them."""
        order = memory_order(self.channels_last)
        scale = 65535 if image.dtype == torch.uint16 else 255
        return image.to(torch.float32, memory_format=order).div_(scale).sub_(mean).div_(std)


@lru_cache
def per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 (C, 1, 1). Made once: each copy to a CUDA device waits until all before is done."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


def memory_order(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
