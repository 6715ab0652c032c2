"""augment.copy_paste: which objects are taken, where they land, and what comes with them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.data.augment import Augment
from segkit.data.copy_paste import BORDER, CopyPaste, whole_objects
from segkit.data.loader import SampleKey, Samples

IGNORE = 255


class Scenes:
    """Two images of 40 x 60: the first is empty, the second has an object with a border."""

    ids: Sequence[str] = ("empty", "object")
    classes: Sequence[str] = ("ground", "pole")

    def __init__(self) -> None:
        self.masks = [np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)]
        self.masks[1][10:21, 30:37] = IGNORE
        self.masks[1][12:19, 32:35] = 1
        self.images = [np.full((40, 60, 3), 10, np.uint8), np.full((40, 60, 3), 20, np.uint8)]
        self.images[1][12:19, 32:35] = 200
        for array in (*self.masks, *self.images):
            array.flags.writeable = False  # as out of a cache

    def __len__(self) -> int:
        return 2

    def read(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.images[index], self.masks[index]


def paste(p: float = 1.0, dataset: Any = None) -> CopyPaste:
    dataset = dataset or Scenes()
    shows = np.array([[c in mask for c in (0, 1)] for mask in dataset.masks])
    # So many pixels of the ground that it is never drawn.
    return CopyPaste(dataset, shows, [10**12, 21], p=p, ignore_index=IGNORE)


def test_only_whole_objects_are_taken() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 5:10] = 1
    mask[12:16, 12:16] = 1
    mask[11, 11] = 1  # by its corner a part of the one before
    mask[0:6, 15:20] = 1  # cut by the edge
    mask[10:18, 25:30] = 1  # likewise
    mask[18, 2:10] = 1  # a speck
    found = whole_objects(mask, 1)
    assert [int(one.sum()) for one in found] == [25, 17]
    assert found[0][5:10, 5:10].all()
    assert not whole_objects(mask, 7)


@pytest.mark.parametrize("seed", range(8))
def test_an_object_comes_with_its_border_and_its_pixels(seed: int) -> None:
    scenes = Scenes()
    image, mask = paste(dataset=scenes)(*scenes.read(0), np.random.default_rng(seed))
    pasted = mask != 0
    assert set(np.unique(mask)) == {0, 1, IGNORE}
    # Pixels moved with their labels: the object is bright, its border is of its own image.
    assert (image[mask == 1] == 200).all() and (image[mask == IGNORE] == 20).all()
    assert (image[~pasted] == 10).all()
    assert not scenes.masks[0].any() and (scenes.images[0] == 10).all()
    assert (mask == 1).sum() >= 21  # 7 x 3; several may overlap


def test_an_object_lands_about_where_it_was() -> None:
    starts = []
    for seed in range(200):
        _, mask = paste()(*Scenes().read(0), np.random.default_rng(seed))
        rows, columns = np.nonzero(mask)
        starts.append((rows.min(), rows.max(), columns.min(), columns.max()))
    top, bottom, left, right = np.array(starts).T
    # Its place is rows 10 to 20 and columns 30 to 36; a quarter of 40 and of 60 is 10 and 15.
    assert top.min() == 0 and bottom.max() == 30
    assert left.min() == 15 and right.max() == 51


def test_mirrored_half_of_the_time_with_its_pixels() -> None:
    scenes = Scenes()
    scenes.images[1] = scenes.images[1].copy()
    scenes.images[1][12:19, 32] = 100  # its left column
    left = 0
    for seed in range(100):
        image, mask = paste(dataset=scenes)(*scenes.read(0), np.random.default_rng(seed))
        row, column = np.argwhere(mask == 1)[0]
        left += int(image[row, column, 0] == 100)
    assert 30 < left < 70


def test_a_share_of_the_images_gets_objects_and_the_others_stay_themselves() -> None:
    image, mask = Scenes().read(0)
    changed = 0
    for seed in range(400):
        new_image, new_mask = paste(0.25)(image, mask, np.random.default_rng(seed))
        assert (new_image is image) == (new_mask is mask)
        changed += new_image is not image
    assert 70 < changed < 130


def test_ignored_pixels_further_away_stay_where_they_are() -> None:
    scenes = Scenes()
    mask = np.array(scenes.masks[1])
    mask[10:21, 37 : 37 + 2 * BORDER] = IGNORE
    scenes.masks[1] = mask
    _, pasted = paste(dataset=scenes)(*scenes.read(0), np.random.default_rng(0))
    rows, columns = np.nonzero(pasted == 1)
    for row, column in np.argwhere(pasted == IGNORE):
        assert min(np.maximum(abs(rows - row), abs(columns - column))) <= BORDER


def test_what_is_larger_than_the_image_or_of_another_kind_is_left_out() -> None:
    small, grey = Scenes(), Scenes()
    image, mask = np.full((10, 12, 3), 10, np.uint8), np.zeros((10, 12), np.uint8)
    for seed in range(20):  # 11 rows with the border
        assert not paste(dataset=small)(image, mask, np.random.default_rng(seed))[1].any()
    one_channel = np.full((40, 60, 1), 10, np.uint8)
    pasted, labels = paste(dataset=grey)(one_channel, grey.masks[0], np.random.default_rng(1))
    assert (pasted == 10).all() and not labels.any()


def test_specks_do_not_take_the_place_of_objects() -> None:
    """The rarest class was drawn nearly always, and had nothing to paste."""

    class WithSpecks(Scenes):
        classes = ("ground", "pole", "speck")

        def __init__(self) -> None:
            super().__init__()
            self.masks[0] = self.masks[0].copy()
            self.masks[0][5, 5] = 2

    dataset = WithSpecks()
    shows = np.array([[c in mask for c in (0, 1, 2)] for mask in dataset.masks])
    # Two of three draws are specks.
    made = CopyPaste(dataset, shows, [10**12, 20, 10], p=1.0, ignore_index=IGNORE)
    image, mask = dataset.read(0)
    changed = [
        bool((made(image, mask, np.random.default_rng(seed))[1] == 1).any()) for seed in range(60)
    ]
    assert sum(changed) > 50


def test_labels_that_need_more_bits_keep_their_values() -> None:
    scenes = Scenes()
    scenes.masks[1] = scenes.masks[1].astype(np.int32)
    scenes.masks[1][scenes.masks[1] == IGNORE] = 1000
    paster = CopyPaste(
        scenes, np.array([[1, 0], [1, 1]], bool), [10**12, 21], p=1.0, ignore_index=1000
    )
    _, mask = paster(*scenes.read(0), np.random.default_rng(0))
    assert set(np.unique(mask)) == {0, 1, 1000}


def test_a_sample_is_the_same_each_time_and_each_copy_another() -> None:
    samples = Samples(Scenes(), Augment([]), seed=3, ignore_index=IGNORE, paste=paste())

    def pixels(key: SampleKey) -> bytes:
        return samples[key].mask.tobytes()  # type: ignore[union-attr]

    first, again, copy, later = (
        pixels(SampleKey(*key)) for key in ((1, 0), (1, 0), (1, 0, True, 1), (2, 0))
    )
    assert first == again and len({first, copy, later}) == 3
