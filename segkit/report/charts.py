"""Curves and bars as images, drawn with Pillow: a run draws while it trains.

matplotlib, which the report uses, takes longer to import than a short run has.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from segkit.console import one_line
from segkit.data.arrays import Image

PAPER, INK, FAINT, GRID = (255, 255, 255), (30, 30, 30), (110, 110, 110), (225, 225, 225)
BLUE, ORANGE = (0, 90, 181), (220, 110, 0)  # told apart by colour-blind people, too
FINE = 2  # everything is drawn so many times larger, then made smaller: smooth edges
TEXT = 15  # height of letters in pixels
ROWS = 30  # bars under each other; more stand beside them
LONGEST = 24  # letters of a name; longer ones are cut


class Line(NamedTuple):
    """A curve: a value for each x; None, and what is not finite, is left out."""

    name: str
    values: Sequence[float | None]
    color: tuple[int, int, int] = BLUE


class _Canvas:
    """Paper of a size in pixels, to be drawn on in these pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = PIL.Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, *, ink: tuple[int, int, int] = INK, anchor: str = "lm"
    ) -> None:
        self._draw.text((x * FINE, y * FINE), text, ink, _font(TEXT * FINE), anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], ink: tuple[int, int, int]) -> None:
        thick = 1 if ink == GRID else 2
        scaled = [(x * FINE, y * FINE) for x, y in points]
        self._draw.line(scaled, ink, thick * FINE, joint="curve")

    def dot(self, x: float, y: float, ink: tuple[int, int, int]) -> None:
        self._draw.circle((x * FINE, y * FINE), 4 * FINE, ink)

    def box(
        self, x: float, y: float, width: float, height: float, fill: tuple[int, int, int]
    ) -> None:
        corners = (x * FINE, y * FINE, (x + width) * FINE, (y + height) * FINE)
        self._draw.rectangle(corners, fill, FAINT)

    def array(self) -> Image:
        return np.asarray(self.image.reduce(FINE))


def line_chart(
    title: str,
    x: Sequence[int],
    lines: Sequence[Line],
    *,
    x_name: str = "epoch",
    mark: int | None = None,
    width: int = 560,
    height: int = 380,
) -> Image:
    """Curves over whole numbers, uint8 (height, width, 3).

    Args:
        title: What is drawn; the names of several curves stand behind it in their colours.
        x: Rising, one for each value.
        lines: The curves.
        x_name: What ``x`` counts.
        mark: Place of a value of the first curve that gets a dot.
        width: In pixels.
        height: In pixels.
    """
    canvas = _Canvas(width, height)
    canvas.text(14, 20, title)
    place = 14 + text_width(title) + 24
    for name, _, ink in lines if len(lines) > 1 else ():
        canvas.line([(place, 20), (place + 22, 20)], ink)
        canvas.text(place + 28, 20, name)
        place += 28 + text_width(name) + 20
    finite = [v for line in lines for v in line.values if v is not None and math.isfinite(v)]
    marks = ticks(min(finite, default=0.0), max(finite, default=1.0))
    labels = [f"{value:.6g}" for value in marks]
    left, right = 22 + max(map(text_width, labels)), width - 24
    top, bottom = 46, height - 52
    low, high = marks[0], marks[-1]
    first, last = (x[0], x[-1]) if x else (0, 1)

    def at(number: int, value: float) -> tuple[float, float]:
        across = (number - first) / (last - first) if last > first else 0.5
        return left + across * (right - left), bottom - (value - low) / (high - low) * (
            bottom - top
        )

    for value, label in zip(marks, labels, strict=True):
        canvas.line([(left, at(first, value)[1]), (right, at(first, value)[1])], GRID)
        canvas.text(left - 8, at(first, value)[1], label, ink=FAINT, anchor="rm")
    for number in whole_ticks(first, last):
        canvas.text(at(number, low)[0], bottom + 16, str(number), ink=FAINT, anchor="mm")
    canvas.text((left + right) / 2, height - 14, x_name, ink=FAINT, anchor="mm")
    for line in reversed(lines):  # the first one on top
        known = zip(x, line.values, strict=True)
        points = [at(n, v) for n, v in known if v is not None and math.isfinite(v)]
        canvas.line(points, line.color)
        if len(points) == 1:
            canvas.dot(*points[0], line.color)
    if mark is not None and (marked := lines[0].values[mark]) is not None:
        canvas.dot(*at(x[mark], marked), lines[0].color)
    return canvas.array()


def bar_chart(
    title: str,
    names: Sequence[str],
    values: Sequence[float | None],
    colors: Image,
    *,
    none: str = "absent",
) -> Image:
    """A bar of 0 to 1 for each name, in columns of at most :data:`ROWS`, uint8 (H, W, 3).

    Args:
        title: What is drawn.
        names: From top to bottom.
        values: 0 to 1; None has no bar, and the word ``none``.
        colors: RGB of each name, uint8 (n, 3): of the square before its bar.
        none: What a missing value says.
    """
    shown = [shortened(one_line(name)) for name in names]
    columns = -(-len(shown) // ROWS)
    rows = -(-len(shown) // columns)
    name_width, bar, row = max(map(text_width, shown)), 220, 24
    column = 30 + name_width + 10 + bar + 62
    canvas = _Canvas(max(14 + columns * column, text_width(title) + 28), 46 + rows * row + 12)
    canvas.text(14, 20, title)
    for number, (name, value) in enumerate(zip(shown, values, strict=True)):
        x, y = 14 + number // rows * column, 46 + number % rows * row
        canvas.box(x, y + 5, 13, 13, tuple(map(int, colors[number])))  # type: ignore[arg-type]
        canvas.text(x + 22, y + row / 2, name)
        start = x + 32 + name_width
        if value is None:
            canvas.text(start, y + row / 2, none, ink=FAINT)
            continue
        canvas.box(start, y + 4, bar * value, row - 8, BLUE)
        canvas.text(start + bar * value + 8, y + row / 2, f"{100 * value:.1f}")
    return canvas.array()


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers at equal distances, from at most ``low`` to at least ``high``.

    >>> ticks(0.13, 0.87)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    rough = (high - low) / count
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def whole_ticks(first: int, last: int) -> list[int]:
    """About six whole numbers at equal distances, within ``first`` to ``last``.

    >>> whole_ticks(1, 35)
    [10, 20, 30]
    """
    step = max(1, round(ticks(0, max(last - first, 1), 6)[1]))
    found = [number for number in range(first, last + 1) if number % step == 0]
    return found or [first]


def shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def text_width(text: str) -> int:
    """In pixels, of what the charts write."""
    return math.ceil(_font(TEXT * FINE).getlength(text) / FINE)


_FONTS: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if size not in _FONTS:  # reading it takes longer than writing with it
        _FONTS[size] = ImageFont.load_default(size)
    return _FONTS[size]
