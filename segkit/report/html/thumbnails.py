"""Images small enough to be part of a page."""

import io
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
import PIL.Image

from segkit.data.arrays import Image
from segkit.data.labels import Labels
from segkit.report.image_result import ImageResult
from segkit.report.images import shrunk

SIDES = (512, 384, 256, 128)  # longest side, smaller until the bytes are few enough
MAX_BYTES = 192 * 1024  # of the layers of one image together
STRIPES = (254, 255)  # palette entries of what is ignored; classes above share entry 253
ERROR_COLORS = ((222, 226, 230), (213, 94, 0))  # right; wrong, seen by the colour-blind too
LAYERS = ("image", "target", "prediction", "errors")


@dataclass(frozen=True)
class Thumbnail:
    """An image, its target, its prediction and where they differ, each a file in memory."""

    width: int
    height: int
    image: bytes  # JPEG
    target: bytes  # PNGs with a palette
    prediction: bytes
    errors: bytes

    @property
    def size(self) -> int:
        return sum(len(getattr(self, layer)) for layer in LAYERS)

    def url(self, layer: str) -> str:
        """One of ``LAYERS`` as the page holds it."""
        kind = "jpeg" if layer == "image" else "png"
        return f"data:image/{kind};base64,{b64encode(getattr(self, layer)).decode()}"


def thumbnail(
    result: ImageResult, palette: Image, ignore_index: int, side: int = SIDES[0]
) -> Thumbnail:
    """The layers of one image, never larger than ``side`` and ``MAX_BYTES``.

    Args:
        result: The image, its target and its prediction.
        palette: RGB of each mask value, uint8 (256, 3).
        ignore_index: Target value without a label: hatched.
        side: Longest side in pixels.
    """
    for limit in (side, *(smaller for smaller in SIDES if smaller < side)):
        made = _layers(result, palette, ignore_index, limit)
        if made.size <= MAX_BYTES:
            break
    return made


def kept(result: ImageResult, num_classes: int, side: int = SIDES[0]) -> ImageResult:
    """What :func:`thumbnail` needs of an image, in little memory and with nothing encoded yet.

    Args:
        result: The image, its target and its prediction.
        num_classes: Up to 256 a byte is enough for a prediction.
        side: Of the longer side, in pixels: larger images are made smaller.
    """
    image, (target, pred) = shrunk(result.image, [result.target, result.pred], side)
    return ImageResult(
        result.name, image, target, pred.astype("u1" if num_classes <= 256 else "i4")
    )


def _layers(result: ImageResult, palette: Image, ignore_index: int, side: int) -> Thumbnail:
    image, (target, pred) = shrunk(result.image, [result.target, result.pred], side)
    ignored = target == ignore_index
    stripes = np.array(STRIPES)[np.indices(target.shape).sum(0) // 4 % 2]
    jpeg = io.BytesIO()
    PIL.Image.fromarray(image).save(jpeg, "JPEG", quality=80)
    return Thumbnail(
        width=target.shape[1],
        height=target.shape[0],
        image=jpeg.getvalue(),
        target=_png(np.where(ignored, stripes, np.minimum(target, 253)), palette[:254]),
        prediction=_png(np.minimum(pred, 253), palette[:254]),
        errors=_png(np.where(ignored, stripes, pred != target), np.array(ERROR_COLORS, np.uint8)),
    )


def _png(codes: Labels, colors: Image) -> bytes:
    drawn = PIL.Image.fromarray(codes.astype(np.uint8))
    entries = np.zeros((256, 3), np.uint8)
    entries[: len(colors)] = colors
    entries[list(STRIPES)] = [[90] * 3, [160] * 3]
    drawn.putpalette(entries.tobytes())
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True)
    return file.getvalue()
