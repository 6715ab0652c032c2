"""Shapes to pixels: which ones a shape covers, and what happens where shapes overlap.

One rule for all shapes: a pixel belongs to a shape if its centre lies inside. Coordinates count
from the outer corner of the first pixel, so that pixel (row 0, column 0) has its centre at
(0.5, 0.5), and the box from (2, 2) to (5, 5) covers 3 x 3 pixels. Polygons that share an edge have
no pixel in common and leave none out. (Pillow's own polygons are up to a pixel wider: 4 x 4 here.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Area = NDArray[np.bool_]
Size = tuple[int, int]

OVERLAPS = ("last", "area", "ignore")
IGNORE = 255


def polygon(points: Any, size: Size) -> Area:
    """Inside of a closed polygon; where it crosses itself, what is inside twice is outside.

    Args:
        points: Corners (x, y), (n, 2) with n >= 3.
        size: (H, W) of the result.
    """
    height, width = size
    start = np.asarray(points, np.float64)
    if start.ndim != 2 or start.shape[1] != 2 or len(start) < 3 or not np.isfinite(start).all():
        raise ValueError("expected at least 3 corners (x, y)")
    # Even-odd rule along each row of centres: every crossing edge flips what is right of it.
    flips = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(start, np.roll(start, -1, axis=0), strict=True):
        low, high = sorted((y0, y1))
        rows = np.arange(max(0, _first_centre(low)), min(height, _first_centre(high)))
        if len(rows):
            x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
            flips[rows, columns] ^= 1
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width].astype(bool)


def _first_centre(coordinate: float) -> int:
    """The first pixel whose centre is at or behind ``coordinate``."""
    return int(np.ceil(np.clip(coordinate, -1e9, 1e9) - 0.5))


def ellipse(center: Sequence[float], radii: Sequence[float], degrees: float, size: Size) -> Area:
    """Inside of an ellipse that was turned clockwise about its centre (x, y)."""
    turn = np.deg2rad(degrees)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = x - center[0], y - center[1]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside: Area = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    return inside


def turned_box(corners: Sequence[float], degrees: float = 0.0) -> list[tuple[float, float]]:
    """Corners of the box (x0, y0, x1, y1) after a clockwise turn about its centre."""
    x0, y0, x1, y1 = corners
    x, y, turn = (x0 + x1) / 2, (y0 + y1) / 2, np.deg2rad(degrees)
    return [
        (
            float(x + (a - x) * np.cos(turn) - (b - y) * np.sin(turn)),
            float(y + (a - x) * np.sin(turn) + (b - y) * np.cos(turn)),
        )
        for a, b in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    ]


def runs(counts: Sequence[int], size: Size) -> Area:
    """Pixels of one row after another, given as lengths of runs, of which the first is outside.

    Raises:
        ValueError: A negative length, or a sum that is not the number of pixels.
    """
    lengths = np.asarray(counts, np.int64)
    if (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(
            f"its runs make {lengths.sum()} pixels; expected {size[1]} x {size[0]} (width x height)"
        )
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size)


def paste(part: Area, left: int, top: int, size: Size) -> Area:
    """``part`` at a place in an empty area; what hangs over is cut off."""
    whole = np.zeros(size, bool)
    height, width = part.shape
    rows = slice(max(top, 0), max(min(top + height, size[0]), 0))
    columns = slice(max(left, 0), max(min(left + width, size[1]), 0))
    whole[rows, columns] = part[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    return whole


def paint(layers: Sequence[tuple[int, Area]], size: Size, overlap: str) -> NDArray[np.uint8]:
    """A mask out of (class id, area) layers over class 0.

    Args:
        layers: In the order of their file.
        size: (H, W).
        overlap: ``last``: a later layer covers an earlier one; ``area``: a smaller one covers a
            larger one; ``ignore``: where layers of different classes meet, nothing is labelled.
    """
    if overlap == "area":
        layers = sorted(layers, key=lambda layer: -int(layer[1].sum()))  # stable: ties as in file
    mask = np.zeros(size, np.uint8)
    taken = np.zeros(size, bool)
    for number, area in layers:
        clash = area & taken & (mask != number) if overlap == "ignore" else None
        mask[area] = number
        if clash is not None:
            mask[clash] = IGNORE
        taken |= area
    return mask
