"""Masks that hold class ids already, grey or as indices of a palette: the commonest kind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.data.classes import read_labels_file, read_lines
from segkit.data.colors import class_palette
from segkit.data.decode import load_labels, read_palette
from segkit.data.facts import used_palette
from segkit.data.judge import compare_palettes
from segkit.data.threads import map_parallel
from segkit.errors import DataError
from segkit.files import user_path
from segkit.text import bullet_list
from segkit.tools.formats.annotation import Annotations, Request, check_classes
from segkit.tools.formats.drawing import IGNORE
from segkit.tools.formats.mask_files import items_of, mask_files, one_channel, unused

OTHER = "other"  # in label_map: every id that it does not list
ROBOFLOW = "_classes.csv"


def read_ids(request: Request) -> Annotations:
    """A folder of grey or palette masks, whose numbers are class ids; 255 is ignored.

    ``label_map`` gives ids other classes, by number or by name; with ``first_id`` the classes begin
    there. Without either an id is a class. Names come from ``classes``, from the file ``labels``,
    from ``label_map``, or, beside masks of Roboflow, from its ``_classes.csv``.
    """
    source = user_path(request.source)
    request = _as_roboflow(request, source)
    if request.colors not in (None, "indices"):
        raise DataError(
            f"colors is {request.colors!r}, which is for format=rgb; with format=ids leave it out, "
            "or give colors=indices"
        )
    masks = mask_files(request, source)
    found = _look(list(masks.values()), compare=request.colors is None)
    table = _numbering(request, found)
    if set(found) <= {0, IGNORE} and IGNORE in found and IGNORE not in table.numbers:
        raise DataError(
            f"{source}: holds the ids 0 and 255 alone, and 255 is ignored; masks of 0 and 255 are "
            "format=binary"
        )
    check_classes(table.classes)
    if lost := [value for value in found if value not in table.numbers and value != IGNORE]:
        raise _unlisted(request, table, found, lost)
    if all(table.numbers.get(value, IGNORE) == IGNORE for value in found):
        raise DataError(
            f"{source}: none of the ids {', '.join(map(str, [*found][:10]))} becomes a class, so "
            "all would be ignored; look at label_map and first_id"
        )
    lookup = np.full(1 + max(found), IGNORE, np.uint8)
    for old, new in table.numbers.items():
        if old < len(lookup):
            lookup[old] = new
    items = items_of(request, masks, partial(_draw, lookup))
    first = next(iter(masks.values()))
    palette = class_palette(read_palette(first), table.numbers, len(table.classes), IGNORE)
    return Annotations(table.classes, items, palette, unused(request, [source], items))


@dataclass(frozen=True)
class _Numbering:
    """Class names, and the class of each id, 255 for those to ignore."""

    classes: list[str]
    numbers: Mapping[int, int]


def _draw(lookup: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    drawn: NDArray[np.uint8] = lookup[_read(path)]
    return drawn


def _read(path: Path) -> NDArray[np.integer[Any]]:
    values = one_channel(load_labels(path).numbers, path, "class ids in one channel")
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise DataError(f"{path}: values from {low} to {high}; expected class ids of 0 to 65535")
    return values


def _look(paths: Sequence[Path], *, compare: bool) -> dict[int, int]:
    """How many pixels have each id, by id; ``compare``: palettes must agree.

    Raises:
        DataError: A file is no mask, or palettes contradict each other.
    """

    def look(path: Path) -> tuple[dict[int, int], list[Any]]:
        values = _read(path)
        ids, counts = np.unique(values, return_counts=True)
        stored = load_labels(path)
        palette = used_palette(stored, values != IGNORE)
        return dict(zip(ids.tolist(), counts.tolist(), strict=True)), palette

    looked = map_parallel(look, paths, "look for ids")
    if compare:
        palettes = {str(path): one[1] for path, one in zip(paths, looked, strict=True)}
        try:
            compare_palettes(palettes)
        except DataError as error:
            found = str(error).partition("\nSay which")[0]
            raise DataError(
                f"{found}\nIf the colours are what counts: "
                "format=rgb 'colors={NAME: [r,g,b], ...}'. If the indices are right and only the "
                "colours differ: colors=indices"
            ) from None
    total: Counter[int] = Counter()
    for counts, _ in looked:
        total.update(counts)
    return dict(sorted(total.items()))


def _names(request: Request) -> list[str] | None:
    if request.labels is not None and request.classes is not None:
        raise DataError("labels and classes both name the classes; leave out one of them")
    if request.labels is not None:
        return read_labels_file(user_path(request.labels)).names
    return request.classes


def _numbering(request: Request, found: Mapping[int, int]) -> _Numbering:
    names = _names(request)
    if request.label_map is not None:
        if request.first_id:
            raise DataError("first_id and label_map both renumber the ids; leave out one of them")
        return _mapped(request, request.label_map, names, found)
    first = request.first_id
    last = max((value for value in found if value != IGNORE), default=0)
    classes = names or [f"class_{number}" for number in range(max(0, last - first) + 1)]
    if wrong := [name for name in request.ignore if name not in classes]:
        raise DataError(
            f"ignore={wrong}: no name of an id; expected some of {', '.join(classes[:20])}. Names "
            "come from classes, labels or label_map"
        )
    kept = [name for name in classes if name not in request.ignore]
    numbers = dict.fromkeys(range(first), IGNORE)
    numbers |= {
        first + number: kept.index(name) if name in kept else IGNORE
        for number, name in enumerate(classes)
    }
    return _Numbering(kept, numbers)


def _mapped(
    request: Request,
    label_map: Mapping[Any, Any],
    names: list[str] | None,
    found: Mapping[int, int],
) -> _Numbering:
    """What ``label_map`` says: ids to class ids, names, or ``ignore``."""
    ignored = {"ignore", *request.ignore}
    named = [value for value in label_map.values() if isinstance(value, str)]
    named = [value for value in dict.fromkeys(named) if value not in ignored]
    numbers = [value for value in label_map.values() if type(value) is int]
    if named and numbers:
        raise DataError(
            f"label_map holds names ({named[0]}) and numbers ({numbers[0]}); expected one kind"
        )
    classes = names or named or [f"class_{k}" for k in range(1 + max(numbers, default=0))]

    def number(value: Any) -> int:
        if isinstance(value, str) and value in ignored:
            return IGNORE
        if isinstance(value, str) and value in classes:
            return classes.index(value)
        if type(value) is int and (0 <= value < len(classes) or value == IGNORE):
            return value
        raise DataError(
            f"label_map holds the class {value!r}; expected one of {', '.join(classes[:20])}, a "
            f"number of 0 to {len(classes) - 1}, or ignore"
        )

    plain: dict[int, int] = {}
    for key, value in label_map.items():
        if key == OTHER:
            continue
        if not str(key).isdecimal() or not 0 <= int(key) <= 65535 or int(key) in plain:
            raise DataError(
                f"label_map holds the id {key!r}; expected each id once, 0 to 65535, or {OTHER}"
            )
        plain[int(key)] = number(value)
    if OTHER in label_map:
        rest = number(label_map[OTHER])
        plain |= {value: rest for value in found if value not in plain and value != IGNORE}
    return _Numbering(classes, plain)


def _unlisted(
    request: Request, table: _Numbering, found: Mapping[int, int], lost: Sequence[int]
) -> DataError:
    ids = bullet_list([f"{value}: {found[value]:,} pixels" for value in lost])
    if request.label_map is not None:
        way_out = f"Add them, with a class or ignore, or {OTHER}: ignore for all"
        return DataError(f"label_map lacks {len(lost)} ids that occur:\n{ids}\n{way_out}")
    return DataError(
        f"{len(lost)} ids occur that are no class of the {len(table.classes)} in classes "
        f"({request.first_id} to {request.first_id + len(table.classes) - 1}, and 255):\n{ids}\n"
        "Name more classes, or say what each id is: 'label_map={0: NAME, 1: NAME, other: ignore}'"
    )


def _as_roboflow(request: Request, source: Path) -> Request:
    """With the keys that follow from ``_classes.csv``, if it is there and they are not set."""
    file = source / ROBOFLOW
    if not file.is_file() or request.classes or request.labels or request.label_map:
        return request
    rows = [line.partition(",") for line in read_lines(file)[1:] if line]
    try:
        label_map = {int(number): name.strip() for number, _, name in rows}
    except ValueError:
        label_map = {}
    if not label_map or len(label_map) < len(rows) or not all(label_map.values()):
        raise DataError(f"{file}: expected a head, and lines of a number and a name: 1, cat")
    return replace(
        request,
        label_map=label_map,
        images=request.images or request.source,
        mask_suffix=request.mask_suffix or "_mask",
    )
