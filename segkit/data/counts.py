"""How many pixels each class has, what that says about a data set, and a table of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.data.facts import Facts
from segkit.errors import DataError
from segkit.text import absent_classes


@dataclass(frozen=True)
class Counts:
    """The pixels of one split.

    Attributes:
        pixels: Labelled pixels of each class, int64 (C,).
        ignored: Pixels without a label.
        shows: Which image shows which class, (N, C); None where nobody looked at each.
    """

    pixels: NDArray[np.int64]
    ignored: int
    shows: NDArray[np.bool_] | None = None


def total(items: Iterable[Facts], num_classes: int) -> Counts:
    """The pixels of all items together."""
    found = list(items)
    pixels = np.array([facts.pixels for facts in found], np.int64).reshape(-1, num_classes)
    ignored = sum(facts.ignored for facts in found)
    return Counts(pixels.sum(axis=0), ignored, pixels > 0)


def check_foreground(
    classes: Sequence[str],
    counts: Counts,
    ignore_index: int = 255,
    *,
    split: str = "train",
    trained: bool = True,
    declared: bool = False,
) -> None:
    """Raise a DataError if a split cannot tell two classes apart.

    That is so where nothing is labelled, with masks of 0 and 255, however small the objects (read
    with 255 ignored, they hold one class only), and, of a split to train on, with masks of one
    class alone. What is only scored may show one class: :func:`unseen_classes` says so.

    Args:
        classes: Their names.
        counts: Pixels of each class in the split.
        ignore_index: Value of the pixels without a label.
        split: Its name.
        trained: Whether it is trained on.
        declared: The user says that ``ignore_index`` means no label.
    """
    seen = np.flatnonzero(counts.pixels)
    pixels = int(counts.pixels.sum()) + counts.ignored
    if len(seen) == 0:
        raise DataError(
            f"every pixel of the {split} split is ignored (value {ignore_index}); expected class "
            "ids. Are the masks blank, or those of other images? If it comes from what you set, "
            "correct data.label_map or data.ignore_index"
        )
    binary = counts.ignored > 0 and seen[0] == 0 and not declared
    if len(seen) > 1 or not (trained or (binary and len(classes) == 2)):
        return
    only = f"the {split} split holds the class {classes[seen[0]]!r} only"
    if binary:
        raise DataError(
            f"{only}, and {counts.ignored / pixels:.2%} of its pixels have the value "
            f"{ignore_index}, which is ignored. This looks like masks of 0 and {ignore_index}, "
            f"whose object would be ignored: set 'data.label_map={{{ignore_index}: 1}}'"
        )
    raise DataError(
        f"{only}, of {len(classes)} classes: there is nothing to tell apart. Are the masks blank, "
        "or those of other images? Expected class ids from 0 to "
        f"{len(classes) - 1}; data.train_split names another list, data.label_map renumbers ids"
    )


def unseen_classes(classes: Sequence[str], counts: Mapping[str, Counts]) -> list[str]:
    """One warning per split that lacks classes."""
    warnings = []
    for split, found in counts.items():
        unseen = [name for name, n in zip(classes, found.pixels, strict=True) if n == 0]
        if len(unseen) == len(classes) - 1:
            (only,) = set(classes) - set(unseen)
            warnings.append(
                f"the {split} split holds the class {only!r} only, of {len(classes)}: scores on it "
                f"say nothing of the others, and {only!r} everywhere would score 100 %"
            )
        elif unseen:
            warnings.append(f"no pixel in the {split} split of: {', '.join(unseen)}")
    return warnings


def class_table(classes: Sequence[str], counts: Mapping[str, Counts]) -> str:
    """A text table of the classes with their pixels, and share of the labelled ones, per split.

    Classes without a pixel in any split share one line. The last line has the ignored pixels and
    their share of all.
    """
    occurs = [any(int(c.pixels[index]) for c in counts.values()) for index in range(len(classes))]
    shown = [(index, name) for index, name in enumerate(classes) if occurs[index]]
    absent = [name for name, found in zip(classes, occurs, strict=True) if not found]
    width = max(len(name) for name in [*(name for _, name in shown), "(ignored)"])
    lines = [f" id  {'class':{width}}" + "".join(f"{f'{s} pixels':>16}   share" for s in counts)]
    for index, name in shown:
        cells = (_cell(int(c.pixels[index]), int(c.pixels.sum())) for c in counts.values())
        lines.append(f"{index:>3}  {name:{width}}" + "".join(cells))
    if absent:
        lines.append(f"     {absent_classes(absent)}")
    cells = (_cell(c.ignored, int(c.pixels.sum()) + c.ignored) for c in counts.values())
    lines.append(f"     {'(ignored)':{width}}" + "".join(cells))
    return "\n".join(lines)


def _cell(pixels: int, total: int) -> str:
    return f"{pixels:>16,}{pixels / max(total, 1):>8.2%}"
