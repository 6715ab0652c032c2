"""Signals that ask a run to stop: they wait until the step in progress is finished and saved."""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

# Ctrl-C, the usual request to end, and what clusters send some time before they kill (Slurm's
# --signal=USR1@120). Windows has no SIGUSR1.
REQUESTS = [signal.SIGINT, signal.SIGTERM]
WARNINGS = [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
# torchrun passes on to its processes what their whole group has received already: within this time
# in seconds it is the same request.
SAME_REQUEST = 1.0


class StopSignals:
    """While it lasts, SIGTERM, SIGINT and SIGUSR1 are noted and end nothing::

        with StopSignals() as stop:
            for batch in batches:
                ...
                if stop.received is not None:
                    save(...)
                    raise SystemExit(exit_code(stop.received))

    A second SIGINT or SIGTERM, more than a second after the first, stops at once:
    KeyboardInterrupt or SystemExit(143). One after SIGUSR1 is a first: a cluster warns so, and
    follows with SIGTERM while the run is saving.

    Python calls handlers in the main thread only; entered in another one, as some launchers do,
    nothing changes.

    Attributes:
        received: Number of the first signal; None if there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._requested: float | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in REQUESTS + WARNINGS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            # None: it was not installed from Python, and cannot be again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker process that was forked meanwhile; its parent decides
        text = "the step in progress is finished and saved"
        if number in REQUESTS:
            now = time.monotonic()
            if self._requested is not None:
                if now - self._requested < SAME_REQUEST:
                    return
                if number == signal.SIGINT:
                    raise KeyboardInterrupt
                raise SystemExit(exit_code(number))
            self._requested = now
            text += "; a second one stops at once"
        elif self.received is not None:
            return
        if self.received is None:
            self.received = number
        _say(f"{signal.Signals(number).name}: {text}")


class Stopped(Exception):
    """A signal ended the run, whose state is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


def exit_code(number: int) -> int:
    """The conventional exit status of a process that ends because of this signal."""
    return 128 + number


def _say(line: str) -> None:
    # Not by logging: the handler may have interrupted a write to the same buffer, and a second one
    # inside it raises. An unfinished progress bar may stand in the terminal's line.
    with suppress(OSError):  # standard error may be closed
        os.write(2, f"{os.linesep * os.isatty(2)}{line}{os.linesep}".encode())
