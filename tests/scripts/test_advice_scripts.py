"""Advice of predict.py, evaluate.py and export.py, followed to the letter: it ends right."""

import json
import os
import re
import runpy
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from composed import config
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from scripts import ROOT, Result, call
from torch import nn
from trained import CLASSES, MODEL, save_model
from voc_folder import make_voc

from segkit import load_model
from segkit.cli.arguments import parse, run_tool
from segkit.config import build
from segkit.data.masks import read_mask, voc_palette
from segkit.errors import SegkitError
from segkit.export.writer import open_exported, write_model
from segkit.inference import onnx_network as onnx_model
from segkit.inference.predictor import Inference
from segkit.models.normalize import Normalize
from segkit.predict.outputs import PredictionOutputs
from segkit.predict.sources import Source, find_sources
from segkit.predict.video import open_video, write_video
from segkit.report.contact_sheet import LINE
from segkit.report.html import page
from segkit.runs.checkpoint import read_checkpoint
from segkit.runs.folder import locked, make_run_folder, refuse_used
from segkit.runtime.device import Precision
from segkit.tools import browse
from segkit.tools import model as model_tool
from segkit.training.warm_start import read_start

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (40, 48, 3), np.uint8)
VOC = {"_target_": "segkit.data.VOCSegmentation", "_partial_": True}


