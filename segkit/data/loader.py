"""Samples to batches: which sample when, its random numbers, and how samples are put together.

A sample is a pure function of (seed, epoch, index), so it is the same for any number of workers
and after a resume, and differs from epoch to epoch.
"""

import atexit
import os
import signal
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segkit.data.augment import Augment, Image, Mask, one_thread
from segkit.data.contract import SegmentationDataset
from segkit.errors import DataError, SegkitError


@dataclass(frozen=True)
class Batch:
    """N samples of one size, in bytes: floats are made on the device.

    Attributes:
        image: uint8 (N, 3, H, W).
        target: Class ids or ``ignore_index``, uint8 (or int64 if 255 does not hold them) (N, H, W).
        ids: Name of each sample.
    """

    image: Tensor
    target: Tensor
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def pin_memory(self) -> "Batch":
        return replace(self, image=self.image.pin_memory(), target=self.target.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """A copy on ``device``; does not wait where the memory is pinned."""
        return replace(
            self,
            image=self.image.to(device, non_blocking=True),
            target=self.target.to(device, non_blocking=True),
        )


Sample = tuple[Image, Mask, str]


class Samples(Dataset[Sample | SegkitError]):
    """A data set whose items are named by (epoch, index), augmented if ``augment`` is given."""

    def __init__(self, dataset: SegmentationDataset, augment: Augment | None, seed: int) -> None:
        self.dataset, self.augment, self.seed = dataset, augment, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample | SegkitError:
        """The sample, or what is wrong with its files: see :func:`batches`."""
        epoch, index = key
        name = self.dataset.ids[index]
        try:
            return *self.read(epoch, index), name
        except SegkitError as error:
            return error
        except Exception as error:  # a defect of somebody's code: with the name of its picture
            raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error

    def read(self, epoch: int, index: int) -> tuple[Image, Mask]:
        image, mask = self.dataset.read(index)
        if self.augment is None:
            return image, mask
        try:
            return self.augment(image, mask, np.random.default_rng([self.seed, epoch, index]))
        except DataError as error:
            raise DataError(f"{self.dataset.ids[index]}: {error}") from error


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index); the order is a pure function of (seed, epoch).

    Set ``epoch`` before each pass. A last batch of one sample is left out if there are others:
    BatchNorm learns nothing from it.
    """

    def __init__(self, size: int, *, shuffle: bool, seed: int, batch_size: int) -> None:
        self.size, self.shuffle, self.seed, self.epoch = size, shuffle, seed, 0
        self.num_samples = size - (shuffle and size % batch_size == 1 and size > batch_size)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.size)
        if self.shuffle:
            # An index of its own: numpy takes (seed, epoch) for (seed, epoch, 0), the first sample.
            np.random.default_rng([self.seed, self.epoch, 2**32 - 1]).shuffle(order)
        return iter([(self.epoch, int(index)) for index in order[: self.num_samples]])


@dataclass(frozen=True)
class Collate:
    """Puts samples together; smaller ones are padded at the right and bottom."""

    fill: tuple[int, ...]  # RGB
    ignore_index: int

    def __call__(self, samples: Sequence[Sample | SegkitError]) -> Batch | SegkitError:
        bad = [sample for sample in samples if isinstance(sample, SegkitError)]
        good = [sample for sample in samples if not isinstance(sample, SegkitError)]
        return bad[0] if bad else self.stack(good)

    def stack(self, samples: Sequence[Sample]) -> Batch:
        height = max(image.shape[0] for image, _, _ in samples)
        width = max(image.shape[1] for image, _, _ in samples)
        small = 0 <= self.ignore_index <= 255 and all(m.dtype == np.uint8 for _, m, _ in samples)
        shape = (len(samples), height, width)
        image, target = np.empty((*shape, 3), np.uint8), np.empty(shape, "u1" if small else "i8")
        for i, (one, mask, _) in enumerate(samples):
            h, w = mask.shape
            image[i], target[i] = self.fill, self.ignore_index
            image[i, :h, :w], target[i, :h, :w] = one, mask
        # The memory stays (N, H, W, C): what channels_last wants on the device.
        return Batch(
            torch.from_numpy(image).permute(0, 3, 1, 2),
            torch.from_numpy(target),
            tuple(name for _, _, name in samples),
        )


@dataclass(frozen=True)
class CollateBySize:
    """One batch per run of equal sizes: padding would change what the network sees at a border.

    So a score cannot depend on which images happened to share a batch.
    """

    collate: Collate

    def __call__(self, samples: Sequence[Sample | SegkitError]) -> list[Batch | SegkitError]:
        runs = groupby(samples, key=lambda s: None if isinstance(s, SegkitError) else s[1].shape)
        return [self.collate(list(run)) for _, run in runs]


def train_loader(
    dataset: SegmentationDataset,
    augment: Augment,
    *,
    collate: Collate,
    batch_size: int,
    num_workers: int,
    seed: int,
    device: torch.device,
) -> "DataLoader[Batch]":
    """Shuffled, augmented :class:`Batch` es; set ``loader.sampler.epoch`` before each pass."""
    samples = Samples(dataset, augment, seed)
    sampler = EpochSampler(len(dataset), shuffle=True, seed=seed, batch_size=batch_size)
    return _loader(samples, sampler, collate, batch_size, num_workers, seed, device)


def eval_loader(
    dataset: SegmentationDataset,
    *,
    collate: Collate,
    batch_size: int,
    num_workers: int,
    device: torch.device,
) -> "DataLoader[list[Batch]]":
    """Whole images at their own size, in order: each item is a list of :class:`Batch` es."""
    samples = Samples(dataset, None, seed=0)
    sampler = EpochSampler(len(dataset), shuffle=False, seed=0, batch_size=batch_size)
    return _loader(samples, sampler, CollateBySize(collate), batch_size, num_workers, 0, device)


def batches(loader: "DataLoader[Any]") -> Iterator[Batch]:
    """The batches of either loader, one by one.

    Raises:
        SegkitError: A sample could not be read. It travels here as a value: raised in a worker
            process it would arrive wrapped in that process's traceback.
    """
    iterator = iter(loader)
    if hasattr(iterator, "_shutdown_workers") and iterator not in _with_workers:
        _with_workers.add(iterator)
        # Registered after PyTorch's own clean-up of these workers, so it runs before.
        atexit.register(_end_workers, weakref.ref(iterator))
    for item in iterator:
        for batch in item if isinstance(item, list) else [item]:
            if isinstance(batch, SegkitError):
                raise batch
            yield batch


_with_workers: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _end_workers(iterator: "weakref.ref[Any]") -> None:
    """At exit, where a traceback may still hold the iterator: PyTorch would wait 5 s for each."""
    if (alive := iterator()) is not None:
        alive._shutdown_workers()


def resolve_num_workers(num_workers: int | str) -> int:
    """``auto`` is one process per core but the first, at most 4."""
    if num_workers != "auto":
        return int(num_workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(4, max(0, (cores or 1) - 1))


def _loader(
    samples: Samples,
    sampler: EpochSampler,
    collate: Any,
    batch_size: int,
    num_workers: int,
    seed: int,
    device: torch.device,
) -> "DataLoader[Any]":
    return DataLoader(
        samples,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
        persistent_workers=num_workers > 0,
        # An image that hangs on a dead network disk must not hang the run for ever.
        timeout=300 if num_workers else 0,
        # Its own: the global one would make validation change the training's random numbers.
        generator=torch.Generator().manual_seed(seed),
    )


def _start_worker(worker_id: int) -> None:
    # Ctrl-C reaches the whole group, and the parent decides what it means. SIGTERM is not ignored:
    # with it Python ends workers at exit, and would wait for one that ignores it for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    one_thread()
