"""Advice on configurations and runs, followed to the letter: it must end in a right result."""

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from composed import config
from omegaconf import DictConfig, OmegaConf
from scripts import SMALL, SMALL_DATA, quick_call
from shared_run import copy_of_run
from trained import save_model
from voc_folder import make_voc

from segkit.cli import check_command_line, run
from segkit.config import build
from segkit.config.schema import EvaluateConfig, TrainConfig, inference_options, to_settings
from segkit.errors import SegkitError
from segkit.inference.loading import KEYS, load_inference, load_network, read_checkpoints
from segkit.inference.predictor import Inference
from segkit.models.normalize import Normalize
from segkit.runs.checkpoint import find_checkpoint, read_checkpoint
from segkit.runtime.device import Precision, pick_device
from segkit.training.data import check_agreement
from segkit.training.field_of_view import complete_model, likely_causes, view_warnings
from segkit.training.header import warnings_at_start
from segkit.training.monitor import Monitor
from segkit.training.resume import resumed

OURS = "segkit.losses.CrossEntropyLoss"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bit of all that commands can name."""
    folder = tmp_path_factory.mktemp("made") / "here"
    make_voc(folder / "voc")
    save_model(folder / "net.pt")
    for name in ("masks", "empty", "a,b"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the folder where the test starts."""
    folder = shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


class Case(NamedTuple):
    """A mistake, what is said, and the arguments that take the place of the wrong one (the last).

    In ``advice`` {0}, {1} and so on are what the groups of ``message`` find.
    """

    command: str
    message: str
    advice: str
    key: str
    value: Any
    script: str = "train"