def data(root: str) -> dict[str, Any]:
    return {"dataset": VOC | {"root": root}, "val_split": "val", "train_split": "train"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data sets, masks, and checkpoints of several kinds."""
    home = tmp_path_factory.mktemp("advice_scripts") / "home"
    for name, classes in (("voc", CLASSES), ("other", ["background", "cat", "dog"])):
        root = make_voc(home / name, {"train": ["a", "b"], "val": ["c", "d"]})
        (root / "labels.txt").write_text("\n".join(classes) + "\n")
    shutil.copytree(home / "voc/SegmentationClass", home / "masks")
    for name in ("photos", "photos/index"):
        (home / name).mkdir()
        Image.fromarray(PHOTO).save(home / name / "a.png")
    metadata = {"data": data(str(home / "voc"))}
    save_model(home / "net.pt", config=metadata)
    save_model(home / "closed/net.pt", config=metadata)
    (home / "closed/eval").touch()
    save_model(home / "moved.pt", config={"data": data(str(home / "gone"))})
    (home / "mynet.py").write_text(
        "from segkit.models import DeepLabV3Plus\n\n\nclass Net(DeepLabV3Plus):\n    pass\n"
    )
    save_model(home / "own.pt", config={"model": MODEL | {"_target_": "mynet.Net"}})
    content = torch.load(home / "net.pt", weights_only=True)
    content["state"]["model"]["classifier.weight"][0, 0] = torch.nan
    torch.save(content, home / "nan.pt")
    return home


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = shutil.copytree(made, tmp_path / "home")
    monkeypatch.chdir(home)
    return home


@pytest.fixture(autouse=True)
def no_early_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the early look at the command line: :func:`segkit.cli.run` looks again."""
    monkeypatch.setattr("segkit.cli.check_command_line", lambda name: None)


def command(line: str, *more: str) -> Result:
    """``SCRIPT key=value ...`` in this process."""
    script, *arguments = shlex.split(line)
    usual = [] if script in ("export.py", "train.py") else ["device=cpu"]
    return call(script, *usual, *arguments, *more, cwd=Path.cwd())


# Commands


class Case(NamedTuple):
    """A mistake, what is said, and what takes the place of the wrong argument (the last).

    In ``advice`` {0}, {1} and so on are what the groups of ``message`` find.
    """

    command: str
    message: str
    advice: str
    right: Callable[[], object]
    work: Callable[[], object] | None = None


def expected(photo: str = "photos/a.png") -> NDArray[Any]:
    return load_model("net.pt", device="cpu").predict(photo)


def masked(path: str) -> Callable[[], object]:
    """Whether the file is the mask that net.pt predicts for the image."""
    return lambda: np.array_equal(read_mask(Path(path)), expected())


def videos() -> bool:
    with open_video(Path("out/overlay/clip.mp4")) as video:
        return len(list(video.frames())) == 4


def film() -> None:
    Path("photos/clip.mp4").unlink()
    with write_video(Path("photos/clip.mp4"), 5.0) as add:
        for _ in range(4):
            add(PHOTO)


def overlay() -> bool:
    """Whether the class disk is as in the image, and all others are not."""
    drawn, disk = np.asarray(Image.open("out/overlay/a.png")), expected() == 1
    assert 0 < disk.sum() < disk.size
    height, width = disk.shape
    same = (drawn[:height, :width] == PHOTO).all(-1)  # the legend is below
    return bool(same[disk].all() and same[~disk].mean() < 0.01)


def trained_from(start: str) -> None:
    """A short training on the other classes ends right."""
    same = ("model/backbone=tiny", "model.backbone.width=8")  # as that run's config.yaml has it
    small = (*same, "trainer.max_epochs=1", "loader.batch_size=1", "optimizer.lr=0")
    found = call(
        "train.py", "data=voc", "data.root=other", start, "out_dir=new", *small, cwd=Path.cwd()
    )
    assert found.status == 0, found.err
    assert read_checkpoint(Path("new")).metadata.classes == ["background", "cat", "dog"]


def scored(folder: str, subject: str = "net.pt") -> Callable[[], object]:
    """Whether the scores there are those of counting by hand."""

    def right() -> bool:
        inter, union = np.zeros(3), np.zeros(3)
        for name in "cd":
            target = read_mask(Path(f"voc/SegmentationClass/{name}.png"))
            pred = (
                read_mask(Path(subject) / f"{name}.png")
                if Path(subject).is_dir()
                else expected(f"voc/JPEGImages/{name}.png")
            )
            for k in range(3):
                a, b = ((one == k) & (target != 255) for one in (pred, target))
                inter[k] += (a & b).sum()
                union[k] += (a | b).sum()
        found = json.loads(Path(folder, "metrics.json").read_text())
        assert found["iou"][:3] == pytest.approx(inter / union)
        return True

    return right


def resized() -> None:
    mask = Image.open("masks/c.png").resize((12, 8), Image.Resampling.NEAREST)
    mask.save("masks/c.png")


def compared() -> bool:
    scored("out")()
    found = json.loads(Path("out/compare.json").read_text())["miou"]
    return bool(found["first"] == found["second"] and found["difference"] == 0)


def answers(path: str, format: str) -> Callable[[], object]:
    """Whether an exported file gives the mask that its checkpoint gives."""

    def right() -> bool:
        image = torch.from_numpy(PHOTO).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = open_exported(Path(path), format)(image.contiguous())
        return np.array_equal(logits[0].argmax(0).numpy(), expected())

    return right


PREDICT = "predict.py checkpoint=net.pt source=photos/a.png out_dir=out"
FOLDER = "predict.py checkpoint=net.pt source=photos"
SCORE = "evaluate.py checkpoint=net.pt"
SAVED = "evaluate.py data.root=voc out_dir=out"
EXPORT = "export.py checkpoint=net.pt format=torchscript latency.runs=0 include_preprocessing=true"
CASES = [
    Case(f"{PREDICT} write=[]", r"give (write=\S+),", "{0}", masked("out/index/a.png")),
    Case(f"{PREDICT} write=[]", "or leave write out", "", masked("out/index/a.png")),
    Case(
        f"{PREDICT} write=index",
        r"expected a list, \[a,b\]",
        "write=[index]",
        masked("out/index/a.png"),
    ),
    Case(
        f"{PREDICT} write=[idnex]",
        r"did you mean (\w+)\?",
        "write=[{0}]",
        masked("out/index/a.png"),
    ),
    Case(
        f"{PREDICT} write=[overlay] background=dsik",
        r"did you mean (\w+)\?",
        "background={0}",
        overlay,
    ),
    Case(
        f"{FOLDER} out_dir=photos",
        r"the folder of the images; give (out_dir=)FOLDER",
        "{0}out",
        masked("out/index/a.png"),
    ),
    Case(
        f"{FOLDER} out_dir=photos/a.png",
        r"cannot be written to .*; give (out_dir=)FOLDER",
        "{0}out",
        masked("out/index/a.png"),
    ),
    Case(
        f"{FOLDER}/index out_dir=photos",
        r"results would come to .*; give (out_dir=)FOLDER",
        "{0}out",
        masked("out/index/a.png"),
    ),
    Case(
        f"{FOLDER}/clip.mp4 out_dir=out",
        r"is empty \(0 bytes\)\. Get it again from its source",
        "out_dir=out",
        videos,
        film,
    ),
    Case(
        "predict.py source=photos/a.png out_dir=out checkpoint=own.pt",
        r"trust that code, add '(allow=\[mynet\])'",
        "checkpoint=own.pt {0}",
        masked("out/index/a.png"),
    ),
    Case(
        "predict.py source=photos/a.png out_dir=out checkpoint=nan.pt",
        "take a checkpoint of an earlier epoch",
        "checkpoint=net.pt",
        masked("out/index/a.png"),
    ),
    Case(
        f"{SCORE} out_dir=photos/a.png",
        r"cannot be made \(File exists\); give (out_dir=)FOLDER",
        "{0}out",
        scored("out"),
    ),
    Case(
        "evaluate.py checkpoint=closed/net.pt",
        r"cannot be made \(.*\); give (out_dir=)FOLDER",
        "checkpoint=closed/net.pt {0}out",
        scored("out"),
    ),
    Case(
        f"{SAVED} predictions=masks",
        r"1 of 2 masks are missing; expected <id>\.png .*\n  - (c\.png)",
        "predictions=masks",
        scored("out", "masks"),
        lambda: shutil.copy("voc/SegmentationClass/c.png", "masks/c.png"),
    ),
    Case(
        f"{SAVED} predictions=masks",
        "the mask is 24 x 16 .* its image 12 x 8; scores are those at the size of the image",
        "predictions=masks",
        scored("out", "masks"),
        resized,
    ),
    Case(
        f"{SAVED} predictions=voc/SegmentationClass compare=net.pt data.ignore_index=254",
        r"Beside predictions= give (data\.ignore_index=255)",
        "{0}",
        scored("out", "voc/SegmentationClass"),
    ),
    Case(
        f"{SCORE} out_dir=out data.root=other",
        r"To train on other classes, start train\.py with (init_from=\S+net\.pt)",
        "data.root=voc",
        scored("out"),
        lambda: trained_from("init_from=net.pt"),
    ),
    Case(
        f"{SCORE} out_dir=out compare=[]",
        r"compare=\[\]: expected a checkpoint, several",
        "compare=net.pt",
        compared,
    ),
    Case(
        f"{EXPORT} out=x.pt",
        r"expected a name that ends in (\.\w+)",
        "out=x{0}",
        answers("x.torchscript", "torchscript"),
    ),
    Case(
        f"{EXPORT} precision=fp16",
        "leave precision out",
        "",
        answers("export/net.torchscript", "torchscript"),
    ),
    Case(
        f"{EXPORT} out=photos/a.png/x.torchscript",
        r"a\.png/x\.torchscript: cannot be written",
        "out=x.torchscript",
        answers("x.torchscript", "torchscript"),
    ),
]


@pytest.mark.quick(
    "write=[] > {0}",
    "checkpoint=closed/net.pt",
)
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * case.command.startswith(EXPORT))
        for case in CASES
    ],
    ids=lambda case: f"{case.command} > {case.advice}",
)
def test_a_command(case: Case, here: Path) -> None:
    if "clip.mp4" in case.command:
        Path("photos/clip.mp4").touch()
    if "are missing" in case.message:
        Path("masks/c.png").unlink()
    if "24 x 16" in case.message:
        Image.open("masks/c.png").resize((24, 16), Image.Resampling.NEAREST).save("masks/c.png")
    told = command(case.command)
    assert told.status == 1, told.out
    found = re.search(case.message, told.err)
    assert found is not None, told.err
    if case.work is not None:
        case.work()
    kept = case.command.rpartition(" ")[0]
    told = command(kept, *shlex.split(case.advice.format(*found.groups())))
    assert told.status == 0, told.err
    assert case.right()


