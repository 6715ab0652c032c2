"""export.py: files that compute what the checkpoint does, or no files."""

import doctest
import json
import logging
import re
import runpy
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from scripts import ROOT, call
from states import METADATA
from torch import Tensor, nn
from torch.testing import assert_close
from trained import photo, save_model
from voc_folder import make_voc

from segkit.config.schema import CalibrationConfig, ExportConfig, LatencyConfig
from segkit.data.shapes import Shapes
from segkit.errors import CheckpointError, ConfigError, DataError
from segkit.export import parity
from segkit.export import writer as export
from segkit.export.images import read_images
from segkit.export.parity import TOLERANCES, Parity, check_parity, latency
from segkit.export.quantize import reduce_precision
from segkit.inference import onnx_network as onnx_model
from segkit.inference.loading import load_network
from segkit.inference.model import load_model as load_for_images
from segkit.inference.onnx_network import OnnxModel, read_onnx
from segkit.inference.predictor import Inference
from segkit.models import DeepLabV3Plus
from segkit.models.backbones import Tiny
from segkit.models.normalize import Normalize
from segkit.runs.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from segkit.runs.description import described
from segkit.runtime.device import Precision
from segkit.training.monitor import Best, Monitor
from segkit.training.state import TrainState

onnx = pytest.importorskip("onnx", reason="needs the extra export")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")
# It adds to sys.path, once; `call` would take that back.
pytest.importorskip("onnxruntime.transformers", reason="needs the extra export")

DOCS = ROOT / "docs/export.md"
CLASSES = ["background", "disk", "square"]
QUICK = ("latency.runs=1", "latency.size=[32,32]")
SHAPES = [(1, 3, 40, 72), (2, 3, 17, 33), (3, 3, 64, 64)]