# What is meant is asserted to the letter in tests/config/test_config_table.py; that it also works
# where it is followed is more of the same.
MEANT = [
    Case(
        "trainer.max_epocs=3",
        r"did you mean (\w+)\?",
        "trainer.{0}=3",
        "trainer.max_epochs",
        3,
    ),
    Case("sead=3", r"did you mean (\w+)\?", "{0}=3", "seed", 3),
    Case("++trainer.max_epocs=3", r"mean (\w+)\?", "++trainer.{0}=3", "trainer.max_epochs", 3),
    Case("loss=focl", r"mean (\w+)\?", "loss={0}", "loss.terms.focal.weight", 1.0),
    Case(
        "trainer.precision=fp31",
        r"mean (\w+)\?",
        "trainer.precision={0}",
        "trainer.precision",
        "fp32",
    ),
    Case("hydra.verbos=false", r"mean (\w+)\?", "hydra.{0}=false", "seed", 0),
    Case(
        "loss=focal loss.terms.focal.loss.gama=1",
        r"mean (\w+)\?",
        "loss.terms.focal.loss.{0}=1",
        "loss.terms.focal.loss.gamma",
        1,
    ),
    Case(
        "loss.terms.ce.loss.class_weights=balnced",
        r"mean (\w+)\?",
        "loss.terms.ce.loss.class_weights={0}",
        "loss.terms.ce.loss.class_weights",
        "balanced",
    ),
    Case(
        "model/backbone=resnet18 model.backbone.weights=imagent",
        r"did you mean (\w+)\?",
        "model.backbone.weights={0}",
        "model.backbone.weights",
        "imagenet",
    ),
]
CASES = [
    # did you mean ...?
    Case(
        "loss.terms.ce.loss._target_=segkit.losses.CrossEntropyLos",
        r"mean (\w+)\?",
        "loss.terms.ce.loss._target_=segkit.losses.{0}",
        "loss.terms.ce.loss._target_",
        OURS,
    ),
    # how to write it
    Case("--seed=3", r"drop the dashes: (\S+)", "{0}", "seed", 3),
    Case(
        "loss=null", "null is no choice; leave it out or name one", "", "loss.terms.ce.weight", 1.0
    ),
    Case(
        "loss=null",
        "null is no choice; leave it out or name one",
        "loss=ce",
        "loss.terms.ce.weight",
        1.0,
    ),
    Case(
        "data.dataset.root=x=b",
        r"special characters needs quotes, inner and outer: 'key=\"a=b\"'",
        "'data.dataset.root=\"x=b\"'",
        "data.dataset.root",
        "x=b",
    ),
    Case(
        "data.train_split=a,b",
        r"one that holds a comma is written (\".*\") \(",
        "{0}",
        "data.train_split",
        "a,b",
    ),
    Case("out_dir=a,b", r"\(a path also (\S+)\)", "{0}", "out_dir", "HERE/a,b"),
    Case("data.classes=a,b", r"and a list (\S+)$", "{0}", "data.classes", ["a", "b"]),
    Case(
        "data.classes=a",
        r"expected a list, \[a,b\]",
        "data.classes=[a,b]",
        "data.classes",
        ["a", "b"],
    ),
    Case("model.backbone=tiny", r"write (\S+)$", "{0}", "model.backbone.width", 32),
    Case("~seed", "cannot be deleted; give it a value", "seed=2", "seed", 2),
    Case("out_dir=", "a variable of the shell that is not set", "out_dir=x", "out_dir", "HERE/x"),
    # what is missing
    Case("trainer.max_epochs=???", r"give (\S+)\.\.\.", "{0}7", "trainer.max_epochs", 7),
    Case("data=voc", r"give (data.root=)PATH", "data=voc {0}voc", "data.dataset.root", "HERE/voc"),
    Case(
        "init_parts=[aspp]",
        r"(init_from=)PATH",
        "init_parts=[aspp] {0}net.pt",
        "init_parts",
        ["aspp"],
    ),
    Case("val.window.stride=[4,4]", "give both or", "", "val.window.stride", None),
    Case(
        "val.window.stride=[4,4]",
        "val.window.size is not set; give both",
        "val.window.stride=[4,4] val.window.size=[8,8]",
        "val.window.size",
        [8, 8],
    ),
    Case(
        "val.window.size=[8,8] val.window.stride=[9,9]",
        r"expected at most val.window.size=(\[.*\]);",
        "'val.window.stride={0}'",
        "val.window.stride",
        [8, 8],
    ),
    # folders of Hydra's
    Case("hydra.job.chdir=true", r"give (out_dir=)FOLDER", "{0}x", "out_dir", "HERE/x"),
    Case("hydra.output_subdir=x", r"give (out_dir=\w+)", "{0}", "out_dir", "HERE/x"),
    Case("hydra.sweep.dir=x", r"give (out_dir=\w+)", "{0}", "out_dir", "HERE/x"),
    Case(
        "-m optimizer.lr=0.1,0.2 hydra.sweep.subdir=x",
        r"give (out_dir=\S+), say, in single quotes",
        "'{0}'",
        "out_dir",
        "runs/0.2",
    ),
    Case(
        "checkpoint=net.pt hydra.run.dir=x",
        r"give (out_dir=\w+)",
        "{0}",
        "out_dir",
        "HERE/x",
        "evaluate",
    ),
    # what an evaluation needs
    Case("", r"give (checkpoint=)PATH", "{0}net.pt", "checkpoint", "HERE/net.pt", "evaluate"),
    Case(
        "",
        r"or (predictions=)FOLDER",
        "{0}masks data.root=voc",
        "predictions",
        "HERE/masks",
        "evaluate",
    ),
    Case(
        "predictions=masks checkpoint=net.pt",
        "give one of them, and the other as compare",
        "compare=net.pt data.root=voc",
        "compare",
        "HERE/net.pt",
        "evaluate",
    ),
    Case(
        "predictions=masks",
        r"data.root is not set: give (data.root=)PATH",
        "predictions=masks {0}voc",
        "data.root",
        "HERE/voc",
        "evaluate",
    ),
    Case(
        "checkpoint=net.pt data.classes=[a,b]",
        "is for predictions=...: a checkpoint brings its own",
        "",
        "checkpoint",
        "HERE/net.pt",
        "evaluate",
    ),
    Case(
        "checkpoint=./net.pt,./net.pt",
        r"several are written \[a,b\]",
        "checkpoint=[./net.pt,./net.pt]",
        "checkpoint",
        ["HERE/net.pt", "HERE/net.pt"],
        "evaluate",
    ),
]


