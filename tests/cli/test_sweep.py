"""Sweeps, ``python train.py -m``: every job has its own run, one that fails ends no other."""

import csv
import importlib.util
import json
import pickle
import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from scripts import ROOT, SMALL, Result, call, spawn

from segkit.cli.jobs import differing, job_folder, job_name, leave_note, write_table
from segkit.cli.sweep import CheckJobs, Failed, failures
from segkit.runs.finished import FinishedRun

ONE = (*SMALL, "trainer.max_epochs=1")
LOSSES = "loss=ce,focal,[ce,dice]"


def needs(plugin: str) -> pytest.MarkDecorator:
    there = importlib.util.find_spec(f"hydra_plugins.{plugin}") if hydra_has_plugins() else None
    return pytest.mark.skipif(there is None, reason=f"needs {plugin}")


def hydra_has_plugins() -> bool:
    return importlib.util.find_spec("hydra_plugins") is not None


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def runs(here: Path) -> list[dict]:
    """The resolved configuration of each run that finished, in the order in which they began."""
    finished = sorted(
        (here / "runs").glob("*_sweep/*/summary.json"), key=lambda p: p.stat().st_mtime_ns
    )
    return [yaml.safe_load((path.parent / "config.yaml").read_text()) for path in finished]


@pytest.mark.slow
def test_three_losses(here: Path) -> None:
    result = call("train.py", "-m", *ONE, LOSSES, cwd=here)
    assert (result.status, result.err) == (0, "")
    assert [list(config["loss"]["terms"]) for config in runs(here)] == [
        ["ce"],
        ["focal"],
        ["ce", "dice"],
    ]
    started = [line for line in result.out.splitlines() if re.match(r"job \d", line)]
    assert started == ["job 0: loss=ce", "job 1: loss=focal", "job 2: loss=[ce,dice]"]
    assert [line.split()[:2] for line in result.out.splitlines()[-5:-1]] == [
        *(["job", "loss"], ["0", "ce"], ["1", "focal"], ["2", "[ce,dice]"])
    ]
    (sweep,) = (here / "runs").iterdir()
    assert {path.name for path in sweep.iterdir()} == {
        *("multirun.yaml", "sweep.csv"),
        *("0_loss-ce", "1_loss-focal", "2_loss-ce-dice"),
    }


@pytest.mark.slow
def test_a_job_that_fails_ends_no_other(here: Path) -> None:
    monitors = "trainer.monitor=train/loss,val/nothing,val/miou"
    result = call("train.py", "-m", *ONE, monitors, cwd=here)
    assert result.status == 1
    assert [c["trainer"]["monitor"] for c in runs(here)] == ["train/loss", "val/miou"]
    assert result.err.startswith("failed: job 1: trainer.monitor=val/nothing\n")
    end = result.err.partition("error: 1 of the sweep's jobs failed, the others ran:\n")[2]
    job, why = end.splitlines()
    assert job.strip() == "job 1: trainer.monitor=val/nothing"
    assert why.strip().startswith("trainer.monitor=val/nothing: no such logged value")
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_a_defect_in_a_job_shows_where_it_is_and_ends_no_other(here: Path) -> None:
    (here / "my_losses.py").write_text(
        "from torch import nn\n"
        "class Broken(nn.Module):\n"
        "    def forward(self, logits, target):\n"
        "        return {}['lost key']\n"
    )
    (here / "my_configs/loss").mkdir(parents=True)
    (here / "my_configs/loss/broken.yaml").write_text(
        "_target_: segkit.losses.WeightedSum\n"
        "terms: {broken: {weight: 1.0, loss: {_target_: my_losses.Broken}}}\n"
    )
    result = call("train.py", "-m", *ONE, "loss=broken,ce", "--config-dir", "my_configs", cwd=here)
    assert result.status == 1
    assert 'my_losses.py", line 4, in forward' in result.err
    assert "job 0: loss=broken\n           KeyError: 'lost key'\n" in result.err
    assert [list(config["loss"]["terms"]) for config in runs(here)] == [["ce"]]


@pytest.mark.parametrize("resume", ["resume=null", "resume=auto"])
def test_jobs_that_would_write_one_folder_are_refused_at_the_start(here: Path, resume: str) -> None:
    """Each way out that the second job told led to the next error."""
    result = call("train.py", "-m", *ONE, "seed=3,4", "out_dir=one", resume, cwd=here)
    assert result.status == 1
    assert "error: out_dir=one: several jobs of the sweep would write there" in result.err
    assert "'out_dir=runs/${hydra:job.num}'" in result.err
    assert not (here / "one").exists()


