"""From the numbers in an image to 8 bits: which of them become 0 and 255."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segkit.data.arrays import Image
from segkit.data.stored import Numbers, Stored
from segkit.errors import DataError

Range = tuple[float, float]


def parse_range(value: Any) -> Range | None:
    """``data.range``: two rising numbers, or None for the full range of each file's type.

    Raises:
        DataError: Anything else.
    """
    if value is None:
        return None
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if (
        len(numbers) != 2
        or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers)
        or not -np.inf < numbers[0] < numbers[1] < np.inf
    ):
        raise DataError(
            f"data.range is {value!r}; expected [low, high] with low < high: the numbers in the "
            "images that become 0 and 255, as [0,4095] of 12 bits"
        )
    return float(numbers[0]), float(numbers[1])


def image_of(stored: Stored, value_range: Range | None, name: str) -> Image:
    """An image as uint8 (H, W, 3) RGB.

    Args:
        stored: What its file holds. Alpha and unused bands are dropped.
        value_range: Numbers that become 0 and 255; beyond them it is clipped. Those of a palette
            are its colours. None is the full range of the file's type.
        name: What errors call it.

    Raises:
        DataError: Its numbers have no fixed range and none is given, or the given one does not
            fit them.
    """
    if stored.palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(stored.palette)] = stored.palette
        numbers: Numbers = colors[stored.numbers]
        white: int | None = 255
    else:
        numbers, white = stored.numbers, stored.white
    pixels = to_bytes(numbers, white, value_range, name)
    if stored.white_is_zero:
        pixels = 255 - pixels
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def to_bytes(numbers: Numbers, white: int | None, value_range: Range | None, name: str) -> Image:
    """The numbers (...) of an image as uint8 (...), rounded to the nearest.

    Args:
        numbers: Integers or floats.
        white: The largest that their type holds, None if that means nothing.
        value_range: As for :func:`image_of`.
        name: What errors call the image.
    """
    if value_range is None:
        if white is None:
            raise DataError(
                f"{name}: its numbers ({numbers.dtype}, {_extent(numbers)}) have no fixed range. "
                "Say which of them become black and white: data.range=[low,high]"
            )
        if white == 255:
            return numbers
        low, high = 0.0, float(white)
    else:
        low, high = value_range
        if white is not None and (low < 0 or high > white):
            raise DataError(
                f"{name}: data.range is [{low:g}, {high:g}], but the numbers of this image can "
                f"be 0 to {white} only; expected images of one kind. Save this one with more "
                "bits, as the others are, or leave data.range out"
            )
    if white is not None:  # every number that can occur is mapped once
        return _mapped(np.arange(white + 1), low, high)[numbers]
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise DataError(f"{name}: holds NaN or infinity; expected finite numbers in an image")
    return _mapped(numbers, low, high)


def _mapped(numbers: Numbers, low: float, high: float) -> Image:
    scaled = (numbers.astype(np.float64) - low) * 255 / (high - low)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _extent(numbers: Numbers) -> str:
    return f"{numbers.min():g} to {numbers.max():g}" if numbers.size else "none"
