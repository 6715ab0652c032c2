"""Colours of class ids: VOC's palette, and the colours of RGB masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import DataError

Palette = NDArray[np.uint8]
ColorMap = str | Sequence[Sequence[int]] | Palette

VOID_COLOR = (224, 224, 192)  # of VOC's borders, and entry 255 of its palette


def voc_palette(num_colors: int = 256) -> Palette:
    """The colours of PASCAL VOC, uint8 (num_colors, 3); entry 255 is the border's (224, 224, 192).

    The bits of an index are dealt out to red, green and blue in turn, highest bits first, so that
    neighbouring classes get colours that are far apart.
    """
    if not 1 <= num_colors <= 256:
        raise ValueError(f"num_colors must be between 1 and 256, got {num_colors}")
    index = np.arange(num_colors)
    palette = np.zeros((num_colors, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            # Bit 3k + channel of the index becomes bit 7 - k of that channel.
            if 3 * bit + channel < 8:
                value = (index >> (3 * bit + channel) & 1) << (7 - bit)
                palette[:, channel] |= value.astype(np.uint8)
    return palette


def fill_palette(colors: Palette | None) -> Palette:
    """``colors`` (n, 3) continued to uint8 (256, 3) with the entries of :func:`voc_palette`."""
    palette = voc_palette()
    if colors is not None:
        if colors.ndim != 2 or colors.shape[1] != 3 or len(colors) > 256:
            raise ValueError(f"palette must have shape (n <= 256, 3), got {colors.shape}")
        palette[: len(colors)] = colors
    return palette


def class_palette(
    stored: Palette | None, label_map: Mapping[int, int], num_classes: int, ignore_index: int
) -> Palette:
    """Colours of the classes, uint8 (256, 3): those of a file where they tell the classes apart.

    Args:
        stored: Colours of the ids in a mask, uint8 (n, 3).
        label_map: Ids in the mask to classes; others are classes.
        num_classes: How many colours must differ.
        ignore_index: What is no class in ``label_map``.
    """
    colors = fill_palette(stored)
    renumbered = colors.copy()
    for old, new in reversed(list(label_map.items())):  # of merged classes the first one wins
        if old <= 255 and new != ignore_index:
            renumbered[new] = colors[old]
    used = renumbered[:num_classes]
    ramp = np.arange(num_classes)[:, None]  # of Pillow, for a palette never chosen: black
    if len(np.unique(used, axis=0)) < num_classes or (used == ramp).all():
        return fill_palette(None)
    return renumbered


def parse_colormap(colormap: ColorMap | None, key: str = "data.colormap") -> Palette | None:
    """Colours in class order, uint8 (n, 3), from ``"voc"`` or RGB triples; an array is kept.

    None, and ``"indices"``: masks hold class ids, whatever their colours. ``key`` is what errors
    call it.
    """
    if colormap is None:
        return None
    if isinstance(colormap, str):
        if colormap == "indices":
            return None
        if colormap != "voc":
            raise DataError(
                f"{key} is {colormap!r}; expected voc, a list of RGB triples, or indices"
            )
        return voc_palette(255)  # the last entry is the border's colour, which is no class
    if isinstance(colormap, np.ndarray):
        return colormap
    if not isinstance(colormap, Sequence):
        raise DataError(f"{key} is {colormap!r}; expected voc or a list of RGB triples")
    colors = [tuple(c) if isinstance(c, Sequence) else (c,) for c in colormap]
    for color in colors:
        if len(color) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in color):
            raise DataError(f"{key} holds {color}; expected [red, green, blue] of 0 to 255")
        if colors.count(color) > 1:
            raise DataError(f"{key} holds the colour {color} twice")
    return np.array(colors, dtype=np.uint8).reshape(-1, 3)


def classes_of_colors(
    rgb: NDArray[np.integer[Any]],
    colormap: Palette,
    ignore_index: int,
    name: str,
    key: str = "data.colormap",
) -> NDArray[np.int64]:
    """Exact look-up of each pixel's colour.

    Args:
        rgb: uint8 (H, W, 3).
        colormap: uint8 (n, 3) in class order. ``VOID_COLOR`` is ignored unless it is listed.
        ignore_index: The id of ``VOID_COLOR``.
        name: What an error calls the mask.
        key: What it calls the colours.

    Returns:
        Class ids, int64 (H, W).
    """
    classes, wrong = _look_up(rgb, colormap, ignore_index)
    if wrong.any():
        codes = _pack(rgb)
        row, column = np.argwhere(wrong)[0]
        unknown = len(np.unique(codes[wrong]))
        raise DataError(
            f"{name}: colour {tuple(rgb[row, column].tolist())} at row {row}, column {column} is "
            f"not in {key} ({wrong.sum()} pixels of {unknown} unknown colours). List every "
            "colour; if there are many, the mask was resized or compressed: export it again"
        )
    return classes


def classes_of_indices(
    indices: NDArray[np.integer[Any]],
    palette: Palette,
    colormap: Palette,
    ignore_index: int,
    name: str,
    key: str = "data.colormap",
) -> NDArray[np.int64]:
    """The classes that the colours of a palette file stand for, int64 (H, W).

    Args:
        indices: uint8 (H, W).
        palette: Colours of the indices, uint8 (n, 3).
        colormap: As for :func:`classes_of_colors`, and all below.
        ignore_index: Mask value without a label.
        name: What messages call the mask.
    """
    pixels = np.bincount(indices.ravel(), minlength=len(palette))
    used = np.flatnonzero(pixels)
    if used.max(initial=0) >= len(palette):
        raise DataError(
            f"{name}: holds the index {used.max()}, but its palette has {len(palette)} colours; "
            "expected a colour for each index. Export the mask again"
        )
    found, wrong = _look_up(palette[used], colormap, ignore_index)
    if wrong.any():
        first = used[wrong][0]
        raise DataError(
            f"{name}: index {first} ({pixels[first]} pixels) has the colour "
            f"{tuple(palette[first].tolist())} in its palette, which is not in {key} "
            f"({wrong.sum()} unknown colours). List every colour; or, if the indices are class "
            f"ids whatever their colours, save the mask as grey PNG, or set {key}=indices"
        )
    table = np.zeros(len(pixels), np.int64)
    table[used] = found
    classes: NDArray[np.int64] = table[indices]
    return classes


def check_grey(
    values: NDArray[np.integer[Any]],
    white: int,
    colormap: Palette,
    ignore_index: int,
    name: str,
    key: str = "data.colormap",
) -> None:
    """Raise a DataError if grey values, taken as colours, would be other classes than as ids.

    Args:
        values: uint8 (H, W).
        white: The value that is shown as white.
        colormap: As for :func:`classes_of_colors`, and all below.
        ignore_index: Mask value without a label.
        name: What messages call the mask.
    """
    used = np.flatnonzero(np.bincount(values.ravel()))
    shown = (used * 255 // white)[:, None].repeat(3, axis=1)
    classes, wrong = _look_up(shown, colormap, ignore_index)
    if not wrong.any() and (classes != used).any():
        raise DataError(
            f"{name}: the mask is grey with the values {', '.join(map(str, used[:8]))}, which "
            f"could be class ids or greys of {key}, and mean other classes then. Save it as RGB "
            f"if they are colours; if all masks are grey, leave {key} out and renumber the values "
            f"with {key.replace('colormap', 'label_map')}"
        )


def _look_up(
    rgb: NDArray[np.integer[Any]], colormap: Palette, ignore_index: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The class of each colour (..., 3), and where there is none."""
    codes, known = _pack(rgb), _pack(colormap)
    ids = np.arange(len(known), dtype=np.int64)
    void = _pack(np.array(VOID_COLOR))
    if void not in known:
        known, ids = np.append(known, void), np.append(ids, ignore_index)
    order = np.argsort(known)
    known, ids = known[order], ids[order]
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    return ids[place], known[place] != codes


def _pack(rgb: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Each colour (..., 3) as one number (...)."""
    wide = rgb.astype(np.int64)
    packed: NDArray[np.int64] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed
