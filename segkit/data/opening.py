"""What is asked of an image file besides its pixels: a regular file, one image, no loss."""

import itertools
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageSequence

from segkit.data.stored import Stored, is_garbled
from segkit.errors import DataError
from segkit.files import refuse_special


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe, a socket, a device or a folder is never touched.

    Raises:
        DataError: It is one of them, or not there.
    """
    refuse_special(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not a file; expected an image")
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file") from None


def check_image(image: PIL.Image.Image, path: Path) -> None:
    """Raise a DataError unless it is one image that Pillow decodes as it is stored."""
    if image.format == "GIF":
        if getattr(image, "is_animated", False):
            _check_frames(image, path)
        return
    if image.format == "TIFF":
        images = _count_pages(image)
    else:  # a JPEG of format MPO holds a preview beside the image; that one comes first
        images = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if images != 1:
        raise DataError(f"{path}: holds {images} images; expected one. Split the file")
    if is_garbled(image):
        raise DataError(
            f"{path}: is a TIFF that stores colours of 16 bits band after band (planar), which is "
            "not read. Save it with the bands of a pixel side by side (planar configuration 1)"
        )


def _count_pages(image: PIL.Image.Image) -> int:
    """Images in a TIFF besides smaller copies of the first (overviews) and masks beside it."""
    pages: Any = image
    images = 1
    for number in itertools.count(1):
        try:
            pages.seek(number)
        except EOFError:
            break
        except Exception:  # of a kind that Pillow does not decode, as masks are: its tags are read
            pass
        images += not pages.tag_v2.get(_SUBFILE, 0) & _REDUCED_OR_MASK
    pages.seek(0)
    return images


_SUBFILE, _REDUCED_OR_MASK = 254, 1 | 4  # TIFF 6.0: NewSubfileType, a set of bits


def _check_frames(image: PIL.Image.Image, path: Path) -> None:
    """Raise a DataError if the frames of a GIF are not all the same image."""
    first = np.array(image.convert("RGB"))
    for number, frame in enumerate(ImageSequence.Iterator(image), start=1):
        if not np.array_equal(first, np.array(frame.convert("RGB"))):
            raise DataError(
                f"{path}: is an animation, whose frame {number} differs from the first; expected "
                "one image. Save the frame that is meant as PNG"
            )


def compression_loss(image: PIL.Image.Image, file: BinaryIO) -> str:
    """The compression that changes the numbers given to it, as text, or nothing."""
    names = {"jpeg": "JPEG", "tiff_jpeg": "JPEG", "webp": "WEBP"}
    kind = {"JPEG": "JPEG", "MPO": "JPEG"}.get(image.format or "")
    if image.format == "TIFF":
        kind = names.get(image.info.get("compression", ""))
    if image.format == "WEBP":
        file.seek(12)
        while len(head := file.read(8)) == 8:  # one chunk after the other
            if head[:4] in (b"VP8 ", b"VP8L"):
                kind = "lossy WEBP" if head[:4] == b"VP8 " else None
                break
            length = int.from_bytes(head[4:], "little")
            file.seek(length + length % 2, os.SEEK_CUR)
    return f"a {kind}, whose compression" if kind else ""


def check_mask_file(stored: Stored, path: str | os.PathLike[str]) -> None:
    """Raise a DataError unless its numbers are labels, exactly as a program wrote them."""
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
    if 2 <= stored.orientation <= 8:
        raise DataError(
            f"{path}: the mask has the EXIF orientation {stored.orientation}, which programs turn "
            "it by or not. Save it without EXIF as PNG, turned as its image is shown"
        )
    if stored.alpha is not None and _alpha_matters(stored.numbers, stored.alpha):
        raise DataError(
            f"{path}: pixels of one colour differ in their transparency, which would make one "
            "class of them. Paint the transparent ones in a colour of their own, and save it as RGB"
        )


def _alpha_matters(rgb: NDArray[Any], alpha: NDArray[np.uint8]) -> bool:
    """Whether dropping alpha makes equal what was not."""
    if alpha.min(initial=255) == alpha.max(initial=0):
        return False
    colors = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    both = np.unique(colors.astype(np.uint64) << 8 | alpha)
    return len(np.unique(both >> np.uint64(8))) < len(both)
