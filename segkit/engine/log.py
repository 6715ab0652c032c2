"""What a run writes while it goes on: lines for people, ``metrics.jsonl``, TensorBoard."""

import json
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

log = logging.getLogger("segkit")
T = TypeVar("T")


def log_to_console() -> None:
    """Plain lines on standard output, past the progress bar if there is one, and nowhere else."""
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    handler = _ConsoleHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    # Keeps what is said before there is a run folder, for :func:`log_to_file`.
    log.addHandler(MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL))
    log.setLevel(logging.INFO)
    log.propagate = False


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def log_to_file(path: Path) -> None:
    """All lines since :func:`log_to_console`, and those to come, with their time in ``path``."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for earlier in [handler for handler in log.handlers if isinstance(handler, MemoryHandler)]:
        earlier.setTarget(file)
        log.removeHandler(earlier)
        earlier.close()  # hands its lines over
    log.addHandler(file)


def progress(items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
    """A bar on a terminal, nothing elsewhere (a log file wants lines)."""
    return iter(tqdm(items, text, total, leave=False, disable=not sys.stderr.isatty(), ncols=80))


class RunLog:
    """Scalars to ``metrics.jsonl``, and with pictures and text to TensorBoard.

    ``metrics.jsonl`` is always written. TensorBoard is a convenience: if it cannot be imported or
    written, that is said once and the run goes on.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics = folder / "metrics.jsonl"
        self.writer: Any = None
        try:
            from torch.utils.tensorboard.writer import SummaryWriter

            self.writer = SummaryWriter(folder / "tensorboard")
        except (ImportError, OSError) as error:
            log.warning("TensorBoard is not written (%s); metrics.jsonl is", error)

    def epoch(self, values: Mapping[str, float | None]) -> None:
        """One line of ``metrics.jsonl``; what is not a finite number becomes null."""
        line = {
            name: None if isinstance(v, float) and not math.isfinite(v) else v
            for name, v in values.items()
        }
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Curves; None leaves a gap."""
        for name, value in values.items():
            if value is not None:
                self._write("add_scalar", name, value, step)

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """uint8 (H, W, 3)."""
        self._write("add_image", name, picture, step, dataformats="HWC")

    def text(self, name: str, text: str) -> None:
        """Markdown."""
        self._write("add_text", name, text)

    def close(self) -> None:
        self._write("close")

    def _write(self, method: str, *values: object, **options: str) -> None:
        if self.writer is None:
            return
        try:
            getattr(self.writer, method)(*values, **options)
        except OSError as error:  # the disk is full, say
            self.writer = None
            log.warning("TensorBoard stops here (%s); metrics.jsonl goes on", error)
