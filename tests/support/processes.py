"""Runs of their own for tests: forked, so that nothing is imported again, and killed afterwards."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

FORK = multiprocessing.get_context("fork")


@contextmanager
def run_apart(task: Callable[[Connection], None]) -> Iterator[tuple[int, Connection]]:
    """The id of a process, leader of a group of its own, that calls ``task``, and a line to it."""
    ours, theirs = FORK.Pipe()

    def lead() -> None:
        os.setsid()
        ours.close()
        task(theirs)

    process = FORK.Process(target=lead)
    process.start()
    theirs.close()
    assert process.pid is not None
    try:
        yield process.pid, ours
    finally:
        process.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # before the join, which frees the number
        process.join()


def result_of(task: Callable[[], Any], limit: float = 30) -> Any:
    """What ``task`` returns in a process of its own."""
    with run_apart(lambda line: line.send(task())) as (_, line):
        assert line.poll(limit), f"no result in {limit} s"
        return line.recv()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits to be asked about does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_end(pids: list[int], within: float) -> bool:
    """Whether all these processes end in so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not any(map(is_alive, pids)):
            return True
        time.sleep(0.02)
    return False
