"""The numbers that an image file stores, whatever its format makes of them.

Pillow hands out what a viewer would show: it inverts a TIFF whose 0 is white, spreads the values of
a PNG with 2 or 4 bits, and halves colours of 16 bits. Labels would become others, and images of
12 bits would keep 16 levels, so all of that is undone here.
"""

import re
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImagePalette

from segkit.errors import DataError

Numbers = NDArray[Any]

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _SAMPLE_FORMAT = 258, 262, 277, 284, 339
_SIGNED, _WHITE_IS_ZERO, _YCBCR = 2, 0, 6
# What decodes the low bytes where the first one gives the high bytes of 16 bits.
_NATIVE_LOW = "B" if sys.byteorder == "little" else "L"
_LOW_BYTES = {"B": "L", "L": "B", "N": _NATIVE_LOW}
_COLORS_16 = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Attributes:
        numbers: Grey values or palette indices (H, W), or colours or bands (H, W, C); uint8 or
            uint16 in nearly all files, but of another integer or floating type in some.
        white: The largest number that the file could hold; None where its kind has no fixed range.
        format: As Pillow calls it.
        mode: Pillow's, for messages.
        palette: Colours of the indices, uint8 (n, 3) with n <= 256; None of other files.
        white_is_zero: A TIFF that shows its 0 as white.
        alpha: uint8 (H, W); None where there is none.
        unused: Bands besides colour and alpha, which nothing here looks at.
        computed: What has changed the numbers since they were given to the program that wrote the
            file, as text: a compression, or a conversion of colours. Empty if nothing has.
        orientation: What the EXIF block asks for; 1 for nothing.
    """

    numbers: Numbers
    white: int | None
    format: str
    mode: str
    palette: NDArray[np.uint8] | None = None
    white_is_zero: bool = False
    alpha: NDArray[np.uint8] | None = None
    unused: int = 0
    computed: str = ""
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.numbers.shape[0], self.numbers.shape[1]


def raw_mode(image: PIL.Image.Image) -> str:
    """How the file stores its pixels, in Pillow's words; to be asked before it is decoded."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    args = tiles[0].args
    return str(args if isinstance(args, str) else args[0]) if args else ""


def second_decoding(image: PIL.Image.Image) -> tuple[str, str] | None:
    """Mode and raw mode of a second decoding that gives what Pillow's own leaves out, or None."""
    raw = raw_mode(image)
    if raw == "LA;16B":  # a PNG of grey and alpha: four bytes, so one number of four bytes
        return "I", "I;32B"
    match = _COLORS_16.fullmatch(raw)
    return (image.mode, f"{match[1]};16{_LOW_BYTES[match[2]]}") if match else None


def set_decoding(image: PIL.Image.Image, mode: str, raw: str) -> None:
    """Let a file that is open, but not decoded, be decoded in another way."""
    opened: Any = image
    opened._mode = mode
    opened.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))
        for tile in opened.tile
    ]


