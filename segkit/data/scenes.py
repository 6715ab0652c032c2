"""Drawn images with exact masks: textured shapes that overlap on a textured ground.

Each class leans to a hue, but neighbouring hues overlap, so colour alone does not tell the classes
apart; the outline does. Textures, sizes, rotations and the light are random for every object, and
the ground, which is pale, has textures too.
"""

import colorsys
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw

CLASSES = ("background", "disk", "square", "triangle", "star", "ring")
IGNORE = 255

_SUPERSAMPLING = 4  # outlines are drawn this many times larger, so that edges are anti-aliased
_RADIUS = (0.20, 0.32)  # of an object's outer circle, as a share of the shorter side
_OBJECTS = (2, 4)
_HUE_SPREAD = 20 / 360  # standard deviation; the classes' hues lie 72 / 360 apart

Floats = NDArray[np.floating[Any]]  # float32 throughout, for speed


def draw_scene(
    rng: np.random.Generator, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one image.

    Returns:
        The image, uint8 (height, width, 3) RGB, and its mask, uint8 (height, width): indices of
        :data:`CLASSES`, and ``IGNORE`` in a border two pixels wide around every visible outline.
    """
    ground_color = _rgb(rng.random(), rng.uniform(0.0, 0.25), rng.uniform(0.2, 0.8))
    image = _paint(rng, height, width, ground_color, contrast=10)
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1)):
        kind = int(rng.integers(1, len(CLASSES)))
        placed = _place(rng, kind, mask)
        if placed is None:
            continue
        box, cover = placed
        color = _color(rng, kind)
        paint = _paint(rng, cover.shape[0], cover.shape[1], color, contrast=20)
        image[box] += cover[..., None] * (paint - image[box])
        mask[box][cover >= 0.5] = kind
    image *= _light(rng, height, width)[..., None]
    image += rng.uniform(2, 6) * rng.standard_normal(image.shape, dtype=np.float32)
    return image.round().clip(0, 255).astype(np.uint8), _with_borders(mask)


def _place(
    rng: np.random.Generator, kind: int, mask: NDArray[np.uint8]
) -> tuple[tuple[slice, slice], Floats] | None:
    """A box of the image, and the share of each of its pixels that a new object covers.

    None if the object would hide too much of the others, wherever it was tried.
    """
    height, width = mask.shape
    for _ in range(10):
        radius = rng.uniform(*_RADIUS) * min(height, width)
        center = rng.uniform(0.6 * radius, (width - 0.6 * radius, height - 0.6 * radius))
        turn = _rotation(rng.uniform(0, 2 * np.pi))
        left, top = np.maximum(center - radius, 0).astype(int)
        right, bottom = np.minimum(np.ceil(center + radius), (width, height)).astype(int)
        corner = np.array([left, top])
        rings = [center + radius * ring @ turn - corner for ring in _outline(kind)]
        cover = _cover(rings, bottom - top, right - left)
        box = slice(top, bottom), slice(left, right)
        if (mask[box][cover >= 0.5] > 0).sum() < 0.15 * radius**2:
            return box, cover
    return None


def _outline(kind: int) -> list[Floats]:
    """The outline of a class inside the unit circle, (n, 2) points, and its hole if it has one."""
    name = CLASSES[kind]
    if name == "square":
        return [0.9 * _polygon(4)]
    if name == "triangle":
        return [_polygon(3)]
    if name == "star":
        star = _polygon(10)
        star[1::2] *= 0.45
        return [star]
    if name == "ring":
        return [0.9 * _polygon(64), 0.45 * _polygon(64)]
    return [0.8 * _polygon(64)]


def _polygon(corners: int) -> Floats:
    angle = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angle), np.sin(angle)], axis=1, dtype=np.float32)


def _rotation(angle: float) -> Floats:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, sine], [-sine, cosine]], dtype=np.float32)


def _cover(rings: list[Floats], height: int, width: int) -> Floats:
    """Share of each pixel, (H, W), that lies inside the first ring and outside the others."""
    canvas = PIL.Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for fill, ring in zip((255, 0), rings, strict=False):
        draw.polygon((ring * _SUPERSAMPLING).ravel().tolist(), fill=fill)
    return np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32) / 255


def _color(rng: np.random.Generator, kind: int) -> Floats:
    """A strong colour whose hue lies around that of the class."""
    hue = (kind - 1) / (len(CLASSES) - 1) + rng.normal(0, _HUE_SPREAD)
    return _rgb(hue, rng.uniform(0.55, 1.0), rng.uniform(0.45, 1.0))


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype=np.float32)


def _paint(
    rng: np.random.Generator, height: int, width: int, color: Floats, contrast: float
) -> Floats:
    """An area (height, width, 3) in one texture: ``color`` with stripes, dots, checks or clouds."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle, frequency = rng.uniform(0, 2 * np.pi), 2 * np.pi / rng.uniform(6, 14)
    along, across = float(frequency * np.cos(angle)), float(frequency * np.sin(angle))
    wave = np.sin(along * columns + across * rows)
    crossing = np.sin(across * columns - along * rows)
    texture = rng.integers(4)
    if texture == 0:  # stripes
        pattern = wave
    elif texture == 1:  # dots
        pattern = np.where(wave + crossing > 0.9, np.float32(1), np.float32(-1))
    elif texture == 2:  # checks
        pattern = np.sign(wave * crossing)
    else:  # clouds
        coarse = PIL.Image.fromarray(rng.uniform(-1, 1, (7, 9)).astype(np.float32))
        pattern = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC))
    amplitude = rng.normal(0, contrast, 3).astype(np.float32)  # per colour channel
    area: Floats = color + pattern[..., None] * amplitude
    return area


def _light(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Brightness (H, W) that falls off along a random direction."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    light: Floats = 1 + strength * (np.cos(angle) * columns + np.sin(angle) * rows) / np.sqrt(2)
    return light.astype(np.float32)


def _with_borders(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``mask`` with ``IGNORE`` wherever one of the eight neighbours has another id."""
    height, width = mask.shape
    padded = np.pad(mask, 1, mode="edge")
    border = np.zeros(mask.shape, dtype=bool)
    for row in range(3):
        for column in range(3):
            border |= padded[row : row + height, column : column + width] != mask
    return np.where(border, np.uint8(IGNORE), mask)
