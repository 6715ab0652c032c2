"""What a split file says: ids, VOC's and Oxford Pet's columns, pairs of paths; or why it says none.

Ids also name the files of predictions, so there is one way to write each: ``a``, not ``./a``.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from segkit.errors import DataError
from segkit.text import bullet_list

_FILE = r"\.(?:jpe?g|png|bmp|tiff?|webp|gif|npy)"
_PAIR = re.compile(rf"(.+?{_FILE})(?:\s*[,;|]\s*|\s+)(\S.*{_FILE})", re.IGNORECASE)
# VOC's lists of a class: 1, 0 (difficult) or -1. Oxford Pet's: class, species and breed.
_COLUMNS = (re.compile(r"(\S.*?)\s+-?[01]"), re.compile(r"(\S.*?)\s+\d+\s+\d+\s+\d+"))


def is_split_name(value: object) -> bool:
    """Whether a split may have this name, which also names files that must not land elsewhere."""
    if not isinstance(value, str) or not value.strip() or len(value) > 200:
        return False
    if not value.isprintable() or "\\" in value:
        return False
    return not _points_out(value)


def list_file(folder: Path, split: str) -> Path:
    """Where the ids of a split are listed.

    Raises:
        DataError: The name of the split leads to another folder.
    """
    if not is_split_name(split):
        raise DataError(
            f"{split!r} is no name of a split; expected the name of a file in {folder} without "
            ".txt, such as train"
        )
    return folder / f"{split}.txt"


def _points_out(name: str) -> bool:
    """Whether a name below a folder would be a place outside of it."""
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def parse_split(
    lines: Sequence[str], path: Path, folders: tuple[Path, Path], is_there: Callable[[str], bool]
) -> dict[str, int]:
    """The ids of a split with the numbers of their lines, in the order of the file.

    Args:
        lines: The file's lines, without outer blanks; blank ones are skipped.
        path: The file, for errors.
        folders: Folder of the images and folder of the masks, which pairs of paths must name.
        is_there: Whether there is an image with this id, which says what a blank in a line means.

    Raises:
        DataError: No id, one twice, one that points out of the folder, or pairs of paths other
            than those of ids.
    """
    rows = [(number, line) for number, line in enumerate(lines, 1) if line]
    if not rows:
        raise DataError(f"{path}: holds no id; expected one per line")
    if all(_PAIR.fullmatch(line) for _, line in rows):
        names = list(_ids_of_pairs(rows, path, folders))
    else:
        texts = [line for _, line in rows]
        names = [_plain(text) for text in _without_columns(texts, is_there)]
    seen: dict[str, int] = {}
    twice: dict[int, str] = {}
    problems = []
    for (number, line), name in zip(rows, names, strict=True):
        if _points_out(name):
            problems.append(
                f"{path}: the id {line!r} points out of the folder of the images (line {number}). "
                "Write it without .. and without / at its start"
            )
        if name in seen:
            twice[number] = name
        seen.setdefault(name, number)
    if twice:
        lines_of_them = ", ".join(map(str, [*twice][:10]))
        problems.append(
            f"{path}: {len(twice)} ids stand there more than once; keep each once (again in line "
            f"{lines_of_them}):\n{bullet_list(list(twice.values()))}"
        )
    if problems:
        raise DataError("\n".join(problems))
    return seen


def parse_pairs(lines: Sequence[str]) -> list[tuple[int, str, str]] | None:
    """Number of each line, its image and its mask, where all lines hold two paths; else None."""
    rows = [(number, _PAIR.fullmatch(line)) for number, line in enumerate(lines, 1) if line]
    found = [(number, pair[1], pair[2]) for number, pair in rows if pair]
    return found if found and len(found) == len(rows) else None


def hint(line: str) -> str | None:
    """What a line seems to be whose image is not there, and what to write; None if no idea."""
    if found := _PAIR.fullmatch(line):
        name = Path(found[1]).stem
        return (
            f"two paths, expected an id: write {name}, with the image as "
            f"JPEGImages/{name}{Path(found[1]).suffix} and the mask as SegmentationClass/{name}.png"
        )
    if re.match(r"#|//", line):
        return "a comment? delete the line, a list holds ids only"
    if re.match(r"""[\[\]{}"'<]|- |---""", line):
        return "no plain list: write one id per line, without quotes and brackets"
    if "\\" in line:
        return f"write / for \\: {line.replace(chr(92), '/')}"
    if found := re.match(r"(.+?)\s*[,;\t|]", line):
        return f"more columns than one: write {Path(found[1]).stem} alone"
    if found := re.fullmatch(r"(\S+)(\s+-?\d+(\.\d+)?)+", line):
        return f"more columns than one: write {found[1]} alone"
    if re.search(rf"{_FILE}$", line, re.IGNORECASE):
        inside = re.sub(r"^(.*/)?JPEGImages/", "", line)
        return f"an id has no suffix and no folder JPEGImages: write {inside.rpartition('.')[0]}"
    return None


def _without_columns(lines: Sequence[str], is_there: Callable[[str], bool]) -> Sequence[str]:
    """The lines without VOC's or Oxford Pet's columns, where every line has them.

    Names such as ``img 1`` end like one: they stay where there are such images, or where without
    their numbers they would be the same.
    """
    if any(map(is_there, lines)):
        return lines
    fitting = []
    for pattern in _COLUMNS:
        found = [pattern.fullmatch(line) for line in lines]
        names = [match[1] for match in found if match]
        if len(names) == len(lines) and len(set(names)) == len(set(lines)):
            fitting.append(names)
    # One column of numbers or three: images say which, where both would fit.
    return next((names for names in fitting if any(map(is_there, names))), [*fitting, lines][0])


def _ids_of_pairs(
    rows: Sequence[tuple[int, str]], path: Path, folders: tuple[Path, Path]
) -> Iterator[str]:
    problems = []
    for number, line in rows:
        found = _PAIR.fullmatch(line)
        assert found is not None
        inside = [
            _inside(text, folder) for text, folder in zip(found.groups(), folders, strict=True)
        ]
        if None in inside or inside[0] != inside[1]:
            problems.append(f"line {number}: {line!r}: {hint(line)}")
        elif lost := [file for file in map(_file, found.groups(), folders) if not file.exists()]:
            problems.append(f"line {number}: {lost[0]}: no such file")
        else:
            yield str(inside[0])
    if problems:
        raise DataError(
            f"{path}: {len(problems)} lines hold two paths that are not those of an id. Expected "
            "one id per line, or JPEGImages/ID.jpg SegmentationClass/ID.png where these files are "
            f"there:\n{bullet_list(problems)}"
        )


def _inside(text: str, folder: Path) -> str | None:
    """The path below ``folder``, without suffix; None if ``text`` names another folder."""
    file = _file(text, folder)
    if not file.is_relative_to(folder):
        return None
    return file.relative_to(folder).with_suffix("").as_posix()


def _file(text: str, folder: Path) -> Path:
    """What a path of a list means: from the root, where some lists begin with a slash or its name.

    A path that is absolute already may lie in the root as well.
    """
    root = folder.parent
    plain = _plain(text)
    if Path(plain).is_relative_to(root):
        return Path(plain)
    plain = plain.lstrip("/")
    return root / plain.removeprefix(f"{root.name}/")


def _plain(name: str) -> str:
    """Without ``.`` and doubled slashes. What holds ``..`` stays: a link may change its meaning."""
    return name if ".." in PurePosixPath(name).parts else posixpath.normpath(name)
