"""The kinds of arrays that everything here is about."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3), red, green, blue."""

Pixels = NDArray[Any]
"""(H, W, C), what a network is given of an image: uint8, or uint16 with ``data.bits=16``."""

Mask = NDArray[np.integer[Any]]
"""(H, W), class ids."""
