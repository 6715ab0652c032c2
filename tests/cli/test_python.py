"""``segkit.train(...)`` and ``segkit.evaluate(...)``: the same as the scripts, in this process."""

import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from scripts import SMALL
from shared_run import copy_of_run, shared_run

import segkit
from segkit.cli.python import assignments
from segkit.errors import ConfigError, DataError, SegkitError
from segkit.training.recorder import Recorder

ONE = (*SMALL, "trainer.max_epochs=1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"
    assert not HydraConfig.initialized()


def test_it_is_the_run_of_train_py(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same numbers, in a process where a run has been before."""
    script = json.loads((shared_run(tmp_path_factory, "plain") / "plain/summary.json").read_text())
    run = segkit.train(*SMALL)
    assert (run.score, run.best_epoch) == (script["best_score"], script["best_epoch"])
    assert (run.monitor, run.scores) == ("val/miou", script["scores"])
    assert run.folder.parent == here / "runs"
    assert f"next: python -m segkit evaluate checkpoint=runs/{run.folder.name} " in (
        capsys.readouterr().out
    )
    assert run.best == run.folder / "checkpoints/best.pt"

    scores = segkit.evaluate(checkpoint=run.best, device="cpu", loader={"num_workers": 0})
    assert scores["miou"] == run.score
    written = json.loads((run.folder / "eval/val-best/metrics.json").read_text())
    assert json.loads(json.dumps(scores)) == written
    assert segkit.load_model(run.best, device="cpu").classes[0] == "background"


@pytest.mark.slow
def test_values_of_python_and_two_runs_in_one_process(here: Path) -> None:
    words = segkit.train("loss=[ce,dice]", "loss.terms.dice.weight=0.5", "seed=3", *ONE)
    values = segkit.train(
        *ONE,
        loss=["ce", "dice"],
        seed=np.int64(3),
        out_dir=here / "it's, mine",
        **{"loss.terms.dice.weight": 0.5},
    )
    assert values.scores == words.scores
    assert values.folder == here / "it's, mine"
    lines = (words.folder / "train.log").read_text().splitlines()
    assert sum("24 images to train on" in line for line in lines) == 1


@pytest.mark.slow
def test_a_resume(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = copy_of_run(tmp_path_factory, "short", "mine")
    whole = json.loads((shared_run(tmp_path_factory, "plain") / "plain/summary.json").read_text())
    run = segkit.train(resume=home / "mine", trainer={"max_epochs": 2})
    assert run.folder == home / "mine"
    assert run.best_epoch is not None
    assert whole["epochs"] == json.loads((run.folder / "summary.json").read_text())["epochs"]


def test_in_a_program_of_hydras_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job goes on as it was: name, configuration, ``version_base``."""
    (here / "conf").mkdir()
    theirs = OmegaConf.from_dotlist(list(ONE))
    del theirs["loader"]
    OmegaConf.save({"size": 8, "segkit": theirs}, here / "conf/mine.yaml")
    seen = []

    @hydra.main(version_base="1.2", config_path=str(here / "conf"), config_name="mine")
    def program(cfg: DictConfig) -> None:
        base, job = hydra.version.getbase(), HydraConfig.get().job.config_name
        loader = {"batch_size": cfg.size, "num_workers": 0}
        run = segkit.train(**cfg.segkit, loader=loader, out_dir=here / "run")
        with pytest.raises(ConfigError):
            segkit.train(sead=1)
        seen.append(run.folder)
        assert HydraConfig.get().job.config_name == job == "mine"
        assert hydra.version.getbase() == base
        assert GlobalHydra.instance().is_initialized()

    monkeypatch.setattr(sys, "argv", ["program.py", "size=8", "hydra.run.dir=mine"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    program()
    assert seen == [here / "run"]
    assert "loss" in OmegaConf.load(here / "run/config.yaml")


@pytest.mark.slow
def test_in_another_thread_and_with_a_notebooks_output(here: Path) -> None:
    """Whose standard output is no file."""
    out, runs = io.StringIO(), []
    with redirect_stdout(out):
        thread = threading.Thread(target=lambda: runs.append(segkit.train(*ONE)))
        thread.start()
        thread.join()
    assert "best epoch 1" in out.getvalue()
    assert runs[0].best.is_file()


@pytest.mark.slow
def test_ctrl_c_saves_and_the_next_call_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    on_step = Recorder.on_step

    def interrupted(self: Recorder, values: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        on_step(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            segkit.train(*ONE, out_dir="run")
    assert signal.getsignal(signal.SIGINT) is before
    run = segkit.train(resume="run")
    whole = segkit.train(*ONE)
    assert run.scores == whole.scores


@pytest.mark.slow
def test_group_files_of_ones_own(here: Path) -> None:
    (here / "mine/loss").mkdir(parents=True)
    (here / "mine/loss/half.yaml").write_text(
        "_target_: segkit.losses.WeightedSum\n"
        "terms: {half: {weight: 0.5, loss: {_target_: segkit.losses.CrossEntropyLoss}}}\n"
    )
    run = segkit.train(*ONE, loss="half", config_dir="mine")
    assert "train/loss/half" in (run.folder / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match="config_dir=yours: no such folder"):
        segkit.train(config_dir="yours")


@pytest.mark.parametrize(
    ("words", "values", "message"),
    [
        (["seed=-1"], {}, "seed=-1: expected at least 0"),
        ([], {"seed": -1}, "seed=-1: expected at least 0"),
        ([], {"sead": 1}, "sead: no such key; did you mean seed?"),
        ([], {"trainer": {"max_epocs": 3}}, "trainer.max_epocs: no such key; did you mean max_ep"),
        ([], {"loss": "focl"}, "loss=focl: no such choice; did you mean focal?"),
        ([], {"seed": object()}, "a object; expected a text, number, true or false, path, list"),
        (["seed=0,1"], {}, "seed=0,1: several values are for a sweep"),
        (["-m"], {}, "-m: is for the command line; .* for a sweep call this once per job"),
        (["--config-dir=mine"], {}, "for your own group files give config_dir=..."),
        (["--seed=1"], {}, "drop the dashes: seed=1"),
        (["hydra.run.dir=x"], {}, "Hydra writes nothing here; give out_dir=x, the run folder"),
        (["seed"], {}, "seed: expected key=value"),
        ([3], {}, "3: expected key=value"),
        (["resume=nowhere"], {}, "resume=.*nowhere: no such file or folder"),
        (["data=voc"], {"data.root": "nowhere"}, "nowhere"),
        (["data=voc", "data.root=${nowhere}"], {}, "nowhere"),
    ],
)
def test_mistakes_are_raised_as_they_are_told(
    here: Path, words: list[str], values: dict, message: str
) -> None:
    with pytest.raises(SegkitError, match=message):
        segkit.train(*words, **values)
    assert not (here / "runs").exists()


def test_a_mistake_of_evaluate(here: Path) -> None:
    with pytest.raises(SegkitError, match=r"checkpoint=nowhere.*no such file"):
        segkit.evaluate(checkpoint="nowhere")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trainer": {"max_epochs": 20}}, ["trainer.max_epochs=20"]),
        ({"data.label_map": {255: 1}}, ["data.label_map={255: 1}"]),
        ({"augment": {"crop_size": (96, 128)}}, ["augment.crop_size=[96, 128]"]),
        ({"loss": ["ce", "dice"]}, ["loss=['ce', 'dice']"]),
        ({"resume": None, "seed": 1, "a": True}, ["resume=null", "seed=1", "a=true"]),
        ({"lr": 1e-5, "path": Path("a b")}, ["lr=1e-05", "path='a b'"]),
        ({"lr": np.float32(0.5)}, ["lr=0.5"]),
        ({"palette": {"disk": "orange"}}, ["palette={disk: 'orange'}"]),
        ({"data": {"label_map": {"255": "ignore"}}}, ["data.label_map={255: 'ignore'}"]),
    ],
)
def test_how_values_are_written(values: dict, words: list[str]) -> None:
    assert list(assignments(values)) == words


@settings(max_examples=50)
@given(st.text(st.sampled_from("aB1_-.+%@|()[]{}:=, \t\\"), min_size=1))
def test_every_name_in_a_mapping_arrives_as_it_is(text: str) -> None:
    name = f"a{text}b"  # outer blanks are lost, and 1 is a number
    (word,) = assignments({"palette": {name: [1, 2, 3]}})
    assert OverridesParser.create().parse_override(word).value() == {name: [1, 2, 3]}


@pytest.mark.parametrize("name", ["caf\u00e9", "null", "true", "it's"])
def test_a_name_that_hydra_would_change_is_for_a_file(name: str) -> None:
    text = re.escape(f"palette: the name {name!r} cannot be given in a call; put the mapping into")
    with pytest.raises(ConfigError, match=text):
        list(assignments({"palette": {name: "red"}}))
    with pytest.raises(ConfigError, match=r"label_map: the name .* cannot be given in a call$"):
        list(assignments({"data": {"label_map": {name: 1}}}))


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8", exclude_characters="$\0"), min_size=1))
def test_every_text_arrives_as_it_is(text: str) -> None:
    (word,) = assignments({"out_dir": text})
    assert OverridesParser.create().parse_override(word).value() == text


def test_the_data_that_is_wrong_is_an_error_of_the_data(here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        segkit.train("data=voc", data={"root": "empty"})
