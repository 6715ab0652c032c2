"""Thousands of files, sound and damaged: each gives the array that was written, or a DataError."""

import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.data.decode import read_image
from segkit.data.masks import read_mask, voc_palette
from segkit.errors import DataError

Array = NDArray[Any]
LIMIT = 10  # seconds for one file

# Lossless unless it is a JPEG.
FORMATS = {
    "1": ("PNG", "BMP", "TIFF"),
    "L": ("PNG", "BMP", "TIFF", "JPEG", "GIF"),
    "P": ("PNG", "BMP", "TIFF", "GIF"),
    "I;16": ("PNG", "TIFF"),
    "I": ("TIFF",),
    "F": ("TIFF",),
    "LA": ("PNG", "TIFF"),
    "RGB": ("PNG", "BMP", "TIFF", "WEBP", "JPEG"),
    "RGBA": ("PNG", "BMP", "TIFF", "WEBP"),
    "CMYK": ("TIFF", "JPEG"),
    "LAB": ("TIFF",),
}
SUFFIXES = (".png", ".jpg", ".bmp", ".tif", ".webp", ".PNG", ".txt", "")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass
class Drawn:
    """An image and what reading it must give; None where it must be refused."""

    image: Image.Image
    rgb: Array | None
    labels: Array | None
    colormap: str | None = None


def draw(rng: np.random.Generator, mode: str) -> Drawn:
    """Random pixels of a random size, often of one pixel, row or column."""
    shape = tuple(1 if rng.random() < 0.2 else int(rng.integers(1, 48)) for _ in range(2))
    grey = rng.integers(0, rng.integers(1, 257), shape).astype(np.uint8)
    colors = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    if mode == "1":
        return Drawn(Image.fromarray(grey > 99), as_rgb(255 * (grey > 99)), (grey > 99) * 1)
    if mode == "L":
        return Drawn(Image.fromarray(grey), as_rgb(grey), grey)
    if mode == "P":
        entries = int(rng.integers(int(grey.max()) + 1, 257))
        palette = rng.integers(0, 256, (entries, 3), dtype=np.uint8)
        image = Image.fromarray(grey)
        image.putpalette(palette.tobytes())
        return Drawn(image, palette[grey], grey)
    if mode == "I;16":
        values = rng.integers(0, 65536, shape).astype(np.uint16)
        return Drawn(Image.fromarray(values), as_rgb(np.round(values / 257)), values)
    if mode == "I":
        low, high = ((0, 65536), (-9, 300), (0, 70000))[rng.integers(3)]
        numbers = rng.integers(low, high, shape).astype(np.int32)
        fits = numbers.min() >= 0 and numbers.max() <= 65535
        return Drawn(Image.fromarray(numbers), None, numbers if fits else None)
    if mode == "F":
        return Drawn(Image.fromarray(rng.random(shape, np.float32)), None, None)
    if mode == "LA":
        return Drawn(with_alpha(Image.fromarray(grey), rng), as_rgb(grey), None)
    if mode in ("CMYK", "LAB"):
        bands = [Image.fromarray(rng.integers(0, 256, shape, np.uint8)) for _ in mode]
        image = Image.merge(mode, bands)
        return Drawn(image, np.array(image.convert("RGB")) if mode == "CMYK" else None, None)
    known = rng.random() < 0.5
    classes = np.where(grey > 200, 255, grey % 21).astype(np.uint8)
    if known:
        colors = voc_palette()[classes]
    image = Image.fromarray(colors)
    colormap = "voc" if known or rng.random() < 0.5 else None
    if mode == "RGBA":
        image = with_alpha(image, rng)
    return Drawn(image, colors, classes if known else None, colormap)


def as_rgb(grey: Array) -> Array:
    return np.stack([grey] * 3, axis=-1).astype(np.uint8)


def with_alpha(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    alpha = rng.integers(0, 256, (image.height, image.width), dtype=np.uint8)
    image = image.convert(f"{image.mode}A")
    image.putalpha(Image.fromarray(alpha))
    return image


def save(drawn: Drawn, kind: str, path: Path, rng: np.random.Generator) -> None:
    """Write the image; turns what is expected as the orientation in the file asks."""
    options: dict[str, Any] = {}
    if kind == "WEBP":
        options = {"lossless": True, "exact": True}
    elif kind == "TIFF" and drawn.image.mode not in ("F", "I", "LAB"):
        options["compression"] = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")[
            rng.integers(4)
        ]
    if kind == "PNG" and drawn.image.mode == "P" and rng.random() < 0.5:
        options["transparency"] = int(drawn.image.getextrema()[0])  # type: ignore[arg-type]
    if kind in ("PNG", "JPEG", "WEBP", "TIFF") and rng.random() < 0.3:
        exif = Image.Exif()
        # TIFF knows 1 to 8; elsewhere other numbers may stand, which mean nothing.
        exif[0x0112] = orientation = int(rng.integers(1, 9) if kind == "TIFF" else rng.integers(10))
        options["exif"] = exif
        drawn.rgb = turned(drawn.rgb, orientation)
        if kind == "TIFF":  # there it is part of the format, and holds for masks too
            drawn.labels = turned(drawn.labels, orientation)
        elif orientation in TURNS:  # elsewhere programs turn masks or not
            drawn.labels = None
    if drawn.image.mode == "RGBA" and kind != "BMP":  # Pillow writes BMPs without alpha
        pixels = np.array(drawn.image).reshape(-1, 4)
        # Transparency that tells pixels of one colour apart must not be dropped.
        if len(np.unique(pixels, axis=0)) > len(np.unique(pixels[:, :3], axis=0)):
            drawn.labels = None
    if kind == "GIF":
        options["optimize"] = False  # else the indices are renumbered
    drawn.image.save(path, format=kind, **options)
    if kind == "JPEG":
        drawn.labels = None
        drawn.rgb = read_image(path)  # lossy: compared with what the sound file gives


