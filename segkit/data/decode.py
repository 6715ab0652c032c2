"""Decoding of image files: no other part of segkit opens one.

Pillow is used for its honesty: OpenCV returns half of a truncated JPEG without an error, reads
16-bit masks as zeros and palette masks as colours. Its limit against decompression bombs stays on,
and whatever it raises leaves here as a :class:`~segkit.errors.DataError` that names the file.
"""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segkit.data.file_kinds import FORMATS, describe
from segkit.data.levels import Range, picture_of
from segkit.data.opening import compression_loss, open_picture, open_regular
from segkit.data.stored import (
    Pixels as Pixels,
)
from segkit.data.stored import (
    Stored,
    raw_mode,
    second_decoding,
    set_decoding,
    stored_numbers,
)
from segkit.errors import DataError

PathLike = str | os.PathLike[str]

# What the EXIF orientation asks for, on (H, W, 3) arrays; 1 and unknown values ask for nothing.
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


def read_image(
    path: PathLike, size: tuple[int, int] | None = None, value_range: Range | None = None
) -> Pixels:
    """Read a picture as uint8 (H, W, 3) RGB.

    Grey, palette and CMYK pictures become RGB; an alpha channel is dropped, not composited, so
    that the pixels are those that a reader without alpha sees. Numbers of another size than 8 bits
    are scaled to it. The EXIF orientation is applied, unless ``size`` shows that the labels were
    drawn on the picture as it is stored: then it is left alone. (That of a TIFF, which belongs to
    the format and says in which order it stores its rows, is always applied, by Pillow.)

    Args:
        path: A JPEG, PNG, BMP, TIFF, WEBP or GIF file, whatever its name.
        size: ``(H, W)`` of the mask that belongs to the picture, if there is one. The result may
            still differ from it: comparing is left to the caller.
        value_range: ``data.range``: the stored numbers that become 0 and 255; None is the full
            range of the file's type.

    Raises:
        DataError: The file is missing, damaged, not a picture, or too large; its numbers have no
            fixed range, or another than ``value_range``.
    """
    return to_picture(load(path), str(path), size, value_range)


def to_picture(
    stored: Stored,
    name: str,
    size: tuple[int, int] | None = None,
    value_range: Range | None = None,
) -> Pixels:
    """:func:`read_image` of a file that is loaded; ``name`` is what errors call it."""
    pixels = picture_of(stored, value_range, name)
    if not turned(stored, size):
        return pixels
    return np.ascontiguousarray(_TURNS[stored.orientation](pixels))


def turned(stored: Stored, size: tuple[int, int] | None = None) -> bool | None:
    """Whether :func:`read_image` turns this picture; None if its EXIF does not ask for that."""
    if stored.orientation not in _TURNS:
        return None
    height, width = stored.size
    shown = (width, height) if stored.orientation >= 5 else (height, width)
    return shown == size or (height, width) != size


def pixels_of(
    image: Image.Image,
    name: PathLike,
    size: tuple[int, int] | None = None,
    value_range: Range | None = None,
) -> Pixels:
    """A picture that Pillow has opened already, as :func:`read_image` reads one.

    Args:
        image: Of any file or program.
        name: What errors call it.
        size: As there.
        value_range: As there.

    Raises:
        DataError: It cannot be decoded, or its pixels have no fixed range.
    """
    try:
        raw = raw_mode(image)
        image.load()
    except Exception as error:  # Pillow's decoders leak OSError, SyntaxError, struct.error, ...
        raise DataError(f"{name}: cannot be decoded ({error})") from error
    stored = stored_numbers(image, raw, None, str(name), orientation=_orientation(image.getexif))
    return to_picture(stored, str(name), size, value_range)


def read_labels(path: PathLike) -> NDArray[np.integer[Any]]:
    """Read the numbers stored in a mask file, without any conversion.

    Returns:
        Palette indices or grey values, integer (H, W), for a palette or grey file of any depth;
        colours, uint8 (H, W, 3), for an RGB or RGBA file (alpha is dropped).

    Raises:
        DataError: As for :func:`load_labels`.
    """
    return load_labels(path).numbers


