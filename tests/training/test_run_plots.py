"""``plots/``: what is drawn, when, and that nothing of it can end a run."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scripts import SMALL, quick_call
from voc_folder import make_voc

from segkit.data import VOCSegmentation
from segkit.data.colors import voc_palette
from segkit.data.loader import Samples
from segkit.runtime.log import log_to_console
from segkit.training import run_plots
from segkit.training.run_plots import RunPlots

CLASSES = ["background", "cat", "dog"]
SCORES = {"miou": 0.5, "iou": [1.0, 0.5, None]}


def open_plots(folder: Path | None) -> RunPlots:
    log_to_console()
    return RunPlots(folder, CLASSES, voc_palette(), 255)


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "plots").glob("*"))


def test_training_images_are_there_before_the_first_step(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc", {"train": list("abcdefgh"), "val": ["x"]})
    samples = Samples(VOCSegmentation(tmp_path / "voc", "train"), None, 0)
    open_plots(tmp_path).training_images(samples, 0)
    assert files(tmp_path) == ["training_images.png"]
    drawn = read(tmp_path / "plots/training_images.png")
    dog = (drawn == voc_palette()[2]).all(-1)
    assert dog.sum() >= 6 * 4 * 8  # six masks of 8 rows with 4 pixels


def test_pasted_objects_are_on_the_sheet_of_training_images(tmp_path: Path) -> None:
    made = []
    for share in ("0", "1"):
        run = tmp_path / share
        status = quick_call(
            *SMALL,
            "trainer.max_epochs=1",
            f"augment.copy_paste={share}",
            f"out_dir={run}",
            cwd=tmp_path,
        )
        assert status.status == 0, status.err
        made.append(read(run / "plots/training_images.png"))
    assert made[0].shape != made[1].shape or (made[0] != made[1]).any()


def test_the_first_and_the_last_validation_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others where the time since the last drawing is 50 times what that took."""
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    draw = run_plots.line_chart
    calls: list[float] = []

    def slow(*values: Any, **options: Any) -> NDArray[np.uint8]:
        calls.append(clock[0])
        clock[0] += 1 / 3  # three charts: a second
        return draw(*values, **options)

    monkeypatch.setattr(run_plots, "line_chart", slow)
    with open_plots(tmp_path) as plots:
        for epoch in range(1, 8):
            clock[0] += 20
            plots.image("confusion_matrix.png", np.full((4, 4, 3), epoch, np.uint8))
            plots.epoch({"epoch": epoch, "val/miou": epoch / 8}, SCORES)
        # From 120 to 121; 20, 40 and 60 seconds later; and again.
        assert len(calls) == 3 * 3
        assert calls[::3] == pytest.approx([120, 181, 242])
    assert len(calls) == 3 * 3  # the last one was drawn
    assert read(tmp_path / "plots/confusion_matrix.png")[0, 0].tolist() == [7, 7, 7]
    assert files(tmp_path) == ["confusion_matrix.png", "curves.png", "iou.png"]


def test_the_end_draws_what_waits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), open_plots(tmp_path) as plots:
        plots.epoch({"epoch": 1, "train/loss": 0.5}, {})
        assert files(tmp_path) == []  # an epoch without a validation can wait
        raise ValueError("stop")
    assert files(tmp_path) == ["curves.png"]


def test_a_resumed_run_goes_on_with_its_curves(tmp_path: Path) -> None:
    lines = [
        {"epoch": epoch, "train/loss": 1 / epoch, "val/miou": epoch / 4} for epoch in (1, 2, 3)
    ]
    for line in lines:
        with open_plots(tmp_path) as plots:
            plots.epoch(line, SCORES)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    resumed = read(tmp_path / "plots/curves.png")
    with open_plots(tmp_path / "whole") as plots:
        for line in lines:
            plots.epoch(line, SCORES)
    assert np.array_equal(resumed, read(tmp_path / "whole/plots/curves.png"))


def test_what_cannot_be_written_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plots").write_text("")
    with open_plots(tmp_path) as plots:
        for epoch in (1, 2):
            plots.epoch({"epoch": epoch}, SCORES)
    out = capsys.readouterr().out
    assert out.count("not drawn (") == 1
    assert out.endswith("; the run goes on\n")


def test_of_several_processes_one_draws(tmp_path: Path) -> None:
    with open_plots(None) as plots:
        plots.image("x.png", np.zeros((4, 4, 3), np.uint8))
        plots.epoch({"epoch": 1}, SCORES)
    assert not plots.images
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_own_colours_remembers_them(tmp_path: Path) -> None:
    """Also where the file has gone; what the masks look like stays known."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "colors.yaml").write_text("disk: [250, 130, 0]\n")
    run = ("trainer.max_epochs=1", "out_dir=run", "palette=colors.yaml")
    result = quick_call(*SMALL, *run, cwd=home)
    assert result.status == 0, result.err
    (home / "colors.yaml").unlink()
    result = quick_call("resume=run", "trainer.max_epochs=2", cwd=home)
    assert result.status == 0, result.err
    from segkit import load_model
    from segkit.runs.checkpoint import read_checkpoint

    metadata = read_checkpoint(home / "run/checkpoints/last.pt").metadata
    assert metadata.config["palette"] == {"disk": [250, 130, 0]}
    assert metadata.palette[1] == [128, 0, 0]
    assert load_model(home / "run", device="cpu").palette[1].tolist() == [250, 130, 0]
    sheet = read(home / "run/plots/validation_images.png")
    assert (np.abs(sheet.astype(int) - (250, 130, 0)) <= 8).all(-1).any()
    refused = quick_call(*SMALL, "palette={dsk: red}", "out_dir=other", cwd=home)
    assert refused.status == 1
    assert "palette: dsk is no class; did you mean disk?" in refused.err
    assert not (home / "other").exists()
