"""The processes that load: what they ignore, what ends them, what a failure of theirs means."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from processes import all_end, is_alive, run_apart
from torch.utils.data import DataLoader

from segkit.data import workers
from segkit.data.loader import Collate, EvalBatches
from segkit.data.workers import (
    PATIENCE,
    batches,
    close,
    loader_failure,
    resolve_num_workers,
    shm_warning,
)
from segkit.errors import DataError, SegkitError, TrainingError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

STARTS = ["fork", pytest.param("spawn", marks=pytest.mark.slow)]
LIMIT = 180.0  # seconds: for imports of torch on a machine that is busy


class Images:
    """Four images; each holds the number of the process that read it."""

    ids, classes = ("a", "b", "c", "d"), range(2**40)  # masks hold numbers of processes

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> tuple[Any, Any]:
        return np.full((1, 1, 3), 7, np.uint8), np.full((1, 1), os.getpid(), np.int64)


class Hanging(Images):
    """The first image is read, and then nothing more."""

    def read(self, index: int) -> tuple[Any, Any]:
        while index > 1:
            time.sleep(1000)
        return super().read(index)


class Slow(Images):
    ids = tuple(map(str, range(20)))

    def read(self, index: int) -> tuple[Any, Any]:
        time.sleep(0.05)
        return super().read(index)


class Unreadable(Images):
    def read(self, index: int) -> tuple[Any, Any]:
        raise DataError("b.png: is empty")


def make_loader(dataset: Any, start: str = "fork", num_workers: int = 2) -> DataLoader[Any]:
    loader = EvalBatches(
        dataset,
        collate=Collate((0, 0, 0), 255),
        batch_size=1,
        num_workers=num_workers,
        device=torch.device("cpu"),
    ).loader
    if num_workers:
        loader.multiprocessing_context = start
    return loader


def readers(loader: DataLoader[Any]) -> set[int]:
    """One pass: the processes that read."""
    return {int(batch.target) for batch in batches(loader)}


def children() -> list[int]:
    return [int(child.pid or 0) for child in multiprocessing.active_children()]


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    workers._end_all()
    assert children() == []


# How they run


def test_a_process_has_one_thread_and_leaves_signals_to_its_parent() -> None:
    class Probe(Images):
        ids = ("a",)

        def read(self, index: int) -> tuple[Any, Any]:
            numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
            held_back = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            ignored = [signal.getsignal(number) == signal.SIG_IGN for number in numbers]
            inherited = [number in held_back for number in numbers]  # even before it ignores them
            found = [torch.get_num_threads(), cv2.getNumThreads(), *ignored, *inherited]
            return np.zeros((1, 8, 3), np.uint8), np.array([found], np.int64)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    (batch,) = batches(make_loader(Probe(), num_workers=1))
    assert batch.target.tolist() == [[[1] * 8]]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert resolve_num_workers(3, cpu) == resolve_num_workers(3, cuda) == 3
    for cores, on_cpu, on_one, on_four in (
        (1, 0, 0, 0),
        (2, 1, 1, 0),
        (5, 4, 4, 0),
        (64, 4, 16, 15),
    ):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert resolve_num_workers("auto", cpu) == on_cpu
        for devices, expected in ((1, on_one), (4, on_four)):
            monkeypatch.setattr("torch.cuda.device_count", lambda n=devices: n)
            assert resolve_num_workers("auto", cuda) == expected
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert resolve_num_workers("auto", cuda) == on_four
        monkeypatch.delenv("LOCAL_WORLD_SIZE")


def test_a_pass_uses_the_processes_of_the_one_before() -> None:
    loader = make_loader(Images())
    first = readers(loader)
    assert len(first) == 2
    assert first == readers(loader) == set(children())


# How they end


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_closed_loader_has_no_processes_and_may_be_used_again(num_workers: int) -> None:
    loader = make_loader(Images(), num_workers=num_workers)
    close(loader)  # nothing to do yet
    first = readers(loader)
    close(loader)
    assert children() == []
    close(loader)
    assert readers(loader).isdisjoint(first) == bool(num_workers)


def test_a_loader_that_is_dropped_ends_its_processes() -> None:
    loader = make_loader(Images())
    assert len(readers(loader)) == 2
    del loader
    assert children() == []


def test_a_pass_may_be_abandoned_and_begun_again() -> None:
    loader = make_loader(Images())
    next(batches(loader))
    assert readers(loader) == set(children())


@pytest.mark.parametrize("start", STARTS)
def test_a_process_that_hangs_is_killed(start: str) -> None:
    loader = make_loader(Hanging(), start)
    next(batches(loader))
    begin = time.monotonic()
    close(loader)
    assert PATIENCE <= time.monotonic() - begin < 10
    assert children() == []


def test_an_error_of_a_sample_ends_the_processes() -> None:
    loader = make_loader(Unreadable())
    with pytest.raises(DataError, match=r"^b\.png: is empty$"):
        list(batches(loader))
    assert children() == []


def test_a_process_that_cannot_start_is_one_line_and_leaves_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, started = multiprocessing.Process.start, []

    def fail_second(self: Any) -> None:
        if started:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start(self)
        started.append(self)

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", fail_second)
    with pytest.raises(TrainingError, match=r"\(Resource temporarily unavailable\); use fewer"):
        list(batches(make_loader(Images())))
    assert len(started) == 1
    assert children() == []


def test_a_forked_copy_of_the_run_ends_nothing() -> None:
    loader = make_loader(Images())
    readers(loader)
    workers._end(loader._iterator, owner=os.getpid() + 1)
    assert len(children()) == 2


# What happens to the run happens to them, or not


def hang(start: str, line: Connection) -> None:
    """Say which processes load, and wait."""
    iterator = batches(make_loader(Hanging(), start))
    next(iterator)
    line.send(children())
    next(iterator)


@pytest.mark.parametrize("start", STARTS)
def test_no_process_outlives_a_run_that_is_killed(start: str) -> None:
    with run_apart(lambda line: hang(start, line)) as (run, line):
        assert line.poll(LIMIT)
        pids = line.recv()
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        os.kill(run, signal.SIGKILL)
        assert all_end(pids, within=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_group_does_not_disturb_the_loading(number: int) -> None:
    def load(line: Connection) -> None:
        """As train.py does: note the signal, and go on to a good place to stop."""
        seen: list[int] = []
        signal.signal(number, lambda number, frame: seen.append(number))
        loader = make_loader(Slow())
        iterator = batches(loader)
        next(iterator)
        line.send(children())
        rest = sum(len(batch) for batch in iterator)
        close(loader)
        line.send((rest, seen, children()))

    with run_apart(load) as (run, line):
        assert line.poll(LIMIT)
        assert len(line.recv()) == 2
        os.killpg(run, number)
        assert line.poll(LIMIT)
        assert line.recv() == (19, [number], [])


EXIT = """
import sys, time
sys.path[:0] = {folders}
import segkit
import test_workers as t

