"""One image of a split: its label, and what a network says of it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.data.arrays import Image
from segkit.data.labels import Labels

Probabilities = NDArray[np.float32]


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the ends left out."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, margin: int, shape: tuple[int, ...]) -> "Box":
        """With so many pixels more on each side, as far as an image (H, W) of ``shape`` goes."""
        return Box(
            max(self.top - margin, 0),
            max(self.left - margin, 0),
            min(self.bottom + margin, shape[0]),
            min(self.right + margin, shape[1]),
        )


@dataclass(frozen=True)
class ImageResult:
    """What is known of one image.

    Attributes:
        name: The image's id.
        image: uint8 (H, W, 3).
        target: Class ids or ``ignore_index``, integer (H, W).
        pred: Class ids, integer (H, W).
        confidence: Probability of ``pred``, float32 (H, W); None where it is not known.
        label_confidence: Probability of ``target``, likewise; of no meaning where ignored.
    """

    name: str
    image: Image
    target: Labels
    pred: Labels
    confidence: Probabilities | None = None
    label_confidence: Probabilities | None = None

    def part(self, box: Box) -> "ImageResult":
        """Image, target and prediction in a box."""
        where = slice(box.top, box.bottom), slice(box.left, box.right)
        return ImageResult(self.name, self.image[where], self.target[where], self.pred[where])
