"""Validation in windows, and all that goes by the same windows afterwards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripts import SMALL, call, quick_call
from trained import save_model

from segkit import load_model
from segkit.data.masks import read_mask
from segkit.errors import ConfigError
from segkit.inference.onnx_network import read_onnx
from segkit.runs.checkpoint import read_checkpoint

WINDOW = {"val": {"window": {"size": [32, 40], "stride": [16, 20]}}}
IMAGE = np.random.default_rng(0).integers(0, 256, (56, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("window") / "here"
    folder.mkdir()
    windows = ("val.window.size=[32,32]", "val.window.stride=[16,32]")
    learns = "model.separable=false"  # enough in an epoch for scores that differ
    result = quick_call(*SMALL, *windows, learns, "trainer.max_epochs=1", "out_dir=run", cwd=folder)
    assert result.status == 0, result.err
    return folder


def evaluate(home: Path, *arguments: str) -> dict[str, Any]:
    command = ("checkpoint=run", "out_dir=scores", "loader.num_workers=0", "bootstrap.resamples=0")
    result = call("evaluate.py", *command, *arguments, cwd=home)
    assert result.status == 0, result.err
    scores: dict[str, Any] = json.loads((home / "scores/metrics.json").read_text())
    return scores


def test_the_score_of_the_run_is_that_of_its_windows(home: Path) -> None:
    best = json.loads((home / "run/summary.json").read_text())["scores"]
    usual, whole = evaluate(home), evaluate(home, "window.size=whole")
    assert (usual["window"], usual["stride"]) == ([32, 32], [16, 32])
    assert usual["iou"] == best["iou"]
    assert (whole["window"], whole["stride"]) == (None, None)
    assert whole["iou"] != usual["iou"]


@pytest.mark.slow
def test_windows_that_are_given(home: Path) -> None:
    best = json.loads((home / "run/summary.json").read_text())["scores"]
    given = evaluate(home, "window.size=[32,32]", "window.stride=[16,32]")
    assert given["iou"] == best["iou"]
    assert evaluate(home, "window.size=[48,64]")["stride"] is None  # the run's is of its size


@pytest.mark.slow
def test_a_resume_keeps_them(home: Path) -> None:
    more = ("resume=run", "trainer.max_epochs=2", "out_dir=more", "loader.num_workers=0")
    result = call("train.py", *more, "val.window.size=[48,48]", cwd=home)
    assert result.status == 1
    assert "val.window.size=[48, 48] cannot change in a resumed run" in result.err
    assert call("train.py", *more, cwd=home).status == 0
    assert read_checkpoint(home / "more").metadata.window == {"size": [32, 32], "stride": [16, 32]}


def test_predictions_go_by_them(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    run = save_model(tmp_path / "here/checkpoints/best.pt", config=WINDOW)
    plain = save_model(tmp_path / "plain.pt")
    usual = load_model(run, device="cpu").predict(IMAGE)
    windows = load_model(plain, device="cpu", window=(32, 40), stride=(16, 20)).predict(IMAGE)
    whole = load_model(plain, device="cpu").predict(IMAGE)
    assert np.array_equal(usual, windows)
    assert not np.array_equal(usual, whole)
    assert np.array_equal(load_model(run, device="cpu", window="whole").predict(IMAGE), whole)
    other = load_model(run, device="cpu", window=(48, 48)).predict(IMAGE)
    assert np.array_equal(other, load_model(plain, device="cpu", window=(48, 48)).predict(IMAGE))

    import PIL.Image

    PIL.Image.fromarray(IMAGE).save(tmp_path / "here/a.png")
    for name, arguments, expected in (("u", (), usual), ("w", ("window.size=whole",), whole)):
        call_ = ("checkpoint=checkpoints/best.pt", "source=a.png", f"out_dir={name}", "device=cpu")
        result = call("predict.py", *call_, *arguments, cwd=tmp_path / "here")
        assert result.status == 0, result.err
        (mask,) = (tmp_path / "here" / name).rglob("*.png")
        assert np.array_equal(read_mask(mask), expected)


@pytest.mark.slow
def test_exports_remember_them(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra export")
    (tmp_path / "here").mkdir()
    save_model(tmp_path / "here/best.pt", config=WINDOW)
    command = ("checkpoint=best.pt", "out=best.onnx", "latency.runs=0")
    result = call("export.py", *command, cwd=tmp_path / "here")
    assert result.status == 0, result.err
    exported = read_onnx(tmp_path / "here/best.onnx")
    properties = exported.network.session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["window"]) == WINDOW["val"]["window"]
    assert exported.metadata.window == WINDOW["val"]["window"]
    model = load_model(tmp_path / "here/best.onnx", device="cpu")
    assert (model.inference.window, model.inference.stride) == ((32, 40), (16, 20))


@pytest.mark.slow
def test_an_ensemble_of_other_windows_must_be_told(tmp_path: Path) -> None:
    run, plain = save_model(tmp_path / "run.pt", config=WINDOW), save_model(tmp_path / "plain.pt")
    with pytest.raises(ConfigError, match=r"plain\.pt was validated in other windows \(whole"):
        load_model([run, plain], device="cpu")
    for window in ("whole", (32, 40)):  # as it advises
        load_model([run, plain], device="cpu", window=window).predict(IMAGE)
    load_model([run, run], device="cpu").predict(IMAGE)


@pytest.mark.quick("arguments0", "arguments1")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["val.window.stride=[8,8]"], "val.window.stride=[8, 8]: val.window.size is not set"),
        (
            ["val.window.size=[8,8]", "val.window.stride=[8,9]"],
            "val.window.stride=[8, 9]: expected at most val.window.size=[8, 8]",
        ),
        (["val.window.size=[8]"], "val.window.size=[8]: expected 2 values"),
        (["val.window.size=whole"], "val.window.size: expected a list"),
    ],
)
def test_impossible_windows_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = call("train.py", *arguments, cwd=tmp_path)
    assert result.status == 1
    assert message in result.err


def test_a_checkpoint_from_before_them_takes_whole_images(tmp_path: Path) -> None:
    assert read_checkpoint(save_model(tmp_path / "a.pt")).metadata.window == {
        "size": None,
        "stride": None,
    }
    assert torch.load(tmp_path / "a.pt", weights_only=True)["about"]["config"].get("val") is None
