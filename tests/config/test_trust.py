"""A checkpoint is data: it names what is listed for each slot, and does nothing."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from PIL import Image
from scripts import call
from trained import CLASSES, MODEL, save_model

import segkit
from segkit.config.build import rebuild, without_effects
from segkit.config.slots import LIBRARIES, OFF, SLOT_OF, SLOTS, check_trusted
from segkit.errors import CheckpointError, ConfigError, DataError
from segkit.inference.loading import load_network
from segkit.runs.checkpoint import read_checkpoint

SLOT_NAMES = [name for name in SLOTS if name != "run"]
SOURCE = Path("best.pt")


def refusal(node: Any, slot: str, allow: tuple[str, ...] = ()) -> str:
    """Why a node is refused; an empty text if it is not."""
    try:
        check_trusted(node, slot, allow, SOURCE, "" if slot == "run" else slot)
    except ConfigError as error:
        return str(error)
    return ""


# Names


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(segkit.__path__, "segkit."):
        try:
            yield importlib.import_module(found.name)
        except ImportError:  # of an extra that is not installed
            continue


def reachable() -> set[str]:
    """Every public name of segkit, and through its imports all of the libraries, once each."""
    names, seen = set(), set()
    for module in modules():
        names.add(module.__name__)
        for name, value in vars(module).items():
            dotted = f"{module.__name__}.{name}"
            names.add(dotted)
            if isinstance(value, ModuleType) and value.__name__ not in seen:
                seen.add(value.__name__)
                names |= {f"{dotted}.{inner}" for inner in dir(value)}
    for library in ("os", "subprocess", "builtins", "shutil", "torch", "torch.nn", "torch.optim"):
        names |= {f"{library}.{name}" for name in dir(importlib.import_module(library))}
    names |= {"segkit.models.weights.torch.load", "segkit.data.workers.os.system"}
    return names | {"os.path.join", "torch.utils.collect_env.run", "hydra.utils.instantiate"}


def test_of_all_public_names_each_slot_takes_those_of_its_list() -> None:
    names = reachable()
    assert {"segkit.config.build", "segkit.models.weights.torch.load", "os.system"} < names
    for slot in SLOT_NAMES:
        taken = set()
        for name in names:
            text = refusal({"_target_": name}, slot)
            if not text:
                taken.add(name)
            assert "allow=" not in text, text
        assert taken <= set(SLOTS[slot].names)


@pytest.mark.parametrize("slot", SLOT_NAMES)
def test_what_is_listed_is_there_and_of_its_kind(slot: str) -> None:
    kind = get_object(SLOTS[slot].kind)
    for name in SLOTS[slot].names:
        found = get_object(name)
        if slot not in ("dataset", "transform"):  # a protocol, and whatever can be called
            assert issubclass(found, kind), name
        if slot == "transform":
            arguments = set(inspect.signature(found).parameters)
            assert not arguments & {"read_fn", "reference_images", "font_path", "image"}, name


def test_what_the_configurations_name_is_listed() -> None:
    root = Path(__file__).parents[2] / "configs"
    for path in root.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            if "_target_:" in line:
                assert line.partition("_target_:")[2].split()[0] in SLOT_OF, path


# Places


EVIL = {"_target_": "os.system", "command": "touch RAN"}
OURS = {"_target_": "segkit.config.build", "node": EVIL}


def model(**changes: Any) -> dict[str, Any]:
    return MODEL | changes


TERMS = {"ce": {"weight": 1.0, "loss": {"_target_": "segkit.losses.CrossEntropyLoss"}}}


@pytest.mark.parametrize(
    ("slot", "node", "expected"),
    [
        (
            "model",
            EVIL,
            "names os.system, which is no part of segkit (model): refused; expec",
        ),
        (
            "model",
            OURS,
            "segkit.config.build, which is no part of segkit that may stand as",
        ),
        (
            "model",
            model(backbone=OURS),
            "that may stand as model.backbone: refused; expected s",
        ),
        ("model", model(num_classes=EVIL), "os.system as model.num_classes, where no component"),
        ("model", model(num_classes=[[EVIL]]), r"model.num_classes[0][0], where no component"),
        (
            "model",
            model(backbone=MODEL),
            "V3Plus, which is no part of segkit that may stand as model.b",
        ),
        ("model", model(norm=MODEL["backbone"]), "as model.norm, where no component"),
        ("model", model(norm={"_args_": [1]}), "names _args_ as model.norm, where no component"),
        ("model", model(_args_=[1]), "model has _args_; expected named arguments"),
        ("model", model(_partial_=EVIL), "model._partial_={'_target_': 'os.system'"),
        ("model", model(_recursive_="no"), "model._recursive_='no': expected a bool"),
        ("model", model(_target_=["os.system"]), "model._target_=['os.system']: expected a name"),
        ("model", model(backbone=MODEL["backbone"] | {"width": EVIL}), "as model.backbone.width"),
        ("loss", {"_target_": "segkit.losses.WeightedSum", "terms": EVIL}, "loss.terms, where no"),
        (
            "loss",
            {"_target_": "segkit.losses.WeightedSum", "terms": {"x": {"loss": EVIL}}},
            "os.system, which is no part of segkit (loss.terms.x.loss): refused",
        ),
        (
            "loss",
            {"_target_": "segkit.losses.WeightedSum", "terms": {"x": {"weight": EVIL}}},
            "loss.terms.x.weight, where no component is expected",
        ),
        ("transform", {"_target_": "albumentations.Lambda", "image": EVIL}, "albumentations.Lam"),
        ("transform", {"_target_": "albumentations.TextImage"}, "albumentations.TextImage"),
        ("transform", {"_target_": "albumentations.load"}, "albumentations.load"),
        ("transform", {"_target_": "albumentations.OneOf", "transforms": [EVIL]}, "transforms[0]"),
        ("optimizer", {"_target_": "torch.optim.swa_utils.update_bn"}, "swa_utils.update_bn"),
        ("optimizer", {"_target_": "torch.optim.LBFGS"}, "torch.optim.LBFGS"),
        ("dataset", {"_target_": "segkit.data.scenes.draw_scene"}, "segkit.data.scenes.draw_scene"),
        ("run", {"trainer": {"max_epochs": EVIL}}, "trainer.max_epochs, where no component"),
        ("run", {"augment": {"train": EVIL}}, "augment.train, where no component"),
        ("run", EVIL, "names os.system as the whole configuration, where no"),
        (
            "run",
            {"model": MODEL["backbone"]},
            "Tiny, which is no part of segkit that may stand",
        ),
    ],
)
def test_a_node_is_refused_wherever_it_hides(slot: str, node: Any, expected: str) -> None:
    text = refusal(node, slot)
    assert expected in text
    assert text.startswith("best.pt: ")
    assert "allow=" not in text
    assert "\n" not in text


def test_what_a_run_has_is_taken() -> None:
    step = {"_target_": "albumentations.OneOf", "transforms": [{"_target_": "albumentations.D4"}]}
    crop = {"_target_": "segkit.data.RandomScaleRotateCrop", "height": 8, "width": 8}
    loss = {"_target_": "segkit.losses.WeightedSum", "terms": TERMS, "_convert_": "all"}
    assert not refusal({"model": MODEL, "loss": loss, "augment": {"train": [crop, step]}}, "run")


# The user's own modules


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``my_net``: a class, a function, a library, and a class that comes from a second file."""
    (tmp_path / "my_net").mkdir()
    (tmp_path / "my_net/__init__.py").write_text(
        "import os\nimport torch\nfrom .inner import Inner\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, part=None):\n"
        "        super().__init__()\n"
        "        self.part = part\n"
        "def make():\n    return 5\n"
    )
    (tmp_path / "my_net/inner.py").write_text("class Inner:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_net"]:
        del sys.modules[name]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("target", "module"),
    [
        ("my_net.Net", "my_net"),
        ("my_net.Inner", "my_net"),
        ("my_net.inner.Inner", "my_net.inner"),
        ("my_net.os.system", None),
        ("my_net.make", None),
        ("my_net.Nothing", None),
        ("my_net.nothing.Net", None),
        ("my_nothing.Net", None),
        ("subprocess.Popen", None),
        ("torch.nn.Sequential", None),
        ("builtins.open", None),
        ("/tmp/x.Net", None),
        ("Net", None),
        ("", None),
    ],
)
def test_allow_is_advised_for_classes_of_the_users_own_alone(
    target: str, module: str | None
) -> None:
    text = refusal({"_target_": target}, "model")
    assert f"the checkpoint names {target}, which is no part of segkit (model)" in text
    assert ("if you know and trust that code, add 'allow=" in text) == (module is not None)
    if module is not None:  # the advice is followed
        assert text.endswith(f"add 'allow=[{module}]'")
        assert "my_net" not in sys.modules
        assert not refusal({"_target_": target}, "model", (module,))


