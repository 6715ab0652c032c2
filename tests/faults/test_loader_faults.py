"""Bad days of the loader: each ends as one line of ours, soon, and with no process left."""

import ctypes
import errno
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import result_of
from torch.utils.data import DataLoader
from voc_folder import example_mask, make_voc

from segkit.data import workers
from segkit.data.augment import Augment
from segkit.data.check import check_splits
from segkit.data.loader import Collate, EvalBatches, TrainBatches
from segkit.data.masks import write_mask
from segkit.data.voc import VOCSegmentation
from segkit.data.workers import batches, close, loader_failure
from segkit.errors import DataError, SegkitError, TrainingError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses what Linux offers")

CPU = torch.device("cpu")
COLLATE = Collate((0, 0, 0), 255)


class Images:
    """Eight images; something happens when the fourth is read."""

    ids: tuple[str, ...] = tuple("abcdefgh")
    classes = ("x", "y")

    def __init__(self, event: Callable[[], Any] = lambda: None, size: int = 4) -> None:
        self.event, self.size = event, size

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> tuple[Any, Any]:
        if index == 3:
            self.event()
        return np.zeros((self.size, self.size, 3), np.uint8), np.zeros((self.size,) * 2, np.uint8)


def make_loader(dataset: Any, num_workers: int = 2) -> DataLoader[Any]:
    return EvalBatches(
        dataset, collate=COLLATE, batch_size=1, num_workers=num_workers, device=CPU
    ).loader


def outcome(loader: DataLoader[Any], keep: bool = False) -> tuple[str, str, int]:
    """The error of one pass, its text, and how many processes it leaves."""
    kept = []
    try:
        for batch in batches(loader):
            kept += [batch] * keep
    except SegkitError as error:
        return type(error).__name__, str(error), len(multiprocessing.active_children())
    return "none", "", -1


def end_by(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGKILL, "a loader process was ended (Killed), most often by the system, because"),
        (signal.SIGSEGV, "a loader process was ended (Segmentation fault), by a defect of a"),
        (signal.SIGBUS, "the shared memory (/dev/shm) is full: loader processes hand over"),
    ],
)
def test_a_process_is_killed(number: int, expected: str) -> None:
    kind, text, left = outcome(make_loader(Images(end_by(number))))
    assert (kind, left) == ("TrainingError", 0)
    assert text.startswith(expected)
    assert "a smaller loader.num_workers, 0 for none" in text


def test_a_process_is_killed_while_the_run_does_something_else() -> None:
    loader = make_loader(Images())
    next(batches(loader))
    pid = multiprocessing.active_children()[0].pid
    assert pid is not None
    with pytest.raises(RuntimeError) as info:  # in a step, say
        os.kill(pid, signal.SIGKILL)
        time.sleep(5)
    assert "(Killed)" in str(loader_failure(info.value))
    close(loader)
    assert multiprocessing.active_children() == []