def network() -> nn.Module:
    """A small network whose logits differ from pixel to pixel and class to class."""
    torch.manual_seed(0)
    model = DeepLabV3Plus(Tiny(8), 3, aspp_channels=16, decoder_channels=16, separable=True)
    model.classifier.weight.data.normal_()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint as a training on the shapes leaves it."""
    folder = tmp_path_factory.mktemp("export") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    backbone = {"_target_": "segkit.models.backbones.Tiny", "_partial_": True, "width": 8}
    config = {
        "model": {
            "_target_": "segkit.models.DeepLabV3Plus",
            "backbone": backbone,
            "num_classes": 3,
            "aspp_channels": 16,
            "decoder_channels": 16,
            "separable": True,
        },
        "data": {
            "dataset": {
                "_target_": "segkit.data.Shapes",
                "_partial_": True,
                "root": str(folder.parent / "shapes"),
                "num_train": 4,
                "num_val": 2,
            },
            "train_split": "train",
            "val_split": "val",
        },
        "trainer": {"channels_last": False},
        "optimizer": {"lr": 0.1},
    }
    model = network()
    state = TrainState(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.amp.GradScaler("cpu"),
        Monitor(Best("val/miou", "max")),
    )
    metadata = replace(METADATA, config=config, classes=CLASSES)
    save_checkpoint(folder / "checkpoints/best.pt", state, metadata, {})
    return folder


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Checkpoint:
    return read_checkpoint(run)


@pytest.fixture(scope="module")
def bytes_file(run: Path) -> Path:
    """An ONNX file with the preprocessing in it."""
    arguments = (f"checkpoint={run}", "include_preprocessing=true", *QUICK)
    before = {path.name for path in (run / "export").glob("*")}
    result = call("export.py", *arguments, cwd=run.parent)
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("run/export/best.onnx (")
    assert lines[1].startswith("largest difference ")
    assert lines[1].endswith("(1x3x192x256, 1x3x161x129, 3x3x192x256, 3x3x161x129)")
    assert lines[2] == "(accepted: at most 1e-03, at least 99.9 %)"
    assert lines[3].startswith("one image of 32x32 on the CPU, ")
    assert "PyTorch" in lines[3]
    assert "onnxruntime" in lines[3]
    assert {path.name for path in (run / "export").iterdir()} - before == {"best.onnx"}
    return run / "export/best.onnx"


@pytest.fixture(scope="module")
def floats_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("floats") / "a.onnx"
    write(network(), path, "onnx", checkpoint)
    return path


def write(
    model: nn.Module, path: Path, format: str, checkpoint: Checkpoint, opset: int = 18
) -> None:
    facts = onnx_model.export_metadata(
        checkpoint, preprocessing=False, precision="fp32", opset=opset
    )
    example = torch.rand(1, 3, 64, 96)
    export.write_model(model, path, format, facts, example=example, opset=opset, precision="fp32")


def photos(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


# --- ONNX ----------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("shape", [*SHAPES, (1, 3, 1, 1)])
def test_bytes_in_logits_out(
    shape: tuple[int, ...], bytes_file: Path, checkpoint: Checkpoint
) -> None:
    session = onnxruntime.InferenceSession(bytes_file)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type) == ("image", "tensor(uint8)")
    assert given.shape == ["batch", 3, "height", "width"]
    assert (returned.name, returned.type) == ("logits", "tensor(float)")
    image = photos(shape)
    (logits,) = session.run(None, {"image": image.numpy()})
    metadata = checkpoint.metadata
    normalize = Normalize(tuple(metadata.mean), tuple(metadata.std))
    expected = load_network(checkpoint).eval()(normalize(image))
    assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_the_metadata_keep_the_colours_of_the_run(tmp_path: Path) -> None:
    """Of an exported model masks were drawn in other colours than of its checkpoint."""
    path = save_model(tmp_path / "best.pt", config={"palette": {"disk": "orange"}})
    checkpoint = read_checkpoint(path)
    properties = onnx_model.export_metadata(
        checkpoint, preprocessing=True, precision="fp32", opset=18
    )
    facts = onnx_model.read_facts(path, properties)
    entries = {name: facts[name] for name in onnx_model.DESCRIBED if name in facts}
    found = described(path, {**entries, "precision": "fp32"})
    assert found.colors[1].tolist() == [255, 165, 0]
    assert np.array_equal(found.colors, checkpoint.metadata.colors)


@pytest.mark.slow
def test_the_metadata_tell_all_that_is_needed(bytes_file: Path) -> None:
    properties = onnxruntime.InferenceSession(bytes_file).get_modelmeta().custom_metadata_map
    facts = {key: json.loads(value) for key, value in properties.items()}
    assert facts["classes"] == CLASSES
    assert facts["palette"][2] == [2, 0, 0]
    assert (facts["mean"], facts["std"]) == ([0.5] * 3, [0.25] * 3)
    assert (facts["opset"], facts["preprocessing"], facts["precision"]) == (18, True, "fp32")
    assert facts["segkit"]
    assert facts["config"].keys() == {"data", "trainer"}
    assert onnx.load(bytes_file).opset_import[0].version == 18


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "kind", ["bytes_file", pytest.param("floats_file", marks=pytest.mark.slow)]
)
def test_it_stands_in_for_the_network(
    kind: str, checkpoint: Checkpoint, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(kind)
    metadata = read_onnx(path).metadata
    assert (metadata.classes, metadata.palette, metadata.config["data"]["val_split"]) == (
        CLASSES,
        checkpoint.metadata.palette,
        "val",
    )
    normalize = Normalize(tuple(metadata.mean), tuple(metadata.std))
    precision = Precision("fp32", torch.device("cpu"))
    settings: dict[str, Any] = {"flip": True, "window": (32, 48)}
    image = photos((1, 3, 50, 70))
    found = Inference(OnnxModel(path), normalize, precision, **settings)(image)
    expected = Inference(load_network(checkpoint), normalize, precision, **settings)(image)
    assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.quick("int8_static")
@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp16", "int8_dynamic", "int8_static"])
def test_fewer_bits(
    precision: str, bytes_file: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "b.onnx"
    path.write_bytes(bytes_file.read_bytes())
    rough = photos((4, 3, 6, 8)).float()
    smooth = nn.functional.interpolate(rough, (192, 256), mode="bicubic").clamp(0, 255)
    images = list(smooth.to(torch.uint8).split(1))
    reduce_precision(path, precision, images)
    assert [file.name for file in tmp_path.iterdir()] == ["b.onnx"]
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"fp16": "Conv", "int8_dynamic": "ConvInteger", "int8_static": "QuantizeLinear"}[
        precision
    ] in kinds
    if precision == "int8_static":  # ranges of convolutions end where the ReLU behind them cuts
        before, after = (
            [node.op_type for node in onnx.load(file).graph.node] for file in (bytes_file, path)
        )
        assert after.count("Relu") < before.count("Relu") / 2
    metadata = checkpoint.metadata
    model = export.WithPreprocessing(network(), metadata.mean, metadata.std)
    exact, found = (
        check_parity(model, export.open_exported(file, "onnx"), images, TOLERANCES[precision])
        for file in (bytes_file, path)
    )
    assert exact.difference < 1e-5 < found.difference


@pytest.mark.slow
def test_the_opset_is_the_one_that_was_asked_for(
    checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(network(), tmp_path / "a.onnx", "onnx", checkpoint, opset=21)
    versions = {
        entry.domain: entry.version for entry in onnx.load(tmp_path / "a.onnx").opset_import
    }
    assert versions[""] == 21
    with pytest.raises(CheckpointError, match="opset"):
        write(network(), tmp_path / "b.onnx", "onnx", checkpoint, opset=99)
    assert not (tmp_path / "b.onnx").exists()
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


# --- one fixed size ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fixed_file(run: Path) -> Path:
    """An ONNX file that takes one normalised image of 64 x 96 at a time."""
    arguments = (f"checkpoint={run}", "size=[64,96]", "out=fixed.onnx", "latency.runs=1")
    result = call("export.py", *arguments, cwd=run.parent)
    assert result.status == 0, result.err
    assert result.out.splitlines()[1].endswith("(1x3x64x96, 1x3x64x96, 1x3x64x96)")
    assert result.out.splitlines()[3].startswith("one image of 64x96 on the CPU, ")
    return run.parent / "fixed.onnx"


@pytest.mark.slow
def test_a_file_of_one_size(fixed_file: Path) -> None:
    session = onnxruntime.InferenceSession(fixed_file)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.shape, returned.shape) == ([1, 3, 64, 96], [1, 3, 64, 96])
    assert json.loads(session.get_modelmeta().custom_metadata_map["size"]) == [64, 96]
    # Nothing in it computes shapes any more, which is what other runtimes stumble over.
    kinds = {node.op_type for node in onnx.load(fixed_file).graph.node}
    assert not kinds & {"Shape", "Gather", "Range", "If", "Loop", "Cast"}


@pytest.mark.slow
@torch.no_grad()
def test_opencv_reads_a_file_of_one_size(fixed_file: Path, checkpoint: Checkpoint) -> None:
    import cv2

    image = torch.randn((1, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    try:
        network = cv2.dnn.readNetFromONNX(str(fixed_file))
    except cv2.error as error:
        pytest.skip(f"OpenCV {cv2.__version__} cannot read it: {error}")
    network.setInput(image.numpy())
    expected = load_network(checkpoint).eval()(image)
    assert_close(torch.from_numpy(network.forward()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_other_sizes_are_windows_and_padding(fixed_file: Path, run: Path) -> None:
    exported = load_for_images(fixed_file, device="cpu")
    original = load_for_images(run, device="cpu", window=(64, 96))
    exact, large = photo(64, 96), photo(100, 130)
    assert np.array_equal(exported.predict(exact), load_for_images(run).predict(exact))
    assert np.array_equal(exported.predict(large), original.predict(large))
    # A smaller one is what it is on a ground of the mean colour, here 127.5.
    small = photo(40, 56)
    ground = np.full((64, 96, 3), 0.5, np.float32)
    ground[:40, :56] = small / np.float32(255)
    normalized = torch.from_numpy((ground - 0.5) / 0.25).permute(2, 0, 1)[None]
    logits = OnnxModel(fixed_file)(normalized)[0, :, :40, :56]
    assert np.array_equal(exported.predict(small), logits.argmax(0).numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window": "whole"}, r"at most 64 x 96 pixels, found window=whole: leave window out"),
        ({"window": (32, 97)}, r"found window=\[32, 97\]: .*, or export .* without size"),
        ({"scales": (0.5, 1.5)}, r"found the scales \[0\.5, 1\.5\]: give none above 1"),
    ],
)
def test_more_than_the_size_is_refused(
    options: dict[str, Any], expected: str, fixed_file: Path
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_for_images(fixed_file, device="cpu", **options)


@pytest.mark.slow
def test_less_than_the_size_is_taken(fixed_file: Path, run: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "scales": (0.5, 1.0), "window": (64, 64)}
    exported = load_for_images(fixed_file, **options)
    assert exported.predict(photo(100, 130)).shape == (100, 130)
    both = load_for_images([run, fixed_file], device="cpu")  # an ensemble
    assert np.array_equal(both.predict(photo(64, 96)), load_for_images(run).predict(photo(64, 96)))
    with pytest.raises(CheckpointError, match="takes images of 64 x 96 pixels, one is 65 x 96"):
        OnnxModel(fixed_file)(torch.zeros(1, 3, 65, 96))


@pytest.mark.slow
def test_the_scripts_take_a_file_of_one_size(run: Path, fixed_file: Path) -> None:
    voc = make_voc(run.parent / "voc")  # of 8 x 12 pixels
    (voc / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    Shapes(run.parent / "shapes", "train", num_train=4, num_val=2)  # of 96 x 128 and more
    data = (f"data.root={voc}", "out_dir=scores")
    moved = run.parent / "moved/checkpoints/best.pt"
    content = torch.load(run / "checkpoints/best.pt", weights_only=True)
    dataset = {"_target_": "segkit.data.VOCSegmentation", "_partial_": True, "root": str(voc)}
    content["about"]["config"]["data"]["dataset"] = dataset
    moved.parent.mkdir(parents=True)
    torch.save(content, moved)
    given = (f"checkpoint={moved}", "size=[64,96]", "out=moved.onnx", "latency.runs=0")
    assert call("export.py", *given, cwd=run.parent).status == 0
    result = call("evaluate.py", "checkpoint=moved.onnx", *data, cwd=run.parent)
    assert result.status == 0, result.err
    int8 = ("precision=int8_static", "calibration.images=3", "size=[64,96]", "latency.runs=0")
    result = call("export.py", f"checkpoint={run}", *int8, "out=int8.onnx", cwd=run.parent)
    assert result.status == 0, result.err
    result = call("predict.py", f"checkpoint={fixed_file}", "source=shapes", cwd=run.parent)
    assert result.status == 0, result.err


@pytest.mark.slow
def test_a_fixed_pt2_file(run: Path) -> None:
    pt2 = ("format=pt2", "size=[64,96]", "latency.runs=0", "out=fixed.pt2")
    result = call("export.py", f"checkpoint={run}", *pt2, cwd=run.parent)
    assert result.status == 0, result.err


# --- other formats -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is")
@pytest.mark.parametrize("format", ["torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
def test_other_formats(format: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / f"a{export.SUFFIXES[format]}"
    model = network()
    write(model, path, format, checkpoint)
    exported = export.open_exported(path, format)
    for shape in SHAPES:
        image = torch.randn(shape)
        assert_close(exported(image), model(image), rtol=1e-4, atol=1e-4)
    files = {export.EXTRA_FILE: ""}
    if format == "pt2":
        torch.export.load(path, extra_files=files)
    else:
        torch.jit.load(path, _extra_files=files)
    assert json.loads(json.loads(files[export.EXTRA_FILE])["classes"]) == CLASSES


@pytest.mark.slow
def test_torchscript_from_the_command_line(run: Path) -> None:
    arguments = (f"checkpoint={run}", "format=torchscript", "out=a.torchscript", *QUICK)
    result = call("export.py", *arguments, cwd=run.parent)
    assert result.status == 0, result.err
    assert result.out.startswith("a.torchscript (")
    exported = export.open_exported(run.parent / "a.torchscript", "torchscript")
    assert exported(torch.zeros(1, 3, 20, 30)).shape == (1, 3, 20, 30)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8_dynamic", "int8_static"])
def test_fewer_bits_from_the_command_line(precision: str, run: Path) -> None:
    Shapes(run.parent / "shapes", "train", num_train=4, num_val=2)  # as the training made them
    ranges = ["calibration.images=3"] if precision == "int8_static" else []
    arguments = (f"checkpoint={run}", f"precision={precision}", *ranges, *QUICK)
    result = call("export.py", *arguments, cwd=run.parent)
    assert result.status == 0, result.err
    facts = OnnxModel(run / f"export/best-{precision}.onnx").facts
    assert (facts["precision"], facts["classes"]) == (precision, CLASSES)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", "resnet50", "xception"])
def test_every_backbone_as_onnx(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DeepLabV3Plus(name, 3, output_stride=8).eval()
    write(model, tmp_path / "a.onnx", "onnx", checkpoint)
    exported = export.open_exported(tmp_path / "a.onnx", "onnx")
    check_parity(model, exported, [torch.randn(1, 3, 64, 64)], TOLERANCES["fp32"])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("format", ["onnx", "torchscript", "pt2"])
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_an_input_scale_is_of_any_size_in_every_format(
    format: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = DeepLabV3Plus(Tiny(8), 3, aspp_channels=16, input_scale=4 / 3).eval()
    write(model, tmp_path / "a", format, checkpoint)
    exported = export.open_exported(tmp_path / "a", format)
    images = [torch.randn(1, 3, 49, 70), torch.randn(2, 3, 64, 65)]
    check_parity(model, exported, images, TOLERANCES["fp32"])


# --- what is off is not written ------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda logits: logits + 0.01 * logits.abs().max(), "largest difference 1.0e-02 of the"),
        (lambda logits: logits.flip(1), "at least 99.9 %"),
        (lambda logits: logits * float("nan"), "its logits of .* hold NaN or infinity"),
        (lambda logits: logits[:, :, 1:], "logits of shape"),
    ],
)
def test_parity_fails(change: Callable[[Tensor], Tensor], expected: str) -> None:
    model = network()
    with pytest.raises(CheckpointError, match=expected):
        check_parity(
            model, lambda x: change(model(x)), [torch.randn(1, 3, 32, 32)], TOLERANCES["fp32"]
        )


@pytest.mark.parametrize(
    ("numbers", "others", "expected"),
    [
        ([5.0, 1.0], [5.0, float("nan")], r"its logits of .* \(1, 3, 192, 256\) hold NaN"),
        ([5.0, 1.0], [float("nan")] * 2, "its logits of .* hold NaN or infinity"),
        ([float("inf"), 1.0], [float("inf"), 1.0], "the checkpoint's logits of .* hold NaN or"),
    ],
)
def test_parity_of_what_is_no_number(
    numbers: list[float], others: list[float], expected: str
) -> None:
    """A network that always says class 0, which is what the largest of NaNs is, too."""

    def says(logits: list[float]) -> Callable[[Tensor], Tensor]:
        row = torch.tensor(logits)[None, :, None, None]
        return lambda image: row.expand(len(image), -1, *image.shape[2:])

    with pytest.raises(CheckpointError, match=expected):
        check_parity(says(numbers), says(others), [torch.zeros(1, 3, 8, 8)], TOLERANCES["fp16"])  # type: ignore[arg-type]


def test_parity_by_hand() -> None:
    """One pixel of two changes its class, and moves by a quarter of the largest logit."""

    def model(image: Tensor) -> Tensor:
        return torch.tensor([[[[4.0, 1.0]], [[0.0, 2.0]]]]).expand(len(image), -1, -1, -1)

    def other(image: Tensor) -> Tensor:
        return torch.tensor([[[[4.0, 2.0]], [[0.0, 1.0]]]]).expand(len(image), -1, -1, -1)

    images = [torch.zeros(1, 3, 8, 8)]
    found = check_parity(model, other, images, parity.Tolerance(0.25, 0.5))  # type: ignore[arg-type]
    assert (found.difference, found.same) == (0.25, 0.5)
    assert str(Parity(0.25, 0.5, [(1, 3, 8, 8)])) == (
        "largest difference 2.5e-01 of the largest logit, 50.000 % of pixels with the same class "
        "(1x3x8x8)"
    )


@pytest.mark.slow
def test_a_file_that_is_off_is_removed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run.parent / "off.torchscript"
    out.write_text("from before")
    monkeypatch.setitem(TOLERANCES, "fp32", parity.Tolerance(-1.0, 1.0))
    arguments = (f"checkpoint={run}", "format=torchscript", f"out={out}", *QUICK)
    result = call("export.py", *arguments, cwd=run.parent)
    assert result.status == 1
    assert "off.torchscript: computes something else than the checkpoint: largest" in result.err
    assert "Nothing was written" in result.err
    assert len(result.err.splitlines()) == 1
    assert out.read_text() == "from before"
    assert not list(run.parent.glob(".off*"))


def test_latency_counts_after_a_warm_up() -> None:
    calls = []
    seconds = latency(lambda image: calls.append(1) or image, torch.zeros(1), runs=4)
    assert len(calls) == 7
    assert 0 <= seconds < 1


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_that_cannot_take_the_size_of_latency(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As files of ``format=pt2`` cannot where an image is no larger than the stride."""

    def only_large(path: Path, format: str) -> Callable[[Tensor], Tensor]:
        scripted = export.open_exported(path, format)

        def compute(image: Tensor) -> Tensor:
            assert min(image.shape[2:]) > 16, "Guard failed"
            return scripted(image)

        return compute

    script = runpy.run_path(str(ROOT / "export.py"))
    monkeypatch.setitem(script["export"].__globals__, "open_exported", only_large)
    cfg = OmegaConf.structured(
        ExportConfig(
            checkpoint=str(run),
            format="torchscript",
            out=str(run.parent / "small.torchscript"),
            latency=LatencyConfig(runs=1, size=[8, 8]),
        )
    )
    with pytest.raises(ConfigError, match=r"latency\.size=\[8, 8\]: .*Guard failed.*, or latency"):
        script["export"](cfg)
    assert not list(run.parent.glob("*small*"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("out=a.onxx", "a.onxx: expected a name that ends in .onnx"),
        ("format=torchscript precision=fp16", "precision=fp16 is for format=onnx, not for torch"),
        ("format=pt2 opset=20", "opset=20: is for format=onnx"),
        ("calibration.images=5", "calibration.images=5: is for precision=int8_static or int8_dyn"),
        ("precision=int8_dynamic calibration.images=5", "images=5: is for precision=int8_static"),
        ("format=tflite", "format=tflite"),
        ("opset=17", "opset=17"),
        ("size=[64]", "size=[64]"),
        ("size=[64,0]", "size=[64, 0]"),
        ("size=[64,96] format=torchscript", "size is for format=onnx and format=pt2"),
        ("size=[64,96] latency.size=[32,32]", "latency.size=[32, 32]: the file takes size=[64, 96"),
        ("out=best.pt/a.onnx", "best.pt/a.onnx: cannot be written (File exists)"),
    ],
)
def test_settings_that_are_refused(arguments: str, expected: str, run: Path) -> None:
    result = call("export.py", f"checkpoint={run}", *arguments.split(), cwd=run / "checkpoints")
    assert result.status == 1
    assert expected in result.err
    assert len(result.err.splitlines()) == 1


