"""Runs that take minutes: what the README promises of a whole training."""

import json
import shutil
from pathlib import Path

import pytest
from scripts import ROOT, SMALL, call, spawn

pytestmark = pytest.mark.slow


def test_the_default_run_learns_the_shapes(tmp_path: Path) -> None:
    done = spawn("train.py", cwd=tmp_path, limit=900)
    assert done.status == 0, done.err
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_score"] >= 0.85
    assert summary["scores"]["num_classes_averaged"] == 6
    # What the console offers as the next command works as it stands, and repeats the score.
    assert (
        f"next: python {ROOT}/evaluate.py checkpoint=runs/{run.name} save_predictions=true"
        in done.out
    )
    done = spawn("evaluate.py", f"checkpoint=runs/{run.name}", cwd=tmp_path)
    assert done.status == 0, done.err
    metrics = json.loads((run / "eval" / "val-best" / "metrics.json").read_text())
    assert metrics["miou"] == summary["best_score"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_trains_and_its_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    home = tmp_path / "here"
    home.mkdir()
    done = spawn("train.py", *SMALL, "trainer.compile=true", "out_dir=run", cwd=home, limit=900)
    assert done.status == 0, done.err
    summary = json.loads((home / "run" / "summary.json").read_text())
    assert call("evaluate.py", "checkpoint=run", cwd=home).status == 0
    metrics = json.loads((home / "run" / "eval" / "val-best" / "metrics.json").read_text())
    assert metrics["miou"] == summary["best_score"]
