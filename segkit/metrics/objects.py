"""Connected areas of one class, which stand for the objects of a mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

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


def objects_of_classes(
    mask: NDArray[np.integer[Any]], right: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Every connected area of equal values, of all classes at once.

    Args:
        mask: Integer (H, W).
        right: Which pixels are predicted right, (H, W).

    Returns:
        int64 (areas, 3): value, pixels, and how many of them are right; in no particular order.
    """
    height, width = mask.shape
    # Runs of equal values in a row, and which of them touch one of the row below. Where two do,
    # also at a corner, one of both begins at the place or next to it: so only beginnings are tried.
    begins = np.ones((height, width), bool)
    np.not_equal(mask[:, 1:], mask[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    number = (np.cumsum(begins.ravel(), dtype=np.int32) - 1).reshape(height, width)
    edges = [np.empty((2, 0), np.int32)]
    above, below = np.s_[:-1], np.s_[1:]
    left, same, after = np.s_[:-1], np.s_[:], np.s_[1:]
    for begin_above, begin_below, columns_above, columns_below in (
        (True, True, same, same),
        (False, True, left, after),
        (True, False, after, left),
    ):
        tried = np.zeros(mask[above, columns_above].shape, bool)
        if begin_above:
            tried |= begins[above, columns_above]
        if begin_below:
            tried |= begins[below, columns_below]
        tried &= mask[above, columns_above] == mask[below, columns_below]
        edges.append(
            np.stack([number[above, columns_above][tried], number[below, columns_below][tried]])
        )
    one, other = np.concatenate(edges, axis=1)
    graph = sparse.coo_array((np.ones(len(one), bool), (one, other)), (len(first), len(first)))
    count, area = csgraph.connected_components(graph, directed=False)
    pixels = np.diff(np.append(first, mask.size))
    rights = np.add.reduceat(right.ravel(), first, dtype=np.int64)
    found = np.zeros((count, 3), np.int64)
    found[area, 0] = mask.ravel()[first]
    found[:, 1] = np.bincount(area, pixels, count)
    found[:, 2] = np.bincount(area, rights, count)
    return found
