"""Paths that a user writes or a folder holds: words where the system would raise, or wait for ever.

Every path that is given goes through :func:`user_path`, every file that is there already through
:func:`refuse_special` before it is opened.
"""

import csv
import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from segkit.errors import CheckpointError, DataError, SegkitError

PathLike = str | os.PathLike[str]

SPECIAL = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# Two letters or more: one is a drive of Windows. pathlib makes one slash of two.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def user_path(path: PathLike) -> Path:
    """The path that a user means, with ``~`` and ``~name`` replaced by the home folder.

    Raises:
        DataError: There is no such home folder, as in a container without HOME; or the path is the
            address of a store on the network, which would become a folder of that name.
    """
    text = os.fspath(path)
    if problem := path_problem(text):
        raise DataError(f"{text}: {problem}")
    # Not Path(text).expanduser(), which raises where there is no home folder.
    return Path(os.path.expanduser(text))  # noqa: PTH111


def path_problem(text: str) -> str | None:
    """Why a text names no file or folder of this machine, and the way out; None if it does."""
    if "\0" in text:
        return "holds a zero byte, which no path can"
    if found := _ADDRESS.match(text):
        return (
            f"an address ({found[1]}:), not a path of this machine: segkit reads and writes local "
            f"files only. Copy or mount it, and give that folder; one that is called so is ./{text}"
        )
    name = text.partition("/")[0]
    found_home = Path(os.path.expanduser(name)).is_absolute()  # noqa: PTH111
    if name == "~" and os.environ.get("HOME") == "":
        found_home = False  # it would be the root of the disk
    if not text.startswith("~") or found_home:
        return None
    if name == "~":
        why = "there is no home folder: HOME is not set, and the system does not know this user"
    else:
        why = f"there is no user {name[1:]} with a home folder here"
    return f"{why}. Write the path in full; a folder that is called so is ./{text}"


def special_kind(path: PathLike) -> str | None:
    """What a path names that is neither a file nor a folder, as a FIFO; else None.

    To open a FIFO waits for somebody who writes, and a device may never end.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None  # whoever opens it says why that fails
    return next((words for is_it, words in SPECIAL if is_it(mode)), None)


def refuse_special(path: PathLike, error: type[SegkitError] = DataError) -> None:
    """Raise ``error`` if ``path`` is no regular file, but a FIFO, a socket or a device."""
    if kind := special_kind(path):
        raise error(
            f"{path}: is {kind}, not a file: reading it may wait for ever. Write what it gives "
            "into a file, and use that"
        )


def is_file(path: Path) -> bool:
    """Whether there is such a file; no path has a name with a zero byte, or of 300 letters."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def make_folder(folder: Path) -> list[Path]:
    """Make a folder with its parents; returns those that were not there, the innermost first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove what :func:`make_folder` made, where nothing was written to it."""
    for folder in folders:
        with suppress(OSError):  # not empty
            folder.rmdir()


# A folder or its rights stand in the way, or the name is too long; other disk trouble meets all.
PATH_ERRNOS = {
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM),
}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name to write to; the file gets the name ``path`` at the end, if nothing was raised.

    If something was, folders that were made for it go away again.

    Raises:
        CheckpointError: What was raised in between, with ``path`` in front.
        DataError: There can be no file of this name.
    """
    # Of this process alone: another one may write the same file.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    made: list[Path] = []
    try:
        made = make_folder(path.parent)
        yield temporary
        temporary.replace(path)
    except CheckpointError as error:
        text = str(error).removeprefix(f"{temporary}: ")
        raise CheckpointError(f"{path}: {text}. Nothing was written") from error
    except OSError as error:
        if error.errno not in PATH_ERRNOS:
            raise
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        remove_empty(made)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON: null where a score is not defined, never NaN."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a line of names; see :class:`CSVTable`."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = CSVTable(file)
        table.add(header)
        for row in rows:
            table.add(row)


class CSVTable:
    """Rows of a CSV file that a spreadsheet may open.

    A text that it would take for a formula (``=``, ``+``, ``-``, ``@``, a tab or an end of a line
    in front) gets an apostrophe in front; texts that are numbers, as ``-0.5``, stay.
    """

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file)

    def add(self, row: Iterable[object]) -> None:
        self._writer.writerow([_cell(value) for value in row])


NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def _cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n") and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value
