"""Ctrl-C and SIGTERM end every command in a line and with the usual status, whatever hangs."""

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from processes import run_apart
from scripts import ROOT, SMALL
from voc_folder import make_voc

from segkit import ending
from segkit.data.voc import VOCSegmentation

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
NUMBERS = [signal.SIGINT, signal.SIGTERM]
Prepare = Callable[[pytest.MonkeyPatch, Connection], None]


def hang_in_python() -> None:
    time.sleep(100)


def hang_in_c() -> None:
    """As in a library that never returns to Python: no handler of Python's is called."""
    lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    for _ in range(2):  # the second time it waits for ever, whatever signals come
        library.pthread_mutex_lock(lock)


@contextmanager
def command(arguments: list[str], cwd: Path, prepare: Prepare) -> Iterator[tuple[int, Connection]]:
    """A script or tool in a process of its own, on its way, after ``prepare`` changed something."""

    def task(line: Connection) -> None:
        os.chdir(cwd)
        descriptor = os.open(cwd.parent / "err", os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.environ["XDG_CACHE_HOME"] = str(cwd.parent / "cache")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch, line)
            patch.setattr(sys, "argv", arguments)
            status: object = 0
            sys.modules.pop(arguments[0], None)  # another test may have imported it
            try:
                if arguments[0].endswith(".py"):
                    runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
                else:
                    runpy.run_module(arguments[0], run_name="__main__", alter_sys=False)
            except SystemExit as end:
                status = end.code
        os._exit(status if isinstance(status, int) else 1)

    with run_apart(task) as (pid, line):
        yield pid, line