@pytest.mark.quick(
    "[--seed=3 ",
    "[data.train_split=a,b ",
    "[trainer.max_epochs=??? ",
    "[out_dir=a,b ",
    "[hydra.job.chdir=true ",
    "[predictions=masks >",
)
@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MEANT)],
    ids=lambda case: f"{case.command} > {case.advice}",
)
def test_a_command(case: Case, here: Path) -> None:
    *kept, wrong = shlex.split(case.command) or [""]
    said = config(case.script, *kept, *([wrong] if wrong else []))
    assert isinstance(said, str), said
    found = re.search(case.message, said)
    assert found is not None, said
    followed = config(case.script, *kept, *shlex.split(case.advice.format(*found.groups())))
    assert isinstance(followed, DictConfig), followed
    value = OmegaConf.select(followed, case.key)
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    expected = [
        v.replace("HERE", str(here)) if isinstance(v, str) else v for v in _list(case.value)
    ]
    assert _list(value) == expected


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.quick("hydra0")
@pytest.mark.parametrize(
    ("hydra", "advice"),
    [
        ("{run: {dir: x}}", r"give (out_dir=\S+),"),
        ("{job: {chdir: true}}", r"give (out_dir=)FOLDER,"),
        ("{sweep: {subdir: x}}", ""),
        ("{sweep: {dir: x}}", r"give (out_dir=\S+),"),
        ("{output_subdir: x}", r"give (out_dir=\S+),"),
    ],
)
def test_hydras_folders_in_a_file(hydra: str, advice: str, here: Path) -> None:
    file = here / "mine/experiment/my.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\nseed: 5\nhydra: {hydra}\n")
    command = ("--config-dir", "mine", "experiment=my")
    said = config("train", *command, early=True)
    assert isinstance(said, str), said
    assert f"in {file}: has no effect there; take it out, and " in said
    file.write_text("# @package _global_\nseed: 5\n")
    found = re.search(advice, said)
    assert found is not None, said
    more = found[1] + "x" * found[1].endswith("=") if advice else "out_dir=x"
    followed = config("train", *command, more, early=True)
    assert isinstance(followed, DictConfig), followed
    assert (followed.seed, followed.out_dir) == (5, str(here / "x"))


@pytest.mark.slow
def test_the_folder_of_a_sweep_in_a_file(here: Path) -> None:
    file = here / "mine/experiment/my.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\nhydra: {sweep: {dir: x}}\n")
    command = ("-m", "--config-dir", "mine", "experiment=my", "seed=3,4")
    said = config("train", *command, early=True)
    assert isinstance(said, str)
    found = re.search(r"take it out, and give (\S+) on the command line", said)
    assert found is not None, said
    file.write_text("# @package _global_\nhydra: {verbose: false, output_subdir: null}\n")
    followed = config("train", *command, found[1], early=True)
    assert isinstance(followed, DictConfig), followed
    assert (here / "x/multirun.yaml").is_file()


@pytest.mark.slow
def test_keys_that_contradict_the_data_are_left_out(here: Path) -> None:
    more = ["model.num_classes=30", "model.in_channels=1"]
    for arguments in (more, []):
        cfg = config("train", "+data.num_classes=3", *arguments)
        assert isinstance(cfg, DictConfig), cfg
        if not arguments:
            check_agreement(cfg)
            continue
        with pytest.raises(SegkitError) as error:
            check_agreement(cfg)
        for argument in arguments:
            assert f"leave {argument.partition('=')[0]} out" in str(error.value)


