"""The processes that load: how many, how they start, what ends them, what their end means.

A scheduler, like Ctrl-C, signals every process of a job at once. The loader processes ignore that:
the run may want to finish its step and save. So it is the run that ends them, by hand, because
PyTorch and Python end theirs by SIGTERM and wait for ever for one that ignores it.
"""

import atexit
import errno
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from segkit.data.torch_private import (
    ask_to_end,
    clean_up,
    forget_half_made,
    forget_iterator,
    is_shut_down,
    worker_processes,
)
from segkit.errors import DataError, SegkitError, TrainingError

if TYPE_CHECKING:
    from segkit.data.loader import Batch

TIMEOUT = 300
"""Seconds for one batch: an image that hangs on a dead network disk must not hang the run."""
PULSE = 5
"""Seconds until it is looked whether all processes live: the signal of one's death may be lost."""
PATIENCE = 2.0
"""Seconds for the sample at hand before a process is killed at the end."""
SHARED_MEMORY = Path("/dev/shm")

_TIMED_OUT = "DataLoader timed out after"
_CUT_OFF = (ConnectionError, EOFError)  # the hand-over of a batch, by its process's death
_IGNORED = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n)]


def batches(loader: "DataLoader[Any]") -> "Iterator[Batch]":
    """The batches of either loader, one by one. Its processes wait for the next pass.

    Raises:
        SegkitError: A sample could not be read (it travels here as a value: raised in a loader
            process it would arrive wrapped in that process's traceback), or a process failed, as
            :func:`loader_failure` tells. No process is left then.
    """
    try:
        for item in _in_time(_start(loader)):
            for batch in item if isinstance(item, list) else [item]:
                if isinstance(batch, SegkitError):
                    raise batch
                yield batch
    except Exception as error:
        processes = worker_processes(loader)
        if processes and isinstance(error, _CUT_OFF):  # the end may come a moment later
            ended = wait([process.sentinel for process in processes], PATIENCE)
            for process in processes:
                process.join(PATIENCE if process.sentinel in ended else 0)  # and its status too
        statuses = [process.exitcode for process in processes]
        close(loader)
        if failure := loader_failure(error, [status for status in statuses if status]):
            raise failure from error
        raise


def _in_time(iterator: Iterator[Any]) -> Iterator[Any]:
    """The items of a loader; each may take ``TIMEOUT``, not only its own timeout, a ``PULSE``.

    PyTorch looks for dead processes when that is over. It learns of them at once by a signal, but
    raises in its handler: where a destructor is interrupted, that error goes nowhere.
    """
    started = time.monotonic()
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if _TIMED_OUT in str(error) and time.monotonic() - started < TIMEOUT:
                continue
            raise
        yield item
        started = time.monotonic()


def close(loader: "DataLoader[Any]") -> None:
    """End the processes of a loader, within seconds even if they hang; it may be used again."""
    forget_iterator(loader)
    if end := _ends.pop(loader, None):
        end()


def loader_failure(error: BaseException, statuses: Iterable[int] = ()) -> SegkitError | None:
    """What an error of PyTorch's loader means, in one line; None for any other error.

    PyTorch raises the death of a process in a signal handler, so anywhere in the main thread: in
    the middle of a step as well as in :func:`batches`. It may lose how a process ended; the exit
    ``statuses`` of those that have tell.
    """
    if isinstance(error, SegkitError):
        return None
    text = "\n".join(_messages(error))
    died = "DataLoader worker (pid" in text or isinstance(error, _CUT_OFF)
    for status in statuses if died else ():
        how = f"killed by signal: {signal.strsignal(-status)}" if status < 0 else f"code {status}"
        text += f"\nDataLoader worker (pid), exit {how}"
    if _TIMED_OUT in text:
        return DataError(
            f"no batch came within {TIMEOUT} s: a file could not be read in time, as from a "
            "network disk that hangs, or reading and augmenting are far too slow. See whether the "
            "files can be copied; loader.num_workers=0 shows where it stands still"
        )
    if re.search(rf"Too many open files|items of ancdata|exit code {errno.EMFILE}\b", text):
        return TrainingError(
            "too many open files: each batch on its way takes some. Raise the limit of the shell, "
            "ulimit -n 65536, or use fewer processes: a smaller loader.num_workers, 0 for none"
        )
    if "memory" in text and "shm" in text and (problem := no_shared_memory()):
        return TrainingError(problem)
    if re.search(rf"signal: Bus error|exit code {errno.ENOSPC}\b|memory ?\(shm\)", text):
        return TrainingError(
            f"the shared memory ({SHARED_MEMORY}) is full: loader processes hand over their "
            "batches there. Make it larger (docker run --shm-size=8g, or --ipc=host), use fewer "
            "processes (a smaller loader.num_workers, 0 for none) or a smaller "
            "loader.batch_size"
        )
    if found := re.search(r"DataLoader worker \(pid.*killed by signal: ([^.\n]+)", text):
        memory = "most often by the system, because the memory ran out"
        cause = memory if found[1] == "Killed" else "by a defect of a library, or by somebody"
        return TrainingError(
            f"a loader process was ended ({found[1].strip()}), {cause}. Use fewer processes: "
            "a smaller loader.num_workers, 0 for none; a smaller loader.batch_size takes less too"
        )
    if re.search(r"DataLoader worker \(pid.*exited unexpectedly", text):
        return TrainingError("a loader process ended by itself; loader.num_workers=0 shows why")
    return None