def turned(array: Array | None, orientation: int) -> Array | None:
    if array is None or orientation not in TURNS:
        return array
    bands = np.atleast_3d(array).transpose(2, 0, 1).astype(np.int32)
    done = [np.array(Image.fromarray(band).transpose(TURNS[orientation])) for band in bands]
    return np.stack(done, axis=-1).squeeze(-1) if array.ndim == 2 else np.stack(done, axis=-1)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bits, of which none is flipped back."""
    damaged = bytearray(data)
    for place in set(rng.integers(0, len(data), rng.integers(1, 6)).tolist()):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def zero(data: bytes, rng: np.random.Generator) -> bytes:
    begin = int(rng.integers(len(data)))
    end = min(len(data), begin + int(rng.integers(1, 64)))
    return data[:begin] + bytes(end - begin) + data[end:]


def append(data: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 64)))


def text(data: bytes, rng: np.random.Generator) -> bytes:
    return [b"", b"<html>404</html>", b"version https://git-lfs", b"\0" * 99][rng.integers(4)]


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (cut, flip, zero, append, text)
# Damage to the pixels of these cannot be seen: they hold no check sum.
UNCHECKED = ("BMP", "TIFF", "WEBP", "JPEG", "GIF")


class Hang(BaseException):
    pass


@contextmanager
def time_limit() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(read: Callable[[], Array], expected: Array | None, kind: str, damage: str) -> str:
    """``read`` or ``refused``; anything else fails."""
    try:
        with warnings.catch_warnings(), time_limit():
            warnings.simplefilter("ignore")  # Pillow's own, about damaged EXIF blocks
            got = read()
    except DataError as error:
        assert damage or expected is None, error
        assert "\n" not in str(error)
        return "refused"
    assert got.ndim in (2, 3)
    assert got.size > 0
    if damage in ("flip", "zero") and kind in UNCHECKED:
        return "read"
    assert expected is not None
    assert damage != "text"
    np.testing.assert_array_equal(got, expected)
    return "read"


def run_case(number: int, folder: Path) -> tuple[str, str, str]:
    """One file, read as a mask and as an image."""
    rng = np.random.default_rng([3, number])
    modes = list(FORMATS)
    mode = modes[rng.integers(len(modes))]
    kind = FORMATS[mode][rng.integers(len(FORMATS[mode]))]
    path = folder / f"{number}{SUFFIXES[rng.integers(len(SUFFIXES))]}"
    drawn = draw(rng, mode)
    save(drawn, kind, path, rng)
    damage = ""
    if rng.random() < 0.6:
        damaged = DAMAGES[rng.integers(len(DAMAGES))]
        damage = damaged.__name__
        path.write_bytes(damaged(path.read_bytes(), rng))
    as_mask = outcome(lambda: read_mask(path, colormap=drawn.colormap), drawn.labels, kind, damage)
    as_image = outcome(lambda: read_image(path), drawn.rgb, kind, damage)
    path.unlink()
    return damage or "sound", as_mask, as_image


def run_cases(numbers: range, folder: Path) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for number in numbers:
        try:
            found[run_case(number, folder)] += 1
        except BaseException as error:
            error.add_note(f"case {number}") if hasattr(error, "add_note") else None
            raise
    return found


@pytest.mark.parametrize(
    "numbers", [range(300), pytest.param(range(300, 4500), marks=pytest.mark.slow)]
)
def test_a_file_gives_the_right_array_or_a_data_error(numbers: range, tmp_path: Path) -> None:
    begin = time.perf_counter()
    found = run_cases(numbers, tmp_path)
    print(f"{sum(found.values())} files in {time.perf_counter() - begin:.1f} s:", dict(found))
    assert sum(found.values()) == len(numbers)
    for damage in ("sound", "flip", "zero", "append"):
        for wanted in (1, 2):  # as a mask, as an image: both outcomes are met
            assert len({key[wanted] for key in found if key[0] == damage}) == 2