@pytest.mark.slow
def test_a_monitor_that_is_meant(here: Path) -> None:
    def best(name: str) -> Any:
        cfg = config("train", f"trainer.monitor={name}", "data.classes=[cat,dog]")
        assert isinstance(cfg, DictConfig), cfg
        return Monitor.of(to_settings(TrainConfig, cfg)).best

    with pytest.raises(SegkitError, match=r"did you mean (\S+)\?") as error:
        best("val/iou/cta")
    found = re.search(r"did you mean (\S+)\?", str(error.value))
    assert found is not None
    assert best(found[1]).monitor == "val/iou/cat"


@pytest.mark.slow
def test_small_batches(here: Path) -> None:
    def warned(*arguments: str) -> list[str]:
        cfg = config("train", *SMALL[4:], "loader.batch_size=2", "data.classes=[a,b,c]", *arguments)
        assert isinstance(cfg, DictConfig), cfg
        cfg.data.num_classes = 3
        model = build(cfg.model).train()
        assert model(torch.zeros(2, 3, 48, 64)).shape == (2, 3, 48, 64)
        settings = to_settings(TrainConfig, cfg)
        batch_size = settings.loader.batch_size
        return list(warnings_at_start(settings, model, batch_size, None, world_size=1))

    (said,) = warned()
    found = re.search(r"try (\S+) with (\S+), or a larger batch", said)
    assert found is not None, said
    assert warned(*found.groups()) == []
    assert warned("loader.batch_size=4") == []


class Step(NamedTuple):
    """A mistake of a function, and the same with what its message advises."""

    wrong: Callable[[], object]
    message: str
    right: Callable[[], object]


def inference(**settings: Any) -> Callable[[], object]:
    model = torch.nn.Conv2d(3, 2, 1)

    def work() -> object:
        image = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
        precision = Precision.pick("fp32", torch.device("cpu"))
        normalize = Normalize((0.0,) * 3, (1.0,) * 3)
        return Inference(model, normalize, precision, **settings)(image).shape == (1, 2, 9, 9)

    return work


def devices(name: str, number: int = 1) -> Callable[[], object]:
    return lambda: pick_device(name, 0, number).type == "cpu"


def weights(which: str) -> Callable[[], object]:
    return lambda: load_network(read_checkpoint("net.pt"), weights=which) is not None


CPU = torch.device("cpu")
STEPS = {
    "stride alone": Step(
        inference(stride=(4, 4)), "give both or neither", inference(window=(8, 8), stride=(4, 4))
    ),
    "stride too large": Step(
        inference(window=(4, 4), stride=(5, 5)),
        r"at most window=\(4, 4\)",
        inference(window=(4, 4), stride=(4, 4)),
    ),
    "no CUDA": Step(devices("cuda:99"), "use cpu", devices("cpu")),
    "fp16": Step(
        lambda: Precision.pick("fp16", CPU),
        "on the CPU use fp32 or bf16",
        lambda: Precision.pick("bf16", CPU).reduced and not Precision.pick("fp32", CPU).reduced,
    ),
    "no average": Step(weights("ema"), "use raw", weights("raw")),
    "an empty folder": Step(
        lambda: find_checkpoint(Path("empty")),
        "give a run folder that train.py wrote, or a .pt file",
        lambda: find_checkpoint(Path("net.pt")).is_file(),
    ),
}


@pytest.mark.parametrize("name", list(STEPS))
def test_a_function(name: str, here: Path) -> None:
    step = STEPS[name]
    with pytest.raises(SegkitError, match=step.message):
        step.wrong()
    assert step.right()


