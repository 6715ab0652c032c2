"""Other programs that follow a run, ``trainer.loggers=[wandb]``: one hook, and a file for each.

They are asked nothing: whatever they raise is said once, they are left out from then on, and the
run goes on. What they need beside it, as addresses, keys and offline modes, they read from their
own environment variables.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from segkit.files import write_json
from segkit.runs.metrics_log import one_line
from segkit.runtime.log import log

PROJECT = "segkit"
"""What runs are put under where the environment names nothing."""
KEYS = "loggers.json"  # in the run folder: under which key each logger knows the run


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run at its start.

    Attributes:
        folder: The run folder.
        config: The resolved configuration as builtins.
        settings: The few of it that runs are compared by.
        key: What the same logger called the run before it was resumed; None if it begins.
    """

    folder: Path
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    key: str | None = None


class Logger(Protocol):
    """Made with a :class:`LoggedRun`.

    Attributes:
        key: What goes on with the same external run after a resume.
    """

    key: str

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Finite numbers by log name, after optimizer step ``step``."""

    def finish(self, results: Mapping[str, float], failed: bool) -> None:
        """The end: the best scores if there are any, and whether an error ended the run."""


class Loggers(AbstractContextManager["Loggers"]):
    """All loggers of a run, guarded; as a context it tells them of its end.

    Args:
        names: Of ``segkit.training.loggers``; none in all processes but the first.
        run: What they are told.
        goes_on: Whether the run goes on from a checkpoint; else an external run that ended before
            the first one was another run.
    """

    def __init__(self, names: Sequence[str], run: LoggedRun, *, goes_on: bool = True) -> None:
        self.file, self.active = run.folder / KEYS, dict[str, Logger]()
        self.results: Mapping[str, float | None] = {}
        keys = _read_keys(self.file) if names and goes_on else {}
        for name in dict.fromkeys(names):
            self._guarded(name, partial(self._start, name, run, keys))

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Values by log name; what is not a finite number is left out."""
        if not self.active:
            return
        finite = _finite(values)
        for name, logger in list(self.active.items()):
            self._guarded(name, partial(logger.scalars, finite, step))

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        results = _finite({f"best/{name}": value for name, value in self.results.items()})
        for name, logger in list(self.active.items()):
            self._guarded(name, partial(logger.finish, results, kind is not None))

    def _start(self, name: str, run: LoggedRun, keys: dict[str, str]) -> None:
        make = import_module(f"{__name__}.{name}").make
        told = LoggedRun(run.folder, run.config, run.settings, keys.get(name))
        self.active[name] = make(told)
        keys[name] = self.active[name].key
        write_json(self.file, keys)

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self.active.pop(name, None)
            log.warning(
                "%s stops here (%s: %s); the run goes on",
                name,
                type(error).__name__,
                one_line(error),
            )


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {n: float(v) for n, v in values.items() if v is not None and math.isfinite(v)}


def _read_keys(file: Path) -> dict[str, str]:
    """Keys of before a resume; none of a file that is damaged: the runs begin anew then."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): str(key) for name, key in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}