def end_of(pid: int, within: float) -> int:
    """The exit status of a process, which ends within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            assert found.si_code == os.CLD_EXITED
            return found.si_status
        time.sleep(0.02)
    raise AssertionError(f"still there after {within} s")


def at(patch: pytest.MonkeyPatch, line: Connection, where: str, hang: Callable[[], None]) -> None:
    """The function at ``where`` says that it is called, and hangs."""

    def stand_still(*_: object, **__: object) -> None:
        line.send("ready")
        hang()

    patch.setattr(where, stand_still)


TRAIN = ["train.py", "data=voc", "data.root=voc", "model/backbone=tiny", *SMALL[4:]]
BEFORE_THE_FIRST_STEP = [
    "segkit.data.voc.VOCSegmentation.examine",  # the check of the data, in threads
    "segkit.training.data.check_splits",
    "segkit.cli.check_command_line",
    "segkit.data.loader.Samples.read",  # after the check
    "segkit.training.recorder.Recorder.from_first",  # after the run folder was made
]


@pytest.mark.quick("Recorder.from_first", "Samples.read")
@pytest.mark.parametrize(
    ("where", "number"),
    [(where, NUMBERS[i % 2]) for i, where in enumerate(BEFORE_THE_FIRST_STEP)],
)
def test_before_the_first_step_a_signal_ends_a_training_at_once(
    tmp_path: Path, where: str, number: int
) -> None:
    here = tmp_path / "here"
    make_voc(here / "voc")
    before = sorted(here.rglob("*"))
    with command(TRAIN, here, lambda p, line: at(p, line, where, hang_in_python)) as (pid, line):
        assert line.poll(60)
        started = time.monotonic()
        os.kill(pid, number)
        assert end_of(pid, 5) == 128 + number
        assert time.monotonic() - started < ending.GRACE - 1
    (text,) = (tmp_path / "err").read_text().splitlines()
    assert text.startswith(f"{signal.Signals(number).name}: stopped")
    assert sorted(here.rglob("*")) == before


@pytest.mark.slow
def test_a_folder_that_was_there_stays_as_it_was(tmp_path: Path) -> None:
    here = tmp_path / "here"
    make_voc(here / "voc")
    (here / "out").mkdir()
    (here / "out" / "notes.txt").write_text("mine")
    where = "segkit.training.recorder.Recorder.from_first"
    arguments = [*TRAIN, "out_dir=out"]
    with command(arguments, here, lambda p, line: at(p, line, where, hang_in_python)) as (
        pid,
        line,
    ):
        assert line.poll(60)
        assert (here / "out" / "config.yaml").exists()
        os.kill(pid, signal.SIGTERM)
        assert end_of(pid, 5) == 143
    assert [path.name for path in (here / "out").iterdir()] == ["notes.txt"]


def test_many_files_that_are_still_to_be_checked_do_not_delay_the_end(tmp_path: Path) -> None:
    here = tmp_path / "here"
    make_voc(here / "voc", {"train": [f"t{i}" for i in range(200)], "val": ["v"]})

    def slowly(patch: pytest.MonkeyPatch, line: Connection) -> None:
        examine = VOCSegmentation.examine

        def wait(self: VOCSegmentation, index: int) -> object:
            line.send("ready")
            time.sleep(0.2)
            return examine(self, index)

        patch.setattr(VOCSegmentation, "examine", wait)

    with command(["segkit.data.check", "data.root=voc"], here, slowly) as (pid, line):
        assert line.poll(30)
        os.kill(pid, signal.SIGINT)
        assert end_of(pid, 3) == 130
    assert (tmp_path / "err").read_text() == "SIGINT: stopped\n"


COMMANDS = [
    (["evaluate.py", "checkpoint=voc"], "segkit.evaluation.sources.read_checkpoints"),
    (["predict.py", "checkpoint=voc", "source=voc"], "segkit.inference.model.open_model"),
    (["export.py", "checkpoint=voc"], "segkit.runs.checkpoint.read_checkpoint"),
    (["segkit.tools.stats", "data.root=voc"], "segkit.data.voc.VOCSegmentation.examine"),
    (["segkit.tools.split", "data.root=voc"], "segkit.data.decode.load_labels"),
    (["segkit.tools.model", "checkpoint=voc"], "segkit.runs.checkpoint.read_checkpoint"),
    (["segkit.tools.browse", "data=voc", "data.root=voc"], "segkit.data.voc.VOCSegmentation.read"),
]


@pytest.mark.quick("arguments0-", "arguments1-", "arguments2-", "arguments3-")
@pytest.mark.parametrize(("arguments", "where"), COMMANDS)
def test_every_command_ends_in_a_line(tmp_path: Path, arguments: list[str], where: str) -> None:
    here = tmp_path / "here"
    make_voc(here / "voc")
    number = NUMBERS[len(arguments[0]) % 2]
    with command(arguments, here, lambda p, line: at(p, line, where, hang_in_python)) as (
        pid,
        line,
    ):
        assert line.poll(60)
        os.kill(pid, number)
        assert end_of(pid, 4) == 128 + number
    assert (tmp_path / "err").read_text() == f"{signal.Signals(number).name}: stopped\n"


def test_what_hangs_in_a_library_is_ended_the_hard_way(tmp_path: Path) -> None:
    here = tmp_path / "here"
    make_voc(here / "voc")
    where = "segkit.training.data.check_splits"
    with command(TRAIN, here, lambda p, line: at(p, line, where, hang_in_c)) as (pid, line):
        assert line.poll(60)
        time.sleep(1)  # it says so a moment before it hangs
        os.kill(pid, signal.SIGTERM)
        assert end_of(pid, ending.GRACE + 3) == 143
    assert (tmp_path / "err").read_text() == "SIGTERM: something hangs; ended nevertheless\n"


@pytest.mark.quick("hang_in_c")
@pytest.mark.parametrize("hang", [hang_in_python, hang_in_c])
def test_a_second_signal_ends_a_save_that_hangs(tmp_path: Path, hang: Callable[[], None]) -> None:
    here = tmp_path / "here"
    here.mkdir()
    arguments = [
        "train.py",
        *SMALL,
        "data.check=false",
        "out_dir=out",
        "trainer.save_every_steps=1",
    ]
    where = "segkit.training.saver.save_checkpoint"
    with command(arguments, here, lambda p, line: at(p, line, where, hang)) as (pid, line):
        assert line.poll(60)
        os.kill(pid, signal.SIGTERM)
        time.sleep(ending.SAME_REQUEST + 0.2)
        os.kill(pid, signal.SIGINT)
        assert end_of(pid, ending.GRACE + 3) == 130
    assert "Traceback" not in (tmp_path / "err").read_text()
    assert (here / "out" / "train.log").exists()  # what is there of a run that had begun stays


@pytest.mark.quick("arguments2-torch", "arguments5", "arguments6")
@pytest.mark.parametrize(
    ("arguments", "library"),
    [
        (["train.py"], "torch"),
        (["train.py"], "hydra"),
        (["evaluate.py", "checkpoint=tests"], "torch"),
        (["predict.py", "checkpoint=tests", "source=tests"], "torch"),
        (["export.py", "checkpoint=tests"], "torch"),
        (["-m", "segkit.tools.stats"], "numpy"),
        (["-m", "segkit.data.check"], "numpy"),
    ],
)
def test_also_while_libraries_are_imported(
    tmp_path: Path, arguments: list[str], library: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / f"{library}.py").write_text(
        "print('ready', flush=True)\nimport time\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tmp_path if "-m" in arguments else ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "SIGINT: stopped\n")


def test_a_copy_of_the_process_can_be_ended() -> None:
    """As a pool of processes in somebody's data set, which is ended by SIGTERM and waited for."""
    code = """
from segkit.ending import ending
import multiprocessing, os, signal, time
before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests behind itself
ending.begin()
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
child.start()
time.sleep(0.3)
child.terminate()
child.join(10)
print(child.exitcode, ending.received)
ending.finish()
print(signal.getsignal(signal.SIGINT) == before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("-15 None\nTrue\n", "")
