"""Many small images with their masks on one page."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from segkit.console import one_line
from segkit.data.arrays import Image
from segkit.data.labels import Labels
from segkit.report.color_key import with_names
from segkit.report.images import GAP, INK, PAPER, hatched, shrunk

LINE = 16  # height of a line of text


class Tile(NamedTuple):
    """An image, uint8 (H, W, 3), its mask, integer (H, W), and what is written above them."""

    image: Image
    mask: Labels
    caption: str


def contact_sheet(
    rows: Sequence[Sequence[Tile]],
    classes: Sequence[str],
    palette: Image,
    ignore_index: int,
    *,
    side: int = 240,
) -> Image:
    """Rows of tiles, each with its image above its mask, and the legend below all.

    What is ignored is hatched. Images are made smaller, never larger, to fit ``side``.
    """
    lines = [_row(row, palette, ignore_index, side) for row in rows]
    width = max(line.shape[1] for line in lines)
    padded = [
        np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255)
        for line in lines
    ]
    names = [*classes, "(striped: ignored)"]
    return with_names(np.concatenate(padded), names, _with_grey(palette, classes))


def _row(tiles: Sequence[Tile], palette: Image, ignore_index: int, side: int) -> Image:
    font = ImageFont.load_default(11)
    small = [shrunk(tile.image, [tile.mask], side) for tile in tiles]
    height = max(image.shape[0] for image, _ in small)
    sheet = PIL.Image.new("RGB", ((side + GAP) * len(tiles), LINE + 2 * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (tile, (image, [mask])) in enumerate(zip(tiles, small, strict=True)):
        left = number * (side + GAP)
        caption = one_line(tile.caption)
        while font.getlength(caption) > side:
            caption = f"{caption[:-4]}..."
        draw.text((left, 2), caption, INK, font)
        sheet.paste(PIL.Image.fromarray(image), (left, LINE))
        colors = PIL.Image.fromarray(hatched(mask, palette, ignore_index))
        sheet.paste(colors, (left, LINE + height + GAP))
    return np.asarray(sheet)


def _with_grey(palette: Image, classes: Sequence[str]) -> Image:
    """The palette with the grey of the stripes behind the last class."""
    colors = np.concatenate([palette[: len(classes)], [[125, 125, 125]]])
    return colors.astype(np.uint8)
