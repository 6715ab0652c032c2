"""The configuration of a run that goes on: the checkpoint's, with what is typed today on top."""

import copy
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from composed import config
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from states import METADATA, make_state, take_steps
from torch import nn

from segkit.cli.typed import hide_overrides
from segkit.config import absolute_paths, plain_config
from segkit.config.growth import grows
from segkit.config.schema import TrainConfig, to_settings
from segkit.errors import CheckpointError, ConfigError
from segkit.runs.checkpoint import Checkpoint, save_checkpoint
from segkit.runtime.log import log_to_console
from segkit.shipped import CONFIGS
from segkit.training.header import warnings_at_start
from segkit.training.resume import choices, differences, relearned, resumed

CLASSES = ["background", "disk"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    log_to_console()
    return tmp_path


def composed(*arguments: str) -> tuple[DictConfig, list[str], dict[str, Any]]:
    """Configuration, typed overrides and chosen files, as a command line brings them."""
    cfg, typed, chosen = copy.deepcopy(_composed(arguments))
    absolute_paths(cfg, "train")
    return cfg, typed, chosen


@cache  # the same few commands, again and again
def _composed(arguments: tuple[str, ...]) -> tuple[DictConfig, list[str], dict[str, Any]]:
    shown, typed = hide_overrides(["train.py", *arguments])
    hydra = HydraConfig.instance()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", shown[1:], return_hydra_config=True)
    hydra.set_config(cfg)
    chosen = choices()
    hydra.cfg = None
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, list(arguments) if typed is None else typed, chosen


def save_run(folder: Path, *arguments: str) -> Path:
    """A run folder whose last.pt was written by a run with this command line."""
    cfg, _, chosen = composed(*arguments)
    cfg.out_dir = str(folder)
    cfg.data.classes, cfg.data.num_classes = CLASSES, len(CLASSES)
    state = make_state()
    take_steps(state, 3)
    state.epoch, state.images = 1, 8
    recipe = {"config": OmegaConf.to_container(cfg, resolve=False), "choices": chosen}
    metadata = METADATA.__dict__ | {"config": plain_config(cfg), "recipe": recipe}
    (folder / "checkpoints").mkdir(parents=True)
    save_checkpoint(folder / "checkpoints/last.pt", state, type(METADATA)(**metadata), {})
    return folder


def resume(*arguments: str) -> tuple[DictConfig, Checkpoint | None]:
    cfg, typed, _ = composed(*arguments)
    return resumed(cfg, typed)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume_config")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return save_run(folder / "run")


@pytest.fixture
def run(here: Path, saved_run: Path) -> Path:
    return shutil.copytree(saved_run, here / "run")


def edit(run: Path, key: str, value: Any) -> None:
    """Change one key of the configuration in a checkpoint, as an attacker could."""
    path = run / "checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    config = OmegaConf.create(content["about"]["recipe"]["config"])
    OmegaConf.update(config, key, value, merge=False)
    content["about"]["recipe"]["config"] = OmegaConf.to_container(config)
    torch.save(content, path)


# Where the checkpoint comes from


def test_without_resume_there_is_no_checkpoint(run: Path) -> None:
    cfg, saved = resume(f"out_dir={run}", "seed=5")
    assert (cfg.seed, saved) == (5, None)


@pytest.mark.parametrize("there", [True, False])
def test_auto_starts_anew_where_nothing_is(here: Path, there: bool) -> None:
    if there:
        (here / "new" / "checkpoints").mkdir(parents=True)
    cfg, saved = resume("resume=auto", "out_dir=new", "seed=5")
    assert (cfg.seed, cfg.out_dir, saved) == (5, str(here / "new"), None)


def test_auto_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="give out_dir=FOLDER too"):
        resume("resume=auto")


def test_a_path_that_is_not_there_is_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^resume=.*/nothing: no such file or folder; give a"):
        resume("resume=nothing")
    (here / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"^resume=.*/empty: no checkpoints in this folder$"):
        resume("resume=empty")


@pytest.mark.quick("[resume=run]", "resume=auto")
@pytest.mark.parametrize(
    "given",
    [
        "resume=run",
        "resume=run/checkpoints",
        "resume=run/checkpoints/last.pt",
        "resume=auto out_dir=run",
    ],
)
def test_the_run_goes_on_in_its_folder(here: Path, run: Path, given: str) -> None:
    cfg, saved = resume(*given.split())
    assert saved is not None
    assert saved.path == here / "run/checkpoints/last.pt"
    assert (cfg.out_dir, cfg.resume) == (str(here / "run"), None)


