"""Masks and matrices as images, uint8 (H, W, 3) RGB."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from segkit.console import one_line
from segkit.data.arrays import Image, Pixels
from segkit.data.labels import Labels

PAPER, INK = (255, 255, 255), (30, 30, 30)
GAP = 4


def picture(pixels: Pixels) -> Image:
    """What people see of what a network is given, (H, W, C) of any depth: uint8 (H, W, 3).

    The first three channels, or of one or two the first one as grey. They need no stretching:
    ``data.range`` has been applied.
    """
    shown = pixels if pixels.shape[2] == 3 else pixels[..., : 3 if pixels.shape[2] > 3 else 1]
    if shown.dtype == np.uint16:
        shown = ((shown.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else np.ascontiguousarray(shown)


def color(mask: Labels, palette: Image) -> Image:
    """Class ids (H, W) as colours; ids above 255 share the last colour."""
    drawn: Image = palette[np.minimum(mask, 255)]
    return drawn


def hatched(target: Labels, palette: Image, ignore_index: int) -> Image:
    """Class ids (H, W) as colours, with grey stripes where they are ``ignore_index``."""
    rows, columns = np.indices(target.shape)
    stripes = np.where((rows + columns) // 4 % 2 == 0, 90, 160).astype(np.uint8)[..., None]
    ignored = (target == ignore_index)[..., None]
    return np.where(ignored, stripes, color(target, palette))


def panel(
    image: Image,
    target: Labels,
    pred: Labels,
    palette: Image,
    ignore_index: int,
) -> Image:
    """Image, target and prediction side by side. What is ignored is hatched in the target."""
    parts = [image, hatched(target, palette, ignore_index), color(pred, palette)]
    gap = np.full((image.shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)


def confusion_image(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Image:
    """Rows are true classes, columns predicted ones; percent of the row as number and shade."""
    classes = [one_line(name) for name in classes]
    counts = np.asarray(matrix, np.float64)
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    font = ImageFont.load_default(12)
    margin = 24 + int(max(font.getlength(name) for name in classes))
    size = len(classes)
    cell = 36 if size <= 40 else 14  # of many classes there is room for the shades alone
    title = "predicted (percent of the true class)"
    width = margin + 8 + max(cell * size, int(font.getlength(title)))
    drawn = PIL.Image.new("RGB", (width, margin + cell * size + 8), PAPER)
    draw = ImageDraw.Draw(drawn)
    for row in range(size):
        for column in range(size):
            x, y = margin + column * cell, margin + row * cell
            part = float(share[row, column])
            # From paper to a dark blue; the number changes colour where the cell is dark.
            shade = tuple(
                round(p + (q - p) * part) for p, q in zip(PAPER, (8, 48, 107), strict=True)
            )
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), shade, (220, 220, 220))
            if part >= 0.005 and cell == 36:
                ink = PAPER if part > 0.5 else INK
                middle = (x + cell // 2, y + cell // 2)
                draw.text(middle, f"{100 * part:.0f}", ink, font, anchor="mm")
        middle_of_row = (margin - 6, margin + row * cell + cell // 2)
        draw.text(middle_of_row, classes[row], INK, font, anchor="rm")
        # Names of columns stand upright: drawn on a strip, then turned.
        strip = PIL.Image.new("RGB", (margin - 24, cell), PAPER)
        ImageDraw.Draw(strip).text((0, cell // 2), classes[row], INK, font, anchor="lm")
        drawn.paste(strip.rotate(90, expand=True), (margin + row * cell, 20))
    draw.text((margin, 4), title, INK, font)
    draw.text((4, margin - 16), "true", INK, font)
    return np.asarray(drawn)


def shrunk(image: Image, masks: Sequence[Labels], side: int) -> tuple[Image, list[Labels]]:
    """The image and its masks (H, W) with no side longer than ``side``, never enlarged.

    Masks are not blended: each pixel is the one of the mask that lies in its middle.
    """
    size = image.shape[:2]
    scale = min(side / max(size), 1.0)
    if scale == 1.0:
        return image.copy(), [mask.copy() for mask in masks]
    height, width = (max(round(length * scale), 1) for length in size)
    small = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BOX)
    rows, columns = (
        ((np.arange(n) + 0.5) * old // n).astype(int)
        for n, old in zip((height, width), size, strict=True)
    )
    return np.asarray(small), [mask[rows[:, None], columns] for mask in masks]


def write_image(path: Path, drawn: Image) -> None:
    PIL.Image.fromarray(drawn).save(path)
