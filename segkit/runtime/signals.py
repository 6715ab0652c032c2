"""Signals that ask a run to stop: they wait until the step in progress is finished and saved."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from segkit.ending import REQUESTS, SAME_REQUEST, ending, exit_code, say

__all__ = ["REQUESTS", "SAME_REQUEST", "WARNINGS", "StopSignals", "Stopped", "exit_code"]

# What clusters send some time before they kill (Slurm's --signal=USR1@120); not on Windows.
WARNINGS = [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []


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

    Args:
        begun: Whether there is something to finish from the start. Otherwise the first signal
            before :meth:`begin` stops at once.

    Attributes:
        received: Number of the first signal; None if there was none.
    """

    def __init__(self, *, begun: bool = True) -> None:
        self.received: int | None = None
        self.begun = begun
        self._requested: float | None = None
        self._watched: float | None = None
        self._ended = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """From here on a signal waits until the step in progress is finished."""
        self.begun = True

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in REQUESTS + WARNINGS:
                self._before[number] = signal.signal(number, self._note)
            ending.is_patient = self._is_patient
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before:
            ending.is_patient = None
        for number, handler in self._before.items():
            # None: it was not installed from Python, and cannot be again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker process that was forked meanwhile; its parent decides
        if not self.begun:
            self._stop(number, "stopped before the first step")
            return
        text = "the step in progress is finished and saved"
        if number in REQUESTS:
            now = time.monotonic()
            if self._requested is not None:
                if now - self._requested >= SAME_REQUEST:
                    self._stop(number)
                return
            self._requested = now
            text += "; a second one stops at once"
        elif self.received is not None:
            return
        if self.received is None:
            self.received = number
        say(f"{signal.Signals(number).name}: {text}")

    def _stop(self, number: int, text: str | None = None) -> None:
        """Raise what ends the program; once, so that its end in order is not disturbed."""
        if self._ended:
            return
        self._ended = True
        if text is None:
            ending.received = number
        else:
            ending.note(number, text)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(exit_code(number))

    def _is_patient(self) -> bool:
        """The same in another thread, which sees a signal even while the main one hangs."""
        now = time.monotonic()
        if self.begun and self._watched is None:
            self._watched = now
        return self._watched is not None and now - self._watched < SAME_REQUEST


class Stopped(Exception):
    """A signal ended the run, whose state is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number