def test_another_folder_branches_off(here: Path, run: Path) -> None:
    cfg, saved = resume("resume=run", "out_dir=branch")
    assert saved is not None
    assert cfg.out_dir == str(here / "branch")


def test_a_file_that_lies_elsewhere_needs_a_folder(here: Path, run: Path) -> None:
    (run / "checkpoints/last.pt").rename(here / "copy.pt")
    with pytest.raises(
        ConfigError, match=r"copy\.pt: not in the checkpoints folder of a run; give"
    ):
        resume("resume=copy.pt")
    assert resume("resume=copy.pt", "out_dir=branch")[0].out_dir == str(here / "branch")


def test_a_checkpoint_of_an_older_segkit_is_refused(run: Path) -> None:
    path = run / "checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    del content["about"]["recipe"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="nothing to go on with; use init_from instead"):
        resume("resume=run")


# What is applied


def test_the_configuration_is_that_of_the_checkpoint(here: Path) -> None:
    given = ("optimizer=sgd", "optimizer.momentum=0.5", "trainer.max_epochs=7", "loss=[ce,dice]")
    run = save_run(here / "run", *given, "model/backbone=resnet18", "seed=3")
    cfg, saved = resume("resume=run")
    assert saved is not None
    assert plain_config(cfg) == saved.metadata.config | {"out_dir": str(run)}
    assert list(cfg.data.classes) == CLASSES


def display_path(capsys: pytest.CaptureFixture[str]) -> list[str]:
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("run/checkpoints/last.pt, after epoch 1 and 8 images of the next, step 3")
    return [line.removeprefix("resume: ") for line in lines]


@pytest.mark.quick("resume=run")
@pytest.mark.parametrize("start", ["resume=run", "resume=auto out_dir=run"])
def test_overrides_are_applied_and_shown(
    run: Path, saved_run: Path, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["optimizer.lr=0.1", "trainer.max_epochs=20", "data.root=moved", "model.dropout=0"]
    cfg, _ = resume(*start.split(), *given)
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.model.dropout) == (0.1, 20, 0)
    assert cfg.data.dataset.root == cfg.data.root == str(Path("moved").absolute())
    before, moved = saved_run.parent / "data/shapes", Path("moved").absolute()
    assert display_path(capsys) == [
        f"data.dataset.root {before} -> {moved}",
        f"data.root {before} -> {moved}",
        "model.dropout 0.1 -> 0",
        "optimizer.lr 0.003 -> 0.1",
        "trainer.max_epochs 12 -> 20",
    ]