def test_a_process_is_killed_and_the_signal_is_lost() -> None:
    """As one that comes while a destructor runs, where PyTorch's error goes nowhere."""
    lost = multiprocessing.Event()
    loader = make_loader(Images(lambda: lost.wait() and os.kill(os.getpid(), signal.SIGKILL)))
    loader.timeout = 1
    pass_ = batches(loader)
    next(pass_)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    started = time.monotonic()
    lost.set()
    try:
        with pytest.raises(TrainingError, match=r"a loader process was ended \(Killed\)"):
            list(pass_)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert time.monotonic() - started < 60
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_is_killed_while_it_hands_over_a_batch(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's connection fails then, while the process still counts as alive."""

    def cut_off(*args: Any, **kwargs: Any) -> None:
        process = multiprocessing.active_children()[0]
        threading.Timer(0.3, os.kill, (process.pid, number)).start()
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    pass_ = batches(make_loader(Images()))
    next(pass_)
    monkeypatch.setattr(connection, "Client", cut_off)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        with pytest.raises(TrainingError, match=r"a loader process was ended \("):
            list(pass_)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert multiprocessing.active_children() == []


def test_a_process_ends_by_itself() -> None:
    kind, text, left = outcome(make_loader(Images(lambda: os._exit(1))))
    assert (kind, left) == ("TrainingError", 0)
    assert text == "a loader process ended by itself; loader.num_workers=0 shows why"


def test_a_file_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TIMEOUT", 3)
    loader = make_loader(Images(lambda: time.sleep(1000)))
    loader.timeout = 1
    started = time.monotonic()
    kind, text, left = outcome(loader)
    assert (kind, left) == ("DataError", 0)
    assert text.startswith("no batch came within 3 s: a file could not be read in time")
    assert time.monotonic() - started > 2.9


def test_a_file_is_slow() -> None:
    loader = make_loader(Images(lambda: time.sleep(2.5)))
    loader.timeout = 1
    assert [batch.ids for batch in batches(loader)] == [(one,) for one in Images.ids]
    close(loader)


def small_shared_memory(size: str) -> None:
    """Give this process, and those that it forks, a /dev/shm of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, recursive, private = 0x20000, 1 << 14, 1 << 18
    if libc.unshare(new_namespace) or libc.mount(b"", b"/", b"", recursive | private, None):
        raise OSError(ctypes.get_errno(), "no mount namespace")
    if libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "no tmpfs")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_shared_memory_is_too_small(num_workers: int) -> None:
    def task() -> tuple[str, str, int] | None:
        try:
            small_shared_memory("1m")
        except OSError:
            return None
        return outcome(make_loader(Images(size=700), num_workers))  # 1.9 MiB each

    found = result_of(task)
    if found is None:
        pytest.skip("may not mount a file system here")
    kind, text, left = found
    assert (kind, left) == ("TrainingError", 0)
    assert text.startswith("the shared memory (/dev/shm) is full")
    assert "docker run --shm-size=8g" in text


@pytest.mark.parametrize("free", [2, 12, 60])
def test_the_file_handles_are_used_up(free: int) -> None:
    """While processes start, while batches are handed over, and while they are kept."""

    def task() -> tuple[str, str, int]:
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + free,) * 2)
        dataset = Images()
        dataset.ids = tuple(map(str, range(60)))
        return outcome(make_loader(dataset), keep=True)

    kind, text, left = result_of(task)
    assert (kind, left) == ("TrainingError", 0)
    assert text.startswith("too many open files: each batch on its way takes some. Raise the limit")
    assert "ulimit -n" in text


def test_the_file_handles_are_used_up_where_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is fine, so nobody should be sent to copy it again."""
    dataset = VOCSegmentation(make_voc(tmp_path), "train")

    def no_handle(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("PIL.Image.open", no_handle)
    with pytest.raises(DataError, match=r"a\.png: too many open files.*ulimit -n") as info:
        dataset.read(0)
    assert "Copy" not in str(info.value)


# The files change after they were checked


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = make_voc(tmp_path / "voc", {"train": ["a", "b", "c", "d"]})
    check_splits({"train": VOCSegmentation(root, "train")})
    return root


def cut_image(root: Path) -> None:
    path = root / "JPEGImages" / "c.png"
    path.write_bytes(path.read_bytes()[:70])


def empty_image(root: Path) -> None:
    (root / "JPEGImages" / "c.png").write_bytes(b"")


def remove_image(root: Path) -> None:
    (root / "JPEGImages" / "c.png").unlink()


def shrink_mask(root: Path) -> None:
    write_mask(root / "SegmentationClass" / "c.png", example_mask()[:5])


def add_unknown_class(root: Path) -> None:
    write_mask(root / "SegmentationClass" / "c.png", np.full((8, 12), 7, np.uint8))


CHANGES = [
    (cut_image, "c.png: cannot be decoded ("),
    (empty_image, "c.png: is empty (0 bytes)"),
    (remove_image, "c.png: no such file"),
    (shrink_mask, "c.png: the mask is 12 x 5 (width x height), its image 12 x 8; expected equal"),
    (add_unknown_class, "c.png: holds 7 (96 pixels); expected 0 to 2 or 255"),
]


@pytest.mark.quick("-0]", "cut_image")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_a_file_changes_after_the_check(
    root: Path, num_workers: int, change: Callable[[Path], None], expected: str
) -> None:
    dataset = VOCSegmentation(root, "train")
    loaders: list[DataLoader[Any]] = [
        make_loader(dataset, num_workers),
        TrainBatches(
            dataset,
            Augment([]),
            collate=COLLATE,
            batch_size=2,
            num_workers=num_workers,
            seed=0,
            device=CPU,
        ).loader,
    ]
    change(root)
    for loader in loaders:
        kind, text, left = outcome(loader)
        assert (kind, left) == ("DataError", 0)
        assert expected in text
        assert "Traceback" not in text


def test_a_file_changes_between_two_passes(root: Path) -> None:
    loader = make_loader(VOCSegmentation(root, "train"))
    assert outcome(loader)[0] == "none"
    cut_image(root)
    kind, text, left = outcome(loader)
    assert (kind, left) == ("DataError", 0)
    assert "c.png: cannot be decoded (" in text