# Functions


class Step(NamedTuple):
    """A mistake of a function, and the same with what its message advises.

    ``right`` gets what the groups of ``message`` find.
    """

    wrong: Callable[[], object]
    message: str
    right: Callable[..., object]


CPU = torch.device("cpu")
NAMES = [f"class {i}" for i in range(300)]
MASK = np.repeat(np.array([[0, 1, 1, 299]]), 4, axis=0)
PROBS = np.full((300, 4, 4), 1 / 300, np.float32)


def outputs(
    kinds: list[str], classes: list[str], background: str = "background"
) -> PredictionOutputs:
    return PredictionOutputs(Path("out"), kinds, classes, voc_palette(), background=background)


def probs(kinds: str) -> bool:
    outputs([kinds], NAMES).write("a", np.zeros((4, 4, 3), np.uint8), MASK, PROBS)
    with np.load("out/probs/a.npz") as found:
        return (
            bool((found["probs"] == PROBS.astype(np.float16)).all())
            and len(found["classes"]) == 300
        )


def cut(names: str) -> bool:
    first = names.split(", ")[0]
    pixels = np.full((4, 4, 3), 9, np.uint8)
    mask = np.array([[0, 1, 1, 0]] * 4, np.uint8)
    outputs(["cutout"], ["disk", "square"], first).write("a", pixels, mask, None)
    return bool((np.asarray(Image.open("out/cutout/a.png"))[..., 3] == 255 * (mask == 1)).all())


