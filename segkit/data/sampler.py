"""Which samples a process takes when: the same order for any batch size and number of processes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True)
class SampleKey:
    """Names a sample; without ``counts`` its mask is to be all ``ignore_index``."""

    epoch: int
    index: int
    counts: bool = True


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Which samples this process takes, step by step: a pure function of (seed, epoch, start).

    All processes go through one order, ``batch_size * world_size`` images in each step, of which
    each takes its part. So batch size and number of processes may change in the middle of an
    epoch, and every image still has its turn once. A shorter last step is shared out evenly; a
    process for which nothing is left takes part with an image that does not count. A last step of
    one image is left out if there are others: BatchNorm learns nothing from it.

    Attributes:
        epoch: Set before each pass.
        start: Images of this epoch that all processes together have used already; likewise.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.global_batch_size = batch_size * world_size
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Steps of the epoch that are left from ``start`` on."""
        return len(self._firsts(self.start))

    @property
    def images_per_epoch(self) -> int:
        """Images that a whole epoch uses."""
        return self._firsts(0).stop

    def images_after(self, steps: int) -> int:
        """Images of the epoch that are used after so many steps of this pass: the next start."""
        return min(self.start + steps * self.global_batch_size, self._firsts(self.start).stop)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        # An index of its own: numpy takes (seed, epoch) for (seed, epoch, 0), the first sample.
        random = np.random.default_rng([self.seed, self.epoch, 2**32 - 1])
        order = np.arange(self.size)
        random.shuffle(order)
        epoch, firsts = self.epoch, self._firsts(self.start)
        for first in firsts:
            group = order[first : min(first + self.global_batch_size, firsts.stop)].tolist()
            begin, end = (len(group) * r // self.world_size for r in (self.rank, self.rank + 1))
            mine = [SampleKey(epoch, index) for index in group[begin:end]]
            yield mine or [SampleKey(epoch, group[begin], counts=False)]

    def _firsts(self, start: int) -> range:
        """Where in the order each step begins, and where the last one stops."""
        left = (self.size - start) % self.global_batch_size
        lonely = left == 1 and self.size > 1 and self.global_batch_size > 1
        return range(start, self.size - lonely, self.global_batch_size)
