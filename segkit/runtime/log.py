"""The lines that people read: on the console, in ``train.log``, and the progress bar."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from segkit.console import visible

log = logging.getLogger("segkit")
T = TypeVar("T")


def log_to_console(rank: int = 0) -> None:
    """Plain lines on standard output, past the progress bar if there is one, and nowhere else.

    Of several processes the first speaks; the others (``rank`` above 0) only tell their errors.
    """
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    handler = _ConsoleHandler()
    handler.setFormatter(_Formatter(f"[process {rank}] %(message)s" if rank else "%(message)s"))
    log.addHandler(handler)
    # Keeps what is said before there is a run folder, for :func:`log_to_file`.
    log.addHandler(MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL))
    log.setLevel(logging.ERROR if rank else logging.INFO)
    log.propagate = False


class _Formatter(logging.Formatter):
    """Shows what a terminal would obey: names of files and classes may come from anywhere."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _ConsoleHandler(logging.Handler):
    """A reader that is gone (``| head``) or a full disk does not end the run: see ``train.log``."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError:
            # Not only swallowed: Python would try again at its end, and exit with 120.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def log_to_file(path: Path) -> None:
    """All lines since :func:`log_to_console`, and those to come, with their time in ``path``."""
    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    for earlier in list(log.handlers):
        if isinstance(earlier, MemoryHandler):
            earlier.setTarget(file)
        if isinstance(earlier, (MemoryHandler, _LogFile)):
            log.removeHandler(earlier)
            earlier.close()  # hands its lines over
    log.addHandler(file)


class _LogFile(logging.FileHandler):
    """A full disk neither ends the run nor fills the console; the next line tries again."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def progress(
    items: Iterable[T], text: str, total: int | None = None, unit: str = "batches"
) -> Iterator[T]:
    """A bar on a terminal, nothing elsewhere (a log file wants lines), nor in further processes."""
    return iter(tqdm(items, visible(text), total, **_shown(), ncols=80, unit=f" {unit}"))


def bar(items: Iterable[T], text: str, total: int) -> "tqdm[T]":
    """The same for batches of a training, which has more to show behind it than their number."""
    form = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"
    return tqdm(items, visible(text), total, **_shown(), ncols=110, bar_format=form)


def _shown() -> dict[str, bool]:
    hidden = not (sys.stderr.isatty() and log.isEnabledFor(logging.INFO))
    return {"leave": False, "disable": hidden}
