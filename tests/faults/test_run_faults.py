"""Bad days of a run: its folder, TensorBoard, the loss, the clock, the file handles."""

import json
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from disks import make_read_only, on_a_disk_of
from processes import FORK, result_of
from scripts import SMALL, Result, quick_call
from torch import Tensor, nn

from segkit.runs import folder as run_folder
from segkit.runs.checkpoint import read_checkpoint
from segkit.runs.folder import locked
from segkit.runs.metrics_log import RunLog

STEPS_PER_EPOCH = 3
CURVE = "train/loss"


class AtStep(nn.Module):
    """A user's loss of 0, in whose ``step``-th call of the training something happens.

    Attributes:
        event: What happens; a number that it returns is the loss.
    """

    event: ClassVar[Callable[[], float | None]] = staticmethod(lambda: None)

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.calls = step, 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += torch.is_grad_enabled()
        value = None
        if torch.is_grad_enabled() and self.calls == self.step:
            value = type(self).event()
        return 0 * logits.mean() + (value or 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run ``whole``, of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "here"
    folder.mkdir()
    result = train(folder, "whole", 0, lambda: None)
    assert result.status == 0, result.err
    return folder


def train(
    home: Path, name: str, step: int, event: Callable[[], float | None], *arguments: str
) -> Result:
    """A run in whose optimizer step ``step``, from 1, ``event`` happens."""
    term = f"+loss.terms.event={{weight:1,loss:{{_target_:{__name__}.AtStep,step:{step}}}}}"
    AtStep.event = staticmethod(event)
    return quick_call(*SMALL, term, *arguments, f"out_dir={name}", cwd=home)


def lines(run: Path) -> list[dict[str, Any]]:
    """The metrics without what tells the time."""
    timed = ("seconds", "images_per_second", "memory_mib")
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in found]


def weights(run: Path, name: str = "last.pt") -> dict[str, Tensor]:
    found: dict[str, Tensor] = read_checkpoint(run / "checkpoints" / name).state["model"]
    return found