def test_images_to_calibrate_on(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = {"_target_": "segkit.data.VOCSegmentation", "_partial_": True, "root": "gone"}
    data = {"dataset": dataset, "train_split": "train"}
    moved = replace(checkpoint, metadata=replace(checkpoint.metadata, config={"data": data}))
    settings = ExportConfig(precision="int8_static", calibration=CalibrationConfig(images=2))
    with pytest.raises(DataError, match=r"root=gone: no such folder.*give calibration\.root=PATH"):
        next(read_images(settings, moved))
    root = make_voc(tmp_path / "voc", {"train": ["a", "b", "c"]})
    there = CalibrationConfig(root=str(root), images=2)
    settings = replace(settings, calibration=there)
    found = [(name, p.shape) for name, p in read_images(settings, moved)]
    assert [shape for _, shape in found] == [(1, 3, 8, 12)] * 2
    assert {name for name, _ in found} < {"a", "b", "c"}
    images = read_images(settings, moved)
    next(images)
    for name in "abc":  # each is read when it is asked for
        (root / f"JPEGImages/{name}.png").unlink()
    with pytest.raises(DataError, match="no such file"):
        next(images)


@pytest.mark.slow
def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch, run: Path, bytes_file: Path) -> None:
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None if "runtime" in name else name)
    with pytest.raises(ConfigError) as error:
        OnnxModel(bytes_file)
    expected = "onnxruntime is not installed: python -m pip install onnxruntime"
    assert str(error.value) == expected
    result = call("export.py", f"checkpoint={run}", cwd=run.parent)
    assert (result.status, result.err.strip()) == (1, f"error: {expected}")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["initializer", "Constant"])
