"""From the numbers in an image to 8 or 16 bits: which of them become 0 and the largest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segkit.commands import command
from segkit.data.arrays import Pixels
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


def image_of(
    stored: Stored, value_range: Range | None, name: str, channels: int = 3, bits: int = 8
) -> Pixels:
    """An image as uint8 or uint16 (H, W, channels); three of them are RGB.

    Args:
        stored: What its file holds. For three channels alpha and unused bands are dropped, and grey
            is repeated; for any other number there must be as many bands.
        value_range: Numbers that become 0 and the largest; beyond them it is clipped. Those of a
            palette are its colours. None is the full range of the file's type.
        name: What errors call it.
        channels: ``data.mean`` has a number for each.
        bits: 8 or 16, of each channel.

    Raises:
        DataError: It has another number of channels, its numbers have no fixed range and none is
            given, or the given one does not fit them.
    """
    if channels != 3 or stored.numbers.shape[2:] not in ((), (3,)):
        bands = _bands(stored, channels, name)
        pixels = to_bytes(bands, stored.white, value_range, name, bits)
        return np.iinfo(pixels.dtype).max - pixels if stored.white_is_zero else pixels
    if stored.palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(stored.palette)] = stored.palette
        numbers: Numbers = colors[stored.numbers]
        white: int | None = 255
    else:
        numbers, white = stored.numbers, stored.white
    pixels = to_bytes(numbers, white, value_range, name, bits)
    if stored.white_is_zero:
        pixels = np.iinfo(pixels.dtype).max - pixels
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _bands(stored: Stored, channels: int, name: str) -> Numbers:
    """What a file stores as (H, W, channels).

    Raises:
        DataError: It stores another number of bands.
    """
    numbers = stored.numbers
    found = numbers.shape[2] if numbers.ndim == 3 else 1 if stored.palette is None else 3
    if stored.palette is None:
        numbers = numbers.reshape(*numbers.shape[:2], found)
        if found == channels:
            return numbers
        if stored.alpha is not None and found + 1 == channels and numbers.dtype == np.uint8:
            return np.dstack([numbers, stored.alpha])
    more = " besides its transparency" if stored.alpha is not None else ""
    way_out = (
        f"Give data.mean and data.std {found} numbers each ({command('stats')} prints "
        "those of the images)"
    )
    if found == 3 or (found == 1 and stored.alpha is None):
        way_out = "Leave data.mean and data.std out to train on RGB images, which grey becomes"
    raise DataError(
        f"{name}: has {found} channel{'s' * (found != 1)}{more}, and data.mean has {channels} "
        f"number{'s' * (channels != 1)}; expected one for each channel. {way_out}, or save it as "
        f"TIFF with {channels} band{'s' * (channels != 1)}"
    )


def to_bytes(
    numbers: Numbers, white: int | None, value_range: Range | None, name: str, bits: int = 8
) -> Pixels:
    """The numbers (...) of an image as uint8 or uint16 (...), rounded to the nearest.

    Args:
        numbers: Integers or floats.
        white: The largest that their type holds, None if that means nothing.
        value_range: As for :func:`image_of`.
        name: What errors call the image.
        bits: 8 or 16, of the result.
    """
    full = 2**bits - 1
    if value_range is None:
        if white is None:
            raise DataError(
                f"{name}: its numbers ({numbers.dtype}, {_extent(numbers)}) have no fixed range. "
                "Say which of them become black and white: data.range=[low,high]"
            )
        if white == full:
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
        return _mapped(np.arange(white + 1), low, high, full)[numbers]
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise DataError(
            f"{name}: holds NaN or infinity; expected finite numbers in an image. Write a number "
            "there, such as 0, and the value of data.ignore_index at the same pixels of its mask"
        )
    return _mapped(numbers, low, high, full)


def _mapped(numbers: Numbers, low: float, high: float, full: int) -> Pixels:
    scaled = (numbers.astype(np.float64) - low) * full / (high - low)
    return np.rint(np.clip(scaled, 0, full)).astype(np.uint8 if full == 255 else np.uint16)


def _extent(numbers: Numbers) -> str:
    return f"{numbers.min():g} to {numbers.max():g}" if numbers.size else "none"
