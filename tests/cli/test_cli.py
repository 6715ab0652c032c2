"""The two scripts as commands: where they start, what they show, how they end."""

import json
import traceback
from pathlib import Path

import pytest
import torch
from scripts import SMALL, call, quick_call, spawn


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_train_and_evaluate_in_processes_of_their_own(here: Path) -> None:
    trained = spawn("train.py", *SMALL, "trainer.max_epochs=1", cwd=here)
    assert trained.status == 0, trained.err
    assert trained.err == ""  # no bar and no warning where nobody looks
    (run,) = (here / "runs").iterdir()
    assert sorted(path.name for path in here.iterdir()) == ["data", "runs"]
    assert f"checkpoint=runs/{run.name}" in trained.out

    elsewhere = here.parent / "elsewhere"
    elsewhere.mkdir()
    evaluated = spawn("evaluate.py", f"checkpoint=../here/runs/{run.name}", cwd=elsewhere)
    assert evaluated.status == 0, evaluated.err
    assert list(elsewhere.iterdir()) == []
    scores = json.loads((run / "eval/val-best/metrics.json").read_text())
    assert scores["miou"] == json.loads((run / "summary.json").read_text())["best_score"]


@pytest.mark.slow
def test_help_lists_the_groups(here: Path) -> None:
    result = call("train.py", "--help", cwd=here)
    assert result.status == 0
    assert "loss: bce, ce, dice, focal, lovasz, mse, topk, tversky [ce,dice]" in result.out
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_wrong_job_of_a_sweep_is_found_before_the_first_one_runs(here: Path) -> None:
    result = call("train.py", "-m", *SMALL, "seed=0,-1", cwd=here)
    assert result.status == 1
    assert result.err.splitlines()[-1] == "error: seed=-1: expected at least 0"
    assert "Traceback" not in result.err
    assert list(here.iterdir()) == []


def test_memory_that_runs_out_before_the_first_step(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nmore")

    monkeypatch.setattr("segkit.training.precision_check.check_precision", run_out)
    result = quick_call(*SMALL, "trainer.precision=bf16", cwd=here)
    assert result.status == 1
    assert result.err.startswith("error: out of memory: use a smaller model/backbone")
    assert result.err.endswith("free memory (CUDA out of memory. Tried to allocate 20.00 MiB)\n")


def test_an_interrupt_ends_quietly(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segkit.cli.command.check_values", interrupted)
    result = call("train.py", cwd=here)
    assert (result.status, result.err) == (130, "")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.run.dir=elsewhere", "Hydra writes nothing here; give out_dir=elsewhere, the run"),
        ("++hydra.run.dir='runs/x'", "hydra.run.dir=runs/x: Hydra writes nothing here"),
        ("hydra.job.chdir=true", "relative paths always start where you do; give out_dir=FOLDER"),
        ("hydra.output_subdir=.hydra", "the configuration is in config.yaml of the run folder"),
        ("hydra.sweep.dir=elsewhere", "it is for a sweep (-m)"),
        ("hydra.sweep.subdir=${hydra.job.num}", "the jobs of a sweep make their own folders"),
    ],
)
def test_hydras_folders_are_refused(here: Path, override: str, message: str) -> None:
    result = call("train.py", override, cwd=here)
    assert result.status == 1
    assert message in result.err
    assert not list(here.iterdir())


@pytest.mark.parametrize("more", [(), ("-m", "seed=0,1")])
def test_hydras_folder_in_a_configuration_of_ones_own_is_refused(
    here: Path, more: tuple[str, ...]
) -> None:
    (here.parent / "mine.yaml").write_text(
        "defaults: [train, _self_]\nhydra: {run: {dir: a/b}, output_subdir: c}\n"
    )
    own = ("--config-dir", str(here.parent), "--config-name", "mine")
    result = call("train.py", *more, *own, cwd=here)
    assert result.status == 1
    assert result.err.startswith("error: hydra.run.dir=a/b: Hydra writes nothing here; give out_")
    assert "hydra.output_subdir=c: the configuration is in config.yaml" in result.err
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_what_is_advised_in_place_of_hydras_folder_works(here: Path) -> None:
    more = ("trainer.max_epochs=1", "out_dir=elsewhere", "hydra.run.dir=.", "hydra.job.chdir=false")
    result = quick_call(*SMALL, *more, cwd=here)
    assert (result.status, result.err) == (0, "")
    assert (here / "elsewhere/checkpoints/last.pt").is_file()


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_defect_shows_where_it_is(here: Path, apart: bool) -> None:
    (here / "my_data.py").write_text("def bad(split):\n    return {}['lost key']\n")
    (here / "my_configs/data").mkdir(parents=True)
    (here / "my_configs/data/bad.yaml").write_text(
        "dataset: {_target_: my_data.bad, _partial_: true}\nroot: null\n"
    )
    arguments = ("--config-dir", "my_configs", "data=bad")
    if apart:
        err = spawn("train.py", *arguments, cwd=here).err
    else:
        with pytest.raises(KeyError) as error:  # Hydra would shorten the traceback
            quick_call(*arguments, cwd=here)
        err = "".join(traceback.format_exception(error.value))
    assert 'my_data.py", line 2, in bad' in err
    assert "KeyError: 'lost key'" in err