def test_numbers_in_other_files_are_refused(place: str, tmp_path: Path, bytes_file: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(12))
    model = onnx.load(bytes_file)
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[3])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    if place == "initializer":
        model.graph.initializer.append(tensor)
    else:
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"a\.onnx: some of its numbers are in other files"):
        OnnxModel(tmp_path / "model/a.onnx")


@pytest.mark.slow
def test_a_graph_of_another_form_is_refused(tmp_path: Path, bytes_file: Path) -> None:
    model = onnx.load(bytes_file)
    facts = {one.key: one.value for one in model.metadata_props}
    for changes, expected in (
        ({"preprocessing": "false"}, r"takes tensor\(uint8\) and makes 1 outputs; expected tensor"),
        ({"classes": '["a", "b"]'}, r"names 2 classes, but its model makes \(1, 3, 64, 64\)"),
        ({"std": "[0.2, NaN, 0.2]"}, "no file of segkit's export.py"),
        (
            {"std": "[0.2, 0, 0.2]"},
            r"std in it is \[0.2, 0, 0.2\]; expected a number above 0, to 1",
        ),
    ):
        onnx.helper.set_model_props(model, facts | changes)
        onnx.save(model, tmp_path / "a.onnx")
        with pytest.raises(CheckpointError, match=expected):
            load_network(read_onnx(tmp_path / "a.onnx"))
        del model.metadata_props[:]


