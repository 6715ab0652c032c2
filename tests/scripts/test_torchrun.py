"""``torchrun train.py``: two processes train as one does, and a dead one takes no run with it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from processes import all_end
from scripts import ROOT, SMALL, call

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")

LIMIT = 300.0  # seconds, on a machine with other work
# No layer looks beyond its own image, so that the halves of a batch train like the whole.
SAME = (
    *SMALL,
    "model.norm=gn",
    "model.dropout=0",
    "optimizer=sgd",
    "optimizer.lr=0.01",
    "scheduler.warmup_epochs=0",
)
HALF = "loader.batch_size=4"
EPOCHS = "trainer.max_epochs=6"


@dataclass
class Run:
    """torchrun while it runs, and what it wrote so far."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    @property
    def workers(self) -> dict[int, int]:
        """Process ids by rank."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {rank: int(child) for child in children if (rank := rank_of(child)) is not None}

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            assert self.process.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.02)

    def wait(self) -> int:
        return self.process.wait(LIMIT)


def rank_of(pid: str) -> int | None:
    with suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ranks = [entry[5:] for entry in environment if entry.startswith(b"RANK=")]
        return int(ranks[0]) if ranks else None
    return None


@contextmanager
def torchrun(
    script: str, *arguments: str, cwd: Path, options: tuple[str, ...] = ()
) -> Iterator[Run]:
    """Two processes on this machine; none is left afterwards."""
    output = cwd / f"output-{time.monotonic_ns()}.txt"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    environment = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd.parent / "cache")}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command, str(ROOT / script), *arguments],
            cwd=cwd,
            env=os.environ | environment | {"CUDA_VISIBLE_DEVICES": ""},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    run = Run(process, output)
    workers: list[int] = []
    try:
        yield run
    finally:
        if process.poll() is None:
            workers = list(run.workers.values())
            process.kill()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def has_epochs(run: Path, count: int) -> bool:
    return (run / "metrics.jsonl").exists() and len(metrics(run)) >= count


def weights(run: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return dict(saved["state"]["model"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests of this file run: the data are made once."""
    folder = tmp_path_factory.mktemp("torchrun") / "here"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def one(here: Path) -> Path:
    """A run of one process."""
    result = call("train.py", *SAME, EPOCHS, "out_dir=one", cwd=here)
    assert result.status == 0, result.err
    return here / "one"


@pytest.fixture(scope="module")
def two(here: Path, one: Path) -> Path:
    """The same run by two processes."""
    with torchrun("train.py", *SAME, EPOCHS, HALF, "out_dir=two", cwd=here) as run:
        assert run.wait() == 0, run.text
    assert "batch size 2 processes x 4 x 1" in run.text
    return here / "two"


@pytest.fixture
def copied(here: Path, one: Path) -> Path:
    """The run of one process once more, to go on with: tests may come in any order."""
    shutil.copytree(one, here / "copied")
    return here / "copied"


@pytest.mark.slow
def test_two_processes_train_as_one(one: Path, two: Path) -> None:
    for alone, joint in zip(metrics(one), metrics(two), strict=True):
        assert alone.keys() == joint.keys()
        for name in ("epoch", "step", "lr"):
            assert alone[name] == joint[name]
        for name in ("train/loss", "train/loss/ce", "val/loss"):
            # Sums are cut elsewhere, which each step makes more of; three steps keep their digits.
            rel = 1e-6 if alone["epoch"] == 1 else 3e-4
            assert joint[name] == pytest.approx(alone[name], rel=rel)
    torch.testing.assert_close(weights(two), weights(one), rtol=1e-3, atol=3e-4)


