"""Times and memory of things that are done in turn."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from gpu_parts import Options

Work = Callable[[int], object]
"""Does something so many times."""
SECONDS, ROUNDS, BLOCK, WARM_UP = 1.0, 3, 5, 3


@dataclass(frozen=True)
class Measured:
    """What once took.

    Attributes:
        ms: Median over the rounds, wall time until the device is done.
        spread: Least and most of the rounds, as text.
        first: Seconds of making it and of the first time.
        mib: Peak of the device's memory, with what stays of it; None on the CPU.
    """

    ms: float
    spread: str
    first: float
    mib: float | None


def measure(
    options: Options, makers: Mapping[str, Callable[[], Work]], block: int = BLOCK
) -> dict[str, Measured]:
    """Make each, warm it up, and do all in turn, ``block`` times each: A B A B ..."""
    works, firsts, peaks = {}, {}, {}
    for name, make in makers.items():
        before, begun = allocated(options), time.perf_counter()
        works[name] = make()
        works[name](1)
        synchronize(options)
        firsts[name] = time.perf_counter() - begun
        works[name](0 if options.quick else WARM_UP)
        peaks[name] = peak(options, works[name], before)
    rounds, block, seconds = (1, 1, 0.0) if options.quick else (ROUNDS, block, SECONDS)
    until = time.monotonic() + seconds
    taken: dict[str, list[float]] = {name: [] for name in works}
    while len(min(taken.values())) < rounds or time.monotonic() < until:
        for name, work in works.items():
            taken[name].append(milliseconds(options, work, block))
    return {
        name: Measured(
            statistics.median(values),
            f"{min(values):.3g} to {max(values):.3g}",
            firsts[name],
            peaks[name],
        )
        for name, values in taken.items()
    }


def milliseconds(options: Options, work: Work, count: int) -> float:
    """Of one time, of so many."""
    synchronize(options)
    begun = time.perf_counter()
    work(count)
    synchronize(options)
    return 1e3 * (time.perf_counter() - begun) / count


def synchronize(options: Options) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


def allocated(options: Options) -> int:
    gc.collect()
    return torch.cuda.memory_allocated() if options.device == "cuda" else 0


def peak(options: Options, work: Work, before: int) -> float | None:
    """MiB that it holds and takes, given the bytes that others hold."""
    if options.device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    work(1)
    return (torch.cuda.max_memory_allocated() - before) / 2**20
