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
FARTHEST = 1e15  # no image is nearly that large; farther out, squares overflow


def coordinates(values: Any, what: str = "coordinates") -> NDArray[np.float64]:
    """Numbers of a file that nobody has checked, as float64 of the shape they come in.

    Args:
        values: Numbers, or lists of them.
        what: Their name in an error.

    Raises:
        ValueError: One is no number, not finite, or farther out than any image reaches.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty(0)
    if array.size and array.dtype.kind in "iuf":
        numbers = array.astype(np.float64)
        if (np.abs(numbers) <= FARTHEST).all():
            return numbers
    raise ValueError(f"{what} {brief(values)}; expected finite numbers within {FARTHEST:g}")


def brief(value: Any) -> str:
    """A value of a file as an error shows it, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def polygon(points: Any, size: Size) -> Area:
    """Inside of a closed polygon; where it crosses itself, what is inside twice is outside.

    Args:
        points: Corners (x, y), (n, 2) with n >= 3.
        size: (H, W) of the result.

    Raises:
        ValueError: These are no corners.
    """
    height, width = size
    start = coordinates(points, "expected at least 3 corners (x, y), found")
    if start.ndim != 2 or start.shape[1] != 2 or len(start) < 3:
        raise ValueError(f"expected at least 3 corners (x, y), found {brief(points)}")
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
    """Inside of an ellipse that was turned clockwise about its centre (x, y).

    Raises:
        ValueError: A radius that is not above 0, or no number where one should be.
    """
    x0, y0 = coordinates(center, "the centre").tolist()
    long, short = coordinates(radii, "the radii").tolist()
    if min(long, short) <= 1e-6:  # what is divided by less overflows when it is squared
        raise ValueError(f"the radii are {long:g} and {short:g}; expected numbers above 0")
    turn = np.deg2rad(coordinates(degrees, "the rotation"))
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = x - x0, y - y0
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside: Area = (along / long) ** 2 + (across / short) ** 2 <= 1
    return inside


def turned_box(corners: Sequence[float], degrees: float = 0.0) -> list[tuple[float, float]]:
    """Corners of the box (x0, y0, x1, y1) after a clockwise turn about its centre.

    Raises:
        ValueError: No number where one should be.
    """
    x0, y0, x1, y1 = coordinates(corners, "the box").tolist()
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    turn = np.deg2rad(coordinates(degrees, "the rotation"))
    return [
        (
            float(x + (a - x) * np.cos(turn) - (b - y) * np.sin(turn)),
            float(y + (a - x) * np.sin(turn) + (b - y) * np.cos(turn)),
        )
        for a, b in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    ]


def runs(counts: Any, size: Size) -> Area:
    """Pixels of one row after another, given as lengths of runs, of which the first is outside.

    Raises:
        ValueError: No whole number, a negative one, or a sum that is not the number of pixels.
    """
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError(f"its runs are {brief(counts)}; expected a list of whole numbers")
    if min(counts, default=0) < 0:
        raise ValueError(f"one of its runs is {brief(min(counts))} pixels long")
    if sum(counts) != size[0] * size[1]:  # as Python's numbers, which do not overflow
        raise ValueError(
            f"its runs make {brief(sum(counts))} pixels; expected {size[1]} x {size[0]} (width x "
            "height)"
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size)


def paste(part: Area, left: int, top: int, size: Size) -> Area:
    """``part`` at a place in an empty area; what hangs over is cut off."""
    whole = np.zeros(size, bool)
    height, width = part.shape
    rows = slice(min(max(top, 0), size[0]), min(max(top + height, 0), size[0]))
    columns = slice(min(max(left, 0), size[1]), min(max(left + width, 0), size[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return whole
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
