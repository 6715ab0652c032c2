"""Samples to batches: their random numbers, and how they are put together.

A sample is a pure function of (seed, epoch, index), so it is the same for any number of workers
and after a resume, and differs from epoch to epoch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segkit.data.arrays import Mask, Pixels
from segkit.data.dataset import SegmentationDataset
from segkit.data.labels import check_labels
from segkit.data.sampler import EpochBatchSampler, Pass, SampleKey
from segkit.data.workers import PULSE, batches, close, start_worker
from segkit.errors import DataError, SegkitError

if TYPE_CHECKING:  # albumentations takes half a second, and what is only scored is not augmented
    from segkit.data.augment import Augment
    from segkit.data.copy_paste import CopyPaste


@dataclass(frozen=True)
class Batch:
    """N samples of one size, in bytes: floats are made on the device.

    Attributes:
        image: uint8, or uint16 with ``data.bits=16``, (N, C, H, W).
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


def to_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device; to CUDA they are copied beside what is computed there."""
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    copies = _copy_stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = batch.to(device)
        computes = torch.cuda.current_stream(device)
        computes.wait_stream(copies)
        for tensor in (moved.image, moved.target):  # their memory is not used anew before
            tensor.record_stream(computes)
        yield moved


@cache  # memory that was freed is used anew on the same stream only
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Sample(NamedTuple):
    """One image as it goes into a batch: uint8 or uint16 (H, W, C), integer (H, W)."""

    image: Pixels
    mask: Mask
    name: str
    counts: bool = True


class Samples(Dataset[Sample | SegkitError]):
    """A data set whose items are named by :class:`SampleKey`, augmented if ``augment`` is given.

    Whatever data set or transform they come from, all values of a mask are class ids or
    ``ignore_index``: on CUDA any other would end the process in a kernel, without a file's name.

    Args:
        dataset: Where they come from.
        augment: The transforms; None leaves images as they are.
        seed: Of the random numbers.
        ignore_index: Mask value without a label.
        paste: Pastes objects of other images before the transforms.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        augment: "Augment | None",
        seed: int,
        ignore_index: int = 255,
        paste: "CopyPaste | None" = None,
    ) -> None:
        self.dataset, self.augment, self.seed, self.paste = dataset, augment, seed, paste
        self.num_classes, self.ignore_index = len(dataset.classes), ignore_index

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample | SegkitError:
        """The sample, or what is wrong with its files: see :func:`~segkit.data.workers.batches`."""
        name = self.dataset.ids[key.index]
        try:
            return Sample(*self.read(key.epoch, key.index, key.copy), name, key.counts)
        except SegkitError as error:
            return error
        except Exception as error:  # a defect of somebody's code: with the name of its image
            raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error

    def read(self, epoch: int, index: int, copy: int = 0) -> tuple[Pixels, Mask]:
        """The image and its mask, as this copy of it is in this epoch."""
        image, mask = self.dataset.read(index)
        name = self.dataset.ids[index]
        if self.augment is not None:
            try:
                rng = np.random.default_rng([self.seed, epoch, index, *([copy] if copy else [])])
                if self.paste is not None:
                    image, mask = self.paste(image, mask, rng)
                image, mask = self.augment.of_epoch(epoch)(image, mask, rng)
            except DataError as error:
                raise DataError(f"{name}: {error}") from error
        check_labels(mask, self.num_classes, self.ignore_index, name=name)
        return image, mask


