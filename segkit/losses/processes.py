"""Sums over the batches of all processes, so that a loss is that of the global batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch.distributed as dist
from torch import Tensor

_world_size: ContextVar[int] = ContextVar("world_size", default=1)


@contextmanager
def across_processes(world_size: int) -> Iterator[None]:
    """Inside, :func:`total` and :func:`average` are over ``world_size`` processes.

    All of them must then compute the same losses in the same order. Off by default: evaluation,
    where processes have different numbers of images, never waits for another.
    """
    token = _world_size.set(world_size)
    try:
        yield
    finally:
        _world_size.reset(token)


def total(sums: Tensor) -> Tensor:
    """The sum of every process's tensor, any shape; outside of :func:`across_processes` its own.

    The gradient is ``world_size`` times that of the local part, without communication:
    DistributedDataParallel, which averages the processes' gradients, makes the sum of it.
    """
    world_size = _world_size.get()
    if world_size == 1:
        return sums
    everywhere = sums.detach().clone()
    dist.all_reduce(everywhere)
    return everywhere + world_size * (sums - sums.detach())  # adds 0, and the gradient


def average(value: Tensor) -> Tensor:
    """The mean of every process's value, for a loss whose sums are not known."""
    return total(value / _world_size.get())
