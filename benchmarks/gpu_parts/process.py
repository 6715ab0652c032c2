"""A process that does the cases of a part, and what it says on the way."""

import faulthandler
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpu_parts import Options, Row, Unavailable

FORK = multiprocessing.get_context("fork")
"""What is imported before is there at once; what forks must not have touched the device."""
TAIL = 40  # lines, with room for the stack of a crash


class PartProcess:
    """Does the cases of a module from number ``first`` on.

    Args:
        module: Its name.
        options: What its cases are told.
        first: Number of the first case.
        folder: Where the process runs.
        log: File to which all that is said is appended.
        on_row: Called with each row.
        start: How it is started: fork, or where that does not work spawn.

    Attributes:
        case: The one in progress; None between two.
        number: Its number.
        finished: How many cases were done.
        error: The exception that ended it, in a line.
    """

    def __init__(
        self,
        module: str,
        options: Options,
        first: int,
        folder: Path,
        log: Path,
        on_row: Callable[[Row], None],
        start: str = "fork",
    ) -> None:
        self.on_row, self.log = on_row, log
        self.case: str | None = None
        self.number, self.finished, self.error = first, 0, ""
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n## {module}, from case {first} on\n")
            self.began = file.tell()
        context: Any = multiprocessing.get_context(start)
        self.line, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=do_cases, args=(module, options, first, folder, log, theirs)
        )
        self.process.start()
        theirs.close()

    def wait(self, until: float) -> str:
        """How it ended: ``status N``, the name of a signal, or ``cut off``."""
        try:
            while self.process.is_alive() and (left := until - time.monotonic()) > 0:
                self._listen(min(left, 0.2))
            status = self.process.exitcode
        finally:
            self.process.kill()
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # with all that it started
            self.process.join()
        self._listen(0)
        if status is None:
            return "cut off"
        return f"status {status}" if status >= 0 else signal.Signals(-status).name

    def _listen(self, seconds: float) -> None:
        """Take in what it says, waiting so long for a first word."""
        while self.line.poll(seconds):
            seconds = 0
            try:
                kind, value = self.line.recv()
            except EOFError:
                time.sleep(0.01)  # it ends
                return
            if kind == "begin":
                self.number, self.case = value
            elif kind == "row":
                self.on_row(value)
            elif kind == "end":
                self.case, self.finished = None, self.finished + 1
            else:
                self.error = value

    def tail(self) -> str:
        """The end of what it has written."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            file.seek(self.began)
            return "\n".join(line[:300] for line in file.read().strip().splitlines()[-TAIL:])


def do_cases(
    module: str, options: Options, first: int, folder: Path, log: Path, line: Connection
) -> None:
    """The work of the process; ``line`` gets what begins, every row, what ends, and an error."""
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    faulthandler.enable(sys.stderr)
    os.chdir(folder)
    try:
        cases = importlib.import_module(module).cases(options)
        for number, (name, rows) in list(enumerate(cases.items()))[first:]:
            line.send(("begin", (number, name)))
            try:
                for row in rows():
                    line.send(("row", {"case": name} | row))
            except Unavailable as reason:
                line.send(("row", {"case": name, "note": str(reason)}))
            line.send(("end", None))
            free()
    except BaseException as error:
        said = str(error).strip().partition("\n")[0]
        line.send(("error", f"{type(error).__name__}: {said}"))
        raise


def free() -> None:
    """What the case before took is not the next one's."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