def stored_numbers(
    image: PIL.Image.Image, raw: str, second: PIL.Image.Image | None, name: str, **facts: Any
) -> Stored:
    """What an image of Pillow's holds.

    Args:
        image: Decoded.
        raw: Its :func:`raw_mode` before that; empty where it is not known.
        second: The same file, decoded as :func:`second_decoding` says.
        name: What errors call it.
        facts: Further fields of :class:`Stored`.

    Raises:
        DataError: Pixels that are neither grey, nor indices, nor colours.
    """
    mode, tags = image.mode, getattr(image, "tag_v2", None) or {}
    facts |= {"format": image.format or "", "mode": mode, "unused": _unused(image, raw, tags)}
    if "RGBa" in raw or tags.get(_PHOTOMETRIC) == _YCBCR:
        facts["computed"] = facts.get("computed") or _converted(
            "RGBa" if "RGBa" in raw else "YCbCr"
        )
    bits = int(digits[0]) if (digits := re.findall(r"\d+", raw)) else 8
    if raw == "LA;16B" and second is not None:
        grey = np.array(second).view(np.uint32) >> 16
        facts |= {"mode": "LA", "alpha": np.array(image)[..., 3]}
        return Stored(grey.astype(np.uint16), 65535, **facts)
    if mode == "1":
        flags = np.array(image, np.uint8)
        return Stored(1 - flags if ";I" in raw else flags, 1, **_whiteness(facts, raw))
    if mode in ("L", "LA"):
        values = np.array(image)
        if mode == "LA":
            facts["alpha"], values = values[..., 1], np.ascontiguousarray(values[..., 0])
        if tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
            return Stored(values.view(np.int8), None, **facts)
        if re.search(r";\d?I", raw):
            values = 255 - values
        white = 2**bits - 1 if bits in (2, 4) else 255
        return Stored(values // (255 // white), white, **_whiteness(facts, raw))
    if mode in ("P", "PA"):
        indices = np.array(image)
        if mode == "PA":
            facts["alpha"], indices = indices[..., 1], np.ascontiguousarray(indices[..., 0])
        palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
        return Stored(indices, 255, palette=palette, **facts)
    if mode.startswith("I;16") or mode in ("I", "F"):
        values = np.array(image)
        facts["white_is_zero"] = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        if mode.startswith("I;16"):
            white = 4095 if raw.startswith("I;12") else 65535
            return Stored(values.astype(np.uint16, copy=False), white, **facts)
        return Stored(values.view(np.uint32) if raw == "I;32N" else values, None, **facts)
    if mode in ("RGB", "RGBA", "RGBX"):
        values = np.array(image)
        if mode == "RGBA":
            facts["alpha"] = values[..., 3]
        values = np.ascontiguousarray(values[..., :3])
        if second is None:
            return Stored(values, 255, **facts)
        low = np.array(second)[..., :3]
        return Stored(values.astype(np.uint16) << 8 | low, 65535, **facts)
    if mode in ("CMYK", "YCbCr"):
        return Stored(np.array(image.convert("RGB")), 255, **facts | {"computed": _converted(mode)})
    raise DataError(
        f"{name}: pixels of Pillow's mode {mode} are neither grey, nor of a palette, nor RGB. "
        "Save it as an 8-bit RGB or grey PNG"
    )


def mend_bmp(image: PIL.Image.Image, file: BinaryIO) -> None:
    """Let the indices of a BMP with a grey palette be read as they are stored.

    Pillow takes such a palette for no palette, and decodes 4 or 8 bits per pixel as 8 or 1 then.
    """
    file.seek(14)
    header = int.from_bytes(file.read(4), "little")
    file.seek(24 if header == 12 else 28)
    bits = int.from_bytes(file.read(2), "little")
    depth = {"1": 1, "L": 8}.get(raw_mode(image))
    if depth not in (None, bits):
        grey = (0, 255) if depth == 1 else range(2**bits)
        set_decoding(image, "P", {1: "P;1", 4: "P;4"}.get(bits, "P"))
        image.palette = ImagePalette.raw("RGB", bytes(v for v in grey for _ in range(3)))


def is_partial(image: PIL.Image.Image) -> bool:
    """Whether what the file stores is not as large as the image; before it is decoded."""
    opened: Any = image
    return any(tile.extents != (0, 0, *image.size) for tile in opened.tile)


def is_garbled(image: PIL.Image.Image) -> bool:
    """Whether it is a TIFF that stores colours of 16 bits band by band: Pillow garbles those."""
    tags = getattr(image, "tag_v2", None) or {}
    return tags.get(_PLANAR) == 2 and tags.get(_SAMPLES, 1) > 1 and max(tags.get(_BITS, (8,))) > 8


def _converted(colors: str) -> str:
    return f"an image of {colors} colours, whose conversion"


def _whiteness(facts: dict[str, Any], raw: str) -> dict[str, Any]:
    return facts | {"white_is_zero": bool(re.search(r";\d?I", raw))}


def _unused(image: PIL.Image.Image, raw: str, tags: Any) -> int:
    """Bands that Pillow's mode has no place for."""
    stored = tags.get(_SAMPLES, 1) if tags else len(raw.partition(";")[0])
    if image.format != "TIFF" or stored <= 1:
        return 0
    bands = 3 if tags.get(_PHOTOMETRIC) == _YCBCR else len(image.getbands())  # YCbCr became RGB
    return max(int(stored) - bands, 0)
