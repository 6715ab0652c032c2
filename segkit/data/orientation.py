"""The EXIF orientation of images: how a camera was held, and whether the labels know of it."""

from collections.abc import Callable

import numpy as np
import PIL.Image

from segkit.data.arrays import Pixels
from segkit.data.levels import Range, image_of
from segkit.data.stored import Stored

# What the EXIF orientation asks for, on (H, W, C) arrays; 1 and unknown values ask for nothing.
_ORIENTATION_TAG = 0x0112
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def to_image(
    stored: Stored,
    name: str,
    size: tuple[int, int] | None = None,
    value_range: Range | None = None,
    channels: int = 3,
    bits: int = 8,
) -> Pixels:
    """What a file holds as :func:`~segkit.data.decode.read_image` gives it.

    Args:
        stored: What the file holds.
        name: What errors call it.
        size: As there.
        value_range: As there.
        channels: As there.
        bits: As there.
    """
    pixels = image_of(stored, value_range, name, channels, bits)
    return upright(pixels, stored, size)


def upright(array: Pixels, stored: Stored, size: tuple[int, int] | None = None) -> Pixels:
    """An array (H, W, ...) in the order of a file, in that of :func:`to_image`."""
    if not turned(stored, size):
        return array
    return np.ascontiguousarray(_TURNS[stored.orientation](array))


def shown_size(stored: Stored, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of the image that :func:`to_image` makes."""
    height, width = stored.size
    swapped = stored.orientation >= 5 and turned(stored, size)
    return (width, height) if swapped else (height, width)


def turned(stored: Stored, size: tuple[int, int] | None = None) -> bool | None:
    """Whether :func:`to_image` turns this image; None if its EXIF does not ask for that."""
    if stored.orientation not in _TURNS:
        return None
    height, width = stored.size
    shown = (width, height) if stored.orientation >= 5 else (height, width)
    return shown == size or (height, width) != size


def orientation_of(read_exif: Callable[[], PIL.Image.Exif]) -> int:
    """The EXIF orientation, 1 where there is none."""
    try:
        return int(read_exif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