@pytest.mark.slow
def test_an_ensemble_of_other_windows(here: Path) -> None:
    window = {"size": [32, 32], "stride": None}
    save_model(here / "other.pt", config={"val": {"window": window}})

    def load(*more: str) -> Inference:
        cfg = config("evaluate", "checkpoint=[net.pt,other.pt]", *more)
        assert isinstance(cfg, DictConfig), cfg
        settings = to_settings(EvaluateConfig, cfg)
        checkpoints = read_checkpoints(settings.checkpoint)
        return load_inference(checkpoints, inference_options(settings), CPU, KEYS)

    with pytest.raises(SegkitError, match=r"give window\.size=") as error:
        load()
    found = re.search(r"give (window\.size=)\[HEIGHT,WIDTH\], or (\S+)", str(error.value))
    assert found is not None
    assert load(f"{found[1]}[16,16]").window == (16, 16)
    assert load(found[2]).window is None


@pytest.mark.slow
def test_a_search_for_the_best(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    given = ["train.py", "-m", "hydra/sweeper=optuna", "seed=choice(0,1)"]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit, match="the search minimises") as error:
        check_command_line("train")
    found = re.search(r"use (\S+), or add (\S+)$", str(error.value))
    assert found is not None
    for more in ([given[0], "-m", found[1], given[3]], [*given, found[2]]):
        monkeypatch.setattr(sys, "argv", more)
        check_command_line("train")


@pytest.mark.slow
def test_rates_of_earlier_weights(here: Path) -> None:
    source = {"atrous_rates": [2, 4, 6]}

    def warned(*arguments: str) -> list[str]:
        cfg = config("train", *arguments)
        assert isinstance(cfg, DictConfig), cfg
        complete_model(cfg.model, (400, 400))
        return list(view_warnings(cfg.model, (400, 400), source, goes_on=False))

    (said,) = warned()
    found = re.search(r"'(\S+)' keeps the rates", said)
    assert found is not None, said
    assert warned(found[1]) == []


@pytest.mark.slow
def test_a_score_that_falls(here: Path) -> None:
    cfg = config("train")
    assert isinstance(cfg, DictConfig), cfg
    said = likely_causes(cfg, (96, 64), 8)
    found = re.findall(
        r"(val\.window\.size=\[96,64\]|model\.freeze_bn=true|optimizer\.lr=[\d.e-]+)", said
    )
    assert len(found) == 3, said
    followed = config("train", *found, "loader.batch_size=16")
    assert isinstance(followed, DictConfig), followed
    assert followed.val.window.size == [96, 64]
    assert followed.model.freeze_bn
    assert followed.optimizer.lr < cfg.optimizer.lr


def test_resume_auto(here: Path) -> None:
    def start(*arguments: str) -> object:
        cfg = config("train", "resume=auto", *arguments)
        assert isinstance(cfg, DictConfig), cfg
        return resumed(cfg, ["resume=auto", *arguments])[1]

    with pytest.raises(SegkitError, match="give out_dir=FOLDER too") as error:
        start()
    found = re.search(r"give (out_dir=)FOLDER", str(error.value))
    assert found is not None
    assert start(f"{found[1]}new") is None  # the beginning


# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of one epoch, ``run``."""
    return copy_of_run(tmp_path_factory, "short", "run")


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "home")


def epochs(folder: Path) -> int:
    return int(read_checkpoint(folder / "checkpoints/last.pt").state["epoch"])


NEW = (*SMALL, "trainer.max_epochs=1")


def refused(home: Path, message: str, *arguments: str) -> re.Match[str]:
    told = quick_call(*arguments, cwd=home)
    assert told.status == 1, told.out
    found = re.search(message, told.err)
    assert found is not None, told.err
    return found


def done(home: Path, *arguments: str) -> str:
    told = quick_call(*arguments, cwd=home)
    assert told.status == 0, told.err
    return told.out


@pytest.mark.slow
def test_a_folder_that_holds_a_run(home: Path) -> None:
    given = (*SMALL, "out_dir=run")
    found = refused(home, r"add (resume=auto) to go on with it, or give another folder", *given)
    done(home, *given, found[1])
    assert epochs(home / "run") == 2


