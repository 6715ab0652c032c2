"""Samples and batches: the same for any number of workers, new in each epoch."""

import gc
import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from voc_folder import make_voc

from segkit.data.augment import Augment
from segkit.data.loader import Batch, Collate, EvalBatches, Sample, TrainBatches
from segkit.data.sampler import EpochBatchSampler
from segkit.data.voc import VOCSegmentation
from segkit.data.workers import batches
from segkit.errors import DataError

CPU = torch.device("cpu")
COLLATE = Collate(fill=(1, 2, 3), ignore_index=255)


class Images:
    """``size`` images in memory; the red of each pixel is its number."""

    classes = ("a", "b", "c")

    def __init__(self, size: int, shapes: Sequence[tuple[int, int]] = ((6, 8),)) -> None:
        self.ids = [f"image_{i}" for i in range(size)]
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> tuple[Any, Any]:
        shape = self.shapes[index % len(self.shapes)]
        return np.full((*shape, 3), index, np.uint8), np.full(shape, index % 3, np.uint8)


class Broken(Images):
    """Its second image fails, by a defect of its own."""

    def read(self, index: int) -> tuple[Any, Any]:
        if index == 1:
            raise KeyError("no such thing")
        return super().read(index)


class Wrong(Images):
    """Its third mask holds what is no class, with a data set that does not look."""

    def read(self, index: int) -> tuple[Any, Any]:
        image, mask = super().read(index)
        mask[0, :2] = 7 if index == 2 else mask[0, :2]
        return image, mask


def to_seven(image: Any, mask: Any) -> dict[str, Any]:
    """A transform of somebody's that makes an id that is no class."""
    return {"image": image, "mask": np.where(mask == 2, 7, mask).astype(np.uint8)}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_no_class_is_named_before_it_reaches_a_device(num_workers: int) -> None:
    message = r"^image_2: holds 7 \(2 pixels\); expected 0 to 2 or 255 \(ignored\)"
    loaders = (
        make_train_loader(Wrong(4), augment=Augment([]), num_workers=num_workers),
        make_eval_loader(Wrong(4), num_workers=num_workers),
        make_train_loader(Images(4), augment=Augment([to_seven]), num_workers=num_workers),
    )
    for loader, expected in zip(loaders, (message, message, r"^image_2: holds 7 "), strict=True):
        with pytest.raises(DataError, match=expected):
            list(batches(loader))


def make_train_loader(
    dataset: Any,
    *,
    augment: Augment | None = None,
    batch_size: int = 4,
    num_workers: int = 0,
    seed: int = 3,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Batch]:
    transforms = [A.RandomCrop(4, 5, p=1), A.RandomBrightnessContrast(p=1)]
    return TrainBatches(
        dataset,
        augment or Augment(transforms, fill=(1, 2, 3)),
        collate=COLLATE,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        device=CPU,
        rank=rank,
        world_size=world_size,
    ).loader


def make_eval_loader(dataset: Any, *, num_workers: int = 0, batch_size: int = 4) -> Any:
    return EvalBatches(
        dataset, collate=COLLATE, batch_size=batch_size, num_workers=num_workers, device=CPU
    ).loader


Seen = tuple[tuple[str, ...], bytes, bytes]


def one_epoch(loader: DataLoader[Batch], epoch: int, start: int = 0) -> list[Seen]:
    set_order(loader, epoch, start)
    return [
        (batch.ids, batch.image.numpy().tobytes(), batch.target.numpy().tobytes())
        for batch in batches(loader)
    ]


def set_order(loader: DataLoader[Batch], epoch: int, start: int = 0) -> None:
    assert isinstance(loader.batch_sampler, EpochBatchSampler)
    loader.batch_sampler.epoch, loader.batch_sampler.start = epoch, start


def read_red(loader: DataLoader[Batch], epoch: int) -> Iterator[tuple[str, int]]:
    set_order(loader, epoch)
    for batch in batches(loader):
        yield from zip(batch.ids, batch.image[:, 0, 0, 0].tolist(), strict=True)


@pytest.fixture(autouse=True)
def no_workers_left() -> Iterator[None]:
    yield
    if multiprocessing.active_children():  # of a loader that is no longer needed
        gc.collect()
    assert not multiprocessing.active_children()


def test_samples_are_the_same_for_any_number_of_workers() -> None:
    dataset = Images(10)
    reference = [one_epoch(make_train_loader(dataset), epoch) for epoch in (1, 2)]
    for num_workers in (1, 2):
        loader = make_train_loader(dataset, num_workers=num_workers)
        next(batches(loader))  # an abandoned pass leaves nothing behind
        assert [one_epoch(loader, epoch) for epoch in (1, 2)] == reference
        del loader