def test_a_key_that_only_the_checkpoint_has(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra composes the default optimizer, which may have no momentum."""
    save_run(here / "run", "optimizer=sgd")
    cfg, _ = resume("resume=run", "optimizer.momentum=0.8")
    assert cfg.optimizer.momentum == 0.8
    assert display_path(capsys) == ["optimizer.momentum 0.9 -> 0.8"]


def test_the_best_is_not_searched_among_values_of_two_measures(here: Path) -> None:
    """0.77 of another loss, or of other images, used to be better than 2.48."""
    save_run(here / "run", "trainer.monitor=val/loss")
    with pytest.raises(ConfigError, match=r"trainer\.monitor=val/loss would compare the values of"):
        resume("resume=run", "loss=focal")
    with pytest.raises(ConfigError, match=r"data\.val_split=train cannot change in a resumed run"):
        resume("resume=run", "data.val_split=train")
    # The ways out that are told, and the names of class weights, whose numbers are saved.
    resume("resume=run", "loss=focal", "trainer.monitor=val/miou")
    save_run(here / "other")
    resume("resume=other", "loss=focal")


def test_a_line_that_takes_a_key_out_goes_on_as_well(here: Path) -> None:
    """The same line starts and goes on, but the second time the key was not there."""
    save_run(here / "run", "loss=[ce,dice]", "~loss.terms.dice")
    cfg, _ = resume("resume=auto", "out_dir=run", "loss=[ce,dice]", "~loss.terms.dice")
    assert [*cfg.loss.terms] == ["ce"]
    with pytest.raises(ConfigError, match=r"~loss\.terms\.dice: no such key"):
        resume("resume=run", "~loss.terms.dice")


def test_data_that_moved_change_nothing_that_is_learned(here: Path) -> None:
    save_run(here / "run")
    cfg, saved = resume("resume=run", "data.root=moved")
    assert saved is not None
    assert relearned(cfg, saved) == []
    cfg, saved = resume("resume=run", "optimizer.lr=0.5")
    assert saved is not None
    assert relearned(cfg, saved) == ["optimizer.lr=0.5"]


@pytest.mark.slow
@pytest.mark.quick("resume=auto")
@pytest.mark.parametrize("start", ["resume=run", "resume=auto out_dir=run"])
def test_another_loss(run: Path, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    cfg, _ = resume(*start.split(), "loss=focal", "loss.terms.focal.loss.gamma=1")
    assert list(cfg.loss.terms) == ["focal"]
    assert cfg.loss.terms.focal.loss.gamma == 1
    lines = display_path(capsys)
    changed = [f"loss.terms.{name}" for name in ("ce", "dice", "focal")]
    assert [line.partition(" ")[0] for line in lines] == changed


@pytest.mark.quick("scheduler=cosine", "++optimizer.eps", "~optimizer", "label_smoothing")
@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        ("loss=[ce,focal]", "loss.terms.focal.loss._target_", "segkit.losses.FocalLoss"),
        ("scheduler=cosine", "scheduler._target_", "segkit.schedules.Cosine"),
        ("augment=none", "augment.train", []),
        ("+trainer.clip_grad_norm=2", "trainer.clip_grad_norm", 2),
        ("++optimizer.eps=1e-6", "optimizer.eps", 1e-6),
        ("~optimizer.weight_decay", "optimizer.weight_decay", None),
        ("augment.train=[]", "augment.train", []),
        ("loss.terms.ce.loss={label_smoothing: 0.1}", "loss.terms.ce.loss.label_smoothing", 0.1),
    ],
)
def test_other_overrides_that_are_applied(
    run: Path, given: str, key: str, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg, _ = resume("resume=run", given)
    assert OmegaConf.select(cfg, key) == expected
    assert display_path(capsys)


COMMAND_LINE = (
    "loss=[ce,dice]",
    "loss.terms.dice.weight=0.5",
    "optimizer=adamw",
    "model/backbone=resnet18",
    "data.root=images",
    "trainer.max_epochs=7",
    "seed=3",
    "out_dir=run",
)


def test_the_same_command_line_again_changes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(here / "run", *COMMAND_LINE)
    cfg, saved = resume(*COMMAND_LINE, "resume=auto")
    assert saved is not None
    assert plain_config(cfg) == saved.metadata.config | {"out_dir": str(run)}
    assert display_path(capsys) == []


@pytest.mark.slow
def test_a_choice_that_stays_does_not_undo_what_was_set_below_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(here / "run", "loss=focal", "loss.terms.focal.loss.gamma=1")
    cfg, _ = resume("resume=run", "loss=focal")
    assert cfg.loss.terms.focal.loss.gamma == 1
    assert display_path(capsys) == []


def test_the_choice_again_brings_what_an_older_run_had_not(here: Path) -> None:
    """The advice to use augment=standard was followed by the same advice."""
    run = save_run(here / "run", "augment=standard", "augment.train.0.scale=[1,2]")
    path = run / "checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    for key in ("late", "late_crop_size", "late_epochs"):
        del content["about"]["recipe"]["config"]["augment"][key]
    torch.save(content, path)
    late = ("augment.late_epochs=1", "augment.late_crop_size=[32,40]", "trainer.max_epochs=90")
    with pytest.raises(ConfigError, match=r"no transform of augment\.late crops to it; use aug"):
        resume("resume=run", *late)
    cfg, _ = resume("resume=run", "augment=standard", *late)
    assert (cfg.augment.late[0].height, cfg.augment.late[0].width) == (32, 40)
    assert list(cfg.augment.train[0].scale) == [1, 2]
    # But what was set by the user stays.
    save_run(here / "other", "augment=standard", "augment.late=[]", "augment.late_crop_size=null")
    cfg, _ = resume("resume=other", "augment=standard")
    assert (list(cfg.augment.late), cfg.augment.late_crop_size) == ([], None)


def test_environment_variables_stay_unspelt(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_TEST", str(here))
    save_run(here / "run", "data.root=${oc.env:SEGKIT_TEST}")
    monkeypatch.setenv("SEGKIT_TEST", "/elsewhere")
    cfg, _ = resume("resume=run")
    assert cfg.data.dataset.root == "/elsewhere"
    assert plain_config(cfg)["data"]["root"] == "${oc.env:SEGKIT_TEST}"


@pytest.mark.quick("init_from")
@pytest.mark.parametrize("key", ["init_from", "model.backbone.weights"])
def test_what_only_the_start_needed_may_be_gone(here: Path, key: str) -> None:
    (here / "start.pt").touch()
    save_run(here / "run", "model/backbone=resnet18", f"{key}=start.pt")
    (here / "start.pt").unlink()
    cfg, _ = resume("resume=run")
    assert OmegaConf.select(cfg, key) == str(here / "start.pt")


# What is refused


@pytest.mark.quick(
    "seed=1-resume=run",
    "model/backbone=resnet18-resume=run",
    "optimizer=sgd-resume=run",
    "data.classes=[a,b]-resume=run",
)
@pytest.mark.parametrize(
    "start", ["resume=run", pytest.param("resume=auto out_dir=run", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "given",
    [
        "model.aspp_channels=8",
        "model.backbone.width=8",
        "model/backbone=resnet18",
        "seed=1",
        "data=voc data.root=.",
        "data.classes=[a,b]",
        "data.num_classes=3",
        "data.ignore_index=0",
        "data.mean=[0.5,0.5,0.5]",
        "data.range=[0,4095]",
        "data.label_map={255:1}",
        "optimizer=sgd",
        "optimizer._target_=torch.optim.Adam",
        "init_from=run",
        "init_parts=[aspp]",
    ],
)
def test_what_makes_it_another_run_is_refused(run: Path, start: str, given: str) -> None:
    with pytest.raises(ConfigError, match="cannot change in a resumed run") as info:
        resume(*start.split(), *given.split())
    assert "use init_from=" in str(info.value)
    assert given.partition("=")[0] in str(info.value)


def test_all_refusals_come_at_once(run: Path) -> None:
    with pytest.raises(ConfigError) as info:
        resume("resume=run", "seed=1", "model.aspp_channels=8")
    assert len(str(info.value).splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("trainer.max_epocs=3", r"trainer\.max_epocs: no such key; did you mean max_epochs\?"),
        ("+trainer.max_epocs=3", r"trainer\.max_epocs: no such key; did you mean max_epochs\?"),
        ("++trainer.max_epocs=3", r"trainer\.max_epocs: no such key; did you mean max_epochs\?"),
        ("sead=3", r"sead: no such key; did you mean seed\?"),
        ("optimizer.lrr=3", r"optimizer\.lrr: .* has no such argument; did you mean lr\?"),
        ("loss.terms.ce.loss.gama=1", r"loss\.terms\.ce\.loss\.gama: .* has no such argument"),
        ("~optimizer.betta", r"~optimizer\.betta: no such key"),
        ("~trainer", r"trainer cannot be deleted"),
        ("a=b=c", r"a=b=c: expected key=value"),
        ("trainer.max_epochs=ten", r"trainer\.max_epochs=ten: expected a whole number"),
        ("trainer.max_epochs=0", r"trainer\.max_epochs=0: expected at least 1"),
        ("trainer.max_epochs=null", r"trainer\.max_epochs: null is not possible here"),
        ("trainer.max_epochs=3,4", r"trainer\.max_epochs=3,4: several values are for a sweep"),
        ("trainer=5", r"trainer=5: holds other keys"),
        ("optimizer.lr=-1", r"optimizer: Invalid learning rate: -1"),
    ],
)
def test_mistakes_are_refused_as_in_a_new_run(run: Path, given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resume("resume=run", given)


@pytest.mark.quick(
    "torch.utils.collect_env.run", "os.system", "value3", "value6", "segkit.schedules"
)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss._target_", "torch.utils.collect_env.run"),
        ("data.dataset._target_", "os.system"),
        ("model.backbone", "${oc.create:{_target_:torch.utils.collect_env.run}}"),
        ("augment.train", [{"_target_": "albumentations.load"}]),  # theirs, and no class
        ("optimizer._target_", "torch.optim.swa_utils.update_bn"),
        ("model", {"_target_": "segkit.data.classes.write_lines", "path": "x", "lines": ["x"]}),
        ("loss.terms.ce.weight", {"_target_": "segkit.config.build", "node": {}}),
        ("trainer.log_every", {"_target_": "os.system"}),
        # What is harmless now, and another thing when the classes of the data are known
        ("data.dataset._target_", "${data.classes.0}"),
        ("model.norm", "${oc.create:${data.classes.0}}"),
        ("optimizer", {"_target_": "torch.optim.Optimizer", "_partial_": True}),
        ("scheduler._target_", "segkit.schedules.math.sqrt"),
        ("model.backbone", r"\${oc.create:{_target_:os.system}}"),
    ],
)
def test_code_that_a_checkpoint_names_is_refused(run: Path, key: str, value: Any) -> None:
    edit(run, key, value)
    expected = r"no part of segkit|: refused|hides a second|last.pt: its configuration (does|can)"
    with pytest.raises((ConfigError, CheckpointError), match=expected) as info:
        resume("resume=run")
    assert "\n" not in str(info.value)
    assert "last.pt" in str(info.value)


def test_what_only_other_readers_would_build_is_refused_too(run: Path) -> None:
    path = run / "checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    content["about"]["config"]["model"] = {"_target_": "segkit.data.classes.write_lines"}
    torch.save(content, path)
    with pytest.raises(ConfigError, match=r"last\.pt: the checkpoint names segkit.data.classes"):
        resume("resume=run")


def test_what_an_interpolation_computes_is_replaced_by_what_was_looked_at(run: Path) -> None:
    edit(run, "optimizer.lr", '${oc.decode:"0.5"}')
    edit(run, "optimizer.weight_decay", "${scheduler.power}")
    edit(run, "scheduler.power", "${oc.env:SEGKIT_NOTHING,0.5}")
    cfg, _ = resume("resume=run", "scheduler.power=0.9")
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    assert raw["optimizer"]["lr"] == 0.5
    assert raw["optimizer"]["weight_decay"] == "${scheduler.power}"


@pytest.mark.parametrize("key", ["optimizer", "best", "skipped_steps"])
def test_a_state_that_lacks_something_is_refused(run: Path, key: str) -> None:
    path = run / "checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    del content["state"][key]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"state lacks {key}; was it edited"):
        resume("resume=run")


@pytest.mark.parametrize(
    "node",
    [
        {f"k{i}": f"${{.k{i + 1}}}" * 10 for i in range(40)},
        {f"k{i}": [f"${{optimizer.k{i + 1}}}"] * 10 for i in range(40)},
        {f"k,{i}": f"${{optimizer[k,{i + 1}]}}" * 2 for i in range(90)},
        {"a": "${optimizer.b}", "b": "${optimizer.a}"},
        {"a": "${${.b}}" * 5, "b": "optimizer.c"},
        {"a": "${optimizer}"},
    ],
)
def test_interpolations_that_grow_without_end_are_refused(run: Path, node: Any) -> None:
    path = run / "checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    content["about"]["recipe"]["config"]["optimizer"] |= node
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="its interpolations name each other, or make it far"):
        resume("resume=run")


def test_what_a_configuration_of_ours_names_is_small() -> None:
    cfg, _, _ = composed("data.root=${oc.env:HOME,data}/x", "optimizer.lr=${oc.decode:'1'}")
    assert not grows(OmegaConf.to_container(cfg, resolve=False))


def test_a_configuration_that_does_not_fit_is_refused(run: Path) -> None:
    for key, value in (("trainer", {"max_epochs": []}), ("trainer.log_every", "${nothing}")):
        edit(run, key, value)
        with pytest.raises(CheckpointError, match=r"last\.pt: its configuration does not fit \("):
            resume("resume=run")


@pytest.fixture
def own_loss(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    text = "import segkit.losses\nclass Own(segkit.losses.CrossEntropyLoss): pass\n"
    (here / "my_resumed_loss.py").write_text(text)
    monkeypatch.syspath_prepend(str(here))
    return "my_resumed_loss.Own"


def test_a_module_of_the_users_own_is_allowed_by_name(run: Path, own_loss: str) -> None:
    edit(run, "loss", {"_target_": own_loss})
    with pytest.raises(ConfigError, match=r"add 'allow=\[my_resumed_loss\]'"):
        resume("resume=run")
    cfg, _ = resume("resume=run", "allow=[my_resumed_loss]")
    assert cfg.loss._target_ == own_loss


def test_what_is_typed_today_is_the_users_own(run: Path, own_loss: str) -> None:
    cfg, _ = resume("resume=auto", "out_dir=run", f"loss.terms.ce.loss._target_={own_loss}")
    assert cfg.loss.terms.ce.loss._target_ == own_loss


# The parts


def test_a_warm_up_without_an_end_is_told() -> None:
    for epochs, told in ((3, True), (4, False)):
        cfg = config("train", "scheduler.warmup_epochs=3", f"trainer.max_epochs={epochs}")
        assert isinstance(cfg, DictConfig)
        settings = to_settings(TrainConfig, cfg)
        found = list(warnings_at_start(settings, nn.Identity(), 8, None, world_size=1))
        assert (
            found
            == [
                "scheduler.warmup_epochs=3: all 3 epochs of the run warm up, and the learning rate "
                "never falls"
            ][: int(told)]
        )


@pytest.mark.quick("expected0")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("trainer.monitor=val/loss", ["val/loss (min)"]),
        ("trainer.monitor_mode=min", ["val/miou (min)"]),
        ("trainer.max_epochs=9", []),
    ],
)
def test_another_monitor_is_said_to_replace_the_best(
    run: Path, given: str, expected: list[str]
) -> None:
    cfg, saved = resume("resume=run", given)
    settings = to_settings(TrainConfig, cfg)
    assert list(warnings_at_start(settings, nn.Identity(), 8, saved, world_size=1)) == [
        f"trainer.monitor={what}: the search for the best begins anew; the next validation "
        "replaces best.pt and the epoch_*.pt of val/miou"
        for what in expected
    ]


@pytest.mark.parametrize(
    ("given", "hydra_sees", "typed"),
    [
        ("seed=1 loss=focal", "seed=1 loss=focal", None),
        ("resume=auto seed=1", "resume=auto seed=1", None),
        ("resume=null seed=1", "resume=null seed=1", None),
        ("-m resume=run seed=1,2", "-m resume=run seed=1,2", None),
        (
            "resume=run seed=1 loss=focal loss.x=2 ~a +b=1 hydra.verbose=true --cfg job allow=[x]",
            "--cfg job data=voc resume=run loss=focal hydra.verbose=true allow=[x]",
            "resume=run seed=1 loss=focal loss.x=2 ~a +b=1 allow=[x]",
        ),
        ("seed=1 resume=auto.pt", "data=voc resume=auto.pt", "seed=1 resume=auto.pt"),
        ("resume='auto' seed=1", "resume='auto' seed=1", None),  # as a call from Python writes it
        (  # argparse takes arguments that stand apart for unknown ones
            "--config-dir my resume=run seed=1",
            "--config-dir my data=voc resume=run",
            "resume=run seed=1",
        ),
    ],
)
def test_what_hydra_is_shown(given: str, hydra_sees: str, typed: str | None) -> None:
    arguments, hidden = hide_overrides(["train.py", *given.split()])
    assert " ".join(arguments) == f"train.py {hydra_sees}"
    assert hidden == (None if typed is None else typed.split())


def test_differences() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": {"x": 1}}
    new = {"a": 1, "b": {"c": [1, 3], "d": None, "e": 5}, "come": 2}
    assert list(differences(old, new)) == [
        ("b.c", [1, 2], [1, 3]),
        ("b.e", None, 5),
        ("gone", {"x": 1}, None),
        ("come", None, 2),
    ]


def test_the_chosen_files_are_known(here: Path) -> None:
    _, _, chosen = composed("loss=[ce,dice]", "model/backbone=resnet18", "augment=none")
    assert chosen["loss"] == ["ce", "dice"]
    assert (chosen["model/backbone"], chosen["augment"]) == ("resnet18", "none")
    assert chosen["optimizer"] == "adamw"  # as the recipe of the shapes has it
    assert not any(key.startswith("hydra") for key in chosen)