def load_labels(path: PathLike) -> Stored:
    """Read a mask file: numbers that are the stored ones, or colours of 8 bits.

    Raises:
        DataError: As for :func:`read_image`, and for all whose numbers are not exactly those that
            a program wrote into it, or are no whole numbers, or for which one band is not enough.
    """
    stored = load(path)
    way_out = "Save it as an 8-bit palette or grey PNG"
    if stored.computed:
        raise DataError(
            f"{path}: the mask is {stored.computed} changes label values; expected a palette or "
            "grey PNG. Export the masks again as PNG"
        )
    if stored.mode in ("LA", "PA") or stored.numbers.dtype.kind not in "iu":
        raise DataError(
            f"{path}: the mask has pixels of Pillow's mode {stored.mode}; expected palette, "
            f"8- or 16-bit grey, or RGB. {way_out}"
        )
    if stored.unused:
        raise DataError(
            f"{path}: the mask has {stored.unused + (3 if stored.numbers.ndim == 3 else 1)} bands; "
            f"expected one, or RGB: which of them holds the classes? {way_out}"
        )
    if stored.numbers.ndim == 3 and stored.numbers.dtype != np.uint8:
        raise DataError(
            f"{path}: the mask has colours of 16 bits; expected 8 bits per colour. {way_out}"
        )
    if stored.alpha is not None and _alpha_matters(stored.numbers, stored.alpha):
        raise DataError(
            f"{path}: pixels of one colour differ in their transparency, which would make one "
            "class of them. Paint the transparent ones in a colour of their own, and save it as RGB"
        )
    return stored


def _alpha_matters(rgb: NDArray[Any], alpha: NDArray[np.uint8]) -> bool:
    """Whether dropping alpha makes equal what was not."""
    if alpha.min(initial=255) == alpha.max(initial=0):
        return False
    colors = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    both = np.unique(colors.astype(np.uint64) << 8 | alpha)
    return len(np.unique(both >> np.uint64(8))) < len(both)


def read_palette(path: PathLike) -> Pixels | None:
    """The colours stored in a palette file, uint8 (n, 3) with n <= 256; None for other files."""
    return load(path).palette


def is_turned(path: PathLike, size: tuple[int, int] | None = None) -> bool | None:
    """:func:`turned` of a file, of which only the head is read; None of what is no picture."""
    try:
        with open_regular(Path(path)) as file, Image.open(file, formats=FORMATS) as image:
            if image.format == "TIFF":
                return None
            # PNG's own method decodes the picture, in case that the EXIF comes last.
            orientation = _orientation(partial(Image.Image.getexif, image))
            head = np.broadcast_to(np.uint8(0), (image.height, image.width))
            return turned(Stored(head, 255, "", "", orientation=orientation), size)
    except (DataError, OSError):
        return None


def load(path: PathLike) -> Stored:
    """Decode a file completely and close it.

    Raises:
        DataError: As for :func:`read_image`.
    """
    path = Path(path)
    try:
        # Not by its path: Pillow would map some files into memory. That garbles a TIFF whose rows
        # are stored turned, and ends the process if somebody cuts the file meanwhile.
        with open_regular(path) as file:
            image = open_picture(file, path)
            raw, more = raw_mode(image), second_decoding(image)
            image.load()
            second = None
            if more is not None:
                file.seek(0)
                second = Image.open(file, formats=FORMATS)
                set_decoding(second, *more)
                second.load()
            orientation = 1 if image.format == "TIFF" else _orientation(image.getexif)
            computed = compression_loss(image, file)
            return stored_numbers(
                image, raw, second, str(path), orientation=orientation, computed=computed
            )
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{path}: too large; at most {Image.MAX_IMAGE_PIXELS} pixels are decoded, because a "
            "small damaged or hostile file can fill the memory. Cut the picture into tiles"
        ) from None
    except UnidentifiedImageError:
        raise DataError("{}: {}. {}".format(path, *describe(path))) from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it") from None
    except Exception as error:  # Pillow's decoders leak OSError, SyntaxError, struct.error, ...
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise DataError(
                f"{path}: too many open files. Raise the limit of the shell, ulimit -n 65536, or "
                "use fewer processes: loader.num_workers=1, or 0 for none"
            ) from error
        raise DataError(
            f"{path}: cannot be decoded ({error}). Copy or download the file again; if other "
            "programs open it, save it as PNG there"
        ) from error


def _orientation(read_exif: Callable[[], Image.Exif]) -> int:
    """The EXIF orientation, 1 where there is none."""
    try:
        return int(read_exif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