@pytest.mark.slow
def test_files_that_are_not_ours(tmp_path: Path, bytes_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.onnx: no such file"):
        OnnxModel(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"b\.onnx: onnxruntime cannot read it"):
        OnnxModel(tmp_path / "b.onnx")
    foreign = onnx.load(bytes_file)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "c.onnx")
    with pytest.raises(CheckpointError, match=r"c\.onnx: no file of segkit's export\.py"):
        read_onnx(tmp_path / "c.onnx")


@pytest.mark.parametrize("format", export.SUFFIXES)
def test_files_that_cannot_be_opened(format: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"a: cannot be opened again \("):
        export.open_exported(tmp_path / "a", format)


def test_a_model_that_cannot_be_exported(checkpoint: Checkpoint, tmp_path: Path) -> None:
    class Sorts(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.from_numpy(np.sort(image.numpy()))

    with pytest.raises(CheckpointError, match=r"PyTorch cannot export this model as pt2 \("):
        write(Sorts(), tmp_path / "a.pt2", "pt2", checkpoint)


# --- the documentation ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_examples_of_the_docs(
    run: Path, bytes_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = (f"checkpoint={run}", "size=[40,56]", "out=small.onnx", "latency.runs=0")
    assert call("export.py", *small, cwd=tmp_path).status == 0
    (tmp_path / "best.onnx").symlink_to(bytes_file)
    turned = Image.fromarray(photo(56, 40))  # stored on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    text = DOCS.read_text(encoding="utf-8")
    for mode in ("RGB", "L"):
        turned.convert(mode).save(tmp_path / "photo.jpg", exif=exif)
        example = doctest.DocTestParser().get_doctest(text, {}, "export.md", str(DOCS), 0)
        failed, tried = doctest.DocTestRunner().run(example, clear_globs=False)
        assert failed == 0
        assert tried >= 9
        expected = load_for_images("best.onnx", device="cpu").predict("photo.jpg")
        assert len(np.unique(expected)) > 1
        assert np.array_equal(example.globs["mask"], expected)


@pytest.mark.slow
def test_the_recipe_for_openvino(
    bytes_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.onnx").symlink_to(bytes_file)
    Image.fromarray(photo(56, 40)).save("photo.jpg")
    section = DOCS.read_text(encoding="utf-8").partition("### OpenVINO")[2]
    space: dict[str, Any] = {}
    exec(section.partition("```python\n")[2].partition("```")[0], space)
    expected = load_for_images("best.onnx", device="cpu").predict("photo.jpg")
    assert np.array_equal(space["mask"], expected)


@pytest.mark.slow
def test_the_recipe_for_litert(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litert_torch", reason="needs litert-torch")
    from ai_edge_litert.interpreter import Interpreter

    monkeypatch.chdir(tmp_path)
    small = (f"checkpoint={run}", "format=pt2", "size=[96,128]", "out=small.pt2", "latency.runs=0")
    assert call("export.py", *small, cwd=tmp_path).status == 0
    section = DOCS.read_text(encoding="utf-8").partition("### LiteRT")[2]
    exec(section.partition("```python\n")[2].partition("```")[0], {})
    image = torch.randn(1, 3, 96, 128)
    interpreter = Interpreter("small.tflite")
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.numpy())
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = export.open_exported(Path("small.pt2"), "pt2")(image)
    assert_close(torch.from_numpy(found), expected.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_commands_of_the_docs(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints/best.pt", weights_only=True)
    content["about"]["classes"] = ["background", "cat", "dog"]
    root = str(make_voc(tmp_path / "voc"))
    dataset = {"_target_": "segkit.data.VOCSegmentation", "_partial_": True, "root": root}
    content["about"]["config"]["data"]["dataset"] = dataset
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    torch.save(content, tmp_path / "run/checkpoints/best.pt")
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save(tmp_path / "photos/a.png")
    commands = re.findall(
        r"^    python (\w+\.py .*)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(commands) == 5
    for command in commands:
        script, *arguments = shlex.split(command.replace("runs/...", "run"))
        more = QUICK[: 1 if "size=" in command else 2] if script == "export.py" else ()
        result = call(script, *arguments, *more, cwd=tmp_path)
        assert result.status == 0, f"{command}: {result.err}"