@pytest.mark.usefixtures("own")
def test_what_is_allowed_opens_no_other_door() -> None:
    allow = ("my_net", "segkit")
    net = {"_target_": "my_net.Net", "part": MODEL["backbone"]}
    assert not refusal(net, "model", allow)
    assert not refusal(model(backbone=net), "model", allow)
    for node in (EVIL, OURS, {"_target_": "my_net.os.system"}):
        assert refusal(node, "model", allow)
        assert refusal(net | {"part": node}, "model", allow)
        assert refusal(net | {"_args_": [{"x": node}]}, "model", allow)


@pytest.mark.usefixtures("own")
def test_what_is_built_is_of_the_kind_of_its_slot() -> None:
    allow = ("my_net",)
    net = {"_target_": "my_net.Net", "part": MODEL["backbone"]}
    assert isinstance(rebuild(SOURCE, "model", net, allow), torch.nn.Module)
    for node in ({"_target_": "my_net.make"}, net | {"_partial_": True}):
        with pytest.raises(ConfigError, match=r"expected a torch\.nn\.Module"):
            rebuild(SOURCE, "model", node, allow)
    with pytest.raises(ConfigError, match=r"made a int; expected a segkit.data.Segm"):
        rebuild(SOURCE, "dataset", {"_target_": "my_net.make", "_partial_": False}, allow)


