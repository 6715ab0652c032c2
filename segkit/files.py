"""Paths that a user writes or a folder holds: words where the system would raise, or wait for ever.

Every path that is given goes through :func:`user_path`, every file that is there already through
:func:`refuse_special` before it is opened.
"""

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from segkit.errors import DataError, SegkitError

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
