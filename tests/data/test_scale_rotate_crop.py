"""Scale, rotation and crop in one: against arithmetic in float64 and the three that it replaces."""

import math
import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from segkit.data import RandomScaleRotateCrop
from segkit.data.augment import Augment

FILL = (124.0, 116.0, 104.0)
IGNORE = 255


def smooth(height: int, width: int) -> Any:
    """An image without edges, so that linear resampling is what a formula says."""
    rows, columns = np.mgrid[:height, :width] / 9
    waves = [np.sin(rows), np.cos(columns), np.sin(rows + columns)]
    return np.round(127 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def blocks(height: int, width: int) -> Any:
    rows, columns = np.mgrid[:height, :width] // 8
    return ((rows * 5 + columns * 3) % 4).astype(np.uint8)


def run(transform: Any, image: Any, mask: Any, seed: Any = 0) -> tuple[Any, Any]:
    return Augment([transform], fill=FILL)(image, mask, np.random.default_rng(seed))


class Fixed(random.Random):
    """Gives these numbers in [0, 1), one after the other."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self.numbers = iter(numbers)

    def random(self) -> float:
        return next(self.numbers)


def fixed(transform: RandomScaleRotateCrop, *numbers: float) -> RandomScaleRotateCrop:
    """Drawing ``numbers``: factor, whether it rotates, angle, row, column."""
    transform.set_random_state(np.random.default_rng(0), Fixed(*numbers))
    return transform


def test_at_scale_1_a_crop_is_a_slice() -> None:
    image, mask = smooth(40, 56), blocks(40, 56)
    image.flags.writeable = mask.flags.writeable = False  # nothing is written to its arguments
    for row, column, corner in ((0.0, 0.0, (0, 0)), (0.999, 0.999, (10, 26)), (0.5, 0.1, (5, 2))):
        crop = fixed(RandomScaleRotateCrop(30, 30), 0.0, 0.0, 0.0, row, column)
        found = crop(image=image, mask=mask)
        part = np.s_[corner[0] : corner[0] + 30, corner[1] : corner[1] + 30]
        assert np.array_equal(found["image"], image[part])
        assert np.array_equal(found["mask"], mask[part])


def test_a_quarter_turn_is_that_of_numpy() -> None:
    image, mask = smooth(24, 24), blocks(24, 24)
    quarter = RandomScaleRotateCrop(24, 24, degrees=(90, 90))
    found = quarter(image=image, mask=mask)
    assert np.array_equal(found["mask"], np.rot90(mask))  # counter-clockwise
    assert np.abs(found["image"].astype(int) - np.rot90(image)).max() <= 1
    left_alone = RandomScaleRotateCrop(24, 24, degrees=(90, 90), rotate_p=0.0)
    assert np.array_equal(left_alone(image=image, mask=mask)["image"], image)


def test_twice_as_large_is_what_opencv_makes_of_the_whole() -> None:
    image, mask = smooth(20, 30), blocks(20, 30)
    found = RandomScaleRotateCrop(40, 60, scale=(2, 2))(image=image, mask=mask)
    assert np.array_equal(found["image"], cv2.resize(image, (60, 40)))
    assert np.array_equal(found["mask"], mask.repeat(2, axis=0).repeat(2, axis=1))


def test_half_as_large_stands_in_the_middle() -> None:
    image, mask = np.full((20, 31, 3), 9, np.uint8), np.full((20, 31), 2, np.uint8)
    found = RandomScaleRotateCrop(16, 16, scale=(0.5, 0.5))(image=image, mask=mask)
    expected = np.full((16, 16), IGNORE)
    expected[3:13, :] = 2  # 10 of 16 rows, 3 above; int(31 / 2) = 15 of 16 columns, none before
    expected[:, 15] = IGNORE
    assert np.array_equal(found["mask"], expected)
    assert ((found["image"] == 9).all(axis=2) == (expected == 2)).all()


def test_every_pixel_comes_from_where_the_formula_says() -> None:
    """Bilinear interpolation in float64, and the nearest label, at the place of each pixel."""
    size, crop = (70, 90), (48, 64)
    image, mask = smooth(*size), blocks(*size)
    num_inside = num_holes = 0
    for seed in range(8):
        rng = random.Random(seed)
        factor, angle = rng.uniform(0.5, 2.0), rng.uniform(5, 30) * rng.choice((-1, 1))
        places = rng.random(), rng.random()
        transform = RandomScaleRotateCrop(*crop, scale=(factor,) * 2, degrees=(angle,) * 2)
        found = fixed(transform, 0.0, 0.0, 0.0, *places)(image=image, mask=mask)
        y, x, is_hole = sources(size, crop, factor, angle, places)
        margin = np.minimum(np.minimum(y, x), np.minimum(size[0] - 1 - y, size[1] - 1 - x))
        outside = is_hole | (margin < -0.6)
        assert (found["mask"][outside] == IGNORE).all()
        inside = ~is_hole & (margin > 0)
        y, x = y[inside], x[inside]
        top, left = np.floor(y).astype(int), np.floor(x).astype(int)
        down, right = (y - top)[:, None], (x - left)[:, None]
        value = (
            image[top, left] * (1 - down) * (1 - right)
            + image[top, left + 1] * (1 - down) * right
            + image[top + 1, left] * down * (1 - right)
            + image[top + 1, left + 1] * down * right
        )
        assert np.abs(value - found["image"][inside]).max() <= 1.5
        is_clear = (np.abs(down - 0.5) > 0.01) & (np.abs(right - 0.5) > 0.01)
        nearest = mask[np.round(y).astype(int), np.round(x).astype(int)]
        assert (nearest == found["mask"][inside])[is_clear[:, 0]].all()
        num_inside, num_holes = num_inside + inside.sum(), num_holes + outside.sum()
    assert num_inside > 10_000
    assert num_holes > 500


def sources(
    size: tuple[int, int],
    crop: tuple[int, int],
    factor: float,
    angle: float,
    places: tuple[float, float],
) -> tuple[Any, Any, Any]:
    """Row and column in the image of each pixel of the crop, and whether it is padding."""
    at, scaled, is_hole = [], [], np.zeros(crop, bool)
    for axis in (0, 1):
        scaled.append(int(size[axis] * factor))
        slack = scaled[axis] - crop[axis]
        first = int((slack + 1) * places[axis]) if slack >= 0 else -(-slack // 2)
        at.append(np.indices(crop)[axis] + first + 0.5)
        is_hole |= (at[axis] < 0) | (at[axis] > scaled[axis])
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    y, x = (at[axis] - scaled[axis] / 2 for axis in (0, 1))
    rows, columns = sin * x + cos * y + scaled[0] / 2, cos * x - sin * y + scaled[1] / 2
    return (
        rows * size[0] / scaled[0] - 0.5,
        columns * size[1] / scaled[1] - 0.5,
        is_hole,
    )


def test_image_and_mask_are_on_one_grid() -> None:
    """An image that shows its own labels, at any factor: borders of both at the same place."""
    mask = blocks(64, 64)
    image = np.stack([mask * 80] * 3, axis=2)
    for factor in (0.5, 0.7, 1.0, 1.3, 2.0):
        for degrees in (0.0, 8.0):
            transform = RandomScaleRotateCrop(
                32, 32, scale=(factor, factor), degrees=(degrees, degrees)
            )
            found = run(transform, image, mask)
            labelled = found[1] != IGNORE
            shown = np.round(found[0][..., 0] / 80)
            assert (shown == found[1])[labelled].mean() > 0.8
            # Linear resampling blends over two pixels on each side of a border, evenly.
            error = (found[0][..., 0].astype(int) - 80 * found[1].astype(int))[labelled]
            assert abs(error.mean()) < 4


def test_it_draws_what_the_three_that_it_replaces_draw() -> None:
    """The same shares of holes and of one class, and the same spread of them, over many draws."""
    image, mask = smooth(60, 80), (np.mgrid[:60, :80][1] < 20).astype(np.uint8)
    three = [
        A.RandomScale((-0.5, 1.0), p=1.0),
        A.Rotate((-10, 10), p=0.3),
        A.RandomCrop(64, 64, pad_if_needed=True, p=1.0),
    ]
    one = [RandomScaleRotateCrop(64, 64, scale=(0.5, 2.0), degrees=(-10, 10), rotate_p=0.3)]
    shares = []
    for transforms in (three, one):
        augment = Augment(transforms, fill=FILL)
        masks = [augment(image, mask, np.random.default_rng([7, i]))[1] for i in range(600)]
        holes = np.array([(m == IGNORE).mean() for m in masks])
        labelled = np.array([(m == 1).mean() for m in masks])
        slanted = np.mean([len(set((m == IGNORE)[:, 20:44].sum(axis=0))) > 1 for m in masks])
        shares.append([holes.mean(), holes.std(), labelled.mean(), labelled.std(), slanted])
    assert np.allclose(shares[0], shares[1], atol=0.03)


def test_a_rotation_is_drawn_as_often_as_it_is_said() -> None:
    image, mask = smooth(32, 32), blocks(32, 32)
    transform = RandomScaleRotateCrop(32, 32, degrees=(5, 9), rotate_p=0.3)
    turned = [(run(transform, image, mask, [1, i])[1] == IGNORE).any() for i in range(400)]
    assert 0.23 < np.mean(turned) < 0.37


def test_every_place_is_as_likely_as_any_other() -> None:
    image = np.zeros((8, 11, 3), np.uint8)
    image[..., 0], image[..., 1] = np.mgrid[:8, :11]
    transform = RandomScaleRotateCrop(6, 8)
    corners = [
        tuple(run(transform, image, np.zeros((8, 11), np.uint8), [2, i])[0][0, 0, :2].tolist())
        for i in range(1200)
    ]
    counts = [corners.count((row, column)) for row in range(3) for column in range(4)]
    assert sum(counts) == 1200
    assert min(counts) > 60  # of 100


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.uint32])
def test_holes_of_earlier_transforms_move_along(dtype: Any) -> None:
    image = np.full((40, 40, 3), 50, np.uint8)
    mask = np.full((40, 40), 7, dtype)
    dropout = A.CoarseDropout(
        num_holes_range=(1, 1), hole_height_range=(12, 12), hole_width_range=(12, 12), p=1.0
    )
    moved = RandomScaleRotateCrop(48, 48, scale=(1.5, 1.5), degrees=(20, 20))
    out, labels = Augment([dropout, moved], fill=FILL)(image, mask, np.random.default_rng(4))
    assert labels.dtype == dtype
    hole = labels == IGNORE
    assert set(np.unique(labels)) == {7, IGNORE}
    assert (out[hole] == np.round(FILL)).all()
    outside = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5)), borderValue=1) == 0
    assert outside.sum() > 500
    assert (out[outside] == 50).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0}, "height=0, width=8: expected at least 1"),
        ({"scale": (0.0, 1.0)}, r"scale=\[0.0, 1.0\]: expected two rising numbers above 0"),
        ({"scale": (1.0, math.inf)}, "expected two rising numbers above 0"),
        ({"scale": (1.0, math.nan)}, "expected two rising numbers above 0"),
        ({"degrees": (5, -5)}, r"degrees=\[5, -5\]: expected two rising numbers$"),
        ({"degrees": (5,)}, "expected two rising numbers"),
        ({"rotate_p": 1.5}, "rotate_p=1.5: expected a probability"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomScaleRotateCrop(**{"height": 8, "width": 8} | arguments)


def rare_mask() -> Any:
    """One class all over, an object of 6 x 6 pixels near a corner, and a border to ignore."""
    mask = np.zeros((90, 120), np.uint8)
    mask[8:14, 100:106] = 2
    mask[:3] = IGNORE
    return mask


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.8, 2.0)])
@pytest.mark.parametrize("degrees", [(0.0, 0.0), (-25.0, 25.0)])
def test_a_rare_crop_shows_the_class_that_was_drawn(scale: Any, degrees: Any) -> None:
    mask, image = rare_mask(), smooth(90, 120)
    transform = RandomScaleRotateCrop(32, 32, scale, degrees, rare_p=1.0)
    found = []
    for seed in range(200):
        augment = Augment([transform], fill=FILL, class_pixels=[10**9, 0, 1])
        found.append((augment(image, mask, np.random.default_rng(seed))[1] == 2).any())
    # A corner of the image may turn out of what is scaled.
    assert np.mean(found) > (0.95 if degrees[1] else 0.999)
    usual = RandomScaleRotateCrop(32, 32, scale, degrees)
    shown = [(run(usual, image, mask, seed)[1] == 2).any() for seed in range(200)]
    assert np.mean(shown) < 0.5


def test_classes_are_drawn_by_their_rarity() -> None:
    """Of pixels 300, 100 and 0: the last one is not in the image; so 1 to 3."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1
    transform = RandomScaleRotateCrop(1, 1, rare_p=1.0)
    for pixels, share in (([300, 100, 0], 0.75), (None, 0.5), ([100], 0.99)):
        augment = Augment([transform], class_pixels=pixels)
        image = np.zeros((8, 8, 3), np.uint8)
        drawn = [int(augment(image, mask, np.random.default_rng(i))[1][0, 0]) for i in range(600)]
        assert np.mean(drawn) == pytest.approx(share, abs=0.06)


def test_without_rare_crops_nothing_else_is_drawn() -> None:
    """And where all is ignored, the crop is that of the same numbers."""
    image, mask = smooth(60, 70), blocks(60, 70)
    plain, none = RandomScaleRotateCrop(20, 20, (0.5, 2.0)), rare_mask()
    for seed in range(5):
        for other in (
            RandomScaleRotateCrop(20, 20, (0.5, 2.0), rare_p=0.0),
            RandomScaleRotateCrop(20, 20, (0.5, 2.0), rare_p=1e-12),
        ):
            for a, b in zip(
                run(plain, image, mask, seed), run(other, image, mask, seed), strict=True
            ):
                assert np.array_equal(a, b)
        none[:] = IGNORE
        rare = RandomScaleRotateCrop(20, 20, rare_p=1.0)
        usual = RandomScaleRotateCrop(20, 20)
        pair = (run(one, smooth(90, 120), none, seed)[0] for one in (rare, usual))
        assert np.array_equal(*pair)


def test_a_rare_crop_may_lie_anywhere_about_its_pixel() -> None:
    mask, image = rare_mask(), smooth(90, 120)
    transform = RandomScaleRotateCrop(32, 32, rare_p=1.0)
    places = []
    for seed in range(300):
        augment = Augment([transform], class_pixels=[10**9, 0, 1])
        cropped = augment(image, mask, np.random.default_rng(seed))[1]
        places.append(np.argwhere(cropped == 2).mean(0))
    rows, columns = np.array(places).T
    assert rows.max() == 10.5 and rows.min() < 3  # the crop of the first rows, and later ones
    assert columns.max() > 26 and columns.min() < 16  # 14 pixels of the image are right of it
