"""Augmentation: aligned, holes are ignored, no class is invented, and a seed repeats it."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from omegaconf import OmegaConf

from segkit.data import RandomScaleRotateCrop
from segkit.data.augment import Augment
from segkit.errors import ConfigError, DataError

CONFIGS = Path(__file__).parents[2] / "configs" / "augment"
FILL = (124.0, 116.0, 104.0)
# Far apart and far from FILL, so that a pixel of the image tells its class.
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
IDS = np.array([0, 5, 20, 255])

# What an author might write, all of it wrong for masks.
CARELESS: dict[str, Any] = {"fill": 7, "fill_mask": 0, "border_mode": cv2.BORDER_REFLECT_101}
LINEAR = {"mask_interpolation": cv2.INTER_LINEAR}


def pad(**changes: Any) -> A.BasicTransform:
    return A.PadIfNeeded(64, 64, **CARELESS | changes, p=1)


def rotate(**changes: Any) -> A.BasicTransform:
    return A.Rotate((-45, 45), **CARELESS | LINEAR | changes, p=1)


MAKERS: dict[str, Callable[[], Any]] = {
    "pad": pad,
    "crop": lambda: A.RandomCrop(48, 40, pad_if_needed=True, **CARELESS, p=1),
    "center_crop": lambda: A.CenterCrop(50, 30, pad_if_needed=True, **CARELESS, p=1),
    "crop_and_pad": lambda: A.CropAndPad(px=(-5, 9), **CARELESS, **LINEAR, p=1),
    "rotate": rotate,
    "safe_rotate": lambda: A.SafeRotate((-30, 30), **CARELESS, **LINEAR, p=1),
    "affine": lambda: A.Affine(scale=(0.5, 1.5), shear=(-20, 20), **CARELESS, **LINEAR, p=1),
    "perspective": lambda: A.Perspective((0.05, 0.2), fit_output=True, **CARELESS, **LINEAR, p=1),
    "elastic": lambda: A.ElasticTransform(60, 6, **CARELESS, **LINEAR, p=1),
    "grid": lambda: A.GridDistortion(4, (-0.6, 0.6), **CARELESS, **LINEAR, p=1),
    "thin_plate": lambda: A.ThinPlateSpline((0.3, 0.5), **CARELESS, **LINEAR, p=1),
    "optical": lambda: A.OpticalDistortion((-0.7, 0.7), **CARELESS, **LINEAR, p=1),
    "scale": lambda: A.RandomScale((-0.5, 0.5), **LINEAR, p=1),
    "resized_crop": lambda: A.RandomResizedCrop((40, 40), **LINEAR, p=1),
    "dropout": lambda: A.CoarseDropout(fill="random", fill_mask=3, p=1),
    "grid_dropout": lambda: A.GridDropout(0.4, fill=7, fill_mask=3, p=1),
    "pixel_dropout": lambda: A.PixelDropout(0.1, mask_drop_value=3, p=1),
    "flip": lambda: A.HorizontalFlip(p=1),
    "one_of": lambda: A.OneOf([rotate(), pad(), A.Sequential([rotate(), pad()], p=1)], p=1),
    "nested": lambda: A.Compose([A.SomeOf([rotate(), pad(), A.D4(p=1)], n=2)]),
    "scale_rotate_crop": lambda: RandomScaleRotateCrop(
        52, 44, scale=(0.5, 1.5), degrees=(-30, 30), rotate_p=0.6
    ),
    "color": lambda: A.ChannelDropout(fill=9, p=1),
}


def sample(height: int = 40, width: int = 56, seed: int = 0) -> tuple[Any, Any]:
    """An image whose colours are its mask's ids: blocks of classes with a 255 border."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, (-(-height // 8), -(-width // 8)))
    labels = np.kron(blocks, np.ones((8, 8), int))[:height, :width]
    return COLORS[labels], IDS[labels].astype(np.uint8)


def run(augment: Augment, image: Any, mask: Any, seed: Any = 0) -> tuple[Any, Any]:
    return augment(image.copy(), mask.copy(), np.random.default_rng(seed))


def build(*names: str, ignore_index: int = 255) -> Augment:
    return Augment([MAKERS[n]() for n in names], ignore_index=ignore_index, fill=FILL)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(MAKERS)), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
    st.sampled_from([(40, 56), (20, 30), (33, 17)]),
)
def test_no_list_of_transforms_invents_a_class(
    names: list[str], seed: int, size: tuple[int, int]
) -> None:
    image, mask = sample(*size, seed=seed % 100)
    out, labels = run(build(*names), image, mask, seed)
    assert out.dtype == labels.dtype == np.uint8
    assert out.shape == (*labels.shape, 3)
    assert set(np.unique(labels)) <= set(np.unique(mask)) | {255}
    again, same = run(build(*names), image, mask, seed)
    assert np.array_equal(out, again)
    assert np.array_equal(labels, same)


