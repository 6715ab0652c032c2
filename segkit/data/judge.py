"""What the items of a split say together: what is an error in none of them alone.

Sums over a split hide it where files disagree, so each mask is compared with all others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segkit.data.colors import VOID_COLOR, Palette
from segkit.data.facts import Facts
from segkit.errors import DataError

# What an EXIF orientation led to.
TURNS = {
    1: "are turned or mirrored as their EXIF orientation says",
    2: "are left as they are stored, against their EXIF orientation: so their masks fit",
}
NAMED = 5  # files that one message names at most
CLIPPED = 0.01  # share of pixels beyond data.range that is worth a word
HALF = 128  # levels: an image that is spread over fewer of the 256 has lost some

Items = Mapping[str, Facts]  # by their names


def compare_palettes(
    found: Mapping[str, list[Any]], what: str = "masks", key: str = "data.colormap"
) -> None:
    """Raise a DataError if palettes of masks disagree about what their indices look like.

    An index must have one colour in all files, and a colour one index, where labelled pixels have
    it. Palettes that say nothing (ramps of greys) are not compared, nor are files without one.

    Args:
        found: ``Facts.palette`` of each file.
        what: What errors call the files.
        key: What says which colour is which class.
    """
    palettes = {name: palette for name, palette in found.items() if palette}
    if len({palette[0] for palette in palettes.values()}) < 2:
        return
    pairs = Counter((i, color) for palette in palettes.values() for i, color in palette[1:])
    first: dict[tuple[int, int], str] = {}
    for name, palette in palettes.items():
        for index, color in palette[1:]:
            first.setdefault((index, color), name)
    # What most files say comes first; whoever contradicts it is named.
    ranked = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
    color_of: dict[int, int] = {}
    index_of: dict[int, int] = {}
    problems = []
    for index, color in ranked:
        start = f"{first[index, color]}: index {index} is {_rgb(color)}; in"
        if index in color_of:
            other = color_of[index]
            problems.append(f"{start} {first[index, other]} it is {_rgb(other)}")
        elif color in index_of:
            other = index_of[color]
            problems.append(f"{start} {first[other, color]} that colour has the index {other}")
        else:
            color_of[index], index_of[color] = color, index
    if problems:
        used = sorted({color for _, color in pairs if _rgb(color) != VOID_COLOR})
        # Apart, not as a list to copy: which of them is which class only the user knows.
        colors = " ".join(str(list(_rgb(color))).replace(" ", "") for color in used)
        more = f"\n  ... and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise DataError(
            f"the {what} have palettes that disagree, so their indices cannot all be class ids:\n"
            + "\n".join(f"  - {problem}" for problem in problems[:NAMED])
            + f"{more}\nSay which colour is which class: '{key}=[...]' with these in the order "
            f"of the classes: {colors}. If the indices are right and only the colours differ: "
            f"{key}=indices"
        )


def compare_with_model(found: Mapping[str, list[Any]], palette: Palette) -> list[str]:
    """A warning if masks give a model's colours to other classes than the model does.

    Args:
        found: ``Facts.palette`` of each file.
        palette: Colours of the model's classes, uint8 (C, 3).
    """
    colors = [int(r) << 16 | int(g) << 8 | int(b) for r, g, b in palette]
    permuted = [
        name
        for name, (_, *pairs) in found.items()
        if {color for _, color in pairs} <= {*colors}
        and any(colors[index : index + 1] != [color] for index, color in pairs)
    ]
    if not permuted:
        return []
    return [
        f"{len(permuted)} masks have the colours that the model was trained with, but at other "
        f"indices ({_named(permuted)}), so their classes are others, unless the colours say nothing"
    ]


def compare_ignored(
    split: str, classes: Sequence[str], items: Items, ignore_index: int
) -> list[str]:
    """Look for masks of 0 and 255 (of ``ignore_index``) among the masks of a split.

    What is ignored because it has no label, such as VOC's borders, lies beside objects. In a mask
    of 0 and 255 it takes their place.

    Returns:
        Warnings.

    Raises:
        DataError: There are two classes, and what is ignored nowhere stands beside an object.
    """
    beside: list[str] = []
    instead: list[str] = []
    without: list[str] = []
    for name, facts in items.items():
        objects = any(facts.pixels[1:])
        if facts.ignored:
            (beside if objects else instead).append(name)
        elif objects:
            without.append(name)
    if not instead or not (beside or without):
        return []
    found = (
        f"{len(instead)} of {len(items)} masks of the {split} split hold {ignore_index}, which is "
        f"ignored, and no class but {classes[0]!r} ({_named(instead)})"
    )
    if len(classes) > 2 or beside:
        return [f"{found}: if they are masks of 0 and {ignore_index}, their objects are ignored"]
    raise DataError(
        f"{found}; {len(without)} hold {classes[1]!r} and nothing ignored ({_named(without)}). "
        f"This looks like masks of 0 and {ignore_index} among masks of 0 and 1, and the objects of "
        f"the former would be ignored: set 'data.label_map={{1: 1, {ignore_index}: 1}}'. If "
        f"{ignore_index} does mean no label: 'data.label_map={{{ignore_index}: ignore}}'"
    )


def notes(split: str, items: Items, value_range: Sequence[float] | None) -> list[str]:
    """What was made of the files of a split, where that may not be what was meant."""
    found = []
    for turn, what in TURNS.items():
        if names := [name for name, facts in items.items() if facts.turn == turn]:
            found.append(_line(names, items, split, "images", what))
    if names := [name for name, facts in items.items() if facts.bands]:
        what = (
            "have bands besides grey or RGB, such as transparency or infrared, that are not used "
            "(data.mean and data.std of as many numbers as bands use them)"
        )
        found.append(_line(names, items, split, "images", what))
    if names := [name for name, facts in items.items() if facts.white_is_zero]:
        what = "are TIFFs that show their 0 as white: the stored numbers count, not the look"
        found.append(_line(names, items, split, "masks", what))
    return found + _level_notes(split, items, value_range)


def _level_notes(split: str, items: Items, value_range: Sequence[float] | None) -> list[str]:
    deep = {name: facts.levels for name, facts in items.items() if facts.levels}
    if not deep:
        return []
    table = np.array(list(deep.values()), np.float64)
    least, most, white = table[:, 0].min(), table[:, 1].max(), table[:, 2].max()
    low, high = (0.0, white) if value_range is None else value_range
    used = (min(most, high) - max(least, low)) / (high - low) * 255
    richest = int(table[:, 3].argmax())
    levels, kept = table[richest, 3:5]
    below, above, pixels = table[:, 5:].sum(axis=0)
    found = []
    if used < HALF and kept < levels:
        limits = f"data.range=[{low:g},{high:g}]" if value_range else f"their type's 0 to {white:g}"
        start = 0 if least >= 0 else int(np.floor(least))
        end = 2 ** int(most).bit_length() - 1 if most >= 1 else 1
        found.append(
            f"{len(deep)} of {len(items)} images of the {split} split hold {least:g} to {most:g} "
            f"of {limits}: of the {levels:.0f} levels of {list(deep)[richest]} only {kept:.0f} are "
            f"left. Set data.range=[{start},{end}], or keep all of them: data.bits=16"
        )
    if below + above > CLIPPED * pixels:
        found.append(
            f"{(below + above) / pixels:.1%} of the pixels of the {split} split lie beyond "
            f"data.range=[{low:g},{high:g}] ({least:g} to {most:g}), and are clipped"
        )
    return found


def _line(names: Sequence[str], items: Items, split: str, kind: str, what: str) -> str:
    return (
        f"{len(names)} of {len(items)} {kind} of the {split} split {what}; the first is {names[0]}"
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _rgb(color: int) -> tuple[int, int, int]:
    return color >> 16, color >> 8 & 255, color & 255