def main():
    loader = t.make_loader(t.Hanging(), {start!r})
    iterator = t.batches(loader)
    next(iterator)
    print(time.time(), *t.children(), flush=True)
    {end}

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("raise SystemExit(3)", 3),  # while the loader is still in use
        pytest.param("1 / 0", 1, marks=pytest.mark.slow),  # its traceback holds the loader
    ],
)
def test_a_program_that_ends_ends_them_even_if_they_hang(
    start: str, end: str, status: int, tmp_path: Path
) -> None:
    here = Path(__file__).parent
    folders = [str(here), str(here.parent / "support"), str(here.parents[1])]
    script = tmp_path / "script.py"
    script.write_text(EXIT.format(folders=folders, start=start, end=end))
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    ended = time.time()
    assert done.returncode == status, done.stderr
    failed, *pids = done.stdout.split()
    assert len(pids) == 2
    assert ended - float(failed) < 30
    assert not any(is_alive(int(pid)) for pid in pids)


# What their failures mean

DEAD = "DataLoader worker (pid 7) is killed by signal: {}. "
GONE = "DataLoader worker (pid 7) exited unexpectedly with exit code {}. Details are lost"
MEANINGS = [
    (
        DEAD.format("Killed"),
        TrainingError,
        r"\(Killed\), most often by the system.*a smaller loader.num_workers",
    ),
    (DEAD.format("Segmentation fault"), TrainingError, r"\(Segmentation fault\), by a defect"),
    (DEAD.format("Bus error"), TrainingError, "/dev/shm.* is full.*--shm-size"),
    (GONE.format(errno.ENOSPC), TrainingError, "/dev/shm.* is full.*--shm-size"),
    (GONE.format(errno.EMFILE), TrainingError, "ulimit -n"),
    (GONE.format(1), TrainingError, "ended by itself; loader.num_workers=0"),
    ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", TrainingError, "ended by itself"),
    ("Too many open files. Communication with the workers", TrainingError, "ulimit -n"),
    ("received 0 items of ancdata", TrainingError, "ulimit -n"),
    ("DataLoader timed out after 300 seconds", DataError, "within 300 s: a file could not be read"),
]