@pytest.mark.slow
def test_the_same_line_again_goes_on_with_a_sweep(here: Path) -> None:
    place = "out_dir=runs/${hydra:job.num}"
    line = ("train.py", "-m", *ONE, "seed=3,4", place, "resume=auto")
    assert call(*line, cwd=here).status == 0
    before = [path.read_text() for path in sorted(here.glob("runs/*/metrics.jsonl"))]
    assert len(before) == 2
    again = call(*line, cwd=here)
    assert again.status == 0
    assert again.out.count("has finished after epoch 1") == 2
    assert before == [path.read_text() for path in sorted(here.glob("runs/*/metrics.jsonl"))]
    # Other values there would get the scores of these.
    other = ("optimizer.lr=0.5", "trainer.max_epochs=2")
    refused = call(*line, *other, cwd=here)
    assert refused.status == 1
    assert refused.err.count("holds a run with other values than optimizer.lr=0.5; give an") == 4
    assert before == [path.read_text() for path in sorted(here.glob("runs/*/metrics.jsonl"))]


@pytest.mark.parametrize(
    ("choice", "plugin"),
    [
        ("hydra/launcher=local", "hydra_joblib_launcher"),
        ("hydra/launcher=slurm", "hydra_submitit_launcher"),
        ("hydra/sweeper=search", "hydra_optuna_sweeper"),
    ],
)
def test_a_preset_without_its_plugin_says_what_to_install(
    here: Path, choice: str, plugin: str
) -> None:
    if hydra_has_plugins() and importlib.util.find_spec(f"hydra_plugins.{plugin}"):
        pytest.skip(f"{plugin} is installed")
    result = call("train.py", "-m", choice, "seed=0,1", cwd=here)
    assert result.status == 1
    assert result.err.startswith("error: hydra/")
    assert result.err.endswith(f"python -m pip install {plugin.replace('_', '-')}\n")
    assert len(result.err.splitlines()) == 1
    assert list(here.iterdir()) == []


def test_a_sweep_has_one_process_per_job(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    result = call("train.py", "-m", "seed=0,1", cwd=here)
    assert result.status == 1
    assert result.err.startswith("error in process 0: -m: ")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "job", "name", "folder"),
    [
        ("-m seed=0,1 trainer.val_every=2", ["seed=0", "trainer.val_every=2"], "seed=0", "seed-0"),
        ("-m out_dir=x seed=0,1", ["out_dir='x'", "seed=1"], "seed=1", "seed-1"),
        ("-m loss=ce,[ce,dice] --cd=x", ["loss=[ce,dice]"], "loss=[ce,dice]", "loss-ce-dice"),
        ("-m hydra/sweeper=search", ["a.lr=0.03"], "a.lr=0.03", "a.lr-0.03"),
        ("-m 'data.root=a b,c d'", ["data.root='a b'"], "data.root=a b", "data.root-a-b"),
        ("-m seed=3", ["seed=3"], "", ""),
    ],
)
def test_a_label_shows_only_what_differs(
    line: str, job: list[str], name: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"overrides": {"task": job}, "job": {"num": 7}, "sweep": {"dir": "runs/x"}}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": node}))
    differs = differing(["train.py", *shlex.split(line)])
    assert job_name(differs) == (f"job 7: {name}" if name else "job 7")
    assert job_folder(differs) == Path("runs/x") / (f"7_{folder}" if folder else "7")


