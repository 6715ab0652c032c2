"""TIFFs of any number of bands and any kind of numbers, which Pillow does not read: by tifffile."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from segkit.commands import command
from segkit.data.opening import open_regular
from segkit.data.stored import Stored
from segkit.errors import DataError

INSTALL = 'install tifffile: pip install tifffile imagecodecs, or pip install -e ".[geo]"'
_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the latter two of a BigTIFF
_PALETTE, _WHITE_IS_ZERO, _SEPARATED = 3, 0, 5


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    with open_regular(path) as file:
        return file.read(4) in _MAGIC


def can_read() -> bool:
    """Whether tifffile is installed."""
    try:
        import tifffile  # noqa: F401
    except ImportError:
        return False
    return True


def load_bands(path: Path) -> Stored:
    """Decode a TIFF: numbers (H, W), or (H, W, bands), as they are stored.

    Bands lie side by side, one after the other, or in pages of their own. Smaller copies of the
    image (overviews) and masks beside it are not looked at.

    Raises:
        DataError: tifffile is missing, or the file is damaged, too large, or no single image.
    """
    if not can_read():
        raise DataError(f"{path}: is a TIFF that Pillow does not read; {INSTALL}")
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it says is raised, too
    try:
        with open_regular(path) as file, tifffile.TiffFile(file) as tiff:
            order, page = _check(tiff, path)
            numbers = np.asarray(tiff.series[0].asarray()).squeeze()
            if numbers.ndim != len(order):  # of a side of one pixel, which squeeze took away too
                numbers = numbers.reshape([size for _, size in order])
            names = "".join(axis for axis, _ in order)
            target = "YX" + names.replace("Y", "").replace("X", "")
            numbers = np.ascontiguousarray(numbers.transpose([names.index(a) for a in target]))
            bits, white_is_zero = int(page.bitspersample), page.photometric == _WHITE_IS_ZERO
    except DataError:
        raise
    except Exception as error:  # of a parser on damaged bytes, or a codec that is not installed
        way_out = "Copy or download the file again"
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            way_out = "Install imagecodecs: pip install imagecodecs, or save it without compression"
        raise DataError(f"{path}: cannot be decoded ({error}). {way_out}") from error
    if numbers.dtype.kind == "b":
        numbers, bits = numbers.astype(np.uint8), 1
    white = 2**bits - 1 if numbers.dtype.kind == "u" and bits <= 16 else None
    kind = f"{1 if numbers.ndim == 2 else numbers.shape[2]} bands of {numbers.dtype}"
    return Stored(numbers, white, "TIFF", kind, white_is_zero=white_is_zero)


def count_bands(path: Path) -> int:
    """Bands of a TIFF as :func:`load_bands` gives them; 3 of any other file, and of a damaged one.

    Grey, too, counts as 3: it becomes RGB unless somebody says that it has one channel.
    """
    try:
        if not (is_tiff(path) and can_read()):
            return 3
        import tifffile

        with open_regular(path) as file, tifffile.TiffFile(file) as tiff:
            order, page = _check(tiff, path)
            if page.photometric == _SEPARATED:
                return 3  # CMYK, of which Pillow makes RGB
    except Exception:  # what is wrong with the file is reported when it is read
        return 3
    return next((size for axis, size in order if axis not in "YX"), 3)


def _check(tiff: Any, path: Path) -> tuple[list[tuple[str, int]], Any]:
    """The axes of the only image of a file with their sizes, and its first page.

    Raises:
        DataError: It is no single image of numbers, or too large.
    """
    first, *others = tiff.series
    if more := [one for one in others if not (one.keyframe.is_reduced or one.keyframe.is_mask)]:
        raise DataError(
            f"{path}: holds {1 + len(more)} images of different sizes or kinds; expected one, "
            "whose bands are alike. Split the file"
        )
    order = [(a, n) for a, n in zip(first.axes, first.shape, strict=True) if n != 1 or a in "YX"]
    if len(order) not in (2, 3) or {"Y", "X"} - {axis for axis, _ in order}:
        raise DataError(
            f"{path}: holds an array of shape {tuple(first.shape)} with the axes {first.axes}; "
            "expected height, width and bands. Save each image in a file of its own"
        )
    size, limit = dict(order), PIL.Image.MAX_IMAGE_PIXELS
    if min(size.values()) < 1:
        raise DataError(f"{path}: has no pixels: its shape is {tuple(first.shape)}. Get it again")
    if limit is not None and size["Y"] * size["X"] > limit:
        raise DataError(
            f"{path}: too large; at most {limit} pixels are decoded, because a small damaged or "
            "hostile file can fill the memory. Cut the image into tiles: "
            f"{command('tile')}"
        )
    if first.dtype is None or first.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: holds numbers of the type {first.dtype}; expected integers or floats. Save "
            "real and imaginary part as bands"
        )
    if first.keyframe.photometric == _PALETTE:
        raise DataError(f"{path}: is a TIFF with a palette; expected bands. Save it as RGB")
    return order, first.keyframe
