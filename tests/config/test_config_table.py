"""Every mistake ends as one readable message with exit code 1, and nothing is written."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import call, quick_call, spawn
from voc_folder import make_voc

# Arguments -> what the message must hold: the key, what is wrong, the way out.
ROWS = [
    ("trainer.max_epocs=3", "trainer.max_epocs: no such key; did you mean max_epochs?"),
    ("+trainer.max_epocs=3", "trainer.max_epocs: no such key; did you mean max_epochs?"),
    ("++trainer.max_epocs=3", "trainer.max_epocs: no such key; did you mean max_epochs?"),
    ("trainer.max_epochs=ten", "trainer.max_epochs=ten: expected a whole number"),
    ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5: expected a whole number"),
    ("trainer.max_epochs=-1", "trainer.max_epochs=-1: expected at least 1"),
    ("trainer.max_epochs=null", "trainer.max_epochs: null is not possible here"),
    ("trainer.max_epochs=", "trainer.max_epochs=: expected a whole number"),
    ("trainer.max_epochs=???", "trainer.max_epochs is not set: give trainer.max_epochs="),
    ("trainer.ema_decay=1", "trainer.ema_decay=1.0: expected a number below 1"),
    ("trainer.compile=maybe", "trainer.compile=maybe: expected true or false"),
    ("augment.rare_crop=0.3", "augment.rare_crop=0.3: no transform of augment.train crops so; use"),
    ("augment.rare_crop=1.5", "augment.rare_crop=1.5: expected"),
    ("augment.copy_paste=-1", "augment.copy_paste=-1.0: expected at least 0"),
    ("loader.balance=clas", "loader.balance=clas: no such value; did you mean class?"),
    ("trainer.min_delta=0.01", "trainer.min_delta=0.01: needs trainer.patience"),
    (
        "trainer.patience_monitor=val/loss",
        "trainer.patience_monitor=val/loss: needs trainer.patience",
    ),
    ("loader.freeze_batch_size=4", "loader.freeze_batch_size=4: needs trainer.freeze_epochs"),
    (
        "trainer.freeze_epochs=2 model.freeze_backbone=true",
        "trainer.freeze_epochs=2: model.freeze_backbone=true freezes it for the whole run; give",
    ),
    (
        "trainer.backbone_lr_factor=0.5 model.freeze_backbone=true",
        "trainer.backbone_lr_factor=0.5: model.freeze_backbone=true lets the backbone learn",
    ),
    (
        "augment.crop_size=[32,32]",  # the shapes are not cropped
        "augment.crop_size=[32, 32]: no transform of augment.train crops to it; use",
    ),
    ("trainer.clip_grad_norm=nan", "trainer.clip_grad_norm=nan: expected a finite number"),
    ("trainer.clip_grad_norm=0", "trainer.clip_grad_norm=0.0: expected a number above 0"),
    ("trainer.precision=fp61", "trainer.precision=fp61: no such value; did you mean fp16?"),
    ("trainer.device=tpu", "device=tpu: expected auto, cpu, cuda, cuda:N or mps"),
    ("trainer=5", "trainer=5: holds other keys"),
    ("~trainer.max_epochs", "trainer.max_epochs: "),
    ("~trainer", "trainer cannot be deleted; give it a value"),
    ("~loader", "loader cannot be deleted; give it a value"),
    ("~val", "val cannot be deleted; give it a value"),
    ("--trainer.lr=1", "--trainer.lr=1: drop the dashes: trainer.lr=1"),
    ("--trainer.lr 1", "--trainer.lr: drop the dashes: trainer.lr="),
    ("a=b=c", "a=b=c: expected key=value"),
    ("los=focal", "los: no such key; did you mean loss?"),
    ("loss=focl", "loss=focl: no such choice; did you mean focal? (there are bce, ce, dice"),
    ("loss=[ce,dicc]", "loss=dicc: no such choice; did you mean dice?"),
    ("loss=null", "loss=null: null is no choice"),
    ("experiment=null", "experiment=null: null is no choice; leave it out"),
    ("experiment=camvit", "experiment=camvit: no such choice; did you mean camvid?"),
    ("~loss", "Could not delete 'loss'"),
    ("~optimizer", "expected a node with _target_"),
    ("~model/backbone", "model.backbone is not set: segkit.models.DeepLabV3Plus needs it"),
    (
        "loss=focal loss.terms.focal.loss.gama=1",
        "loss.terms.focal.loss.gama: no such key; did you mean gamma?",
    ),
    (
        "+loss.terms.ce.loss.gama=1",
        "loss.terms.ce.loss.gama: segkit.losses.CrossEntropyLoss has no",
    ),
    ("loss.terms.ce.weight=-1", "loss: weight of loss term 'ce' must be a finite number"),
    (
        "loss.terms.ce.loss.class_weights=balnced",
        "loss.terms.ce.loss.class_weights=balnced: no such weighting; did you mean balanced?",
    ),
    ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
    ("optimizer.lr=abc", "optimizer.lr=abc: expected a number"),
    ("optimizer.lr=true", "optimizer.lr=True: expected a number"),
    ("optimizer.lr=null", "optimizer.lr: null is not possible here"),
    ("optimizer.lr=inf", "optimizer.lr=inf: expected a finite number"),
    ("optimizer=adamw optimizer.betas=[0.9]", "optimizer.betas=[0.9]: expected 2 values"),
    ("trainer.num_pictures=3", "trainer.num_pictures: is called trainer.num_images now"),
    ("scheduler._target_=segkit.engine.schedule.Poly", "is called segkit.schedules.Poly now"),
    ("optimizer._target_=torch.optim.Muon ~optimizer.betas", "optimizer: Muon only supports 2D"),
    ("scheduler=step scheduler.milestones=0.5", "scheduler.milestones=0.5: expected a list"),
    ("scheduler.power=-1", "scheduler: power must be above 0"),
    ("model.output_stride=7", "model: output_stride must be 8 or 16, got 7"),
    ("model.dropout=null", "model.dropout: null is not possible here"),
    ("model.backbone.width=1.5", "model.backbone.width=1.5: expected a whole number"),
    ("model.backbone=resnet18", "model.backbone=resnet18: write model/backbone=resnet18"),
    (
        "model/backbone=resnet18 model.backbone.weights=imagent",
        "here; did you mean imagenet?",
    ),
    ("model.separable=maybe", "model.separable=maybe: expected true or false"),
    ("loader.batch_size=0", "loader.batch_size=0: expected at least 1"),
    ("loader.batch_size=true", "loader.batch_size=True: expected images per step"),
    ("loader.num_workers=null", "loader.num_workers: null is not possible here"),
    ("loader.num_workers=many", "loader.num_workers=many: no such value; there are auto"),
    ("loader.num_workers=1.5", "loader.num_workers=1.5: expected a number of processes"),
    ("seed=-1", "seed=-1: expected at least 0"),
    ("seed=99999999999999999999", "seed=99999999999999999999: expected at most 92233720368547758"),
    ("out_dir=", "out_dir=: the path is empty"),
    ("init_parts=[aspp]", "init_parts=['aspp']: needs init_from"),
    ("init_from=nothing.pt", "init_from=nothing.pt: no such file or folder"),
    ("init_parts=[neck]", "init_parts=['neck']: no such value"),
    (
        "resume=nothing.pt",
        "/here/nothing.pt: no such file or folder; give a run folder, or resume=auto",
    ),
    ("resume=auto", "resume=auto looks into the run folder: give out_dir=FOLDER too"),
    ("trainer.keep_best=0", "trainer.keep_best=0: expected at least 1"),
    ("trainer.save_every_minutes=0", "trainer.save_every_minutes=0.0: expected a number above 0"),
    ("trainer.on_save_error=stopp", "trainer.on_save_error=stopp: no such value; did you mean"),
    ("data=voc", "data.root is not set: give data.root=PATH"),
    ("data.root=null", "data.dataset.root: null is not possible here"),
    ("data.root=${oc.env:SEGKIT_NO_SUCH}", "Environment variable 'SEGKIT_NO_SUCH' not found"),
    ("data=voc data.root=does/not/exist", "does/not/exist: no such folder"),
    ("data.root=does/not/exist", "data.root=does/not/exist: no such folder; for your own data add"),
    ("data.root=", "data.root=: the path is empty"),
    ("data.num_classes=1", "data.num_classes=1: expected at least 2"),
    ("data.num_classes=257", "data.num_classes=257: expected at most 256"),
    ("data.dataset.num_train=24.5", "data.dataset.num_train=24.5: expected a whole number"),
    ("data.label_map=nonsense", "data.label_map=nonsense: expected a mapping of ids"),
    ("data.classes=cat", "data.classes: expected a list, [a,b]"),
    ("data.std=[0,1,1]", "data.std=[0.0, 1.0, 1.0]: expected a number above 0"),
    ("data.mean=[123,116,103]", "data.mean=[123.0, 116.0, 103.0]: expected at most 1"),
    ("data.std=[58,57,57]", "data.std=[58.0, 57.0, 57.0]: expected at most 1"),
    ("data.range=[0]", "data.range=[0.0]: expected 2 values"),
    ("data.range=[9,9]", "data.range=[9.0, 9.0]: expected numbers that rise"),
    ("data.range=[1,[2]]", "data.range=[1.0, [2]]: expected numbers that rise"),
    ("data.range=[0,inf]", "data.range=[0.0, inf]: expected a finite number"),
    ("data.range=full", "data.range: expected a list"),
    (
        "data.mean=[0.5]",
        "data.mean has 1 number and data.std has 3: expected one of each for each",
    ),
    ("data.bits=12", "data.bits=12: expected 8, or 16 to keep all of images of more than 8 bits"),
    ("data.dataset=null", "data.dataset=None: expected a node with _target_"),
    ("augment.crop_size=[64]", "augment.crop_size=[64]: expected 2 values"),
    ("augment.train=[1]", "augment.train[0]=1: expected a node with _target_"),
    ("augment.train=5", "augment.train: expected a list"),
    (
        "augment.train=[{_target_:albumentations.HorizontalFlip,p:7}]",
        "augment.train[0]: 1 validation error for InitSchema p Input should be less than",
    ),
    (
        "augment.train=[{_target_:segkit.data.RandomScaleRotateCrop,height:8,width:8,scale:[2,1]}]",
        "augment.train[0]: scale=[2, 1]: expected two rising numbers above 0",
    ),
    (
        "loss.terms.ce.loss.ignore_index=0",
        "loss.terms.ce.loss.ignore_index=0: expected 255, data.ignore_index",
    ),
    ("hydra.verbos=true", "hydra.verbos: no such key; did you mean verbose?"),
]
TABLE = dict(ROWS)
# Each has a line of its own in one message, which saves composing a configuration for each.
TOGETHER = [
    [
        *("trainer.max_epochs=-1", "trainer.ema_decay=1", "trainer.clip_grad_norm=nan"),
        *("trainer.precision=fp61", "~optimizer", "loader.batch_size=0", "seed=-1", "out_dir="),
        *("loader.num_workers=null", "init_from=nothing.pt", "init_parts=[neck]", "data.root="),
        *("trainer.keep_best=0", "trainer.save_every_minutes=0", "data.range=[0]"),
        *("trainer.on_save_error=stopp", "data.num_classes=1", "data.label_map=nonsense"),
        *("data.std=[0,1,1]", "data.mean=[123,116,103]", "data.dataset=null"),
        *("augment.crop_size=[64]", "augment.train=[1]"),
    ],
    [
        *("trainer.clip_grad_norm=0", "model.backbone=resnet18", "loader.batch_size=true"),
        *("loader.num_workers=many", "seed=99999999999999999999", "data.num_classes=257"),
        *("data.std=[58,57,57]", "data.range=[9,9]", "data.mean=[0.5]", "data.bits=12"),
        *("trainer.min_delta=0.01", "trainer.patience_monitor=val/loss"),
        *("loader.freeze_batch_size=4", "augment.crop_size=[32,32]"),
        "loss.terms.ce.loss.ignore_index=0",
    ],
    [
        *("~model/backbone", "model.dropout=null", "model.separable=maybe", "data.root=null"),
        "data.dataset.num_train=24.5",
    ],
    [
        *("loss.terms.ce.weight=-1", "loss.terms.ce.loss.class_weights=balnced"),
        *("optimizer.lr=-1", "scheduler.power=-1"),
        "augment.train=[{_target_:albumentations.HorizontalFlip,p:7}]",
    ],
    [
        *("+loss.terms.ce.loss.gama=1", "optimizer.lr=abc"),
        "scheduler._target_=segkit.engine.schedule.Poly",
    ],
]
ALONE = {row: TABLE[row] for row in TABLE if not any(row in rows for rows in TOGETHER)}
# Of the same kind as another row, and through the same lines.
ALIKE = {
    *("+trainer.max_epocs=3", "trainer.max_epochs=1.5", "trainer.max_epochs=null"),
    *("trainer.max_epochs=", "trainer.compile=maybe", "trainer.device=tpu", "--trainer.lr 1"),
    *("loss=[ce,dicc]", "experiment=null", "experiment=camvit", "optimizer.lr=true"),
    *("optimizer.lr=null", "optimizer.lr=inf", "model.output_stride=7"),
    *("loader.num_workers=1.5", "data.root=does/not/exist", "data.range=[1,[2]]"),
    *("data.range=[0,inf]", "data.range=full", "data.classes=cat", "augment.train=5"),
    *("model/backbone=resnet18 model.backbone.weights=imagent",),
}
IN_FILES = {
    "experiment=key": "In 'experiment/key': trainer.max_epocs: no such key; did you mean max",
    "experiment=top": "In 'experiment/top': sead: no such key; did you mean seed?",
    "experiment=type": "In 'experiment/type': seed=one: expected a whole number",
    "loss=argument": "loss.terms.focal.loss.gama: segkit.losses.FocalLoss has no such argument",
    "loss=target": "loss._target_=segkit.losses.WeigthedSum: cannot be imported",
    "loss=module": "loss._target_=my_looses.TopK: cannot be imported",
    "loss=syntax": "while parsing a flow",
    "augment=argument": "augment.train[0].pp: albumentations.HorizontalFlip has no such argument",
}
WITH_DATA = [
    ("trainer.monitor=val/iou/cta", "trainer.monitor=val/iou/cta: no such logged value; did you"),
    ("trainer.patience=1 trainer.patience_monitor=val/los", "did you mean val/loss?"),
    ("data.label_map={255:x}", "data.label_map holds 255: 'x'"),
    ("data.classes=[a,b]", "data.classes is ['a', 'b']"),
    ("data.train_split=../train", "'../train' is no name of a split; expected the name of a file"),
    ("data.train_split=tain", "tain.txt: no such file. Splits found"),
    ("loss.terms.ce.loss.class_weights=[1,2]", "expected one for each of the 3 classes"),
    ("loss=focal loss.terms.focal.loss.alpha=[1,2]", "loss.terms.focal.loss.alpha has 2 values"),
    ("model.num_classes=30", "model.num_classes=30: expected 3, data.num_classes; leave"),
    ("model.in_channels=1", "model.in_channels=1: expected 3"),
    ("out_dir=../used", "holds a run already"),
]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def assert_refused(script: str, arguments: list[str], expected: str, here: Path) -> None:
    result = call(script, *arguments, cwd=here)
    assert result.status == 1
    assert result.err.startswith("error: ")
    assert expected in result.err
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.quick(*(f"[{row}]" for row in ALONE.keys() - ALIKE))
@pytest.mark.parametrize(("arguments", "expected"), ALONE.items(), ids=ALONE)
def test_a_mistake_on_the_command_line(arguments: str, expected: str, here: Path) -> None:
    assert_refused("train.py", arguments.split(), expected, here)


@pytest.mark.parametrize("rows", TOGETHER, ids=len)
def test_mistakes_that_are_named_at_once(rows: list[str], here: Path) -> None:
    result = call("train.py", *" ".join(rows).split(), cwd=here)
    assert result.status == 1
    lines = result.err.removeprefix("error: ").splitlines()
    assert len(lines) == len(rows)
    for row in rows:
        assert [line for line in lines if TABLE[row] in line], row
    assert list(here.iterdir()) == []


@pytest.mark.quick("experiment=", "loss=argument", "loss=syntax")
@pytest.mark.parametrize(("argument", "expected"), IN_FILES.items(), ids=IN_FILES)
def test_a_mistake_in_a_file_of_the_user(
    argument: str, expected: str, here: Path, tmp_path: Path
) -> None:
    files = {
        "experiment/key": "# @package _global_\ntrainer: {max_epocs: 3}",
        "experiment/top": "# @package _global_\nsead: 3",
        "experiment/type": "# @package _global_\nseed: one",
        "loss/argument": "_target_: segkit.losses.WeightedSum\nterms:\n  focal:\n    weight: 1.0\n"
        "    loss: {_target_: segkit.losses.FocalLoss, gama: 1.0}",
        "loss/target": "_target_: segkit.losses.WeigthedSum\nterms: {}",
        "loss/module": "_target_: my_looses.TopK",
        "loss/syntax": "terms: [1\nb: 2",
        "augment/argument": "train: [{_target_: albumentations.HorizontalFlip, pp: 0.5}]",
    }
    for name, text in files.items():
        path = tmp_path / "my_configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert_refused("train.py", ["--config-dir", "../my_configs", argument], expected, here)


@pytest.mark.quick(
    "trainer.monitor", "data.label_map", "=tain", "class_weights", "model.num_classes", "../used"
)
@pytest.mark.parametrize(("arguments", "expected"), WITH_DATA, ids=[row[0] for row in WITH_DATA])
def test_a_mistake_that_the_data_shows(
    arguments: str, expected: str, here: Path, tmp_path: Path
) -> None:
    make_voc(tmp_path / "voc")
    (tmp_path / "used" / "checkpoints").mkdir(parents=True)
    arguments_and_data = ["data=voc", "data.root=../voc", *arguments.split()]
    result = quick_call(*arguments_and_data, "model/backbone=tiny", cwd=here)
    assert result.status == 1
    assert expected in result.err
    assert list(here.iterdir()) == []
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["checkpoints"]


def test_all_mistakes_are_named_at_once(here: Path) -> None:
    result = call("train.py", "seed=-1", "trainer.max_epochs=0", "loader.batch_size=0", cwd=here)
    assert len(result.err.splitlines()) == 3


def test_cuda_where_there_is_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert_refused("train.py", ["trainer.device=cuda"], "sees no CUDA device here", here)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "checkpoint is not set: give checkpoint=PATH"),
        ("checkpoint=nothing.pt", "checkpoint=nothing.pt: no such file or folder"),
        ("chekpoint=x", "chekpoint: no such key; did you mean checkpoint?"),
        ("checkpoint=. precision=fp61", "precision=fp61: no such value; did you mean fp16?"),
        ("checkpoint=.", "no checkpoints/best.pt or checkpoints/last.pt in this folder"),
        ("--split=test", "--split=test: drop the dashes: split=test"),
    ],
)
def test_a_mistake_in_evaluate(arguments: str, expected: str, here: Path) -> None:
    assert_refused("evaluate.py", arguments.split(), expected, here)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("+trainer.max_epocs=3", "did you mean max_epochs?"),
        pytest.param("data=voc data.root=does/not/exist", "no such folder", marks=pytest.mark.slow),
        pytest.param("trainer.max_epocs=3", "did you mean max_epochs?", marks=pytest.mark.slow),
        pytest.param("optimizer.lr=-1", "Invalid learning rate", marks=pytest.mark.slow),
    ],
)
def test_in_a_process_of_its_own(
    arguments: str, expected: str, here: Path, record_property: Callable[[str, object], None]
) -> None:
    start = time.perf_counter()
    result = spawn("train.py", *arguments.split(), cwd=here)
    record_property("seconds", time.perf_counter() - start)  # 5 are promised on a quiet machine
    assert result.status == 1
    assert expected in result.err
    assert len(result.err.splitlines()) == 1
    assert result.out == ""
    assert list(here.iterdir()) == []


def test_a_wrong_key_ends_before_torch_is_imported(here: Path) -> None:
    result = spawn("train.py", "trainer.max_epocs=3", cwd=here, PYTHONPROFILEIMPORTTIME="1")
    assert result.status == 1
    assert "did you mean max_epochs?" in result.err
    assert result.out == ""
    assert "hydra.main" in result.err
    assert " torch\n" not in result.err
    assert " albumentations\n" not in result.err


def test_help_and_cfg_show_something_once_and_train_nothing(here: Path) -> None:
    result = call("train.py", "--cfg", "job", cwd=here)
    assert result.status == 0
    assert result.out.count("max_epochs:") == 1
    assert list(here.iterdir()) == []
