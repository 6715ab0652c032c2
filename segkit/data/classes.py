"""Class names and the renumbering of labels, from ``labels.txt`` and the configuration."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segkit.data.label_list import LabelList, parse_labels
from segkit.errors import DataError
from segkit.files import PathLike, refuse_special
from segkit.text import bullet_list


def find_classes(
    labels_file: Path,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    *,
    renumbered: bool = False,
) -> LabelList:
    """The class names in index order from whichever of the three sources speaks.

    With them come the colours, where ``labels_file`` speaks and has some.

    Args:
        labels_file: As :func:`read_labels_file` reads it; need not exist.
        classes: ``data.classes``.
        num_classes: ``data.num_classes``; without names the classes are ``class_0``, ``class_1``...
        renumbered: A label map is in use. ``labels_file`` may then describe the masks before it,
            so ``classes`` and ``num_classes`` need not agree with it.

    Raises:
        DataError: No source speaks, two disagree, or the names are not unique strings.
    """
    if num_classes is not None and not 2 <= num_classes <= 256:
        raise DataError(
            f"data.num_classes is {num_classes}; expected 2 to 256. The background counts, "
            "so one kind of object needs 2"
        )
    if classes is not None:
        _check_names(classes, "data.classes")
        if num_classes not in (None, len(classes)):
            raise DataError(
                f"data.num_classes is {num_classes}, but data.classes has {len(classes)} names. "
                "Leave num_classes out"
            )
    given = classes is not None or num_classes is not None
    if not labels_file.exists() or (given and renumbered):
        if classes is not None:
            return LabelList(list(classes))
        if num_classes is not None:
            return LabelList([f"class_{index}" for index in range(num_classes)])
        raise DataError(
            f"{labels_file}: no such file, so the classes are unknown. Write it (one name per "
            "line, in index order), or set data.classes or data.num_classes"
        )
    found = read_labels_file(labels_file)
    names = found.names
    _check_names(names, str(labels_file))
    if classes is not None and list(classes) != names:
        raise DataError(
            f"{labels_file}: holds the classes {names}, but data.classes is {list(classes)}. "
            "Correct one of them"
        )
    if num_classes not in (None, len(names)):
        raise DataError(
            f"{labels_file}: holds {len(names)} names, but data.num_classes is {num_classes}. "
            "Leave num_classes out, or correct the file"
        )
    return found


def parse_label_map(
    label_map: Mapping[int | str, int | str],
    num_classes: int,
    ignore_index: int,
    *,
    key: str = "data.label_map",
) -> dict[int, int]:
    """The label map with plain ids: keys may be texts, and ``"ignore"`` is ``ignore_index``.

    ``key`` is what errors call it.

    Raises:
        DataError: A key that is no id, or a value that is neither a class, nor ignored.
    """
    plain: dict[int, int] = {}
    for name, value in label_map.items():
        try:
            old = _id(name)
            new = ignore_index if value == "ignore" else _id(value)
        except ValueError:
            old = new = -1
        if not 0 <= old <= 65535 or not (0 <= new < num_classes or new == ignore_index):
            raise DataError(
                f"{key} holds {name!r}: {value!r}; expected an id in the masks, and the "
                f"class that it becomes (0 to {num_classes - 1}) or ignore"
            )
        if old in plain:
            raise DataError(f"{key} lists {old} twice")
        plain[old] = new
    return plain


def read_labels_file(path: PathLike) -> LabelList:
    """What ``labels.txt`` says.

    Raises:
        DataError: It cannot be read, or is no list that is known; see
            :func:`~segkit.data.label_list.parse_labels`.
    """
    return parse_labels(read_lines(path), str(path))


def read_lines(path: PathLike) -> list[str]:
    """The lines of a text file without surrounding blanks; empty lines at its end are left out.

    Raises:
        DataError: It cannot be read, or is no UTF-8 text.
    """
    path = Path(path)
    refuse_special(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark at the start
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    # Not splitlines, which also splits names at rare characters that some fonts do not even show.
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text.rstrip())]
    for number, line in enumerate(lines, 1):
        for mark, what in (("\0", "zero bytes, as UTF-16 has"), ("\ufeff", "a byte order mark")):
            if mark in line:
                raise DataError(f"{path}, line {number}: holds {what}. Save it as plain UTF-8")
    return lines if text.strip() else []


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, and its folder; :func:`read_lines` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def check_lines(ids: Iterable[str], path: Path) -> None:
    """Raise a DataError unless a list can hold these ids, one in each line."""
    bad = [name for name in ids if NO_LINE.search(name)]
    if bad:
        raise DataError(
            f"{path}: {len(bad)} ids hold ends of lines, or bytes that are no UTF-8, which a list "
            f"cannot hold; nothing was written. Rename these files:\n{bullet_list(bad)}"
        )


NO_LINE = re.compile("[\r\n\ud800-\udfff]")  # the latter stand for bytes that are no text


def _check_names(names: Sequence[str], source: str) -> None:
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise DataError(
                f"{source}: class {index} is {name!r}, not a text. YAML reads words such as no, "
                "on or null in its own way: put the name in quotes"
            )
        if not name.strip():
            raise DataError(f"{source}: class {index} has an empty name. Every class needs one")
        if name in names[:index]:
            raise DataError(f"{source}: the name {name!r} stands there twice. Make names unique")
    if not 2 <= len(names) <= 256:
        raise DataError(
            f"{source}: holds {len(names)} names; expected 2 to 256. The background counts, "
            "so one kind of object needs 2"
        )


def _id(value: int | str) -> int:
    if type(value) not in (int, str):  # True and 1.9 would become 1
        raise ValueError(f"{value} is no id")
    return int(value)