@pytest.mark.parametrize(("text", "kind", "meaning"), MEANINGS)
def test_what_pytorch_says_is_explained(text: str, kind: type[SegkitError], meaning: str) -> None:
    failure = loader_failure(RuntimeError(text))
    assert type(failure) is kind
    with pytest.raises(kind, match=meaning):
        raise failure
    assert "\n" not in str(failure)


def test_the_error_that_led_to_another_is_looked_at() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError(DEAD.format("Killed"))
    assert "(Killed)" in str(loader_failure(error))


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(-9, r"\(Killed\)"), (-7, "/dev/shm"), (errno.EMFILE, "ulimit"), (1, "ended by itself")],
)
def test_an_exit_status_tells_what_pytorch_has_lost(status: int, meaning: str) -> None:
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    with pytest.raises(TrainingError, match=meaning):
        raise loader_failure(error, [status]) or error
    assert loader_failure(KeyError("x"), [status]) is None


def test_errors_that_led_to_each_other_are_looked_at_once() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__context__ = second, first
    assert loader_failure(first) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Caught KeyError in DataLoader worker process 0.\nOriginal Traceback: ..."),
        OSError(errno.ENOSPC, "No space left on device", "last.pt"),
        TrainingError(DEAD.format("Killed")),
        KeyError("x"),
    ],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert loader_failure(error) is None


def test_a_warning_if_the_shared_memory_is_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(64 * 2**20))
    # Two processes with two batches each and the one in use: 5 x 20 MiB.
    text = shm_warning(20 * 2**20, num_workers=2)
    assert text is not None
    assert "has 64 MiB free, and 2 loader processes may need 100:" in text
    assert shm_warning(12 * 2**20, num_workers=2) is None
    assert shm_warning(20 * 2**20, num_workers=0) is None
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "none")
    assert shm_warning(20 * 2**20, num_workers=2) is None


@pytest.mark.skipif(sys.platform != "linux", reason="another kind of shared memory")
@pytest.mark.parametrize("kind", ["is missing", "cannot be written"])
def test_without_shared_memory_no_process_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "shm"
    monkeypatch.setattr(workers, "SHARED_MEMORY", place)
    if kind == "cannot be written":
        place.write_text("")
    for number in (1, 2):
        message = (
            rf"loader\.num_workers={number}: .*shm {kind}, .*: use loader\.num_workers=0, which"
        )
        with pytest.raises(TrainingError, match=message):
            resolve_num_workers(number, torch.device("cpu"))
    assert resolve_num_workers(0, torch.device("cpu")) == 0  # as advised
    assert resolve_num_workers("auto", torch.device("cpu")) == 0
    failure = loader_failure(RuntimeError("unable to open shared memory object </torch_1_2>, shm"))
    assert "use loader.num_workers=0" in str(failure)
