"""Sums over all parts of a step: the batches of all processes, and those that are accumulated."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Scope:
    """What :func:`all_reduce_sum` sums over.

    Attributes:
        world_size: Number of processes; with more than one all compute the same in the same order.
        known: What it returns call after call, where the sums of the step were computed before.
        times: What the gradient of the local sums is multiplied by then.
        seen: Where it writes down the local sums instead, in a pass that only collects them.
    """

    world_size: int = 1
    known: Iterator[Tensor] | None = None
    times: int = 1
    seen: list[Tensor] | None = None


_ALONE = Scope()
_scope: ContextVar[Scope] = ContextVar("scope", default=_ALONE)


@contextmanager
def _within(scope: Scope) -> Iterator[None]:
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def across_processes(
    world_size: int, known: Sequence[Tensor] | None = None, batches: int = 1
) -> Iterator[None]:
    """Inside, :func:`all_reduce_sum` is over ``world_size`` processes.

    All of them must then compute the same losses in the same order. Off by default: evaluation,
    where processes have different numbers of images, never waits for another.

    Args:
        world_size: Number of processes.
        known: The sums over all processes and batches of the step, in the order of the calls, as
            :func:`collecting` found them. Each call returns one of them, with a gradient that is
            ``batches`` times that of this batch: a step is the mean of its batches then.
        batches: Number of batches of the step.

    Raises:
        ValueError: A loss called :func:`all_reduce_sum` more or less often than while they were
            collected.
    """
    if known is None:
        with _within(Scope(world_size)):
            yield
        return
    rest = iter(known)
    with _within(Scope(world_size, rest, world_size * batches)):
        yield
    if next(rest, None) is not None:
        raise ValueError(UNEVEN)


@contextmanager
def collecting() -> Iterator[list[Tensor]]:
    """Inside, :func:`all_reduce_sum` returns the local sums; the list gets them, call by call."""
    seen: list[Tensor] = []
    with _within(Scope(seen=seen)):
        yield seen


@contextmanager
def alone() -> Iterator[None]:
    """Inside, :func:`all_reduce_sum` is over this batch alone: for a loss that knows no other."""
    with _within(Scope()):
        yield


def _here() -> Scope:
    # A compiled step is one batch of one process, and Dynamo cannot look into the variable before
    # torch 2.12 or so: see segkit.training.step.TrainStep.
    return _ALONE if torch.compiler.is_compiling() else _scope.get()


def is_collecting() -> bool:
    """Whether values are not looked at, since only the sums are wanted."""
    return _here().seen is not None


def all_reduce_sum(sums: Tensor) -> Tensor:
    """The sum of every part's tensor, any shape; outside of :func:`across_processes` its own.

    The gradient is ``world_size`` times that of the local part, without communication:
    DistributedDataParallel, which averages the processes' gradients, makes the sum of it.
    """
    scope = _here()
    if scope.seen is not None:
        scope.seen.append(sums.detach())
        return sums
    if scope.known is not None:
        everywhere = next(scope.known, None)
        if everywhere is None or everywhere.shape != sums.shape:
            raise ValueError(UNEVEN)
        return everywhere + scope.times * (sums - sums.detach())  # adds 0, and the gradient
    if scope.world_size == 1:
        return sums
    everywhere = sums.detach().clone()
    dist.all_reduce(everywhere)
    return everywhere + scope.world_size * (sums - sums.detach())


UNEVEN = (
    "a loss asked for other sums over the pixels in one batch than in another; each must call "
    "segkit.losses.processes.all_reduce_sum equally often and with the same shapes for every batch"
)