def assert_same_run(run: Path, other: Path) -> None:
    assert lines(run) == lines(other)
    mine, theirs = weights(run), weights(other)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def curve(run: Path, tag: str = CURVE) -> list[tuple[int, float]]:
    """What TensorBoard shows: (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


# A folder that cannot be written


@pytest.mark.parametrize("place", ["file/run", pytest.param("/proc/run", marks=pytest.mark.slow)])
def test_a_folder_that_cannot_be_made(home: Path, place: str) -> None:
    (home / "file").write_text("")
    if place.startswith("/proc") and sys.platform != "linux":
        pytest.skip("no /proc here")
    result = train(home, place, 0, lambda: None)
    assert result.status == 1
    pattern = rf"error: out_dir=\S*{place}: cannot be written \([^)]+\); give out_dir=FOLDER.*\n"
    assert re.fullmatch(pattern, result.err), result.err
    assert (home / "file").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["new/run", *(pytest.param(p, marks=pytest.mark.slow) for p in ("run", None))]
)
def test_a_read_only_disk(home: Path, place: str | None) -> None:
    def task(disk: Path) -> Result:
        (disk / "run/checkpoints").mkdir(parents=True)
        (disk / "run/checkpoints").rmdir()
        make_read_only(disk)
        data = f"data.root={home / 'data/shapes'}"
        if place is None:  # runs/ in the folder where the user is
            return quick_call(*SMALL, data, cwd=disk)
        return train(disk, place, 0, lambda: None, data)

    result = on_a_disk_of(2**20, home, task)
    assert result.status == 1
    assert re.fullmatch(
        rf"error: out_dir=\S*{place or 'runs'}: cannot be written \(Read-only file system\).*\n",
        result.err,
    ), result.err


# A folder that is deleted


def test_a_deleted_folder_is_made_anew_and_the_run_goes_on(home: Path) -> None:
    run = home / "deleted"
    result = train(home, "deleted", STEPS_PER_EPOCH + 2, lambda: shutil.rmtree(run))
    assert result.status == 0, result.err
    assert f"warning: {run} was deleted; made anew, it holds what comes from here on" in result.out
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert files >= {"config.yaml", "checkpoints/last.pt", "train.log", "summary.json", ".lock"}
    assert lines(run) == lines(home / "whole")[1:]
    assert curve(run) == curve(home / "whole")[1:]
    mine, theirs = weights(run), weights(home / "whole")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    log = (run / "train.log").read_text()
    assert "was deleted" in log
    assert "epoch 2/2" in log
    with locked(run):  # the lock is let go of
        pass


@pytest.mark.slow
@pytest.mark.parametrize(  # the second of three saves is in an epoch, the third at the end
    ("save", "how"),
    [
        *((2, "in part"), (3, "whole")),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, "whole"), (3, "in part"))),
    ],
)
def test_a_folder_that_is_deleted_during_a_save(
    home: Path, monkeypatch: pytest.MonkeyPatch, how: str, save: int
) -> None:
    run = home / f"deleted-{how[:2]}-{save}"
    write, number = torch.save, 0

    def write_and_delete(*arguments: Any) -> None:
        nonlocal number
        number += 1
        write(*arguments)
        if number == save and how == "whole":
            shutil.rmtree(run)
        elif number == save:  # as rm -r does it, which has looked before the file was there
            for path in run.iterdir():
                if path.is_file():
                    path.unlink()
                elif path.name != "checkpoints":
                    shutil.rmtree(path)

    monkeypatch.setattr("segkit.runs.checkpoint.torch.save", write_and_delete)
    more = ("trainer.save_every_steps=4", f"out_dir={run}", f"data.root={home / 'data/shapes'}")
    result = quick_call(*SMALL, *more, cwd=home)
    assert result.status == 0, result.err
    assert f"warning: {run} was deleted; made anew" in result.out
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert files >= {"config.yaml", "checkpoints/last.pt", "train.log", "summary.json", ".lock"}
    assert read_checkpoint(run / "checkpoints/last.pt").state["epoch"] == 2
    with locked(run):  # the lock is let go of
        pass


@pytest.mark.slow
def test_deleted_checkpoints_are_made_anew(home: Path) -> None:
    run = home / "cleaned"
    event = lambda: shutil.rmtree(run / "checkpoints")  # noqa: E731
    result = train(home, "cleaned", STEPS_PER_EPOCH + 2, event)
    assert result.status == 0, result.err
    assert "was deleted" in result.out
    assert_same_run(run, home / "whole")


@pytest.mark.slow
def test_a_deleted_folder_that_another_run_has_taken_is_left_alone(home: Path) -> None:
    """``rm -r run; python train.py out_dir=run`` while the first run still goes on."""
    run = home / "taken"

    def other_run() -> None:
        shutil.rmtree(run)
        (run / "checkpoints").mkdir(parents=True)
        (run / run_folder.LOCK).write_text("process 1 on elsewhere")

    result = train(home, "taken", 2, other_run)
    assert result.status == 1
    assert re.fullmatch(
        r"error: out_dir=\S*taken: was deleted, and another run writes there now "
        r"\(process 1 on elsewhere\); this one ends, since the two would be mixed\n",
        result.err,
    ), result.err
    assert not [*(run / "checkpoints").iterdir()]
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.slow
def test_two_runs_in_one_folder(home: Path) -> None:
    def hold(line: Any) -> None:
        with locked(home / "whole"):
            line.send(os.getpid())
            line.recv()

    if sys.platform == "win32":
        pytest.skip("no locks of this kind")
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(theirs,))
    process.start()
    holder = ours.recv()
    before = (home / "whole/checkpoints/last.pt").stat().st_mtime_ns
    result = train(home, "whole", 0, lambda: None, "resume=auto", "trainer.max_epochs=3")
    ours.send(None)
    process.join()
    assert result.status == 1
    assert re.fullmatch(
        rf"error: out_dir=\S*whole: another run is writing there \(process {holder} on \S+\); wait "
        "for it, stop it, or give another out_dir\n",
        result.err,
    ), result.err
    assert (home / "whole/checkpoints/last.pt").stat().st_mtime_ns == before
    refused = train(home, "whole", 0, lambda: None)
    assert "holds a run already; add resume=auto to go on with it" in refused.err


# TensorBoard


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        TypeError("Descriptors cannot be\ncreated"),  # of another protobuf
        pytest.param(ImportError("No module named 'tensorboard'"), marks=pytest.mark.slow),
    ],
)
def test_tensorboard_cannot_be_imported(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Broken:
        @property
        def SummaryWriter(self) -> None:
            raise error

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", Broken())
    name = f"no_tensorboard_{type(error).__name__}"
    result = train(home, name, 0, lambda: None)
    assert result.status == 0, result.err
    said = " ".join(str(error).split())
    assert f"TensorBoard is not written ({said}); metrics.jsonl is\n" in result.out
    assert_same_run(home / name, home / "whole")


@pytest.mark.slow
def test_tensorboards_place_is_taken(home: Path) -> None:
    (home / "file_there").mkdir()
    (home / "file_there/tensorboard").write_text("")
    result = train(home, "file_there", 0, lambda: None)
    assert result.status == 0, result.err
    assert result.out.count("TensorBoard is not written (") == 1
    assert_same_run(home / "file_there", home / "whole")


@pytest.mark.slow
def test_tensorboard_breaks_in_the_middle(home: Path) -> None:
    """Its folder is deleted: a thread of its own notices, which would show a traceback."""
    run = home / "curves_deleted"
    event = lambda: shutil.rmtree(run / "tensorboard")  # noqa: E731
    result = train(home, "curves_deleted", 2, event)
    assert result.status == 0, result.err
    assert result.out.count("TensorBoard stops here (") == 1
    assert result.err == ""
    assert_same_run(run, home / "whole")


# Numbers


def test_a_loss_that_is_not_finite_in_one_step(home: Path) -> None:
    step = STEPS_PER_EPOCH + 2
    nan = lambda: float("nan")  # noqa: E731
    result = train(home, "nan", step, nan, "trainer.save_every_steps=1")
    assert result.status == 1
    found = re.fullmatch(
        rf"error: step {step}: train/loss/event is nan. Batch: (.*?)\. "
        r"The weights were not changed by this step. Try .*\n",
        result.err,
    )
    assert found, result.err
    names = found[1].split(", ")
    assert len(set(names)) == 8
    assert all((home / f"data/shapes/JPEGImages/{name}.png").is_file() for name in names)
    last = read_checkpoint(home / "nan/checkpoints/last.pt")
    assert last.state["step"] == step - 1
    assert all(w.isfinite().all() for w in last.state["model"].values())
    assert [line["epoch"] for line in lines(home / "nan")] == [1]
    # Once the cause is gone the run goes on as if nothing had happened.
    result = train(home, "nan", 0, nan, "resume=auto")
    assert result.status == 0, result.err
    assert_same_run(home / "nan", home / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["trainer.monitor=val/loss", "trainer.num_pr_curves=0"]])
def test_weights_that_diverged_are_validated_and_saved(home: Path, more: list[str]) -> None:
    name = f"diverged_{len(more)}"
    steep = ("optimizer=sgd", "optimizer.lr=1e12", "scheduler.warmup_epochs=0")
    whole = ("loader.batch_size=24", "trainer.max_epochs=1", f"out_dir={name}")
    result = quick_call(*SMALL, *steep, *whole, *more, cwd=home)
    assert result.status == 0, result.err
    (line,) = lines(home / name)
    assert line["val/loss"] is None
    summary = json.loads((home / name / "summary.json").read_text())
    assert summary["best_score"] == line[more[0].partition("=")[2] if more else "val/miou"]
    assert (home / name / "checkpoints/last.pt").exists()


# The clock


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-3, pytest.param(3, marks=pytest.mark.slow)])
def test_the_clock_jumps(home: Path, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """Once within a run, and once more before it is resumed."""
    real, shift = time.time, [0.0]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=shift[0])

    def jump() -> None:
        shift[0] += 3600 * hours

    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    monkeypatch.setattr(run_folder, "datetime", Clock)
    name = f"clock_{hours}"
    minutes = "trainer.save_every_minutes=60"
    result = train(home, name, 2, jump, "trainer.max_epochs=1", minutes)
    assert result.status == 0, result.err
    jump()
    result = train(home, name, 2, jump, "resume=auto", "trainer.max_epochs=2", minutes)
    assert result.status == 0, result.err
    assert [line["epoch"] for line in lines(home / name)] == [1, 2]
    assert all(0 <= line["seconds"] < 300 for line in raw_lines(home / name))
    assert [step for step, _ in curve(home / name)] == [3, 6]


def raw_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_steps_drawn_again_replace_the_earlier_ones_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard reads files in the order of their names, which begin with the time."""
    real = time.time
    for hours, values in ((0, [1.0, 2.0, 9.0, 9.0]), (-1, [3.0, 8.0]), (-5, [4.0, 5.0])):
        monkeypatch.setattr(time, "time", lambda h=hours: real() + 3600 * h)
        first = int(values[0])
        run_log = RunLog(tmp_path, purge_step=first)
        for step, value in enumerate(values, first):
            run_log.scalars({CURVE: value}, step)
        run_log.close()
    assert curve(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.0)]


# File handles


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts handles as Linux does")
@pytest.mark.parametrize("free", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_the_file_handles_are_used_up(home: Path, free: int) -> None:
    """From step 2 on, with images, curves and checkpoints still to be read and written."""

    def use_up() -> None:
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1 + free,) * 2)

    def task() -> Result:
        return train(home, f"handles_{free}", STEPS_PER_EPOCH + 1, use_up, "loader.num_workers=0")

    result = result_of(task, limit=120)
    assert "Traceback" not in result.out + result.err
    run = home / f"handles_{free}"
    if result.status == 0:
        assert_same_run(run, home / "whole")
        return
    assert result.status == 1
    assert "oo many open files" in result.err
    assert len(result.err.splitlines()) == 1
    assert read_checkpoint(run / "checkpoints/last.pt").state["step"] == STEPS_PER_EPOCH
    assert not [*run.glob("checkpoints/.*.tmp")]
    assert [line["epoch"] for line in lines(run)] == [1]
