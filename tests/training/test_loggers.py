"""Programs that follow a run: told everything, and never able to end it."""

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import SMALL, call, quick_call, spawn

from segkit.config.problems import logger_problems
from segkit.runtime.log import log_to_console
from segkit.training.loggers import KEYS, LoggedRun, Loggers
from segkit.training.loggers.mlflow import allowed


class Fake:
    """A logger that keeps what it is told, and raises where it is asked to."""

    told: list[tuple[str, Any]]

    def __init__(self, run: LoggedRun) -> None:
        self.key = run.key or f"key-of-{run.folder.name}"
        self.told.append(("start", run))
        self.fail("start")

    def fail(self, at: str) -> None:
        if at in os.environ.get("FAKE_FAILS", "").split():
            raise RuntimeError(f"no network\nat {at}")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.told.append(("scalars", (dict(values), step)))
        self.fail("scalars")

    def finish(self, results: Mapping[str, float], failed: bool) -> None:
        self.told.append(("finish", (dict(results), failed)))
        self.fail("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """In the place of W&B."""
    module = ModuleType("segkit.training.loggers.wandb")
    kind = type("FakeOfThisTest", (Fake,), {"told": []})
    module.make = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    log_to_console()
    return kind


def run_in(folder: Path) -> LoggedRun:
    return LoggedRun(folder, {"seed": 0}, {"lr": 0.1})


def test_a_logger_is_told_numbers_and_the_end(fake: type[Fake], tmp_path: Path) -> None:
    with Loggers(["wandb", "wandb"], run_in(tmp_path)) as loggers:
        loggers.scalars({"val/miou": 0.5, "val/iou/cat": None, "val/loss": float("nan")}, 3)
        loggers.results = {"val/miou": 0.5, "val/fw_iou": None}
    assert [what for what, _ in fake.told] == ["start", "scalars", "finish"]
    assert fake.told[1][1] == ({"val/miou": 0.5}, 3)
    assert fake.told[2][1] == ({"best/val/miou": 0.5}, False)
    assert json.loads((tmp_path / KEYS).read_text()) == {"wandb": f"key-of-{tmp_path.name}"}


def test_a_resumed_run_goes_on_under_its_key(fake: type[Fake], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="stop"), Loggers(["wandb"], run_in(tmp_path)):
            raise ValueError("stop")
    starts = [run.key for what, run in fake.told if what == "start"]
    assert starts == [None, f"key-of-{tmp_path.name}"]
    assert [told for what, told in fake.told if what == "finish"] == [({}, True)] * 2
    with Loggers(["wandb"], run_in(tmp_path), goes_on=False):
        assert [run.key for what, run in fake.told if what == "start"][-1] is None
    (tmp_path / KEYS).write_text("[damaged")
    with Loggers(["wandb"], run_in(tmp_path)):
        pass
    assert [run.key for what, run in fake.told if what == "start"][-1] is None


@pytest.mark.parametrize(("at", "calls"), [("start", 1), ("scalars", 2), ("finish", 4)])
def test_what_a_logger_raises_is_said_once(
    fake: type[Fake],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    at: str,
    calls: int,
) -> None:
    monkeypatch.setenv("FAKE_FAILS", at)
    with Loggers(["wandb"], run_in(tmp_path)) as loggers:
        for step in (1, 2):
            loggers.scalars({"lr": 0.5}, step)
    assert len(fake.told) == calls
    said = f"wandb stops here (RuntimeError: no network at {at}); the run goes on\n"
    assert capsys.readouterr().out == said


def test_no_logger_writes_nothing(tmp_path: Path) -> None:
    with Loggers([], run_in(tmp_path)) as loggers:
        loggers.scalars({"lr": 0.5}, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_run_tells_epochs_and_steps(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line; a broken logger changes nothing of the run."""
    monkeypatch.setattr(
        "segkit.config.problems.find_spec", lambda name: sys.modules["json"].__spec__
    )
    short = ("trainer.max_epochs=1", "trainer.log_every=2", "trainer.loggers=[wandb]")
    home = tmp_path / "home"
    home.mkdir()
    result = quick_call(*SMALL, *short, "out_dir=run", cwd=home)
    assert result.status == 0, result.err
    start = fake.told[0][1]
    assert (start.folder.name, start.config["trainer"]["max_epochs"]) == ("run", 1)
    assert start.settings["optimizer"] == "AdamW"
    told = [values for what, values in fake.told if what == "scalars"]
    (line,) = [json.loads(text) for text in (home / "run/metrics.jsonl").read_text().splitlines()]
    assert [step for _, step in told] == [2, 3]
    assert set(told[0][0]) > {"step/train/loss", "step/lr"}
    assert told[1][0] == {k: v for k, v in line.items() if v is not None and k != "step"}
    assert fake.told[-1] == ("finish", ({**fake.told[-1][1][0]}, False))
    assert fake.told[-1][1][0]["best/val/miou"] == line["val/miou"]
    assert "loggers.json" in {path.name for path in (home / "run").iterdir()}
    # One that is broken from the start.
    monkeypatch.setenv("FAKE_FAILS", "start")
    broken = quick_call(*SMALL, *short, "out_dir=broken", cwd=home)
    assert broken.status == 0
    assert broken.out.count("wandb stops here (") == 1
    (other,) = [
        json.loads(text) for text in (home / "broken/metrics.jsonl").read_text().splitlines()
    ]
    timed = ("seconds", "images_per_second", "memory_mib")
    assert {k: v for k, v in other.items() if k not in timed} == {
        k: v for k, v in line.items() if k not in timed
    }


def test_an_unknown_logger_and_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call("train.py", "trainer.loggers=[wandbb]", cwd=tmp_path)
    assert result.status == 1
    assert "trainer.loggers=['wandbb']: no such value; did you mean wandb? (there are" in result.err
    monkeypatch.setattr("segkit.config.problems.find_spec", lambda name: None)
    result = call("train.py", "trainer.loggers=[trackio]", cwd=tmp_path)
    assert result.err == (
        "error: trainer.loggers=[trackio]: trackio is not installed; python -m pip install "
        "trackio, or run with trainer.loggers=[]\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_called_wandb_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B makes one where it is started; Python would take it for a package without files."""
    (tmp_path / "wandb").mkdir()
    others = [path for path in sys.path if not (Path(path) / "wandb").exists()]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *others])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (problem,) = logger_problems(["wandb"])
    assert "wandb is not installed" in problem


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("val/iou/traffic light", "val/iou/traffic light"),
        ("val/iou/a(b)=c", "val/iou/a_b__c"),
        ("val/iou/..", "val/iou/__"),
        ("val/iou//x/", "val/iou/x"),
    ],
)
def test_names_that_mlflow_takes(name: str, found: str) -> None:
    assert allowed(name) == found