@pytest.mark.slow
def test_only_the_first_process_writes(one: Path, two: Path) -> None:
    def files(run: Path) -> list[str]:
        names = (str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
        return sorted(name.split("tfevents")[0] for name in names)

    assert files(two) == files(one)
    log = (two / "train.log").read_text()
    assert log.count("epoch 1/6") == 1
    assert not (two.parent / "runs").exists()


@pytest.mark.slow
def test_evaluation_by_two_processes_equals_one(here: Path, two: Path) -> None:
    place = f"checkpoint={two}/checkpoints/last.pt"
    assert call("evaluate.py", place, "device=cpu", "out_dir=alone", cwd=here).status == 0
    arguments = (place, "device=cpu", "out_dir=together")
    with torchrun("evaluate.py", *arguments, cwd=here) as run:
        assert run.wait() == 0, run.text
    for name in ("metrics.json", "per_image.csv", "confusion_matrix.csv"):
        assert (here / "together" / name).read_text() == (here / "alone" / name).read_text()
    scores = json.loads((here / "alone" / "metrics.json").read_text())
    assert scores["miou"] == metrics(two)[-1]["val/miou"]


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_alone_goes_on(here: Path) -> None:
    place = here / "killed"
    arguments = (*SAME, HALF, f"out_dir={place}", "trainer.max_epochs=2000")
    with torchrun("train.py", *arguments, cwd=here) as run:
        run.until((place / "checkpoints" / "last.pt").exists)
        workers = run.workers
        assert sorted(workers) == [0, 1]
        os.kill(workers[1], signal.SIGKILL)
        killed = time.monotonic()
        assert run.wait() != 0
        assert time.monotonic() - killed < 60
    assert all_end(list(workers.values()), within=1)
    said = [line for line in run.text.splitlines() if "lost another process" in line]
    assert len(said) == 1
    assert said[0].startswith("error in process 0: process 0 lost another process of this run")

    epoch = len(metrics(place)) + 2
    more = (f"trainer.max_epochs={epoch}", "loader.batch_size=8", "resume=killed")
    result = call("train.py", *more, cwd=here)
    assert result.status == 0, result.err
    assert "2 processes -> 1: the images come in the same order, now 8 at once" in result.out
    assert len(metrics(place)) == epoch


@pytest.mark.slow
def test_restarted_processes_end_with_the_same_weights(here: Path, two: Path) -> None:
    place = here / "restarted"
    arguments = (f"out_dir={place}", "resume=auto", "trainer.save_every_steps=2")
    options = ("--max-restarts=3",)
    with torchrun("train.py", *SAME, EPOCHS, HALF, *arguments, cwd=here, options=options) as run:
        run.until((place / "checkpoints" / "last.pt").exists)
        os.kill(run.workers[1], signal.SIGKILL)
        assert run.wait() == 0, run.text
    assert "resume: " in run.text
    assert len(metrics(place)) == 6
    first, second = weights(two), weights(place)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_sigterm_stops_both_at_one_step_and_more_processes_go_on(here: Path, copied: Path) -> None:
    more = (f"resume={copied}", HALF, "trainer.max_epochs=2000")
    with torchrun("train.py", *more, cwd=here) as run:
        run.until(lambda: has_epochs(copied, 7))
        workers = run.workers
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() != 0
    assert all_end(list(workers.values()), within=1)
    assert run.text.count("stopped by signal 15") == 1
    assert "1 processes -> 2: the images come in the same order, now 8 at once" in run.text
    assert "lost another process" not in run.text

    epochs = len(metrics(copied)) + 1
    last = (f"trainer.max_epochs={epochs}", "loader.batch_size=8", f"resume={copied}")
    result = call("train.py", *last, cwd=here)
    assert result.status == 0, result.err
    assert [line["epoch"] for line in metrics(copied)] == list(range(1, epochs + 1))
    assert [line["step"] for line in metrics(copied)] == [3 * e for e in range(1, epochs + 1)]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_within_a_validation(here: Path) -> None:
    """One of them has an image more than the other, with which it does not wait for an answer."""
    place = here / "validated"
    arguments = (
        *SAME,
        HALF,
        "data.root=many_to_validate",
        "data.dataset.num_val=601",
        "trainer.max_epochs=1",
        "trainer.save_every_steps=3",  # which are the epoch: what comes then is the validation
        f"out_dir={place}",
        "resume=auto",
    )
    with torchrun("train.py", *arguments, cwd=here) as run:
        run.until((place / "checkpoints" / "last.pt").exists)
        workers = run.workers
        os.kill(workers[1], signal.SIGUSR1)
        assert run.wait() != 0
    assert all_end(list(workers.values()), within=1)
    assert run.text.count(f"stopped by signal {int(signal.SIGUSR1)}") == 1
    assert not has_epochs(place, 1)
    state = torch.load(place / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert (state["epoch"], state["images"], state["step"]) == (0, 24, 3)

    with torchrun("train.py", *arguments, cwd=here) as run:
        assert run.wait() == 0, run.text
    (line,) = metrics(place)
    assert line["step"] == 3


@pytest.mark.slow
def test_a_program_may_connect_more_than_once(here: Path) -> None:
    """The second call found addresses of the first one in torchrun's store."""
    program = here / "program.py"
    given = [*SAME, HALF, "trainer.max_epochs=1"]
    program.write_text(
        "import segkit\n"
        f"given = {given!r}\n"
        "for name in ('twice_a', 'twice_b'):\n"
        "    run = segkit.train(*given, out_dir=name)\n"
        "    segkit.evaluate(checkpoint=run.folder, bootstrap={'resamples': 0})\n"
    )
    with torchrun(str(program), cwd=here) as run:
        assert run.wait() == 0, run.text
    first, second = (weights(here / name) for name in ("twice_a", "twice_b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (here / "twice_b/eval/val-best/metrics.json").is_file()


@pytest.mark.slow
def test_a_wrong_value_is_told_once(here: Path) -> None:
    with torchrun("train.py", "seed=-1", cwd=here) as run:
        assert run.wait() != 0
    told = [line for line in run.text.splitlines() if "expected at least 0" in line]
    assert told == ["error in process 0: seed=-1: expected at least 0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("data=voc", "data.root=nowhere", "data.num_classes=3"), "nowhere"),
        ((*SMALL, "trainer.monitor=val/nothing"), "val/nothing: no such logged value"),
    ],
    ids=["data", "monitor"],
)
def test_what_all_find_wrong_is_told_once(here: Path, wrong: tuple[str, ...], told: str) -> None:
    with torchrun("train.py", *wrong, cwd=here) as run:
        assert run.wait() != 0
    lines = [line for line in run.text.splitlines() if line.startswith("error")]
    assert len(lines) == 1, run.text
    assert lines[0].startswith("error in process 0: ")
    assert told in lines[0]
    assert run.text.count("Traceback") == 1  # torchrun's own, at the end


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_a_signal_ends_both_and_leaves_nothing(
    here: Path, number: int
) -> None:
    """Process 0 checks the data, the other waits for it inside of a library."""
    ready, place = here / f"ready-{number}", here / f"unbegun-{number}"
    script = here / "slow_check.py"
    script.write_text(
        "import pathlib, runpy, sys, time\n"
        "import segkit.training.data\n"
        "def check(*_, **__):\n"
        f"    pathlib.Path({str(ready)!r}).touch()\n"
        "    time.sleep(100)\n"
        "segkit.training.data.check_splits = check\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    with torchrun(str(script), *SAME, f"out_dir={place}", cwd=here) as run:
        run.until(ready.exists)
        workers = run.workers
        run.process.send_signal(number)
        assert all_end(list(workers.values()), within=10)
        assert run.wait() != 0
    assert run.text.count("stopped before the first step") == 1
    assert "lost another process" not in run.text
    assert not place.exists()
