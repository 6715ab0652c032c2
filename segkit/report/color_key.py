"""Colour and name of the classes that an image shows, below it, in letters that fit its size."""

from collections.abc import Iterable, Sequence

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from segkit.console import one_line
from segkit.data.arrays import Image
from segkit.data.labels import Labels
from segkit.report.images import INK, PAPER

LETTERS = 13  # least height of letters in pixels, and the most that stand across the longer side
ACROSS = 64


def shown_classes(masks: Iterable[Labels], num_classes: int) -> NDArray[np.intp]:
    """Ids of the classes that any of the masks, integer (H, W), shows, in their order."""
    counts = np.zeros(num_classes, np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel(), minlength=num_classes)[:num_classes]
    return np.flatnonzero(counts)


def with_color_key(
    drawn: Image, shown: Iterable[int], classes: Sequence[str], palette: Image
) -> Image:
    """An image with the colours and names of some classes below it; the same one without any.

    Args:
        drawn: uint8 (H, W, 3). It gets paper at its right where it is narrower than a name.
        shown: Ids of the classes.
        classes: Names in index order.
        palette: RGB of each class, uint8 (256, 3).
    """
    ids = list(shown)
    if not ids:
        return drawn
    size = max(LETTERS, round(max(drawn.shape[:2]) / ACROSS))
    return with_names(drawn, [classes[i] for i in ids], palette[np.minimum(ids, 255)], size)


def with_names(drawn: Image, names: Sequence[str], colors: Image, size: int = LETTERS) -> Image:
    """The same of names with a colour each, uint8 (n, 3), in letters of this height in pixels."""
    key = color_key(names, colors, drawn.shape[1], size)
    wider = key.shape[1] - drawn.shape[1]
    paper = np.pad(drawn, ((0, 0), (0, wider), (0, 0)), constant_values=PAPER[0])
    return np.concatenate([paper, key])


def with_title(drawn: Image, title: str) -> Image:
    """An image, uint8 (H, W, 3), with a line of text above it, which is cut to its width."""
    font, text = ImageFont.load_default(LETTERS + 1), one_line(title)
    while font.getlength(text) > drawn.shape[1] and len(text) > 4:
        text = f"{text[:-4]}..."
    line = PIL.Image.new("RGB", (drawn.shape[1], LETTERS + 9), PAPER)
    ImageDraw.Draw(line).text((1, LETTERS // 2 + 4), text, INK, font, anchor="lm")
    return np.concatenate([np.asarray(line), drawn])


def color_key(names: Sequence[str], colors: Image, width: int, size: int = LETTERS) -> Image:
    """Colour and name of each class, in as many lines as they need, uint8 (H, W, 3).

    Args:
        names: What is written.
        colors: uint8 (n, 3).
        width: In pixels; more where a single name needs it.
        size: Height of the letters in pixels.
    """
    font = ImageFont.load_default(size)
    gap, line = max(size // 3, 4), size * 3 // 2
    places, x, y, right = [], gap, gap, width
    for name in map(one_line, names):
        length = size + gap + int(font.getlength(name)) + 3 * gap
        if x > gap and x + length > width + 2 * gap:
            x, y = gap, y + line
        places.append((x, y, name))
        x += length
        right = max(right, x - 2 * gap)
    image = PIL.Image.new("RGB", (right, y + line), PAPER)
    draw = ImageDraw.Draw(image)
    for (x, y, name), color in zip(places, colors.tolist(), strict=True):
        draw.rectangle((x, y, x + size, y + size), tuple(color), INK)
        draw.text((x + size + gap, y + size // 2), name, INK, font, anchor="lm")
    return np.asarray(image)