# The programs themselves, without a network.


def needs(name: str) -> pytest.MarkDecorator:
    found = find_spec(name)
    missing = found is None or found.origin is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")


def trained_and_resumed(tmp_path: Path, name: str, **environment: str) -> Path:
    """A run of one epoch, resumed for a second one, followed by one program."""
    home = tmp_path / "home"
    home.mkdir()
    given = (*SMALL, f"trainer.loggers=[{name}]", "trainer.log_every=1")
    for more in (("trainer.max_epochs=1", "out_dir=run"), ("resume=run", "trainer.max_epochs=2")):
        arguments = (*given, *more) if "out_dir=run" in more else more
        result = spawn("train.py", *arguments, cwd=home, **environment)
        assert result.status == 0, result.err
        assert "stops here" not in result.out
    return home


@pytest.mark.slow
@needs("wandb")
def test_wandb_offline(tmp_path: Path) -> None:
    home = trained_and_resumed(tmp_path, "wandb", WANDB_MODE="offline")
    key = json.loads((home / "run" / KEYS).read_text())["wandb"]
    folders = sorted((home / "run/wandb").glob("offline-run-*"))
    assert len(folders) == 2  # one run, to be sent together
    for folder in folders:
        assert folder.name.endswith(f"-{key}")
        (file,) = folder.glob("*.wandb")
        found = file.read_bytes()
        for text in (b"best/val/miou", b"val/iou/background", b"step/train/loss", b"max_epochs"):
            assert text in found


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_in_a_local_data_base(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny has no data base")
    place = f"sqlite:///{tmp_path}/runs.db"
    home = trained_and_resumed(tmp_path, "mlflow", MLFLOW_TRACKING_URI=place)
    key = json.loads((home / "run" / KEYS).read_text())["mlflow"]
    look = (
        "import json, sys, mlflow\n"
        "client = mlflow.MlflowClient(sys.argv[1])\n"
        "run = client.get_run(sys.argv[2])\n"
        "curves = {n: [(m.step, m.value) for m in client.get_metric_history(sys.argv[2], n)]\n"
        "          for n in ('val/miou', 'step/lr', 'best/val/miou')}\n"
        "files = [f.path for f in client.list_artifacts(sys.argv[2])]\n"
        "print(json.dumps([run.info.status, run.data.params, curves, files]))\n"
    )
    status, params, curves, files = json.loads(python(home, look, place, key))
    lines = [json.loads(line) for line in (home / "run/metrics.jsonl").read_text().splitlines()]
    assert status == "FINISHED"
    assert params["optimizer"] == "AdamW"
    assert curves["val/miou"] == [[line["step"], line["val/miou"]] for line in lines]
    assert [step for step, _ in curves["step/lr"]] == [1, 2, 3, 4, 5, 6]
    assert curves["best/val/miou"][-1][1] == max(line["val/miou"] for line in lines)
    assert files == ["config.yaml"]


@pytest.mark.slow
@needs("trackio")
def test_trackio_in_a_local_folder(tmp_path: Path) -> None:
    import sqlite3

    home = trained_and_resumed(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    key = json.loads((home / "run" / KEYS).read_text())["trackio"]
    with sqlite3.connect(tmp_path / "trackio/segkit.db") as base:
        found = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, _, _ in found} == {key}
    epochs = [(step, json.loads(text)) for _, step, text in found if b'"epoch"' in bytes(text)]
    lines = [json.loads(line) for line in (home / "run/metrics.jsonl").read_text().splitlines()]
    assert [(step, line["val/miou"]) for step, line in epochs] == [
        (line["step"], line["val/miou"]) for line in lines
    ]


def python(cwd: Path, code: str, *arguments: str) -> str:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()[-1]
