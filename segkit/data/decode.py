"""Decoding of image files: no other part of segkit opens one.

Pillow is used for its honesty: OpenCV returns half of a truncated JPEG without an error, reads
16-bit masks as zeros and palette masks as colours. Its limit against decompression bombs stays on,
and whatever it raises leaves here as a :class:`~segkit.errors.DataError` that names the file.
"""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from segkit.commands import command
from segkit.data.arrays import Image, Pixels
from segkit.data.bands import INSTALL, can_read, is_tiff, load_bands
from segkit.data.file_kinds import FORMATS, describe
from segkit.data.levels import Range
from segkit.data.opening import check_image, check_mask_file, compression_loss, open_regular
from segkit.data.orientation import orientation_of, to_image, turned
from segkit.data.stored import (
    Stored,
    is_garbled,
    is_partial,
    mend_bmp,
    raw_mode,
    second_decoding,
    set_decoding,
    stored_numbers,
)
from segkit.errors import DataError

PathLike = str | os.PathLike[str]

# What Pillow warns of is refused here, in words.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


def read_image(
    path: PathLike,
    size: tuple[int, int] | None = None,
    value_range: Range | None = None,
    channels: int = 3,
    bits: int = 8,
) -> Pixels:
    """Read an image as uint8 (H, W, 3) RGB, or of another number of channels, or as uint16.

    Grey, palette and CMYK images become RGB; an alpha channel is dropped, not composited, so
    that the pixels are those that a reader without alpha sees. With another number of channels than
    3 the file must have as many. Numbers of another size than ``bits`` are scaled to it. The EXIF
    orientation is applied, unless ``size`` shows that the labels were drawn on the image as it is
    stored: then it is left alone. (That of a TIFF, which belongs to the format and says in which
    order it stores its rows, is always applied by Pillow, and never by tifffile.)

    Args:
        path: A JPEG, PNG, BMP, TIFF, WEBP or GIF file, whatever its name.
        size: ``(H, W)`` of the mask that belongs to the image, if there is one. The result may
            still differ from it: comparing is left to the caller.
        value_range: ``data.range``: the stored numbers that become 0 and 255; None is the full
            range of the file's type.
        channels: Of the result.
        bits: 8 or 16, of the result.

    Raises:
        DataError: The file is missing, damaged, not an image, or too large; its numbers have no
            fixed range, or another than ``value_range``.
    """
    return to_image(load(path, channels), str(path), size, value_range, channels, bits)


def pixels_of(
    image: PIL.Image.Image,
    name: PathLike,
    size: tuple[int, int] | None = None,
    value_range: Range | None = None,
    channels: int = 3,
    bits: int = 8,
) -> Pixels:
    """An image that Pillow has opened already, as :func:`read_image` reads one.

    Args:
        image: Of any file or program.
        name: What errors call it.
        size: As there.
        value_range: As there.
        channels: As there.
        bits: As there.

    Raises:
        DataError: It cannot be decoded, or its pixels have no fixed range.
    """
    try:
        raw = raw_mode(image)
        image.load()
    except Exception as error:  # Pillow's decoders leak OSError, SyntaxError, struct.error, ...
        raise DataError(f"{name}: cannot be decoded ({error})") from error
    stored = stored_numbers(image, raw, None, str(name), orientation=orientation_of(image.getexif))
    return to_image(stored, str(name), size, value_range, channels, bits)


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
    check_mask_file(stored, path)
    return stored


def read_palette(path: PathLike) -> Image | None:
    """The colours stored in a palette file, uint8 (n, 3) with n <= 256; None for other files."""
    return load(path).palette


def palette_of_head(path: PathLike) -> bytes:
    """The colours of a palette file, of which only the head is read; empty for other files."""
    try:
        with open_regular(Path(path)) as file, PIL.Image.open(file, formats=FORMATS) as image:
            return bytes(image.palette.palette) if image.mode == "P" and image.palette else b""
    except Exception:  # what is wrong with the file is reported when it is read
        return b""


def is_turned(path: PathLike, size: tuple[int, int] | None = None) -> bool | None:
    """:func:`turned` of a file, of which only the head is read; None of what is no image."""
    try:
        with open_regular(Path(path)) as file, PIL.Image.open(file, formats=FORMATS) as image:
            if image.format == "TIFF":
                return None
            # PNG's own method decodes the image, in case that the EXIF comes last.
            orientation = orientation_of(partial(PIL.Image.Image.getexif, image))
            head = np.broadcast_to(np.uint8(0), (image.height, image.width))
            return turned(Stored(head, 255, "", "", orientation=orientation), size)
    except Exception:  # likewise
        return None


def head_size(path: PathLike) -> tuple[int, int] | None:
    """Height and width that the head of a file says; None of what is no image."""
    try:
        with open_regular(Path(path)) as file, PIL.Image.open(file, formats=FORMATS) as image:
            return image.height, image.width
    except Exception:  # what is wrong with the file is reported when it is read
        return None


def load(path: PathLike, channels: int | None = None) -> Stored:
    """Decode a file completely and close it.

    Args:
        path: The file.
        channels: What an image is read for: TIFFs that Pillow does not read, or of which it leaves
            bands out, are read by tifffile then. None of masks.

    Raises:
        DataError: As for :func:`read_image`.
    """
    path = Path(path)
    if channels not in (None, 1, 3) and not path.is_dir() and is_tiff(path):
        return load_bands(path)
    try:
        # Not by its path: Pillow would map some files into memory. That garbles a TIFF whose rows
        # are stored turned, and ends the process if somebody cuts the file meanwhile.
        with open_regular(path) as file:
            image = _open(file)
            if channels is not None and is_garbled(image) and can_read():
                return load_bands(path)
            image = _checked(image, file, path)
            raw, more = raw_mode(image), second_decoding(image)
            image.load()
            second = None
            if more is not None:
                second = _open(file)
                set_decoding(second, *more)
                second.load()
            orientation = 1 if image.format == "TIFF" else orientation_of(image.getexif)
            computed = compression_loss(image, file)
            return stored_numbers(
                image, raw, second, str(path), orientation=orientation, computed=computed
            )
    except DataError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise DataError(
            f"{path}: too large; at most {PIL.Image.MAX_IMAGE_PIXELS} pixels are decoded, because "
            "a small damaged or hostile file can fill the memory. Cut the image into tiles: "
            f"{command('tile')}"
        ) from None
    except UnidentifiedImageError:
        what, way_out = describe(path)
        if channels is not None and "TIFF of a kind" in what:
            if can_read():
                return load_bands(path)
            way_out += f", or {INSTALL}"
        raise DataError(f"{path}: {what}. {way_out}") from None
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


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Decode images of up to so many pixels meanwhile, in this process."""
    before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, pixels
    try:
        yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before


def _checked(image: PIL.Image.Image, file: BinaryIO, path: Path) -> PIL.Image.Image:
    """The only image of a file, not yet decoded; ``image`` is what :func:`_open` gave."""
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise PIL.Image.DecompressionBombError
    check_image(image, path)
    if image.format == "PNG":
        image.verify()  # the check sums, which decoding skips: other labels could come out
        return _open(file)
    if image.format == "GIF":
        image = _open(file)  # back to its first frame
        if is_partial(image):
            raise DataError(
                f"{path}: its first frame covers a part of the image only. Save it as PNG"
            )
    if image.format == "BMP":
        mend_bmp(image, file)
    return image


def _open(file: BinaryIO) -> PIL.Image.Image:
    file.seek(0)
    return PIL.Image.open(file, formats=FORMATS)
