"""Remembers which files were checked, so that a second run need not read them again."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from segkit.data.dataset import FileDataset
from segkit.errors import DataError
from segkit.files import atomic_write, special_kind, user_path

VERSION = 3  # raise it with any change of what is checked or stored


class CheckCache:
    """Facts about items whose files and settings have not changed since they were checked.

    Kept in ``$XDG_CACHE_HOME/segkit``, or ``~/.cache/segkit``. No home folder, one that cannot be
    written and a damaged file only mean that everything is checked again.
    """

    def __init__(self, dataset: FileDataset) -> None:
        self.dataset = dataset
        folder = dataset.files(0)[1].absolute().parent
        key = json.dumps([VERSION, class_name(dataset), dataset.fingerprint, str(folder)])
        name = f"check-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        folder_of_caches = cache_folder()
        self.path = None if folder_of_caches is None else folder_of_caches / name
        self.entries = {} if self.path is None else _read(self.path)

    def get(self, index: int) -> Any:
        """What is stored for an item, None if its files are new or changed."""
        entry = self.entries.get("\n".join(map(str, self._paths(index))))
        if not isinstance(entry, dict) or entry.get("stamp") != stamp(self.dataset, index):
            return None
        return entry.get("facts")

    def put(self, index: int, facts: dict[str, Any]) -> None:
        """Remember facts about an item, until :meth:`save` in memory only."""
        key = "\n".join(map(str, self._paths(index)))
        self.entries[key] = {"stamp": stamp(self.dataset, index), "facts": facts}

    def save(self) -> None:
        """Write the file whole or not at all."""
        if self.path is None:
            return
        # On a read-only or full disk the next run checks again.
        with suppress(OSError, DataError), atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.entries), encoding="utf-8")

    def _paths(self, index: int) -> tuple[Path, Path]:
        image, mask = self.dataset.files(index)
        return image.absolute(), mask.absolute()


def class_name(dataset: FileDataset) -> str:
    """Of the class that reads: one derived from it may read something else from the same files."""
    reader = getattr(dataset, "class_of_items", None)  # of a CachedDataset
    reader = reader if isinstance(reader, type) else type(dataset)
    return f"{reader.__module__}.{reader.__qualname__}"


def stamp(dataset: FileDataset, index: int) -> list[int] | None:
    """Size and time of the files of an item; None if one is missing."""
    try:
        stats = [path.stat() for path in dataset.files(index)]
    except OSError:
        return None
    return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]


def cache_folder() -> Path | None:
    """Where segkit keeps what it can compute again; None without a home folder."""
    try:
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "segkit"
    except DataError:
        return None


def _read(path: Path) -> dict[str, Any]:
    if special_kind(path):
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