# Nothing is made, read or downloaded


def test_what_reaches_out_is_off_wherever_it_stands() -> None:
    net = {"_target_": "segkit.models.backbones.ResNet", "name": "resnet18", "weights": "imagenet"}
    shapes = {"_target_": "segkit.data.Shapes", "root": "x", "make": True}
    tree = OmegaConf.create({"encoder": net, "parts": [{"deep": net}], "data": shapes})
    plain: Any = without_effects(tree)
    assert plain.encoder.weights is None
    assert plain.parts[0].deep.weights is None
    assert plain.data.make is False
    assert tree.encoder.weights == "imagenet"
    for name, off in OFF.items():
        arguments = inspect.signature(get_object(name)).parameters
        assert off.keys() <= arguments.keys()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def hostile(here: Path, config: dict[str, Any], **entries: Any) -> Path:
    """A checkpoint whose configuration has these entries, and whose file has those."""
    path = save_model(here / "run/checkpoints/best.pt", config=config)
    content = torch.load(path, weights_only=True)
    torch.save(content | entries, path)
    return path


COMMAND = {"_target_": "torch.utils.collect_env.run", "command": "touch RAN"}
# The inner nodes first, and the dict that they return is built.
CHAIN = {
    "_target_": "segkit.config.build",
    "node": {
        "_target_": "segkit.runs.checkpoint.model_weights",
        "which": "raw",
        "state": {"_target_": "segkit.models.weights.read_tensors", "path": "best.pt"},
    },
}
WRITE = {"_target_": "segkit.data.classes.write_lines", "path": "WRITTEN", "lines": ["x"]}
FETCH = {"_target_": "segkit.tools.fetch.fetch", "url": "data:,x", "path": "GOT", "md5": None}
SPLIT = {"dataset": {"_target_": "segkit.data.Shapes", "root": "data"}, "val_split": "../x"}


@pytest.mark.quick("config0", "config4", "config6")
@pytest.mark.parametrize(
    ("config", "entries", "expected"),
    [
        ({"model": CHAIN}, {"model": COMMAND}, "names segkit.config.build, which"),
        ({"model": WRITE}, {}, "names segkit.data.classes.write_lines, which"),
        ({"model": FETCH}, {}, "names segkit.tools.fetch.fetch, which"),
        ({"model": model(backbone=WRITE)}, {}, "that may stand as model.backbone: refused"),
        ({"model": model(_target_=5)}, {}, "config.model in it is "),
        ({"data": {"dataset": WRITE}}, {}, "that may stand as data.dataset: refused"),
        ({"data": SPLIT}, {}, "config.data.val_split in it is '../x'; expected the name of a spl"),
    ],
)
def test_hostile_checkpoints_are_refused_in_one_line(
    config: dict[str, Any], entries: dict[str, Any], expected: str, here: Path
) -> None:
    path = hostile(here, config, **entries)
    Image.new("RGB", (32, 32)).save(here / "a.png")
    results = [
        call("predict.py", f"checkpoint={path}", "source=a.png", "out_dir=run", cwd=here),
        call("evaluate.py", f"checkpoint={path}", "split=val", cwd=here),
    ]
    assert [result.status for result in results] == [int(expected in results[0].err), 1]
    assert any(expected in result.err for result in results)
    assert all(len(result.err.splitlines()) <= 1 for result in results)
    assert not [entry.name for entry in here.iterdir() if entry.name not in ("run", "a.png")]


def test_shapes_are_not_made_because_a_checkpoint_says_so(here: Path) -> None:
    node = {"_target_": "segkit.data.Shapes", "_partial_": True, "root": "made"}
    path = hostile(here, {"data": {"dataset": node, "val_split": "val", "train_split": "train"}})
    for arguments in (
        ("evaluate.py", f"checkpoint={path}"),
        ("evaluate.py", f"checkpoint={path}", "data.root=made_too"),
        ("export.py", f"checkpoint={path}", "precision=int8_static"),
    ):
        result = call(*arguments, cwd=here)
        assert result.status == 1
        assert "no shapes there, and only a new training makes them; give data.root=" in result.err
        assert len(result.err.splitlines()) == 1
    assert [entry.name for entry in here.iterdir()] == ["run"]
    with pytest.raises(DataError, match="no shapes there"):
        rebuild(path, "dataset", node | {"make": True}, (), split="val")


def test_a_model_of_any_size_needs_no_memory_before_it_is_refused(here: Path) -> None:
    path = save_model(here / "a.pt", config={"model": model(aspp_channels=300_000)})
    with pytest.raises(CheckpointError, match=r"weights do not fit the model that it describes \("):
        load_network(read_checkpoint(path))


def test_a_name_for_every_channel(here: Path) -> None:
    path = save_model(here / "a.pt")
    content = torch.load(path, weights_only=True)
    content["about"]["classes"] = CLASSES[:2]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"names 2 classes, but its model makes \(1, 3, 64"):
        load_network(read_checkpoint(path))


def test_no_library_of_segkits_is_anybodys_own() -> None:
    assert {"segkit", "torch", "hydra", "albumentations"} <= LIBRARIES
