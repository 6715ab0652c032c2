"""Random transforms of image and mask. The only file that imports albumentations and OpenCV."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.errors import ConfigError

Image = NDArray[np.uint8]
Mask = NDArray[np.integer[Any]]


class Augment:
    """A list of transforms with the promises that a list alone does not keep.

    Whatever the transforms' own arguments say, a hole (padding, rotation, scale, crop, dropout) is
    ``ignore_index`` in the mask and the mean colour in the image, borders are never reflected, and
    masks are resampled by nearest neighbour only.

    Args:
        transforms: albumentations transforms, or any callables
            ``f(image=uint8 (H, W, 3), mask=(H, W)) -> {"image": ..., "mask": ...}``; one with a
            method ``set_random_state(rng, py_random)`` is given its random numbers through it.
        ignore_index: Mask value of the holes.
        fill: RGB of the holes, each in [0, 255].

    Raises:
        ConfigError: Something in the list is no transform, or would blend mask values.
    """

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]],
        *,
        ignore_index: int = 255,
        fill: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        self.steps: list[Callable[..., Any]] = []
        for position, transform in enumerate(transforms):
            if not callable(transform):
                raise ConfigError(
                    f"augment.train[{position}] is {transform!r}; expected an albumentations "
                    "transform or a callable (image=, mask=) -> dict"
                )
            if isinstance(transform, A.BasicTransform | A.BaseCompose):
                fill_holes(transform, ignore_index, fill)
                # strict: Compose otherwise only warns of arguments that it does not know.
                transform = A.Compose([transform], strict=True)
            self.steps.append(transform)

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        """Transform uint8 (H, W, 3) and integer (H, W); all random numbers come from ``rng``."""
        py_random = random.Random(int(rng.integers(2**63)))
        dtype = mask.dtype
        for step in self.steps:
            # One stream for all: `Compose(seed=...)` would give every transform the same numbers,
            # so that an image is flipped both ways or not at all.
            if hasattr(step, "set_random_state"):
                step.set_random_state(rng, py_random)
            result = step(image=image, mask=mask)
            image, mask = result["image"], result["mask"]
        return image, mask.astype(dtype, copy=False)


def fill_holes(
    transform: A.BasicTransform | A.BaseCompose, ignore_index: int, fill: Sequence[float]
) -> None:
    """Set what a transform leaves in holes, in place and through all that it holds."""
    for child in getattr(transform, "transforms", []):
        fill_holes(child, ignore_index, fill)
    if getattr(transform, "area_for_downscale", None) == "image_mask":
        raise ConfigError(
            f"{type(transform).__name__}: area_for_downscale='image_mask' blends class ids into "
            "classes that are not there; use 'image'"
        )
    settings = {
        "fill": tuple(fill),
        "fill_mask": ignore_index,
        "border_mode": cv2.BORDER_CONSTANT,
        "mask_interpolation": cv2.INTER_NEAREST,
    }
    for name, value in settings.items():
        if hasattr(transform, name):
            setattr(transform, name, value)


def one_thread() -> None:
    """Keep OpenCV to the calling thread: loader workers are the parallelism."""
    cv2.setNumThreads(0)