HOLES = [
    "pad", "crop", "center_crop", "crop_and_pad", "rotate", "safe_rotate", "affine", "perspective",
    "elastic", "grid", "thin_plate", "optical", "dropout", "grid_dropout", "one_of", "nested",
    "scale_rotate_crop",
]  # fmt: skip


@pytest.mark.parametrize("name", HOLES)
@pytest.mark.parametrize("ignore_index", [255, 0])
def test_holes_are_ignored_and_of_the_mean_colour(name: str, ignore_index: int) -> None:
    """A uniform image of class 7: what has another colour is a hole, and the other way round."""
    image = np.full((40, 56, 3), 255, np.uint8)
    mask = np.full((40, 56), 7, np.uint8)
    num_holes = 0
    for seed in range(6):
        out, labels = run(build(name, ignore_index=ignore_index), image, mask, seed)
        hole = labels == ignore_index
        assert set(np.unique(labels)) <= {7, ignore_index}
        num_holes += hole.sum()
        # Resampling of the image blends at edges of holes and of the image: stay away from them.
        inside = cv2.erode(hole.astype(np.uint8), np.ones((5, 5)), borderValue=1).astype(bool)
        outside = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5)), borderValue=1) == 0
        assert np.abs(out[inside] - np.array(FILL)).max(initial=0) <= 1
        assert (out[outside] == 255).all()
    assert num_holes > 0


@pytest.mark.parametrize("ignore_index", [255, 0, 300])
def test_what_comes_after_a_hole_does_not_tint_it(ignore_index: int) -> None:
    tint = A.ColorJitter(brightness=(1.5, 1.5), p=1)
    augment = Augment([pad(), tint, A.GaussianBlur(p=1)], ignore_index=ignore_index, fill=FILL)
    out, labels = run(augment, np.full((40, 56, 3), 40, np.uint8), np.full((40, 56), 7, np.uint8))
    hole = labels == ignore_index
    assert hole.sum() == 64 * 64 - 40 * 56
    assert (out[hole] == FILL).all()


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in ("color", "pixel_dropout")])
def test_image_and_mask_move_together(name: str) -> None:
    image, mask = sample()
    compared = 0
    for seed in range(4):
        out, labels = run(build(name), image, mask, seed)
        for index, color in zip(IDS[:3], COLORS[:3], strict=True):
            # Away from edges, where the image is blended and the mask is not.
            inside = cv2.erode((labels == index).astype(np.uint8), np.ones((5, 5))).astype(bool)
            near = (np.abs(out.astype(int) - color).max(axis=2) < 64)[inside]
            assert near.sum() >= 0.97 * near.size
            compared += near.size
    assert compared > 100


def test_a_small_image_is_padded_to_the_crop() -> None:
    image, mask = sample(20, 30)
    crop = A.RandomCrop(64, 64, pad_if_needed=True)
    out, labels = run(Augment([crop], fill=FILL), image, mask)
    assert out.shape == (64, 64, 3)
    assert (labels == 255).sum() == 64 * 64 - 20 * 30 + (mask == 255).sum()
    rows, columns = np.nonzero((out != np.round(FILL)).any(axis=2))
    top, left = rows.min(), columns.min()
    assert np.array_equal(labels[top : top + 20, left : left + 30], mask)


def test_a_crop_that_does_not_fit_is_refused_by_name() -> None:
    image, mask = sample(20, 30)
    augment = Augment([A.HorizontalFlip(), A.RandomCrop(64, 64)])
    message = r"^augment\.train\[1\] \(RandomCrop\) cannot take an image of 30 x 20 .*64"
    with pytest.raises(DataError, match=message):
        run(augment, image, mask)


@pytest.mark.parametrize(
    ("ignore_index", "dtype", "expected"),
    [
        (255, np.uint8, np.uint8),
        (300, np.uint8, np.uint16),
        (-100, np.uint8, np.int16),
        (300, np.uint16, np.uint16),
        (300, np.int64, np.int64),
    ],
)
def test_the_mask_can_hold_what_is_ignored(ignore_index: int, dtype: Any, expected: Any) -> None:
    image, mask = sample(20, 30)
    augment = build("rotate", "pad", ignore_index=ignore_index)
    _, labels = run(augment, image, mask.astype(dtype))
    assert labels.dtype == expected
    assert set(np.unique(labels)) <= {*IDS.tolist(), ignore_index}
    assert (labels == ignore_index).any()


def test_the_seed_is_seed_epoch_and_index() -> None:
    image, mask = sample()
    augment = build("scale", "rotate", "crop", "flip")
    runs = {
        key: run(augment, image, mask, key)[1].tobytes()
        for key in [(0, 1, 2), (0, 1, 3), (0, 2, 2)]
    }
    assert len(set(runs.values())) == 3
    for key, value in reversed(runs.items()):  # in another order, so no state is left over
        assert run(augment, image, mask, key)[1].tobytes() == value


