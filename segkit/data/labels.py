"""Class ids in masks: renumbering them, and checking that each one is a class or ignored."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import DataError

Labels = NDArray[np.integer[Any]]


def apply_label_map(
    mask: Labels,
    label_map: Mapping[int, int],
    ignore_index: int = 255,
    *,
    name: str = "mask",
    key: str = "data.label_map",
) -> Labels:
    """Renumber the ids of a mask, each ``old`` to ``label_map[old]``.

    An id that is not listed keeps its number, with one exception: where the map gives that number
    to another id, keeping it would mix two classes, so it is an error. ``ignore_index`` may be
    listed too (``{255: 1}`` for 0/255 masks); unlisted, it stays.

    Args:
        mask: uint8 or uint16 (H, W).
        label_map: Old id to new id, all between 0 and 65535; give ``ignore_index`` to ignore an id.
        ignore_index: The id of pixels without a label.
        name: What an error calls the mask.
        key: What it calls the map.

    Returns:
        uint8 (H, W) where all values fit, else uint16.
    """
    if mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"mask must be uint8 or uint16, got {mask.dtype}")
    for old, new in label_map.items():
        if not 0 <= old <= 65535 or not 0 <= new <= 65535:
            raise ValueError(f"label_map ids must be between 0 and 65535, got {old}: {new}")
    taken = sorted(set(label_map.values()) - set(label_map) - {ignore_index})
    for number in taken:
        if (mask == number).any():
            raise DataError(
                f"{name}: id {number} ({(mask == number).sum()} pixels) is not in {key}, "
                "but another id gets that number. List it as well, with its new id or ignore"
            )
    table = np.arange(np.iinfo(mask.dtype).max + 1, dtype=np.uint16)
    for old, new in label_map.items():
        if old < len(table):
            table[old] = new
    mapped: Labels = table[mask]
    return mapped.astype(np.uint8) if mapped.max(initial=0) <= 255 else mapped


def check_labels(
    mask: Labels,
    num_classes: int,
    ignore_index: int | None = 255,
    *,
    name: str = "mask",
    key: str = "data.label_map",
) -> None:
    """Raise a DataError unless each value is in ``[0, num_classes)`` or is ``ignore_index``.

    The message lists the values that are not, with their pixel counts, and the likely cause.

    Args:
        mask: Integer, of any shape.
        num_classes: Number of classes.
        ignore_index: None if nothing may be ignored, as in a prediction.
        name: What an error calls the mask.
        key: What renumbers ids.
    """
    wrong = mask >= num_classes
    if mask.dtype.kind == "i":
        wrong |= mask < 0
    if ignore_index is not None:
        wrong &= mask != ignore_index
    if not wrong.any():
        return
    values, counts = np.unique(mask[wrong], return_counts=True)
    listed = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:8], counts[:8], strict=True))
    if len(values) > 8:
        listed += f" and {len(values) - 8} more"
    if len(values) > 16:
        cause = "So many values look like a resized, compressed or grey image, not like a mask"
    elif 255 in values:
        border = "the border without a label (data.ignore_index) or, " * (ignore_index is not None)
        cause = f"255 is usually {border}in a 0/255 mask, the object ('{key}={{255: 1}}')"
    elif values.tolist() == [num_classes]:
        cause = "Either num_classes is one too small (the background counts), or the labels start "
        cause += f"at 1 (renumber them with {key})"
    else:
        cause = f"Set num_classes, or renumber or ignore ids with {key}"
    ignored = "" if ignore_index is None else f" or {ignore_index} (ignored)"
    raise DataError(f"{name}: holds {listed}; expected 0 to {num_classes - 1}{ignored}. {cause}")