@pytest.mark.slow
def test_what_makes_it_another_run_starts_from_its_weights(home: Path) -> None:
    more = "model.output_stride=8"
    found = refused(home, r"use (init_from=\S+) instead of resume", "resume=run", more)
    said = done(home, *NEW, more, "out_dir=other", found[1])
    assert f"{found[1]}: " in said
    assert epochs(home / "other") == 1


@pytest.mark.slow
def test_a_checkpoint_elsewhere_needs_a_folder(home: Path) -> None:
    shutil.copy(home / "run/checkpoints/last.pt", home / "kept.pt")
    given = ("resume=kept.pt", "trainer.max_epochs=2")
    found = refused(home, r"give (out_dir=)FOLDER, a new one", *given)
    done(home, *given, f"{found[1]}new")
    assert epochs(home / "new") == 2


@pytest.mark.slow
def test_damaged_checkpoints_only(home: Path) -> None:
    for file in (home / "run/checkpoints").glob("*.pt"):
        file.write_bytes(b"damaged")
    for given in (("out_dir=run", "resume=auto"), ("resume=run",)):
        found = refused(home, "in another folder, by (out_dir=)FOLDER without", *NEW, *given)
    done(home, *NEW, f"{found[1]}new")
    assert epochs(home / "new") == 1


@pytest.mark.slow
def test_weights_that_are_no_checkpoint(home: Path) -> None:
    torch.save(read_checkpoint(home / "run").state["model"], home / "plain.pt")
    with pytest.raises(SegkitError, match=r"use train\.py with init_from=PATH") as error:
        read_checkpoint(home / "plain.pt")
    found = re.search(r"with (init_from=)PATH", str(error.value))
    assert found is not None
    said = done(home, *NEW, "out_dir=other", f"{found[1]}plain.pt")
    assert "init_from=" in said


@pytest.mark.slow
def test_weights_that_no_run_goes_on_from(home: Path) -> None:
    save_model(home / "net.pt")
    found = refused(home, r"net\.pt: .*use (init_from) instead", "resume=net.pt", "out_dir=other")
    said = done(home, *NEW, "out_dir=other", f"{found[1]}=net.pt")
    assert "init_from=" in said


@pytest.mark.slow
def test_a_batch_size_that_only_cuda_finds(home: Path) -> None:
    given = (*NEW, "out_dir=other")
    found = refused(home, r"give a number, as (\S+)", *given, "loader.batch_size=auto")
    done(home, *given, found[1])
    assert epochs(home / "other") == 1


@pytest.mark.slow
def test_a_training_that_has_diverged(home: Path) -> None:
    given = (*NEW, "optimizer.weight_decay=1e4", "optimizer.lr=1e37", "out_dir=other")
    message = r"Start again, or resume (\S+) if there is one, with a lower (optimizer\.lr)"
    best, key = refused(home, message, *given).groups()
    shutil.rmtree(home / "other", ignore_errors=True)
    again = done(home, *given, f"{key}=1e-6")
    resume = f"resume=run/checkpoints/{best}"
    later = done(home, resume, f"{key}=0.001", "trainer.max_epochs=2")
    assert "epoch 1/1  loss" in again
    assert "epoch 2/2  loss" in later
    assert "NaN" not in again + later


@pytest.mark.slow
@pytest.mark.parametrize(
    "advice",
    ["optimizer.lr=0.01", pytest.param("trainer.clip_grad_norm=1", marks=pytest.mark.slow)],
)
def test_a_learning_rate_that_is_too_high(home: Path, advice: str) -> None:
    given = (*NEW, "trainer.max_epochs=2", "optimizer=sgd", "optimizer.lr=1e20", "out_dir=other")
    found = refused(home, "a lower optimizer.lr or trainer.clip_grad_norm=1;", *given)
    assert advice.partition("=")[0] in found[0]
    more = [] if advice.startswith("optimizer") else ["optimizer.lr=0.01"]
    shutil.rmtree(home / "other", ignore_errors=True)
    said = done(home, *given, advice, *more)
    assert "NaN" not in said


