"""Opening of image files: regular files of the known formats that hold one picture."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageSequence

from segkit.data.file_kinds import FORMATS, irregular
from segkit.data.stored import is_garbled, mend_bmp
from segkit.errors import DataError


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe, a socket, a device or a folder is never touched.

    Raises:
        DataError: It is one of them, or not there.
    """
    try:
        mode = path.stat().st_mode  # of what a link leads to
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is {irregular(mode)}, not a file; expected a picture")
    return path.open("rb")


def open_picture(file: BinaryIO, path: Path) -> Image.Image:
    """Open the only picture of a file, not yet decoded."""
    image = Image.open(file, formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError
    if image.format == "GIF":
        if getattr(image, "is_animated", False):
            _check_frames(image, path)
            file.seek(0)
            image = Image.open(file, formats=FORMATS)
        if image.tile and image.tile[0].extents != (0, 0, *image.size):
            raise DataError(
                f"{path}: its first frame covers a part of the picture only. Save it as PNG"
            )
        return image
    # A JPEG of format MPO holds a preview beside the picture; that one comes first.
    pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pictures != 1:
        raise DataError(f"{path}: holds {pictures} pictures; expected one. Split the file")
    if is_garbled(image):
        raise DataError(
            f"{path}: is a TIFF that stores colours of 16 bits band after band (planar), which is "
            "not read. Save it with the bands of a pixel side by side (planar configuration 1)"
        )
    if image.format == "PNG":
        image.verify()  # the check sums, which decoding skips: other labels could come out
        file.seek(0)
        image = Image.open(file, formats=FORMATS)
    if image.format == "BMP":
        mend_bmp(image, file)
    return image


def _check_frames(image: Image.Image, path: Path) -> None:
    """Raise a DataError if the frames of a GIF are not all the same picture."""
    first = np.array(image.convert("RGB"))
    for number, frame in enumerate(ImageSequence.Iterator(image), start=1):
        if not np.array_equal(first, np.array(frame.convert("RGB"))):
            raise DataError(
                f"{path}: is an animation, whose frame {number} differs from the first; expected "
                "one picture. Save the frame that is meant as PNG"
            )


def compression_loss(image: Image.Image, file: BinaryIO) -> str:
    """The compression that changes the numbers given to it, in words, or nothing."""
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
