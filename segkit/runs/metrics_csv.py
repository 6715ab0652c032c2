"""``metrics.csv``: the lines of ``metrics.jsonl`` as a table, for spreadsheets."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.files import CSVTable, atomic_write
from segkit.runtime.log import log


class MetricsTable:
    """One row an epoch; every row has all columns, in the order in which values first came.

    It is made of ``metrics.jsonl``, so nothing is lost with it: where a value comes late, as the
    scores of the first validation may, or a write failed, it is written anew.

    Args:
        folder: The run folder, with a ``metrics.jsonl`` that ends where the run goes on.
    """

    def __init__(self, folder: Path) -> None:
        self.lines, self.path = folder / "metrics.jsonl", folder / "metrics.csv"
        self.columns: list[str] = []
        self._warned = False
        if read_epochs(self.lines) or self.path.exists():
            self._guarded(None)

    def add(self, line: Mapping[str, Any]) -> None:
        """The line that was added to ``metrics.jsonl``."""
        self._guarded(line)

    def _guarded(self, line: Mapping[str, Any] | None) -> None:
        try:
            if line is not None and line.keys() <= set(self.columns):
                with self.path.open("a", newline="", encoding="utf-8") as file:
                    CSVTable(file).add([line.get(name) for name in self.columns])
            else:
                self._write_all()
        except Exception as error:  # a class name that is no UTF-8, say
            self.columns = []  # a part of a row may be there
            if not self._warned:
                what = getattr(error, "strerror", None) or error
                log.warning("%s: not written (%s); metrics.jsonl is", self.path, what)
            self._warned = True

    def _write_all(self) -> None:
        lines = read_epochs(self.lines)
        columns = list(dict.fromkeys(name for line in lines for name in line))
        with (
            atomic_write(self.path) as path,
            path.open("w", newline="", encoding="utf-8") as file,
        ):
            table = CSVTable(file)
            table.add(columns)
            for line in lines:
                table.add([line.get(name) for name in columns])
        self.columns = columns


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``; none if there is no such file. A torn one is left out."""
    lines = []
    for text in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines += [line] if isinstance(line, dict) and "epoch" in line else []
    return lines