def test_transforms_draw_independently() -> None:
    """Compose(seed=...) would flip both ways or not at all: P(both) = 0.5."""
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1).repeat(3, axis=2)
    mask = image[..., 0]
    augment = Augment([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    corners = [int(run(augment, image, mask, [0, 0, i])[1][0, 0]) for i in range(400)]
    shares = [corners.count(corner) / 400 for corner in range(4)]
    assert max(abs(share - 0.25) for share in shares) < 0.07


def test_a_callable_of_the_user_gets_its_random_numbers() -> None:
    class Shift:
        def set_random_state(self, rng: np.random.Generator, py_random: random.Random) -> None:
            self.rng = rng

        def __call__(self, *, image: Any, mask: Any) -> dict[str, Any]:
            shift = int(self.rng.integers(1, 20))
            return {"image": np.roll(image, shift, 1), "mask": np.roll(mask, shift, 1)}

    image, mask = sample()
    augment = Augment([Shift(), A.HorizontalFlip(p=0.5)])
    results = [run(augment, image, mask, seed)[1].tobytes() for seed in (1, 2, 1)]
    assert results[0] == results[2] != results[1]


def test_errors_of_a_callable_of_the_user_pass_through() -> None:
    def broken(*, image: Any, mask: Any) -> dict[str, Any]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(Augment([broken]), *sample())


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.Normalize(), r"\[0\] \(Normalize\) returned the image as ndarray float32 \(40, 56, 3\)"),
        (
            A.ToTensorV2(),
            r"\(ToTensorV2\) returned the image as Tensor .*Leave out Normalize and To",
        ),
        (A.ToFloat(), "returned the image as ndarray float32"),
        (
            lambda image, mask: {"image": image, "mask": mask[:8]},
            r"\(<lambda>\) returned the mask as ndarray uint8 \(8, 56\)",
        ),
        (
            lambda image, mask: {"image": image, "mask": mask / 255},
            "returned the mask as ndarray float64",
        ),
        (
            lambda image, mask: {"image": image[..., 0], "mask": mask},
            "image as ndarray uint8 .40, 56",
        ),
        (lambda image, mask: {"image": image.astype(np.uint16), "mask": mask}, "uint16"),
        (lambda image, mask: {"image": image[..., :2], "mask": mask}, r"uint8 \(40, 56, 2\)"),
    ],
)
def test_what_a_batch_cannot_hold_is_refused(transform: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(Augment([transform]), *sample())


def test_what_is_no_transform_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment\.train\[1\] is 'flip'; expected"):
        Augment([A.HorizontalFlip(), "flip"])  # type: ignore[list-item]


def test_blending_of_the_mask_is_refused_however_deep() -> None:
    deep = A.OneOf([A.Sequential([A.Resize(8, 8, area_for_downscale="image_mask")])])
    with pytest.raises(ConfigError, match=r"Resize: area_for_downscale='image_mask' blends"):
        Augment([deep])
    Augment([A.Resize(8, 8, area_for_downscale="image")])


def test_a_transform_whose_holes_cannot_be_filled_is_refused() -> None:
    with pytest.raises(ConfigError, match="GridElasticDeform makes holes of class 0"):
        Augment([A.GridElasticDeform((3, 3), 6)])


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.warns(UserWarning, match="fil_mask"):
        transform = A.PadIfNeeded(64, 64, fil_mask=255)
    with pytest.raises(ValueError, match="fil_mask"):
        Augment([transform])


def test_it_can_be_sent_to_a_worker_process() -> None:
    image, mask = sample()
    names = [name for name in MAKERS if name != "elastic"]
    augment = build(*names)
    copy: Augment = pickle.loads(pickle.dumps(augment))
    assert np.array_equal(run(augment, image, mask)[0], run(copy, image, mask)[0])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_lists_that_come_with_segkit(path: Path) -> None:
    node = OmegaConf.create({"augment": OmegaConf.load(path)})
    transforms = [instantiate(one, _convert_="all") for one in node.augment.train]
    augment = Augment(transforms, fill=FILL)
    results: list[NDArray[np.uint8]] = []
    for seed, size in enumerate([(40, 56), (20, 30), (600, 530)]):
        image, mask = sample(*size)
        out, labels = run(augment, image, mask, seed)
        assert set(np.unique(labels)) <= set(IDS.tolist())
        assert out.dtype == np.uint8
        results.append(out)
    if path.stem == "standard":
        assert {out.shape for out in results} == {(512, 512, 3)}
    if path.stem == "none":
        assert np.array_equal(results[-1], sample(600, 530)[0])


def test_what_the_standard_list_was_goes_on() -> None:
    """Configurations and checkpoints name these three, where it now has one transform for all."""
    transforms = [
        A.RandomScale(scale_limit=[-0.5, 1.0], p=1.0),
        A.Rotate(limit=[-10, 10], p=0.3),
        A.RandomCrop(height=64, width=64, pad_if_needed=True, p=1.0),
    ]
    for seed in range(4):
        image, labels = run(Augment(transforms, fill=FILL), *sample(), seed)
        assert image.shape == (64, 64, 3)
        assert set(np.unique(labels)) <= set(IDS.tolist())
