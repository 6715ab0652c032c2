"""What Ctrl-C or SIGTERM does to a command of segkit: it ends, in a line, and soon.

As long as nothing else is said the command ends at once, in order: temporary files go, processes
are ended. :class:`~segkit.runtime.signals.StopSignals` is what asks for patience, for one signal.
Whatever then hangs, in a library or on a dead network disk, ends a few seconds later the hard way.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

INTERRUPT = signal.SIGINT  # Ctrl-C
REQUESTS = [INTERRUPT, signal.SIGTERM]  # and the usual request to end
# torchrun passes on to its processes what their whole group has received already: within this time
# in seconds it is the same request.
SAME_REQUEST = 1.0
GRACE = 5.0
"""Seconds for an end in order: loader processes have two for the sample at hand."""


def exit_code(number: int) -> int:
    """The conventional exit status of a process that ends because of this signal."""
    return 128 + number


def say(line: str) -> None:
    """A line on standard error, from within a signal's handler."""
    # Not by logging: the handler may have interrupted a write to the same buffer, and a second one
    # inside it raises. An unfinished progress bar may stand in the terminal's line.
    with suppress(OSError):  # standard error may be closed
        os.write(2, f"{os.linesep * os.isatty(2)}{line}{os.linesep}".encode())


class Ending:
    """The state of this process: whether it ends by signals, and by which it does.

    Attributes:
        received: Number of the signal that ends the command; None as long as there is none.
        is_patient: Asked in another thread with each signal: whether it may be waited out.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.is_patient: Callable[[], bool] | None = None
        self._before: dict[int, Any] = {}
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._wakeup_before = -1

    def begin(self) -> None:
        """From here on signals end the command; nothing changes in another thread than the main."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self.received = None
        for number in REQUESTS:
            self._before[number] = signal.signal(number, self._handle)
        # Python calls handlers between two steps of the main thread, which a library may hold up.
        # The number of a signal also goes into a socket, at once, and from there to a thread.
        self._sockets = socket.socketpair()
        self._sockets[1].setblocking(False)
        descriptor = self._sockets[1].fileno()
        self._wakeup_before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
        watch = threading.Thread(target=self._watch, args=(self._sockets[0],), daemon=True)
        watch.start()

    def finish(self) -> None:
        """Give signals back to whoever had them."""
        if not self._before or threading.current_thread() is not threading.main_thread():
            return
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            # None: it was not installed from Python, and cannot be again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        if self._sockets is not None:
            self._sockets[1].close()  # which ends the thread
        self._sockets = None

    def in_child(self) -> None:
        """A copy of the process ends by signals as any, and does not report them as the original's.

        To ignore them would be worse: whoever started it may wait for the end that he asks for.
        """
        if self._sockets is None:
            return
        with suppress(ValueError):  # not in the main thread
            signal.set_wakeup_fd(-1)
            for number in self._before:
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, signal.SIG_DFL)
        self._before.clear()
        self._sockets = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Once: torchrun repeats it, and an end in order must not be disturbed. See _watch.
        if self.received is None:
            self.note(number, "stopped")
            raise SystemExit(exit_code(number))  # of which Python shows no traceback

    def note(self, number: int, text: str) -> None:
        """The command ends by this signal; the first process on a machine says so."""
        self.received = number
        if os.environ.get("LOCAL_RANK", "0") == "0":
            say(f"{signal.Signals(number).name}: {text}")

    def _watch(self, signals: socket.socket) -> None:
        """End the process if the main thread does not do it."""
        deadline: float | None = None
        first, number = 0.0, 0
        with signals:
            while True:
                signals.settimeout(None if deadline is None else max(0.0, deadline - now()))
                try:
                    received = signals.recv(1)
                except TimeoutError:
                    break
                if not received:  # finished: the command is over
                    return
                if received[0] not in REQUESTS:
                    continue
                if deadline is None:
                    if self.is_patient is not None and self.is_patient():
                        continue
                    first, number, deadline = now(), received[0], now() + GRACE
                elif now() - first >= SAME_REQUEST:
                    break
        say(f"{signal.Signals(number).name}: something hangs; ended nevertheless")
        os._exit(exit_code(number))  # loader processes notice it and end too


def now() -> float:
    return time.monotonic()


ending = Ending()
"""Of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ending.in_child)
