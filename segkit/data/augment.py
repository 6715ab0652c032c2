"""Random transforms of image and mask. The only file that imports albumentations."""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np

from segkit.data.arrays import Mask, Pixels
from segkit.data.scale_rotate_crop import RandomScaleRotateCrop
from segkit.errors import ConfigError, DataError

HOLES = {"holes": "mask"}  # moved as the mask is


class Augment:
    """A list of transforms with the promises that a list alone does not keep.

    Whatever the transforms' own arguments say, a hole (padding, rotation, scale, crop, dropout) is
    ``ignore_index`` in the mask and the mean colour in the image, borders are never reflected, and
    masks are resampled by nearest neighbour only.

    Args:
        transforms: :class:`~segkit.data.RandomScaleRotateCrop`, albumentations transforms, or any
            callables
            ``f(image=uint8 (H, W, 3), mask=(H, W)) -> {"image": ..., "mask": ...}``; one with a
            method ``set_random_state(rng, py_random)`` is given its random numbers through it.
            With 16 bits they see float32 in [0, 1], which albumentations is made for.
        ignore_index: Mask value of the holes.
        fill: Of the holes, a number in [0, 255] for each channel of the images.
        bits: 8 or 16, of each channel.
        class_pixels: Pixels of each class in the training split; None: not counted.
        name: Of the list, for messages.
        late: The transforms of the last epochs; None: these are for all.
        late_from: The first epoch that ``late`` is for, from 1.

    Raises:
        ConfigError: Something in the list is no transform, would blend mask values, or cannot take
            images of so many channels or bits.
    """

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]],
        *,
        ignore_index: int = 255,
        fill: Sequence[float] = (0.0, 0.0, 0.0),
        bits: int = 8,
        class_pixels: Sequence[int] | None = None,
        name: str = "augment.train",
        late: "Augment | None" = None,
        late_from: int = 1,
    ) -> None:
        self.ignore_index, self.bits = ignore_index, bits
        self.name, self.late, self.late_from = name, late, late_from
        rounded = [round(value) for value in fill] if bits == 8 else np.divide(fill, 255)
        self.fill = np.array(rounded, np.uint8 if bits == 8 else np.float32)
        self._canvas = np.empty((0, 0, len(fill)), self.fill.dtype)
        self.steps: list[Callable[..., Any]] = []
        for position, transform in enumerate(transforms):
            if not callable(transform):
                raise ConfigError(
                    f"{name}[{position}] is {transform!r}; expected an albumentations "
                    "transform or a callable (image=, mask=) -> dict"
                )
            check_channels(transform, f"{name}[{position}]", len(fill), bits)
            if isinstance(transform, A.BasicTransform | A.BaseCompose):
                color = [value / 255 for value in fill] if bits == 16 else fill
                # More than four numbers are more than OpenCV takes; the holes are filled below.
                one = [sum(color) / len(color)]
                fill_holes(transform, ignore_index, color if len(color) <= 4 else one)
                # strict: Compose otherwise only warns of arguments that it does not know.
                transform = A.Compose([transform], strict=True, additional_targets=HOLES)
            elif isinstance(transform, RandomScaleRotateCrop):
                transform.ignore_index, transform.fill = ignore_index, tuple(fill)
                transform.class_pixels = class_pixels
            self.steps.append(transform)

    def of_epoch(self, epoch: int) -> "Augment":
        """The transforms of this epoch, from 1."""
        return self if self.late is None or epoch < self.late_from else self.late

    def __call__(self, image: Pixels, mask: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """Transform image (H, W, C) and integer (H, W); all random numbers come from ``rng``.

        The mask keeps its dtype if that holds ``ignore_index``, else gets one that does.

        Raises:
            DataError: A transform cannot take this image, or returns something else than arrays of
                these dtypes and of one size.
        """
        py_random = random.Random(int(rng.integers(2**63)))
        dtype = np.promote_types(mask.dtype, np.min_scalar_type(self.ignore_index))
        mask = mask.astype(dtype, copy=False)
        # A second mask with nothing in it but holes: what comes after a hole may tint it.
        holes: Mask | None = None  # as long as there are none
        for position, step in enumerate(self.steps):
            # One stream for all: `Compose(seed=...)` would give every transform the same numbers,
            # so that an image is flipped both ways or not at all.
            if hasattr(step, "set_random_state"):
                step.set_random_state(rng, py_random)
            name = f"{self.name}[{position}] ({_name(step)})"
            if not isinstance(step, RandomScaleRotateCrop):  # any other one may write to them
                image, mask = _own(_as_floats(image)), _own(mask)
            ours = isinstance(step, A.Compose | RandomScaleRotateCrop)
            if holes is None and isinstance(step, A.Compose):
                holes = np.full_like(mask, int(self.ignore_index == 0))
            if not ours:  # a user's callable, which may move pixels: nothing tells where to
                image = self._filled(image, holes)
            given = image
            try:
                result = step(image=image, mask=mask, **({"holes": holes} if ours else {}))
            except Exception as error:
                if not ours:
                    raise  # a user's own code: its traceback tells where
                raise DataError(
                    f"{name} cannot take an image of {image.shape[1]} x "
                    f"{image.shape[0]} (width x height): {error}"
                ) from error
            image, mask = result["image"], result["mask"]
            _check_result(image, mask, name, given)
            holes = result["holes"] if ours else None
        image = self._filled(_as_floats(image), holes)
        if self.bits == 16:
            numbers = image * np.float32(65535)
            image = np.rint(numbers, out=numbers).clip(0, 65535, out=numbers).astype(np.uint16)
        return image, mask.astype(dtype, copy=False)

    def _filled(self, image: Pixels, holes: Mask | None) -> Pixels:
        """A copy with the mean colour in the holes; the image itself where there are none."""
        if holes is None:
            return image
        hole = holes == self.ignore_index
        if not hole.any():
            return image
        height, width = hole.shape
        if height > self._canvas.shape[0] or width > self._canvas.shape[1]:
            self._canvas = np.empty((height, width, len(self.fill)), self.fill.dtype)
            self._canvas[:] = self.fill  # kept: it takes longer than all the rest
        filled = np.ascontiguousarray(image).copy()
        cv2.copyTo(self._canvas[:height, :width], hole.view(np.uint8), filled)
        return filled


def _as_floats(image: Pixels) -> Pixels:
    """uint16 as float32 in [0, 1]; any other image as it is."""
    return np.multiply(image, 1 / 65535, dtype=np.float32) if image.dtype == np.uint16 else image


def _own(array: Any) -> Any:
    """An array that may be written to, as one out of a cache may not."""
    return array if array.flags.writeable else array.copy()


def _name(step: Callable[..., Any]) -> str:
    inner = step.transforms[0] if isinstance(step, A.Compose) else step
    return getattr(inner, "__name__", type(inner).__name__)


def _check_result(image: Any, mask: Any, name: str, like: Pixels) -> None:
    kind, channels = like.dtype, like.shape[2]
    is_alike = image.dtype == kind and image.shape[2:] == (channels,)
    for what, array, fits, expected in (
        ("image", image, is_alike, f"{kind} (H, W, {channels})"),
        (
            "mask",
            mask,
            mask.shape == image.shape[:2] and mask.dtype.kind in "iu",
            "integer (H, W) of the image's size",
        ),
    ):
        if not (isinstance(array, np.ndarray) and fits):
            raise DataError(
                f"{name} returned the {what} as {type(array).__name__} {array.dtype} "
                f"{tuple(array.shape)}; expected an array {expected}. Leave out Normalize and "
                "ToTensorV2: that is done later, on the device"
            )


def check_channels(transform: Any, name: str, channels: int, bits: int) -> None:
    """Raise a ConfigError if what works on RGB of 8 bits fails on such images: tried on one.

    Args:
        transform: Of albumentations, with all that it holds; others are not tried.
        name: Its key in the configuration.
        channels: Of the images.
        bits: 8 or 16.
    """
    for child in getattr(transform, "transforms", []):
        check_channels(child, name, channels, bits)
    if (channels, bits) == (3, 8) or not isinstance(transform, A.BasicTransform):
        return
    numbers = np.random.default_rng(0).integers(0, 256, (64, 64, channels))
    images = [np.zeros((64, 64, 3), np.uint8), numbers.astype(np.uint8)]
    if bits == 16:
        images[1] = (numbers / 255).astype(np.float32)
    works = []
    for image in images:
        tried = copy.deepcopy(transform)
        tried.p = 1
        try:
            result = A.Compose([tried])(image=image, mask=np.zeros((64, 64), np.uint8))["image"]
            works.append((result.dtype, result.shape[2:]) == (image.dtype, image.shape[2:]))
        except Exception:  # of somebody else's code
            works.append(False)
    if works == [True, False]:
        raise ConfigError(
            f"{name}: {type(transform).__name__} cannot take images of {channels} "
            f"channel{'s' * (channels != 1)} and {bits} bits, which data.mean and data.bits say; "
            "augment=bands has none of this kind, and albumentations.RandomBrightnessContrast in "
            "its place changes the brightness of any number of channels"
        )


def fill_holes(
    transform: A.BasicTransform | A.BaseCompose, ignore_index: int, fill: Sequence[float]
) -> None:
    """Set what a transform leaves in holes, in place and through all that it holds."""
    for child in getattr(transform, "transforms", []):
        fill_holes(child, ignore_index, fill)
    if isinstance(transform, A.ImageOnlyTransform):
        return  # makes no holes; the fill of ChannelDropout, say, is another thing
    if getattr(transform, "area_for_downscale", None) == "image_mask":
        raise ConfigError(
            f"{type(transform).__name__}: area_for_downscale='image_mask' blends class ids into "
            "classes that are not there; use 'image'"
        )
    if isinstance(transform, A.GridElasticDeform):
        raise ConfigError(
            "GridElasticDeform makes holes of class 0 and cannot be told otherwise; use "
            "ElasticTransform or GridDistortion"
        )
    settings = {
        "fill": tuple(fill) if len(fill) > 1 else fill[0],
        "fill_mask": ignore_index,
        "border_mode": cv2.BORDER_CONSTANT,
        "mask_interpolation": cv2.INTER_NEAREST,
        "mask_drop_value": None,  # PixelDropout's noise leaves labels as they are
        "_get_pad_value": _as_given,  # CropAndPad would draw one number from the three of a colour
    }
    for name, value in settings.items():
        if hasattr(transform, name):
            setattr(transform, name, value)


def _as_given(fill: Any) -> Any:
    return fill


def one_thread() -> None:
    """Keep OpenCV to the calling thread: loader workers are the parallelism."""
    cv2.setNumThreads(0)
