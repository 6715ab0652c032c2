"""Decoding of image files: no other file of segkit opens one.

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

from segkit.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")

PathLike = str | os.PathLike[str]
Pixels = NDArray[np.uint8]

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


def read_image(path: PathLike, size: tuple[int, int] | None = None) -> Pixels:
    """Read a picture as uint8 (H, W, 3) RGB.

    Grey, palette and CMYK pictures become RGB; an alpha channel is dropped, not composited, so
    that the pixels are those that a reader without alpha sees. 16-bit grey is scaled to 8 bits.
    The EXIF orientation is applied, unless ``size`` shows that the labels were drawn on the
    picture as it is stored: then it is left alone. (That of a TIFF, which belongs to the format
    and says in which order it stores its rows, is always applied, by Pillow.)

    Args:
        path: A JPEG, PNG, BMP, TIFF or WEBP file.
        size: ``(H, W)`` of the mask that belongs to the picture, if there is one. The result may
            still differ from it: comparing is left to the caller.

    Raises:
        DataError: The file is missing, damaged, not a picture, or too large.
    """
    path = Path(path)
    return pixels_of(_load(path), path, size)


def pixels_of(image: Image.Image, name: PathLike, size: tuple[int, int] | None = None) -> Pixels:
    """A picture that Pillow has opened already, as :func:`read_image` reads one.

    Args:
        image: Of any file or program.
        name: What errors call it.
        size: As there.

    Raises:
        DataError: It cannot be decoded, or its pixels have no fixed range.
    """
    try:
        image.load()
    except Exception as error:  # Pillow's decoders leak OSError, SyntaxError, struct.error, ...
        raise DataError(f"{name}: cannot be decoded ({error})") from error
    stored = _to_rgb(image, name)
    orientation = _orientation(image.getexif)
    if not _is_turned(orientation, image, size):
        return stored
    return np.ascontiguousarray(_TURNS[orientation](stored))


def is_turned(path: PathLike, size: tuple[int, int] | None = None) -> bool | None:
    """Whether :func:`read_image` turns this picture; None if its EXIF does not ask for that.

    Looks at the head of the file only, and knows nothing of files that are no pictures.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "TIFF":
                return None
            # PNG's own method decodes the picture, in case that the EXIF comes last.
            orientation = _orientation(partial(Image.Image.getexif, image))
            return _is_turned(orientation, image, size)
    except OSError:
        return None


def read_labels(path: PathLike) -> NDArray[np.integer[Any]]:
    """Read the numbers stored in a mask file, without any conversion.

    Returns:
        Palette indices or grey values, integer (H, W), for a palette, grey, 1-bit or 16-bit file;
        colours, uint8 (H, W, 3), for an RGB or RGBA file (alpha is dropped).

    Raises:
        DataError: As for :func:`read_image`, and for a JPEG, which changes values.
    """
    path = Path(path)
    image = _load(path)
    if image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg":
        raise DataError(
            f"{path}: the mask is a JPEG, whose compression changes label values; "
            "expected a palette or grey PNG. Export the masks again as PNG"
        )
    if image.mode == "1":
        return np.array(image, dtype=np.uint8)
    if image.mode in ("RGB", "RGBA"):
        return np.array(image)[..., :3]
    if image.mode in ("P", "L", "I") or image.mode.startswith("I;16"):
        labels: NDArray[np.integer[Any]] = np.array(image)
        return labels
    raise DataError(
        f"{path}: the mask has pixels of Pillow's mode {image.mode}; expected palette, "
        "8- or 16-bit grey, or RGB. Save it as an 8-bit palette or grey PNG"
    )


def read_palette(path: PathLike) -> Pixels | None:
    """The colours stored in a palette file, uint8 (n, 3) with n <= 256; None for other files."""
    image = _load(Path(path))
    colors = image.getpalette() if image.mode == "P" else None
    return None if colors is None else np.array(colors, dtype=np.uint8).reshape(-1, 3)


def _load(path: Path) -> Image.Image:
    """Decode ``path`` completely and close it."""
    try:
        # Not by its path: Pillow would map some files into memory. That garbles a TIFF whose rows
        # are stored turned, and ends the process if somebody cuts the file meanwhile.
        with path.open("rb") as file:
            image = Image.open(file, formats=FORMATS)
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            # A JPEG of format MPO holds a preview beside the picture; that one comes first.
            pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if pictures != 1:
                raise DataError(f"{path}: holds {pictures} pictures; expected one. Split the file")
            if image.format == "PNG":
                image.verify()  # the check sums, which decoding skips: other labels could come out
                file.seek(0)
                image = Image.open(file, formats=FORMATS)
            image.load()
            return image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{path}: too large; at most {Image.MAX_IMAGE_PIXELS} pixels are decoded, because a "
            "small damaged or hostile file can fill the memory. Cut the picture into tiles"
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path}: {_describe(path)}; expected a {', '.join(FORMATS)} picture. "
            "Copy or download the file again"
        ) from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it") from None
    except Exception as error:  # Pillow's decoders leak OSError, SyntaxError, struct.error, ...
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise DataError(
                f"{path}: too many open files. Raise the limit of the shell, ulimit -n 65536, or "
                "use fewer processes: loader.num_workers=1, or 0 for none"
            ) from error
        found = "is a folder, not a file" if path.is_dir() else f"cannot be decoded ({error})"
        raise DataError(f"{path}: {found}. Copy or download the file again") from error


def _describe(path: Path) -> str:
    """What a file that is no picture holds instead."""
    with path.open("rb") as file:
        head = file.read(24)
    return f"is no picture, it starts with {head!r}" if head else "is empty (0 bytes)"


def _to_rgb(image: Image.Image, path: PathLike) -> Pixels:
    """Pixels of a loaded image as uint8 (H, W, 3)."""
    if image.mode.startswith("I;16"):
        # Rounded v / 257 maps 0..65535 onto 0..255; Pillow's own conversion clips at 255.
        grey = (np.array(image).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # the way that Pillow asks for where a palette has alpha
    if image.mode in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        return np.array(image.convert("RGB"))
    raise DataError(
        f"{path}: pixels of Pillow's mode {image.mode} have no fixed range; expected 8-bit colour, "
        "or 8- or 16-bit grey. Convert the picture to one of them"
    )


def _is_turned(orientation: int, image: Image.Image, size: tuple[int, int] | None) -> bool | None:
    if orientation not in _TURNS:
        return None
    stored, swapped = (image.height, image.width), (image.width, image.height)
    turned = swapped if orientation >= 5 else stored
    return turned == size or stored != size


def _orientation(read_exif: Callable[[], Image.Exif]) -> int:
    """The EXIF orientation, 1 where there is none."""
    try:
        return int(read_exif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
