"""What a model weighs and costs, by hand; and a file of it that gives the same answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from trained import CLASSES, save_model

from segkit import load_model
from segkit.cli.arguments import run_tool
from segkit.errors import CheckpointError
from segkit.runs.checkpoint import read_checkpoint
from segkit.tools.model import Request, count_flops, image_size, model


def tool(*arguments: str) -> int:
    return run_tool(Request, model, arguments, "model")


def test_operations_by_hand() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1, stride=2)
    # 2 x 3 output pixels of 8 channels, 27 products and as many additions each
    assert count_flops(layer, (1, 3, 4, 6)) == 2 * (2 * 3 * 8) * 27
    grouped = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    assert count_flops(grouped, (1, 4, 5, 5)) == 2 * (5 * 5 * 4) * 9


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_model(tmp_path / "run" / "checkpoints" / "best.pt")
    weights = torch.load(path, weights_only=True)["state"]["model"]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    total = sum(w.numel() for name, w in weights.items() if not name.endswith(buffers))
    assert tool(f"checkpoint={tmp_path / 'run'}", "size=[64,96]") == 0
    out = capsys.readouterr().out
    assert f"3 classes: {', '.join(CLASSES)}\n" in out
    assert f"parameters: {total / 1e6:.3f} million\n" in out
    assert "GFLOP an image of 64 x 96" in out


@pytest.mark.quick("auto")
@pytest.mark.parametrize("which", ["auto", "raw", "ema"])
def test_a_small_file_answers_alike(tmp_path: Path, which: str) -> None:
    path, small = save_model(tmp_path / "best.pt", with_average=True), tmp_path / "to" / "small.pt"
    assert tool(f"checkpoint={path}", f"out={small}", f"weights={which}") == 0
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    expected = load_model(path, weights=which).probabilities(image)
    assert np.array_equal(load_model(small).probabilities(image), expected)
    found = read_checkpoint(small)
    kept = "raw" if which == "raw" else "ema"
    assert {**found.state, "model": None} == {
        "epoch": found.state["epoch"],
        "model": None,
        "kept": kept,
    }
    assert np.array_equal(load_model(small, weights=kept).probabilities(image), expected)
    other = {"raw": "ema", "ema": "raw"}[kept]
    with pytest.raises(CheckpointError, match=f"holds the {kept} weights alone"):
        load_model(small, weights=other)
    assert found.metadata.classes == CLASSES
    assert small.stat().st_size < path.stat().st_size


def test_no_path_of_this_computer_is_left(tmp_path: Path) -> None:
    secret = str(tmp_path / "secret")
    data = {"root": secret, "dataset": {"_target_": "x", "root": secret}, "val_split": "val"}
    path = save_model(tmp_path / "best.pt", config={"data": data, "out_dir": secret})
    assert tool(f"checkpoint={path}", f"out={tmp_path / 'small.pt'}") == 0
    assert b"/secret" in path.read_bytes()
    assert b"/secret" not in (tmp_path / "small.pt").read_bytes()
    config = read_checkpoint(tmp_path / "small.pt").metadata.config
    assert config["data"]["root"] == config["data"]["dataset"]["root"] == "secret"
    assert config["data"]["val_split"] == "val"


def test_nothing_is_overwritten_or_written_for_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, small = save_model(tmp_path / "best.pt"), tmp_path / "small.pt"
    assert tool(f"checkpoint={path}", f"out={small}", "dry_run=true") == 0
    assert not small.exists()
    small.write_text("mine")
    assert tool(f"checkpoint={path}", f"out={small}") == 1
    assert small.read_text() == "mine"
    assert "Add force=true" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["512", "[512]", "[0,5]", "[5,5,5]", "[a,b]", "512x512"])
def test_a_size_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("checkpoint=a.pt", f"size={text}") == 1
    assert f"size={text}: expected height and width" in capsys.readouterr().err


def test_sizes() -> None:
    assert image_size("[360,480]") == image_size("[360, 480]") == (360, 480)
