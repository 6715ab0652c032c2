"""Pairs of paths that a list or a table names: a row for each image with its mask."""

import csv
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.data.classes import read_lines
from segkit.data.named_files import stem_of
from segkit.data.pairs import Pairs
from segkit.errors import DataError
from segkit.files import is_file

COLUMNS = ("image", "mask", "split")


@dataclass(frozen=True)
class Row:
    """A row of a table: where it stands, its two paths as they are written, and its split."""

    number: int
    image: str
    mask: str
    split: str | None = None


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file with a head: ``image``, ``mask`` and, perhaps, ``split``.

    Columns may stand in any order, among others, and be divided by commas, semicolons or tabs.

    Raises:
        DataError: Another head, no row, a row without an image, a mask or a split.
    """
    lines = read_lines(path)
    head = lines[0] if lines else ""
    mark = max(",;\t", key=head.count)
    names = [name.lower() for name in _cells(head, mark, f"{path}, line 1")]
    if not {"image", "mask"} <= {*names} or len(set(names)) < len(names):
        raise DataError(
            f"{path}, line 1: {head[:80]!r} is not the head of a list of pairs; expected the names "
            "of the columns, among them image and mask, and split where it divides: "
            "image,mask,split"
        )
    rows, problems = [], []
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        values = _cells(line, mark, f"{path}, line {number}")
        cells = dict(zip(names, values, strict=False))
        empty = [name for name in COLUMNS if name in names and not cells.get(name)]
        if empty or len(values) > len(names):
            what = f"has no {empty[0]}" if empty else f"has {len(values)} columns"
            problems.append(f"line {number} {what}: {line[:80]!r}")
        else:
            rows.append(Row(number, cells["image"], cells["mask"], cells.get("split")))
    if problems:
        raise DataError(
            f"{path}: {len(problems)} rows are not as its head says ({', '.join(names)}); the "
            f"first: {problems[0]}"
        )
    if not rows:
        raise DataError(f"{path}: holds no row below its head; expected one for each image")
    return rows


def _cells(line: str, mark: str, where: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=mark), [])]
    except csv.Error as error:  # a cell of more than 131,072 characters
        raise DataError(f"{where}: is no row of a table ({error})") from None


def find_rows(
    rows: Sequence[Row],
    path: Path,
    folders: Sequence[Path | None],
    image_suffix: str | None = None,
) -> tuple[Pairs, list[str]]:
    """The files of the rows by their ids, and what is wrong with the others.

    An id is the image's path without its type: as it is written, or below the folder of the images.

    Args:
        rows: Of ``path``.
        path: The list or table. Relative paths start at its folder, or at one of the folders.
        folders: Of the images and of the masks, each None where it is not known.
        image_suffix: End of image names that ids lack.
    """
    pairs: Pairs = {}
    problems: list[str] = []
    seen: dict[str, int] = {}
    for row in rows:
        files = [
            _find(text, path.parent, folder)
            for text, folder in zip((row.image, row.mask), folders, strict=True)
        ]
        lost = [
            f"{path}, line {row.number}: {text}: no such {kind}"
            for text, kind, file in zip((row.image, row.mask), COLUMNS, files, strict=False)
            if file is None
        ]
        image, mask = files
        if lost or image is None or mask is None:
            problems += lost
            continue
        name = _name(image, [folders[0], path.parent], image_suffix)
        if name in seen:
            problems.append(
                f"{path}, line {row.number}: the image {row.image} has the id {name}, as that of "
                f"line {seen[name]}. Keep each once, or rename one"
            )
        elif image == mask:
            problems.append(f"{path}, line {row.number}: image and mask are one file, {row.image}")
        else:
            pairs[name] = image, mask
        seen.setdefault(name, row.number)
    return pairs, problems


def _find(text: str, base: Path, folder: Path | None) -> Path | None:
    """The file that a path means: below its folder, the list's, or the one above its folder."""
    plain = text.replace("\\", "/")
    starts = [folder, base, folder.parent] if folder else [base]
    return next((file for file in _candidates(plain, starts) if is_file(file)), None)


def _candidates(text: str, starts: Sequence[Path]) -> Iterator[Path]:
    if Path(text).is_absolute():
        yield Path(text)
    for start in starts:  # some lists begin with a slash, or with the name of the root
        plain = text.lstrip("/")
        yield start / plain
        yield start / plain.removeprefix(f"{start.name}/")


def _name(image: Path, starts: Sequence[Path | None], suffix: str | None) -> str:
    stem = stem_of(image.name, suffix) or image.stem
    for start in starts:
        if start is not None and image.is_relative_to(start):
            inside = posixpath.normpath((image.parent.relative_to(start) / stem).as_posix())
            if not inside.startswith(".."):
                return inside
    return stem
