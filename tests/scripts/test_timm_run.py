"""A network of timm from a file of its weights to an exported model; no network, no file again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripts import SMALL, call

import segkit

timm: Any = pytest.importorskip("timm", reason="needs pip install timm")

NAME = "test_convnext.r160_in1k"
RUN = (
    *(argument for argument in SMALL if not argument.startswith("model.backbone.")),
    "model/backbone=timm",
    f"model.backbone.name={NAME}",
    "model.backbone.weights=weights.pth",
    "data.check=false",
    "optimizer=adamw",
    "trainer.freeze_epochs=1",
    "trainer.backbone_lr_factor=0.5",
    "trainer.ema_decay=0.5",
    "model.freeze_backbone=low_level",
)

IMAGE = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)  # no multiple of 16


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose first epoch left the backbone as it was in a file, now gone."""
    folder = tmp_path_factory.mktemp("timm") / "here"
    folder.mkdir()
    torch.manual_seed(0)
    tensors = timm.create_model(NAME).state_dict()
    torch.save(tensors, folder / "weights.pth")
    result = call("train.py", *RUN, "trainer.max_epochs=1", "out_dir=run", cwd=folder)
    assert result.status == 0, result.err
    (folder / "weights.pth").unlink()
    trained = torch.load(folder / "run/checkpoints/last.pt", weights_only=True)["state"]["model"]
    assert torch.equal(
        trained["backbone.net.stages_3.blocks.0.conv_dw.weight"],
        tensors["stages.3.blocks.0.conv_dw.weight"],
    )
    return folder


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def fake(name: str, pretrained: bool = False, **settings: Any) -> Any:
        assert not pretrained
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", fake)


def test_resume_trains_the_rest(home: Path) -> None:
    before = torch.load(home / "run/checkpoints/last.pt", weights_only=True)["state"]["model"]
    result = call("train.py", "resume=run", "trainer.max_epochs=2", cwd=home)
    assert result.status == 0, result.err
    after = torch.load(home / "run/checkpoints/last.pt", weights_only=True)["state"]["model"]
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    frozen = ("backbone.net.stem_", "backbone.net.stages_0.")
    assert not any(key.startswith(frozen) for key in moved)
    assert moved >= {key for key in after if key.startswith("backbone.net.stages_3.")}


def test_evaluate_and_predict(home: Path) -> None:
    result = call("evaluate.py", "checkpoint=run", "out_dir=scores", cwd=home)
    assert result.status == 0, result.err
    assert segkit.load_model(home / "run").predict(IMAGE).shape == (45, 70)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_export(format: str, home: Path) -> None:
    """Which compares the file with the network at several sizes itself."""
    result = call("export.py", "checkpoint=run", f"format={format}", f"out=a.{format}", cwd=home)
    assert result.status == 0, result.err


@pytest.mark.slow
def test_an_exported_file_predicts_the_same(home: Path) -> None:
    result = call("export.py", "checkpoint=run", "out=net.onnx", cwd=home)
    assert result.status == 0, result.err
    of_network, of_file = (segkit.load_model(home / name) for name in ("run", "net.onnx"))
    assert (of_network.predict(IMAGE) == of_file.predict(IMAGE)).mean() > 0.99


def test_reduced_precision_agrees(home: Path) -> None:
    arguments = [a for a in RUN if "weights" not in a and "freeze" not in a]
    more = ("model.backbone.weights=null", "trainer.precision=bf16", "trainer.max_epochs=1")
    result = call("train.py", *arguments, *more, "out_dir=bf16", cwd=home)
    assert result.status == 0, result.err
    assert "bf16 agrees with float32" in (home / "bf16/train.log").read_text()