@pytest.mark.slow
def test_weights_of_a_backbone_that_hold_nan(home: Path) -> None:
    cfg = config("train", "model/backbone=resnet18", "model.backbone.weights=null")
    assert isinstance(cfg, DictConfig), cfg
    net = build(cfg.model.backbone)(output_stride=16)
    for name, factor in (("bad", float("nan")), ("good", 1.0)):
        tensors = {
            k: v * factor if v.is_floating_point() else v for k, v in net.state_dict().items()
        }
        torch.save(tensors, home / f"{name}.pt")
    given = (*SMALL_DATA, "trainer.device=cpu", "model/backbone=resnet18", "out_dir=other")
    message = rf"error: (model\.backbone\.weights={home}/bad\.pt): \S+ and \d+ more of its weights"
    refused(home, message, *given, "model.backbone.weights=bad.pt")
    assert not (home / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        ("out_dir=other",),
        pytest.param(("resume=run", "trainer.max_epochs=2"), marks=pytest.mark.slow),
    ],
)
def test_a_learning_rate_beyond_all_numbers(home: Path, start: tuple[str, ...]) -> None:
    given = start if start[0] == "resume=run" else (*NEW, *start)
    found = refused(
        home, r"step \d: .* overflow.* Try a lower (optimizer\.lr)$", *given, "optimizer.lr=1e39"
    )
    shutil.rmtree(home / "other", ignore_errors=True)
    said = done(home, *given, f"{found[1]}=0.001")
    assert "NaN" not in said
    assert epochs(home / ("run" if start[0] == "resume=run" else "other")) == len(start)


# Folders and processes


@pytest.mark.quick("[export-needed3")
@pytest.mark.parametrize(
    ("script", "needed", "suffix"),
    [
        ("train", [], ""),
        ("evaluate", ["checkpoint=net.pt"], ""),
        ("predict", ["checkpoint=net.pt", "source=masks"], ""),
        ("export", ["checkpoint=net.pt"], ".onnx"),
        ("export", ["checkpoint=net.pt", "format=torchscript"], ".torchscript"),
    ],
)
def test_hydras_folder(script: str, needed: list[str], suffix: str, here: Path) -> None:
    said = config(script, *needed, "hydra.run.dir=made")
    assert isinstance(said, str)
    found = re.search(r"give (out(?:_dir)?)=(made(?:/NAME)?)", said)
    assert found is not None, said
    followed = config(script, *needed, f"{found[1]}={found[2]}{suffix}")
    assert isinstance(followed, DictConfig), followed
    assert followed[found[1]].endswith(f"{found[2]}{suffix}")


@pytest.mark.slow
def test_a_sweep_under_torchrun(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        said = config("train", "-m", "seed=3")
    assert isinstance(said, str)
    assert "start it without torchrun" in said
    followed = config("train", "-m", "seed=3")
    assert isinstance(followed, DictConfig), followed
    assert followed.seed == 3


def test_a_folder_that_is_not_there(here: Path) -> None:
    said = config("train", "data.root=gone/deep/voc")
    assert isinstance(said, str)
    found = re.search(r"for your own data add (data=\w+)$", said)
    assert found is not None, said
    followed = config("train", found[1], "data.root=voc")
    assert isinstance(followed, DictConfig), followed
    assert followed.data.dataset._target_ == "segkit.data.VOCSegmentation"


@pytest.mark.slow
def test_memory_that_ran_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(cfg: DictConfig) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit, match="out of memory") as error:
        run("train", full)
    found = re.search(r"use a smaller (model/backbone), smaller images", str(error.value))
    assert found is not None
    followed = config(
        "train", f"{found[1]}=tiny", "data.dataset.height=64", "data.dataset.width=64"
    )
    assert isinstance(followed, DictConfig), followed
    assert followed.model.backbone._target_ == "segkit.models.backbones.Tiny"