def no_shared_memory() -> str | None:
    """Why loader processes cannot work on this Linux, and the way out; None if they can."""
    if sys.platform != "linux" or os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return None
    found = "cannot be written" if SHARED_MEMORY.exists() else "is missing"
    return (
        f"{SHARED_MEMORY} {found}, where loader processes hand over their batches: use "
        "loader.num_workers=0, which needs none, or let the system have one (as docker run "
        "--shm-size=1g does, or mount -t tmpfs shm /dev/shm)"
    )


def shm_warning(batch_bytes: int, num_workers: int) -> str | None:
    """A sentence for the user if the shared memory cannot hold the batches on their way."""
    needed = batch_bytes * (2 * num_workers + 1)  # two per process, and the one in use
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if num_workers == 0 or free >= needed:
        return None
    return (
        f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and {num_workers} loader processes may "
        f"need {needed / 2**20:.0f}: make it larger (docker run --shm-size=8g, or --ipc=host) or "
        "set loader.num_workers=0"
    )


def resolve_num_workers(num_workers: int | str, device: torch.device) -> int:
    """How many processes load; none of ``auto`` where none can work.

    ``auto`` is one per core but the first, at most 4. Beside a CUDA device, which is fed faster, it
    is one per core that there is for each device of the machine but the first, at most 16.

    Args:
        num_workers: A number, or ``auto``.
        device: Where the batches go.

    Raises:
        TrainingError: Processes are asked for, and there is no shared memory.
    """
    problem = no_shared_memory()
    if num_workers != "auto":
        if problem and int(num_workers):
            raise TrainingError(f"loader.num_workers={num_workers}: {problem}")
        return int(num_workers)
    if problem:
        return 0
    counted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = counted or 1
    if device.type != "cuda":
        return min(4, cores - 1)
    sharing = max(1, torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return min(16, max(0, cores // sharing - 1))


def start_worker(worker_id: int) -> None:
    """The first thing that a loader process does."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    Queue._on_queue_feeder_error = staticmethod(_end_of_delivery)  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # of an OpenCV that somebody's data set imports
    if "segkit.data.augment" in sys.modules:  # OpenCV and albumentations take half a second
        from segkit.data.augment import one_thread

        one_thread()


def _end_with_parent() -> None:
    """No process outlives a run, even if that was killed while this one hangs in a read."""
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(1)


def _end_of_delivery(error: BaseException, batch: Any) -> None:
    """A batch that cannot be handed over ends the process: PyTorch would wait for it for ever.

    The exit status is the error's number, by which the parent knows what was short.
    """
    found = re.search(r"\((\d+)\)", str(error))  # unable to write to file </x>: No space left (28)
    number = getattr(error, "errno", None) or int(found[1] if found else 1)
    os._exit(number)


_at_exit = cache(atexit.register)  # once
# What ends the processes of each loader that has some; also called when the loader is dropped.
_ends: "weakref.WeakKeyDictionary[DataLoader[Any], Any]" = weakref.WeakKeyDictionary()


def _start(loader: "DataLoader[Any]") -> Iterator[Any]:
    """The loader's iterator, with processes that are known and will be ended."""
    if loader.num_workers == 0 or loader in _ends:
        return iter(loader)
    with _signals_held_back():
        others = set(multiprocessing.active_children())
        try:
            iterator = iter(loader)
        except BaseException as error:  # some processes may run already
            _kill(set(multiprocessing.active_children()) - others)
            forget_half_made(error)
            if isinstance(error, OSError) and error.errno != errno.EMFILE:
                fewer = "1, or 0" if loader.num_workers > 1 else "0"
                raise TrainingError(
                    no_shared_memory()
                    or f"a loader process could not be started ({error.strerror}); use fewer: "
                    f"loader.num_workers={fewer} for none"
                ) from error
            raise
        _ends[loader] = end = weakref.finalize(loader, _end, iterator, os.getpid())
        end.atexit = False  # that would be too late, while this runs before what PyTorch and
        _at_exit(_end_all)  # Python do, because they registered theirs before
    return iterator


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A new process inherits it, so that no signal ends one that does not ignore it yet."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_all() -> None:
    for loader in list(_ends):
        close(loader)


def _end(iterator: Any, owner: int) -> None:
    """Let each process finish its sample, kill what then still runs, and clean up."""
    if os.getpid() != owner or is_shut_down(iterator):
        return  # inherited by a process that was forked from the owner
    processes = ask_to_end(iterator)
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    _kill(processes)
    clean_up(iterator)


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()


def _messages(error: BaseException | None) -> Iterator[str]:
    """The text of an error and of those that led to it, which may go round in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield str(error)
        error = error.__cause__ or error.__context__