@pytest.mark.slow
def test_samples_are_the_same_in_spawned_workers() -> None:
    dataset = Images(3)
    loader = make_train_loader(dataset, num_workers=1)
    loader.multiprocessing_context = "spawn"
    assert one_epoch(loader, 1) == one_epoch(make_train_loader(dataset), 1)


def test_epochs_and_seeds_differ_in_order_and_in_pixels() -> None:
    dataset = Images(64)
    first, second = (one_epoch(make_train_loader(dataset), epoch) for epoch in (1, 2))
    other_seed = one_epoch(make_train_loader(dataset, seed=4), 1)
    orders = [[ids for ids, _, _ in run] for run in (first, second, other_seed)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sorted(sum(orders[0], ())) == sorted(dataset.ids)

    runs = [dict(read_red(make_train_loader(dataset, seed=s), e)) for s in (3, 4) for e in (1, 2)]
    for one, other in itertools.combinations(runs, 2):
        assert sum(one[name] == other[name] for name in one) < len(dataset) / 2


def test_iterating_draws_no_global_random_numbers() -> None:
    state, numpy_state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    list(batches(make_train_loader(Images(5))))
    list(batches(make_eval_loader(Images(5), num_workers=1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002


@pytest.mark.parametrize(
    ("size", "batch_size", "expected"),
    [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1, 1, 1]), (4, 4, [4])],
)
def test_a_lonely_last_sample_is_left_out_of_training(
    size: int, batch_size: int, expected: list[int]
) -> None:
    loader = make_train_loader(Images(size), batch_size=batch_size)
    assert [len(batch) for batch in batches(loader)] == expected
    assert len(loader) == len(expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_share_the_samples_of_one(num_workers: int) -> None:
    dataset = Images(11)
    alone = one_epoch(make_train_loader(dataset, batch_size=4), epoch=2)
    shares = [
        one_epoch(
            make_train_loader(
                dataset, batch_size=2, num_workers=num_workers, rank=rank, world_size=2
            ),
            epoch=2,
        )
        for rank in (0, 1)
    ]
    joint = [tuple(map(sum_of, zip(*step, strict=True))) for step in zip(*shares, strict=True)]
    assert joint == alone


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_goes_on_where_it_was_left(num_workers: int) -> None:
    dataset = Images(11)
    whole = one_epoch(make_train_loader(dataset), epoch=2)
    loader = make_train_loader(dataset, num_workers=num_workers)
    one_epoch(loader, epoch=1)
    set_order(loader, 2, start=4)
    assert len(loader) == 2
    assert one_epoch(loader, epoch=2, start=4) == whole[1:]
    assert one_epoch(loader, epoch=2) == whole
    assert one_epoch(loader, epoch=2, start=11) == []


def sum_of(parts: tuple[Any, ...]) -> Any:
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


def test_a_sample_that_does_not_count_has_no_labels() -> None:
    dataset = Images(6)
    alone = list(batches(make_train_loader(dataset, batch_size=1)))
    last = []  # of each process; in this step there are two images for four
    for rank in range(4):
        *_, batch = batches(make_train_loader(dataset, batch_size=1, rank=rank, world_size=4))
        last.append(batch)
    assert [(batch.target == 255).all().item() for batch in last] == [True, False, True, False]
    assert [batch.ids for batch in last[1::2]] == [batch.ids for batch in alone[4:]]
    assert [batch.ids for batch in last[::2]] == [batch.ids for batch in alone[4:]]
    assert {batch.target.dtype for batch in last} == {torch.uint8}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_evaluation_is_shared_without_padding(size: int, num_workers: int) -> None:
    dataset = Images(size)
    seen = []
    for rank in range(3):
        loader = EvalBatches(
            dataset,
            collate=COLLATE,
            batch_size=2,
            num_workers=num_workers,
            device=CPU,
            rank=rank,
            world_size=3,
        ).loader
        names = [name for batch in batches(loader) for name in batch.ids]
        assert names == list(dataset.ids)[rank::3]
        seen += names
    assert sorted(seen) == sorted(dataset.ids)


def test_evaluation_sees_every_whole_image_in_order() -> None:
    dataset = Images(9)
    seen = list(batches(make_eval_loader(dataset)))
    assert [name for batch in seen for name in batch.ids] == dataset.ids
    assert [len(batch) for batch in seen] == [4, 4, 1]
    assert torch.cat([batch.image[:, 0, 0, 0] for batch in seen]).tolist() == list(range(9))


def test_a_batch_is_bytes_in_the_order_of_channels_last() -> None:
    batch = next(batches(make_eval_loader(Images(4))))
    assert batch.image.dtype == batch.target.dtype == torch.uint8
    assert batch.image.shape == (4, 3, 6, 8)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)


def test_sizes_that_differ_are_padded_for_training() -> None:
    dataset = Images(2, shapes=((2, 5), (4, 3)))
    loader = make_train_loader(dataset, augment=Augment([]))
    (batch,) = batches(loader)
    assert batch.image.shape == (2, 3, 4, 5)
    for name, image, target in zip(batch.ids, batch.image, batch.target, strict=True):
        index = dataset.ids.index(name)
        height, width = dataset.shapes[index]
        assert (image[:, :height, :width] == index).all()
        assert (target[:height, :width] == index % 3).all()
        image[:, :height, :width] = torch.tensor(COLLATE.fill).view(3, 1, 1)
        target[:height, :width] = 255
        assert (image == torch.tensor(COLLATE.fill).view(3, 1, 1)).all()
        assert (target == 255).all()


def test_sizes_that_differ_are_never_padded_in_evaluation() -> None:
    dataset = Images(6, shapes=((2, 5), (2, 5), (4, 3)))
    seen = list(batches(make_eval_loader(dataset)))
    assert [tuple(batch.target.shape) for batch in seen] == [
        (2, 2, 5),
        (1, 4, 3),
        (1, 2, 5),
        (1, 2, 5),
        (1, 4, 3),
    ]
    assert [name for batch in seen for name in batch.ids] == dataset.ids


@pytest.mark.parametrize(
    ("ignore_index", "dtype", "expected"),
    [
        (255, np.uint8, torch.uint8),
        (0, np.uint8, torch.uint8),
        (300, np.uint8, torch.int64),
        (-100, np.uint8, torch.int64),
        (255, np.uint16, torch.int64),
    ],
)
def test_targets_are_bytes_where_all_values_fit(
    ignore_index: int, dtype: Any, expected: torch.dtype
) -> None:
    masks = [np.full((2, 3), 1, dtype), np.full((1, 1), 2, dtype)]
    samples = [Sample(np.zeros((*mask.shape, 3), np.uint8), mask, "a") for mask in masks]
    batch = Collate((0, 0, 0), ignore_index)(samples)
    assert isinstance(batch, Batch)
    assert batch.target.dtype == expected
    assert set(batch.target[1].flatten().tolist()) == {2, ignore_index}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_file_is_one_message_with_its_name(tmp_path: Path, num_workers: int) -> None:
    root = make_voc(tmp_path, {"train": ["a", "b", "c"]})
    path = root / "JPEGImages" / "b.png"
    path.write_bytes(path.read_bytes()[:60])
    dataset = VOCSegmentation(root, "train")
    for loader in (
        make_train_loader(dataset, num_workers=num_workers),
        make_eval_loader(dataset, num_workers=num_workers),
    ):
        with pytest.raises(DataError, match=r"b\.png") as info:
            list(batches(loader))
        assert "Traceback" not in str(info.value)
        assert "worker" not in str(info.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_augmentation_that_cannot_be_done_names_the_image(num_workers: int) -> None:
    augment = Augment([A.RandomCrop(64, 64)])
    loader = make_train_loader(Images(2), augment=augment, num_workers=num_workers)
    with pytest.raises(DataError, match=r"^image_\d: augment\.train\[0\] \(RandomCrop\) cannot"):
        list(batches(loader))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_defect_of_a_data_set_keeps_its_traceback_and_names_the_image(num_workers: int) -> None:
    loader = make_eval_loader(Broken(3), num_workers=num_workers)
    with pytest.raises(RuntimeError, match="image_1: KeyError: 'no such thing'"):
        list(batches(loader))


def test_memory_is_pinned_for_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Batch) -> Batch:
        raise AssertionError

    monkeypatch.setattr(Batch, "pin_memory", fail)
    assert len(list(batches(make_train_loader(Images(4))))) == 1
    assert not make_train_loader(Images(4)).pin_memory
    loader = TrainBatches(
        Images(4),
        Augment([]),
        collate=COLLATE,
        batch_size=2,
        num_workers=0,
        seed=0,
        device=torch.device("cuda", 0),
    ).loader
    assert loader.pin_memory


@pytest.mark.gpu
# From Python 3.12 on: CUDA has threads, of which the forked loader process uses none.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_batch_arrives_pinned_and_moves_to_the_device() -> None:
    device = torch.device("cuda", 0)
    loader = EvalBatches(
        Images(2), collate=COLLATE, batch_size=2, num_workers=1, device=device
    ).loader
    (batch,) = batches(loader)
    assert batch.image.is_pinned()
    assert batch.target.is_pinned()
    moved = batch.to(device)
    assert moved.image.device == moved.target.device == device
    assert torch.equal(moved.image.cpu(), batch.image)
