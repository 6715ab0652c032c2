"""The two kinds of arrays that everything here is about."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3), red, green, blue."""

Mask = NDArray[np.integer[Any]]
"""(H, W), class ids."""
