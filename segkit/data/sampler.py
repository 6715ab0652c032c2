"""Which samples a process takes when: the same order for any batch size and number of processes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from segkit.data.balance import draw_images


def step_starts(num_images: int, start: int, global_batch_size: int) -> range:
    """Where in an epoch's order each step begins, and where the last one stops.

    A last step of one image is left out if there are others: BatchNorm learns nothing from it.

    Args:
        num_images: Size of the data set.
        start: Images of the epoch that are used already.
        global_batch_size: Images of a step, over all processes.
    """
    left = (num_images - start) % global_batch_size
    lonely = left == 1 and num_images > 1 and global_batch_size > 1
    return range(start, num_images - lonely, global_batch_size)


class Pass(Protocol):
    """The rest of an epoch, as a sampler goes through it."""

    @property
    def epoch(self) -> int:
        """Its number."""

    @property
    def start(self) -> int:
        """Images of it that all processes together have used already."""

    @property
    def global_batch_size(self) -> int:
        """Images of a step, over all processes."""


@dataclass(frozen=True)
class SampleKey:
    """Names a sample; without ``counts`` its mask is to be all ``ignore_index``.

    An image that comes more than once in an epoch is another ``copy`` each time.
    """

    epoch: int
    index: int
    counts: bool = True
    copy: int = 0


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Which samples this process takes, step by step: a pure function of (seed, epoch, start).

    All processes go through one order, ``batch_size * world_size`` images in each step, of which
    each takes its part. So batch size and number of processes may change in the middle of an
    epoch, and every image still has its turn once. A shorter last step is shared out evenly; a
    process for which nothing is left takes part with an image that does not count.

    Args:
        size: Images of the data set, and of an epoch.
        batch_size: Images per step and process.
        seed: Of the order.
        rank: Number of this process.
        world_size: Processes that share each step.
        weights: How often each image comes in an epoch, beside the others, (size,); None: once.

    Attributes:
        epoch: Number of the epoch; set before each pass, as the next two are, see :meth:`follow`.
        start: Images of this epoch that all processes together have used already.
        global_batch_size: Images of a step, over all processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.weights = weights
        self.global_batch_size = batch_size * world_size
        self.epoch = self.start = 0

    def follow(self, plan: Pass) -> None:
        """What the next pass goes through."""
        self.epoch, self.start = plan.epoch, plan.start
        self.global_batch_size = plan.global_batch_size

    def __len__(self) -> int:
        """Steps of the epoch that are left from ``start`` on."""
        return len(step_starts(self.size, self.start, self.global_batch_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        # An index of its own: numpy takes (seed, epoch) for (seed, epoch, 0), the first sample.
        random = np.random.default_rng([self.seed, self.epoch, 2**32 - 1])
        order = np.arange(self.size)
        if self.weights is not None:
            order = draw_images(self.weights, self.size, random)
        random.shuffle(order)
        epoch, seen = self.epoch, Counter[int]()
        keys = []
        for index in order.tolist():
            keys.append(SampleKey(epoch, index, copy=seen[index]))
            seen[index] += 1
        firsts = step_starts(self.size, self.start, self.global_batch_size)
        for first in firsts:
            group = keys[first : min(first + self.global_batch_size, firsts.stop)]
            begin, end = (len(group) * r // self.world_size for r in (self.rank, self.rank + 1))
            yield group[begin:end] or [replace(group[begin], counts=False)]