def large(precision: str) -> torch.Tensor:
    """Logits of which the largest finite one in fp32 is none in bf16."""
    net = nn.Conv2d(3, 2, 1, bias=False)
    with torch.no_grad():
        net.weight.zero_()[0, 0] = 3.4e38
    normalize = Normalize((0.0,) * 3, (1.0,) * 3, channels_last=False)
    image = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    return Inference(net, normalize, Precision.pick(precision, CPU))(image)


def calibrated(root: str) -> bool:
    cfg = config("export", "checkpoint=moved.pt", "precision=int8_static", root)
    assert isinstance(cfg, DictConfig), cfg
    read_images = runpy.run_path(str(ROOT / "export.py"))["read_images"]
    found = dict(read_images(cfg, read_checkpoint("moved.pt")))
    for name, photo in found.items():
        kept = np.asarray(Image.open(f"voc/JPEGImages/{name}.png"))
        assert np.array_equal(photo[0].permute(1, 2, 0), kept)
    return set(found) == {"a", "b"}


class Branches(nn.Module):
    """A network that looks at the numbers, which only a trace can leave out."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * 2 if image.float().mean() > 0 else image


def exported(net: nn.Module, path: str, format: str, opset: int = 18) -> bool:
    image = torch.rand(1, 3, 9, 9)
    write_model(
        net,
        Path(path),
        format,
        {},
        example=image,
        opset=opset,
        precision="fp32",
        calibration=iter([image]),
    )
    with torch.no_grad():
        return torch.allclose(open_exported(Path(path), format)(image), net(image), atol=1e-6)


def in_use(folder: str) -> bool:
    with locked(make_run_folder("run", "x")), locked(make_run_folder(folder, "x")):
        return True


def plain() -> Path:
    """Weights of a backbone alone."""
    cfg = config("train", "model/backbone=resnet18", "model.backbone.weights=null")
    assert isinstance(cfg, DictConfig), cfg
    torch.manual_seed(3)
    net = build(cfg.model.backbone)(output_stride=16)
    torch.save(net.state_dict(), "plain.pt")
    return Path("plain.pt")


def backbone(key: str) -> bool:
    cfg = config("train", "model/backbone=resnet18", f"{key}=plain.pt")
    assert isinstance(cfg, DictConfig), cfg
    net = build(cfg.model.backbone)(output_stride=16).state_dict()
    kept = torch.load("plain.pt")
    return all(torch.equal(net[name], tensor) for name, tensor in kept.items())


def resumed(advice: str) -> bool:
    cfg = config("train", *advice.replace("FOLDER", "new").split(" with "))
    return isinstance(cfg, DictConfig) and cfg.out_dir == str(Path("new").absolute())


def pipe() -> object:
    os.mkfifo("pipe")
    return find_sources("pipe", Path("out"))


STEPS = {
    "index of many classes": Step(
        lambda: outputs(["index"], NAMES), r"give write=\[(probs)\]$", probs
    ),
    "nothing to cut away": Step(
        lambda: outputs(["cutout"], ["disk", "square"]), r"is no class; there are (.*)$", cut
    ),
    "a pipe": Step(
        pipe,
        r"a camera is its number, as source=(\d)",
        lambda number: find_sources(number, Path("out")) == [Source(0, "camera-0")],
    ),
    "floats": Step(
        lambda: load_model("net.pt").predict(PHOTO[..., ::-1] / 255),  # type: ignore[arg-type]
        r"expected uint8 .* \(OpenCV: image\[\.\.\., ::-1\]\)",
        lambda: np.array_equal(
            load_model("net.pt").predict(PHOTO[..., ::-1][..., ::-1]), expected()
        ),
    ),
    "no checkpoint": Step(
        lambda: load_model([]),
        r"expected at least one \.pt file or run folder",
        lambda: np.array_equal(load_model(["net.pt"]).predict(PHOTO), expected()),
    ),
    "bf16": Step(
        lambda: large("bf16"),
        r"Try precision=(\w+)\.",
        lambda name: large(name).max().item() == pytest.approx(3.4e38),
    ),
    "calibration": Step(
        lambda: calibrated("calibration.root=null"),
        r"gone.* needs images such as the run's: give (calibration\.root=)PATH, a folder in VOC",
        lambda key: calibrated(f"{key}voc"),
    ),
    "another format": Step(
        lambda: exported(Branches(), "a.pt2", "pt2"),
        r"perhaps it can with format=onnx or format=(\w+)$",
        lambda format: exported(Branches(), "a.torchscript", format),
    ),
    "opset": Step(
        lambda: exported(nn.Conv2d(3, 2, 1), "a.onnx", "onnx", opset=99),
        r"PyTorch can write it with opset=(\d+), not 99",
        lambda opset: exported(nn.Conv2d(3, 2, 1), "b.onnx", "onnx", int(opset)),
    ),
    "weights of a backbone": Step(
        lambda: read_checkpoint(plain()), r"(model\.backbone\.weights)=PATH$", backbone
    ),
    "init_from a backbone": Step(
        lambda: read_start(plain()).into(nn.Conv2d(1, 1, 1)),
        r"go to (model\.backbone\.weights)$",
        backbone,
    ),
    "a folder in use": Step(
        lambda: in_use("run"), "or give another out_dir", lambda: in_use("run2")
    ),
    "a folder that cannot be": Step(
        lambda: make_run_folder("net.pt/x", "x"),
        r"give (out_dir=)FOLDER, one that can",
        lambda key: make_run_folder("new", "x").is_dir(),
    ),
    "a folder that holds a run": Step(
        lambda: (make_run_folder("run", "x"), refuse_used("run")),  # type: ignore[func-returns-value]
        "give another folder, or none for a new one",
        lambda: refuse_used("run2") is None and refuse_used(None) is None,  # type: ignore[func-returns-value]
    ),
}


@pytest.mark.quick("index of", "nothing to cut", "a pipe", "no checkpoint", "bf16", "a folder")
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is")
@pytest.mark.parametrize("name", list(STEPS))
def test_a_function(name: str, here: Path) -> None:
    step = STEPS[name]
    with pytest.raises(SegkitError) as error:
        step.wrong()
    found = re.search(step.message, str(error.value))
    assert found is not None, str(error.value)
    assert step.right(*found.groups())


@pytest.mark.slow
def test_a_size_that_a_file_cannot_take(here: Path) -> None:
    script = runpy.run_path(str(ROOT / "export.py"))
    cfg = config("export", "checkpoint=net.pt", "format=pt2", "latency.size=[8,8]")
    assert isinstance(cfg, DictConfig), cfg
    cfg.include_preprocessing = True
    message = (
        r"latency\.size=\[8, 8\]: .* Nothing was written; give a larger one, or (latency\.runs=0)"
    )
    with pytest.raises(SegkitError, match=message):
        script["export"](cfg)
    assert not Path("export").exists()
    for key, value in (("latency.size", [64, 64]), ("latency.runs", 0)):
        followed = cfg.copy()
        OmegaConf.update(followed, key, value)
        assert script["export"](followed)["difference"] < 1e-3
        assert answers("export/net.pt2", "pt2")()
        Path("export/net.pt2").unlink()


@pytest.mark.parametrize(
    ("module", "message", "extra"),
    [
        (page, "matplotlib and jinja2, not installed here", "report"),
        (onnx_model, "onnx, onnxruntime, onnxscript are not installed", "export"),
    ],
)
def test_libraries_that_are_missing(
    module: Any, message: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = module.util if module is page else module
    monkeypatch.setattr(where, "find_spec", lambda name: None)
    check = module.check_libraries if module is page else module.require
    names = () if module is page else ("onnx", "onnxruntime", "onnxscript")
    with pytest.raises(SegkitError, match=message) as error:
        check(*names)
    found = re.search(r"python -m pip install ([\w -]+)$", str(error.value))
    assert found is not None
    named = set(found[1].split())
    assert named == set(re.split(r",? and |, ", message.partition(" are")[0].partition(", not")[0]))
    assert named <= brought_by(extra)


def brought_by(extra: str) -> set[str]:
    """Packages that ``pip install -e ".[EXTRA]"`` installs."""
    found = re.search(rf"^{extra} = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M)
    assert found is not None
    return set(re.findall(r'"([\w-]+)', found[1]))


@pytest.mark.slow
def test_weights_of_a_diverged_training_are_not_handed_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tool(name: str) -> int:
        given = [f"checkpoint={name}", "out=small.pt", "size=[32,32]"]
        return run_tool(model_tool.Request, model_tool.model, given, "model")

    assert tool("nan.pt") == 1
    said = capsys.readouterr().err
    assert "nan.pt: classifier.weight of its weights hold NaN" in said
    assert "take a checkpoint of an earlier epoch" in said
    assert not Path("small.pt").exists()
    assert tool("net.pt") == 0
    assert np.array_equal(load_model("small.pt").predict(PHOTO), expected())


@pytest.mark.slow
@pytest.mark.quick("force=true")
@pytest.mark.parametrize(
    ("wrong", "message", "advice"),
    [
        ("resume=net.pt", "leave out (resume)$", ""),
        ("out=sheet.jpg", r"expected a name that ends in (\.png)$", "out=sheet{0}"),
        ("out=photos/a.png", r"Add (force=true) to replace a file", "out=photos/a.png {0}"),
        ("out=photos/a.png", r"or give (out=) another name", "{0}sheet.png"),
    ],
)
def test_the_sheet_of_browse(wrong: str, message: str, advice: str, here: Path) -> None:
    usual = ("data=voc", "data.root=voc", "augment=none")

    def sheet(*words: str) -> Path:
        own = [word for word in words if word.startswith(("out=", "force="))]
        cfg = config("train", *usual, *(word for word in words if word not in own))
        assert isinstance(cfg, DictConfig), cfg
        request = parse(browse.Request, own)
        browse.write_sheet(cfg, request)
        return Path(request.out)

    with pytest.raises(SegkitError) as error:
        sheet(wrong)
    found = re.search(message, str(error.value))
    assert found is not None, str(error.value)
    photo = np.asarray(Image.open(sheet(*advice.format(*found.groups()).split())))
    kept = np.asarray(Image.open("voc/JPEGImages/a.png"))
    assert np.array_equal(photo[LINE : LINE + 8, :12], kept)


@pytest.mark.slow
def test_an_exported_file_has_its_weights_and_precision(here: Path) -> None:
    given = "export.py checkpoint=net.pt latency.runs=0 precision=fp16"
    told = command(f"{given} format=torchscript")
    found = re.search(r"or give (format=onnx)$", told.err.strip())
    assert found is not None, told.err
    told = command(given, found[1])
    assert told.status == 0, told.err
    usual = "predict.py source=photos/a.png out_dir=out checkpoint=export/net-fp16.onnx"
    for key in ("weights=raw", "precision=fp32"):
        told = command(usual, key)
        found = re.search(r"leave (\w+) out, or take the checkpoint", told.err)
        assert found is not None, told.err
        assert found[1] == key.partition("=")[0]
        assert command(usual).status == 0
        assert (read_mask(Path("out/index/a.png")) == expected()).mean() > 0.99
        assert command(f"{usual.rpartition(' ')[0]} checkpoint=net.pt", key).status == 0
        assert masked("out/index/a.png")()
