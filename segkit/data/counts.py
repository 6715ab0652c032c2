"""How many pixels each class has, what that says about a data set, and a table of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.errors import DataError


@dataclass(frozen=True)
class Counts:
    """The pixels of one split.

    Attributes:
        pixels: Labelled pixels of each class, int64 (C,).
        ignored: Pixels without a label.
    """

    pixels: NDArray[np.int64]
    ignored: int


def check_foreground(classes: Sequence[str], counts: Counts, ignore_index: int = 255) -> None:
    """Raise a DataError if training could not tell two classes apart.

    That is so where nothing is labelled, and with masks of 0 and 255, however small the objects:
    read with 255 ignored, they hold one class only.
    """
    seen = np.flatnonzero(counts.pixels)
    total = int(counts.pixels.sum()) + counts.ignored
    if len(seen) == 0:
        raise DataError(
            f"every pixel of the train split is ignored (value {ignore_index}); expected class "
            "ids. Renumber the masks with data.label_map or set data.ignore_index"
        )
    if len(seen) == 1 and counts.ignored:
        raise DataError(
            f"the train split holds the class {classes[seen[0]]!r} only, and "
            f"{counts.ignored / total:.2%} of its pixels have the value {ignore_index}, which is "
            "ignored. This looks like masks of 0 and 255, whose object would be ignored: "
            f"set 'data.label_map={{{ignore_index}: 1}}'"
        )


def unseen_classes(classes: Sequence[str], counts: Mapping[str, Counts]) -> list[str]:
    """One warning per split that lacks classes."""
    warnings = []
    for split, found in counts.items():
        unseen = [name for name, n in zip(classes, found.pixels, strict=True) if n == 0]
        if unseen:
            warnings.append(f"no pixel in the {split} split of: {', '.join(unseen)}")
    return warnings


def class_table(classes: Sequence[str], counts: Mapping[str, Counts]) -> str:
    """A text table of the classes with their pixels, and share of the labelled ones, per split.

    The last line has the ignored pixels and their share of all.
    """
    width = max(len(name) for name in [*classes, "(ignored)"])
    lines = [f" id  {'class':{width}}" + "".join(f"{f'{s} pixels':>16}   share" for s in counts)]
    for index, name in enumerate(classes):
        cells = (_cell(int(c.pixels[index]), int(c.pixels.sum())) for c in counts.values())
        lines.append(f"{index:>3}  {name:{width}}" + "".join(cells))
    cells = (_cell(c.ignored, int(c.pixels.sum()) + c.ignored) for c in counts.values())
    lines.append(f"     {'(ignored)':{width}}" + "".join(cells))
    return "\n".join(lines)


def _cell(pixels: int, total: int) -> str:
    return f"{pixels:>16,}{pixels / max(total, 1):>8.2%}"