@dataclass(frozen=True)
class Collate:
    """Puts samples together; smaller ones are padded at the right and bottom."""

    fill: tuple[int, ...]  # of each channel, in the images' numbers
    ignore_index: int

    def __call__(self, samples: Sequence[Sample | SegkitError]) -> Batch | SegkitError:
        bad = [sample for sample in samples if isinstance(sample, SegkitError)]
        good = [sample for sample in samples if not isinstance(sample, SegkitError)]
        for sample in good:
            if sample.image.shape[2] != len(self.fill):
                return DataError(
                    f"{sample.name}: the image has {sample.image.shape[2]} channels; expected "
                    f"{len(self.fill)}, for each of which data.mean has a number"
                )
        return bad[0] if bad else self.stack(good)

    def stack(self, samples: Sequence[Sample]) -> Batch:
        height = max(sample.image.shape[0] for sample in samples)
        width = max(sample.image.shape[1] for sample in samples)
        small = 0 <= self.ignore_index <= 255 and all(s.mask.dtype == np.uint8 for s in samples)
        shape = (len(samples), height, width)
        image = np.empty((*shape, len(self.fill)), samples[0].image.dtype)
        target = np.empty(shape, "u1" if small else "i8")
        for i, sample in enumerate(samples):
            h, w = sample.mask.shape
            image[i, :h, :w], target[i, :h, :w] = sample.image, sample.mask
            # Only what is padded: a colour takes 50 times as long to write as an image.
            image[i, h:], image[i, :h, w:] = self.fill, self.fill
            target[i, h:], target[i, :h, w:] = self.ignore_index, self.ignore_index
            if not sample.counts:
                target[i] = self.ignore_index
        # The memory stays (N, H, W, C): what channels_last wants on the device.
        return Batch(
            torch.from_numpy(image).permute(0, 3, 1, 2),
            torch.from_numpy(target),
            tuple(sample.name for sample in samples),
        )


@dataclass(frozen=True)
class CollateBySize:
    """One batch per run of equal sizes: padding would change what the network sees at a border.

    So a score cannot depend on which images happened to share a batch.
    """

    collate: Collate

    def __call__(self, samples: Sequence[Sample | SegkitError]) -> list[Batch | SegkitError]:
        runs = groupby(samples, key=lambda s: None if isinstance(s, SegkitError) else s.mask.shape)
        return [self.collate(list(run)) for _, run in runs]


class TrainBatches:
    """Shuffled, augmented :class:`Batch` es of this process, epoch by epoch.

    As a context it ends its loader processes.

    Args:
        dataset: The training split.
        augment: Its transforms.
        collate: Puts samples together.
        batch_size: Images per batch and process, unless a pass says another number.
        num_workers: Loader processes; 0 loads in this one.
        seed: Seed of order and augmentation.
        device: Where the batches go.
        rank: Number of this process.
        world_size: Processes that share each step.
        paste: See :class:`Samples`.
        weights: See :class:`~segkit.data.sampler.EpochBatchSampler`.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        augment: "Augment",
        *,
        collate: Collate,
        batch_size: int,
        num_workers: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        paste: "CopyPaste | None" = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.sampler = EpochBatchSampler(
            len(dataset), batch_size, seed=seed, rank=rank, world_size=world_size, weights=weights
        )
        samples = Samples(dataset, augment, seed, collate.ignore_index, paste)
        self.loader = _loader(samples, self.sampler, collate, num_workers, seed, device)

    def of(self, plan: Pass) -> Iterator[Batch]:
        """The batches of the rest of an epoch; see :func:`~segkit.data.workers.batches`."""
        self.sampler.follow(plan)
        yield from batches(self.loader)

    def __enter__(self) -> "TrainBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        close(self.loader)


class EvalBatches:
    """Whole images at their own size, in order, as :class:`Batch` es.

    Process ``rank`` has every ``world_size``-th image: each image once in all, so it may have none.
    As a context it ends its loader processes.

    Args:
        dataset: The split.
        collate: Puts samples together.
        batch_size: Images that are read at a time.
        num_workers: Loader processes; 0 loads in this one.
        device: Where the batches go.
        rank: Number of this process.
        world_size: Processes that share the split.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        *,
        collate: Collate,
        batch_size: int,
        num_workers: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.indices = range(rank, len(dataset), world_size)
        order = [
            [SampleKey(0, index) for index in self.indices[first : first + batch_size]]
            for first in range(0, len(self.indices), batch_size)
        ]
        samples = Samples(dataset, None, 0, collate.ignore_index)
        self.loader = _loader(samples, order, CollateBySize(collate), num_workers, 0, device)

    def __len__(self) -> int:
        """How often images are read; of several sizes each time gives several batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return batches(self.loader)

    def __enter__(self) -> "EvalBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        close(self.loader)


def _loader(
    samples: Samples,
    order: Iterable[list[SampleKey]],
    collate: Any,
    num_workers: int,
    seed: int,
    device: torch.device,
) -> "DataLoader[Any]":
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
        persistent_workers=num_workers > 0,
        timeout=PULSE if num_workers else 0,
        # Its own: the global one would make validation change the training's random numbers.
        generator=torch.Generator().manual_seed(seed),
    )
