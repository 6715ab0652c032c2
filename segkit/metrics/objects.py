"""Connected areas of one class, which stand for the objects of a mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NEIGHBOURS = np.ones((3, 3), bool)  # pixels that touch at a corner belong together


def object_sizes(mask: NDArray[np.integer[Any]], number: int) -> NDArray[np.int64]:
    """Size of each connected area of the class ``number``.

    Args:
        mask: Integer (H, W).
        number: Class id.

    Returns:
        int64 (objects, 3): pixels, height and width of the surrounding box.
    """
    labels, count = ndimage.label(mask == number, NEIGHBOURS)
    pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labels)
    sizes = [[rows.stop - rows.start, columns.stop - columns.start] for rows, columns in boxes]
    return np.column_stack([pixels, np.array(sizes, np.int64).reshape(-1, 2)])
