"""What makes samples and batches fast changes none of their bits."""

import hashlib
from collections.abc import Sequence
from typing import Any

import albumentations as A
import numpy as np
import pytest

from segkit.data.augment import Augment
from segkit.data.loader import Batch, Collate, Sample, Samples
from segkit.data.sampler import SampleKey

FILL = (124, 116, 104)
SIZES = ((40, 56), (24, 30), (64, 33))


class Blocks:
    """Six images of three sizes; their masks are blocks of classes with some that are ignored."""

    classes = ("a", "b", "c")
    ids = tuple(f"image_{number}" for number in range(6))

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> tuple[Any, Any]:
        height, width = SIZES[index % 3]
        rows, columns = np.mgrid[:height, :width]
        image = np.stack([rows * 3, columns * 4, rows * columns + index], axis=2) % 256
        ids = np.array([0, 1, 2, 255])[(rows // 8 + columns // 8 + index) % 4]
        return image.astype(np.uint8), ids.astype(np.uint8)


def exact() -> list[Any]:
    """Transforms that copy pixels and compute none: their bits are those of any version."""
    return [
        A.RandomCrop(48, 40, pad_if_needed=True, p=1.0),
        A.CoarseDropout(hole_height_range=(4, 9), hole_width_range=(4, 9), p=1.0),
        A.HorizontalFlip(p=0.5),
    ]


def samples(transforms: Sequence[Any] | None) -> list[list[Sample]]:
    """Three batches of four."""
    augment = None if transforms is None else Augment(transforms, fill=FILL)
    source = Samples(Blocks(), augment, seed=3)
    taken = [source[SampleKey(epoch=1, index=i % 6, counts=i != 9)] for i in range(12)]
    assert all(isinstance(sample, Sample) for sample in taken)
    return [taken[first : first + 4] for first in (0, 4, 8)]  # type: ignore[misc]


def sha(batches: Sequence[Batch]) -> str:
    found = hashlib.sha256()
    for batch in batches:
        for array in (batch.image.permute(0, 2, 3, 1), batch.target):
            found.update(f"{tuple(array.shape)} {array.dtype}".encode())
            found.update(np.ascontiguousarray(array.numpy()).tobytes())
    return found.hexdigest()


def collated(groups: Sequence[Sequence[Sample]]) -> list[Batch]:
    return [Collate(FILL, 255).stack(group) for group in groups]


def plainly(groups: Sequence[Sequence[Sample]]) -> list[tuple[Any, Any]]:
    """Batches pixel by pixel of what is filled first and written over then."""
    batches = []
    for group in groups:
        shape = [len(group), *np.max([sample.mask.shape for sample in group], axis=0)]
        image, target = np.empty((*shape, 3), np.uint8), np.full(shape, 255, np.uint8)
        image[:] = FILL
        for i, (pixels, mask, _, counts) in enumerate(group):
            height, width = mask.shape
            image[i, :height, :width] = pixels
            if counts:
                target[i, :height, :width] = mask
        batches.append((image, target))
    return batches


@pytest.mark.parametrize("name", ["none", "exact"])
def test_batches_have_the_bits_of_the_first_version(name: str) -> None:
    """The sums are those of the code that filled every image and then wrote over it."""
    groups = samples(None if name == "none" else exact())
    assert (
        sha(collated(groups))
        == {
            "none": "a90de1ae253bb50e5ddf1221cee0bc76a8bdcbca9c2f9b3240422c588c93430d",
            "exact": "3f5189e71a473bf968e93d8939b24c0eb421edb5d18b68c3c9af2ec3c650904f",
        }[name]
    )


def test_batches_equal_those_that_are_filled_first() -> None:
    for transforms in (None, exact()):
        groups = samples(transforms)
        for batch, (image, target) in zip(collated(groups), plainly(groups), strict=True):
            assert np.array_equal(batch.image.permute(0, 2, 3, 1).numpy(), image)
            assert np.array_equal(batch.target.numpy(), target)


def test_holes_are_filled_in_a_copy() -> None:
    """What a data set keeps in memory stays as it is, whatever size came before."""
    augment = Augment([], fill=FILL)
    for height, width in (*SIZES, SIZES[0]):
        image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
        before = image.copy()
        holes = np.zeros((height, width), np.uint8)
        assert augment._filled(image, holes) is image
        holes[3:9, 5:] = 255
        filled = augment._filled(image, holes)
        assert np.array_equal(image, before)
        assert np.array_equal(filled, np.where((holes == 255)[..., None], FILL, image))
