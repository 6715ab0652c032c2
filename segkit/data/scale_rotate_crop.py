"""Scale, rotation and crop as one transform, which computes no pixel that the crop leaves out."""

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# What OpenCV resamples as it is; ids of other types fit into int32.
_MASK_TYPES = ("uint8", "uint16", "int16", "int32")
# From [0, 255] to the numbers of an image.
_SCALES = {"uint8": 1, "uint16": 257, "float32": 1 / 255}
_INVERSE = cv2.WARP_INVERSE_MAP


class RandomScaleRotateCrop:
    """Scales an image, rotates it about its centre, pads it to the crop if it is smaller, crops.

    The same as albumentations' ``RandomScale``, ``Rotate`` and ``RandomCrop(pad_if_needed=True)``
    in this order, of which each makes a whole image: on large images this one takes a fraction of
    their time. Images are resampled linearly, masks by nearest neighbour on the same grid. What
    the scaled image does not cover is a hole: ``fill`` in the image, ``ignore_index`` in the mask.

    Without a rotation the window in the image that becomes the crop begins and ends at whole
    pixels, so that its height and width are scaled by factors that differ by less than a pixel.

    Args:
        height: Height of the crop in pixels.
        width: Width of the crop in pixels.
        scale: Least and largest factor of the image's size; 1 leaves it as it is.
        degrees: Least and largest angle of the rotation; positive ones turn counter-clockwise.
        rotate_p: Probability of a rotation, in [0, 1].
        rare_p: Probability that the crop shows a class that is drawn first: of those in the image
            by their rarity in the training split. nnU-Net (Isensee et al. 2021) takes a third of
            its crops so.

    Attributes:
        class_pixels: Pixels of each class in the training split, by which ``rare_p`` draws; None
            draws all classes of an image alike. Set as ``fill`` is.
        fill: Of the holes, each channel's in [0, 255] of the largest number that the image's type
            stands for; :class:`~segkit.data.augment.Augment` sets it.
        ignore_index: Mask value of the holes; set by the same.

    Raises:
        ValueError: A size below 1, a range that is none, a probability out of [0, 1].
    """

    fill: tuple[float, ...] = (0.0, 0.0, 0.0)
    ignore_index: int = 255
    class_pixels: Sequence[int] | None = None

    def __init__(
        self,
        height: int,
        width: int,
        scale: tuple[float, float] = (1.0, 1.0),
        degrees: tuple[float, float] = (0.0, 0.0),
        rotate_p: float = 1.0,
        rare_p: float = 0.0,
    ) -> None:
        if height < 1 or width < 1:
            raise ValueError(f"height={height}, width={width}: expected at least 1")
        for name, values, low in (("scale", scale, 0.0), ("degrees", degrees, -math.inf)):
            if len(values) != 2 or not low < values[0] <= values[1] < math.inf:
                above = " above 0" if name == "scale" else ""
                raise ValueError(f"{name}={list(values)}: expected two rising numbers{above}")
        for name, value in (("rotate_p", rotate_p), ("rare_p", rare_p)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: expected a probability, 0 to 1")
        self.height, self.width = height, width
        self.scale, self.degrees = scale, degrees
        self.rotate_p, self.rare_p = rotate_p, rare_p
        self._random = random.Random()

    def set_random_state(self, rng: np.random.Generator, py_random: random.Random) -> None:
        """Where the random numbers of the next call come from."""
        self._random = py_random

    def __call__(self, *, image: Array, mask: Array, holes: Array | None = None) -> dict[str, Any]:
        """Transform an image (H, W, C) and integer (H, W); neither is written to.

        Args:
            image: uint8, uint16, or float32 in [0, 1].
            mask: Class ids or ``ignore_index``.
            holes: Map of the mask's shape and type: ``ignore_index`` where earlier transforms left
                a hole, another value elsewhere. None if there are none.

        Returns:
            ``image``, ``mask`` and ``holes`` of the crop's size; None for ``holes`` as above.
        """
        view = self._draw(mask)
        if holes is None and view.has_holes:
            holes = np.full_like(mask, int(self.ignore_index == 0))
        return {
            "image": view.image(image, self.fill),
            "mask": self._labels(view, mask),
            "holes": None if holes is None else self._labels(view, holes),
        }

    def _draw(self, mask: Array) -> "_View":
        # All numbers in every call: what one sample draws does not depend on what another did.
        draw, shape = self._random.random, mask.shape
        factor = self._random.uniform(*self.scale)
        rotates = draw() < self.rotate_p
        angle = self._random.uniform(*self.degrees)
        places = draw(), draw()
        rows = _Span.draw(shape[0], factor, self.height, places[0])
        columns = _Span.draw(shape[1], factor, self.width, places[1])
        view = _View(rows, columns, angle if rotates else 0.0)
        if not self.rare_p:
            return view
        is_rare, which_class, which_pixel = draw(), draw(), draw()
        pixel = self._rare_pixel(mask, which_class, which_pixel) if is_rare < self.rare_p else None
        return view if pixel is None else view.showing(pixel, places)

    def _rare_pixel(self, mask: Array, which_class: float, which_pixel: float) -> Any:
        """Row and column of a pixel of a class of the image, (2,); None where all is ignored."""
        ids, counts = np.unique(mask, return_counts=True)
        there = ids != self.ignore_index
        if not there.any():
            return None
        ids, counts = ids[there], counts[there]
        pixels = np.ones(len(ids)) if self.class_pixels is None else self._pixels_of(ids)
        shares = np.cumsum(1 / pixels)
        chosen = int(np.searchsorted(shares, which_class * shares[-1], side="right"))
        chosen = min(chosen, len(ids) - 1)
        place = np.flatnonzero(mask == ids[chosen])[int(which_pixel * counts[chosen])]
        return np.array(np.unravel_index(place, mask.shape))

    def _pixels_of(self, ids: Array) -> NDArray[np.float64]:
        """Of each id in the split; 1 of what was not counted."""
        counted = np.asarray(self.class_pixels, np.float64)
        known = ids < len(counted)
        found = np.ones(len(ids))
        found[known] = np.maximum(counted[ids[known]], 1)
        return found

    def _labels(self, view: "_View", mask: Array) -> Array:
        ids = mask if mask.dtype.name in _MASK_TYPES else mask.astype(np.int32)
        return view.labels(ids, self.ignore_index)


class _Span(NamedTuple):
    """What a crop shows of an image along one axis, in pixels.

    Attributes:
        size: Length of the image.
        scaled: Length of the scaled image.
        crop: Length of the crop.
        start: Where the part that is shown begins in the scaled image.
        length: Length of that part.
        before: Where it begins in the crop; less than 0 nowhere, more where there is padding.
    """

    size: int
    scaled: int
    crop: int
    start: int
    length: int
    before: int

    @classmethod
    def draw(cls, size: int, factor: float, crop: int, position: float) -> "_Span":
        """Any place is as likely as any other; a smaller image stands in the middle."""
        scaled = max(1, int(size * factor))
        if scaled < crop:
            return cls(size, scaled, crop, 0, scaled, (crop - scaled) // 2)
        return cls(size, scaled, crop, int((scaled - crop + 1) * position), crop, 0)

    def showing(self, place: float, position: float) -> "_Span":
        """The same with a start at which the crop shows a place of the scaled image.

        Args:
            place: In pixels from the scaled image's beginning.
            position: Which of the starts, in [0, 1).
        """
        if self.scaled < self.crop:
            return self  # shows all
        last = self.scaled - self.crop
        low = min(max(math.floor(place) - self.crop + 1, 0), last)
        high = max(min(math.floor(place), last), low)
        return self._replace(start=low + int((high - low + 1) * position))

    def source(self) -> slice:
        """The pixels of the image that the part is made of without a rotation, at least one."""
        first = min(round(self.start * self.size / self.scaled), self.size - 1)
        last = round((self.start + self.length) * self.size / self.scaled)
        return slice(first, max(last, first + 1))

    def target(self) -> slice:
        """The pixels of the crop that the part becomes."""
        return slice(self.before, self.before + self.length)


class _View(NamedTuple):
    """Where each pixel of a crop comes from."""

    rows: _Span
    columns: _Span
    degrees: float

    def image(self, image: Array, fill: Sequence[float]) -> Array:
        """The crop of (H, W, C), linear, with ``fill`` where there is nothing."""
        scale = _SCALES.get(image.dtype.name, 1)
        color = [round(value * scale) if scale >= 1 else value * scale for value in fill]
        part = self._resampled(image, cv2.INTER_LINEAR, cv2.INTER_LINEAR, color)
        return self._padded(part, color) if self._is_padded else part

    def labels(self, mask: Array, ignore_index: int) -> Array:
        """The crop of integer (H, W), nearest neighbour, with ``ignore_index`` likewise."""
        kinds = (cv2.INTER_NEAREST_EXACT, cv2.INTER_NEAREST)  # exact: the grid of INTER_LINEAR
        part = self._resampled(mask, *kinds, [ignore_index])
        return self._padded(part, ignore_index) if self._is_padded else part

    def showing(self, pixel: NDArray[np.integer[Any]], places: Sequence[float]) -> "_View":
        """A view of the same scale and rotation in which a pixel of the image, (y, x), lies."""
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        y, x = (
            (at + 0.5) * span.scaled / span.size - span.scaled / 2
            for at, span in zip(pixel.tolist(), (self.rows, self.columns), strict=True)
        )  # from the centre of the scaled image; the rotation of _matrix is undone
        row = -sin * x + cos * y + self.rows.scaled / 2
        column = cos * x + sin * y + self.columns.scaled / 2
        return self._replace(
            rows=self.rows.showing(row, places[0]), columns=self.columns.showing(column, places[1])
        )

    @property
    def has_holes(self) -> bool:
        """Whether there may be some."""
        return self._is_padded or self.degrees != 0

    @property
    def _is_padded(self) -> bool:
        return (self.rows.length, self.columns.length) != (self.rows.crop, self.columns.crop)

    def _resampled(self, array: Array, resize: int, warp: int, border: list[Any]) -> Array:
        """The part of the scaled and rotated image that the crop shows."""
        size = (self.columns.length, self.rows.length)  # OpenCV's order
        if not self.degrees:
            window = array[self.rows.source(), self.columns.source()]
            part = cv2.resize(window, size, interpolation=resize)
            return part.reshape(*part.shape[:2], *array.shape[2:])  # one channel loses its axis
        if array.ndim == 3 and array.shape[2] not in (3, 4):
            # OpenCV takes a border of four numbers at most, and warps pairs in another way than
            # all else, which is off by a few levels.
            step = 1 if array.shape[2] % 4 == 2 else 4
            parts = []
            for first in range(0, array.shape[2], step):
                last = min(first + step, array.shape[2])
                at = first if last == first + 1 else slice(first, last)
                one = np.ascontiguousarray(array[..., at])
                parts.append(self._resampled(one, resize, warp, border[first:last]))
            return np.dstack(parts)
        return cv2.warpAffine(
            array, self._matrix(), size, None, warp | _INVERSE, cv2.BORDER_CONSTANT, border
        )

    def _matrix(self) -> NDArray[np.float64]:
        """Pixel of the part to pixel of the image, float64 (2, 3), for (x, y, 1)."""
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        turn = np.array([[cos, -sin], [sin, cos]])  # rows count downwards
        spans = (self.columns, self.rows)
        center = np.array([span.scaled / 2 for span in spans])
        # Centres of pixels lie at halves, from the corner of the image.
        first = np.array([span.start + 0.5 for span in spans])
        shrink = np.array([span.size / span.scaled for span in spans])
        offset = shrink * (turn @ (first - center) + center) - 0.5
        return np.column_stack([shrink[:, None] * turn, offset])

    def _padded(self, part: Array, value: Any) -> Array:
        crop = (self.rows.crop, self.columns.crop)
        padded = np.empty((*crop, *part.shape[2:]), part.dtype)
        top, left = self.rows.target(), self.columns.target()
        padded[: top.start] = padded[top.stop :] = value
        padded[top, : left.start] = padded[top, left.stop :] = value
        padded[top, left] = part
        return padded