def test_a_long_label_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"job": {"num": 7}, "sweep": {"dir": "runs"}}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": node}))
    assert len(job_folder({"loss": "[" + "ce," * 200 + "]"}).name) <= 100


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Out of what the jobs have left, in any order."""

    def note(number: int, result: object, problem: str | None) -> None:
        node = {"job": {"num": number}, "sweep": {"dir": str(tmp_path)}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": node}))
            leave_note({"seed": str(number)}, result, problem)

    good = FinishedRun(tmp_path / "b", "val/miou", 0.5, 3, {}, 61.26)
    note(10, good, None)
    note(2, None, "no such file")
    note(3, {"miou": None}, None)
    write_table(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]
    assert (tmp_path / "sweep.csv").read_text().splitlines() == [
        "job,seed,monitor,score,best_epoch,seconds,folder,problem",
        "2,2,,,,,,no such file",
        "3,3,miou,,,,,",
        f"10,10,val/miou,0.5,3,61.3,{tmp_path / 'b'},",
    ]
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in shown[:4]] == [
        ["job", "seed", "score", "epoch"],
        ["2", "2", "failed"],
        ["3", "3"],
        ["10", "10", "0.5000", "3"],
    ]
    write_table(tmp_path)  # of a sweep that was stopped before its first job
    assert capsys.readouterr().out == ""


def test_a_failed_job_is_noted_where_its_result_arrives() -> None:
    sent = pickle.dumps(Failed("seed=1", "no such file"))
    failures.clear()  # as in another process
    arrived = pickle.loads(sent)
    assert (arrived.job, arrived.why) == ("seed=1", "no such file")
    assert failures == {"seed=1": "no such file"}
    failures.clear()


@pytest.mark.parametrize(
    ("given", "position"),
    [
        (["-m", "a=1,2", "b=3"], 2),
        (["--config-dir", "mine", "-m", "a=1"], 4),
        (["a=1", "-m", "--config-dir", "mine"], 1),
        (["--config-dir=mine", "-m"], 3),
    ],
)
def test_the_check_stands_beside_the_overrides(given: list[str], position: int) -> None:
    shown = CheckJobs.on_the_command_line(["train.py", *given])
    assert shown[position].startswith("+hydra.callbacks.check._target_=segkit.cli.sweep.")
    assert [word for i, word in enumerate(shown) if i != position] == ["train.py", *given]


def sweep(here: Path, *arguments: str) -> Result:
    """Run in a process of its own: Optuna 2 gives warnings, which are errors in this one."""
    return spawn("train.py", "-m", *ONE, *arguments, cwd=here, limit=600)


@pytest.mark.slow
@needs("hydra_joblib_launcher")
def test_jobs_side_by_side(here: Path) -> None:
    monitors = "trainer.monitor=train/loss,val/nothing,val/miou"
    result = sweep(here, "hydra/launcher=local", "loader.num_workers=1", monitors)
    assert result.status == 1
    assert sorted(c["trainer"]["monitor"] for c in runs(here)) == ["train/loss", "val/miou"]
    (table,) = here.glob("runs/*_sweep/sweep.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["trainer.monitor"] for row in rows] == ["train/loss", "val/nothing", "val/miou"]
    assert [bool(row["problem"]) for row in rows] == [False, True, False]
    end = result.err.partition("error: 1 of the sweep's jobs failed, the others ran:\n")[2]
    assert end.startswith("       job 1: trainer.monitor=val/nothing\n")
    assert "Traceback" not in result.err


@pytest.mark.slow
@needs("hydra_optuna_sweeper")
def test_optuna_maximises_what_train_returns(here: Path) -> None:
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    (here / "my_configs/experiment").mkdir(parents=True)
    (here / "my_configs/experiment/search.yaml").write_text(
        page.partition("```yaml\n")[2].partition("```")[0]
    )
    chosen = ("experiment=search", "hydra.sweeper.n_trials=3")
    result = sweep(here, *chosen, "--config-dir", "my_configs")
    assert result.status == 0, result.err
    summaries = [json.loads(path.read_text()) for path in here.glob("runs/*/*/summary.json")]
    assert len(summaries) == 3
    found = yaml.safe_load(next(here.glob("runs/*_sweep/optimization_results.yaml")).read_text())
    assert found["best_value"] == max(summary["best_score"] for summary in summaries)
    assert set(found["best_params"]) == {"optimizer.lr", "loss"}


@pytest.mark.slow
@needs("hydra_optuna_sweeper")
def test_optuna_without_one_good_job(here: Path) -> None:
    result = sweep(
        here, "hydra/sweeper=search", "hydra.sweeper.n_trials=2", "trainer.monitor=val/nothing"
    )
    assert result.status == 1
    assert "error: 2 of the sweep's jobs failed" in result.err
    assert "Traceback" not in result.err


@needs("hydra_optuna_sweeper")
def test_a_search_for_the_worst_run_is_refused(here: Path) -> None:
    result = call("train.py", "-m", "hydra/sweeper=optuna", "seed=0,1", cwd=here)
    assert result.status == 1
    assert "minimises trainer.monitor=val/miou, of which more is better" in result.err
    assert len(result.err.splitlines()) == 1


@needs("hydra_submitit_launcher")
def test_the_slurm_preset_composes(here: Path) -> None:
    result = call("train.py", "hydra/launcher=slurm", "--cfg", "hydra", cwd=here)
    assert result.status == 0
    launcher = yaml.safe_load(result.out)["hydra"]["launcher"]
    assert launcher["_target_"].endswith("SlurmLauncher")
    assert launcher["gpus_per_node"] == launcher["tasks_per_node"] == 1


def test_presets_are_found() -> None:
    """Hydra looks for them only when one is chosen, so nothing else would notice a wrong path."""
    folder = ROOT / "configs/hydra"
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml")} == {
        "launcher/local.yaml",
        "launcher/slurm.yaml",
        "sweeper/search.yaml",
    }
