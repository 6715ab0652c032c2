"""A network that computes NaN or infinity gets no score, and nothing is made of what it says."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import SMALL, Result, call, quick_call
from shared_run import copy_of_run
from torch import Tensor, nn
from trained import photo

from segkit.data.loader import Batch
from segkit.errors import CheckpointError
from segkit.inference.model import SegmentationModel, load_model
from segkit.inference.predictions import predict_masks
from segkit.inference.predictor import Ensemble, Inference
from segkit.losses import CrossEntropyLoss
from segkit.metrics import Calibration, ConfusionMatrix
from segkit.models.normalize import Normalize
from segkit.runs.checkpoint import read_checkpoint, save_checkpoint
from segkit.runtime.device import Precision
from segkit.runtime.finite import all_finite, refuse_weights
from segkit.schedules import Poly
from segkit.training.monitor import Best, EarlyStopping
from segkit.training.step import TrainStep
from segkit.training.validation import evaluate

CPU = Precision("fp32", torch.device("cpu"))
BYTES = Normalize((0.0,) * 3, (1.0,) * 3)
BAD = [math.nan, math.inf, -math.inf]


class OneBadPixel(nn.Module):
    """Wrong at one pixel, in one class that is not the likeliest, if that pixel is white."""

    def __init__(self, bad: float) -> None:
        super().__init__()
        self.bad = bad

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.cat([image[:, :1] * 0 + 5, image[:, :2]], 1)
        logits[:, 2] = torch.where(image.sum(1) > 2.99, self.bad, logits[:, 2])
        return logits


def two_images() -> Batch:
    """Grey ones; one pixel of the second is white."""
    image = torch.full((2, 3, 24, 20), 90, dtype=torch.uint8)
    image[1, :, 13, 17] = 255
    return Batch(image, torch.zeros(2, 24, 20, dtype=torch.uint8), ("good", "bad"))


WAYS: dict[str, Callable[[nn.Module], Inference]] = {
    "whole": lambda model: Inference(model, BYTES, CPU),
    "mirror": lambda model: Inference(model, BYTES, CPU, flip=True),
    "scales": lambda model: Inference(model, BYTES, CPU, scales=[1.0, 2.0]),
    "windows": lambda model: Inference(model, BYTES, CPU, window=(8, 8)),
    "ensemble": lambda model: Inference(Ensemble([OneBadPixel(0.0), model]), BYTES, CPU),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
every_bad = pytest.mark.parametrize("bad", BAD)


@every_way
@every_bad
def test_one_bad_pixel_is_refused_with_the_name_of_its_image(
    way: Callable[[nn.Module], Inference], bad: float
) -> None:
    masks = predict_masks(way(OneBadPixel(bad)), [two_images()])
    assert next(masks).batch.ids == ("good",)
    with pytest.raises(CheckpointError, match=r"^bad: the network computes NaN or infinity"):
        next(masks)


@every_way
def test_in_programs_too(way: Callable[[nn.Module], Inference]) -> None:
    model = SegmentationModel(way(OneBadPixel(math.nan)), list("abc"), np.zeros((256, 3), np.uint8))
    good, bad = (one.permute(1, 2, 0).numpy() for one in two_images().image)
    assert model.predict(good).shape == (24, 20)
    for ask in (model.predict, model.probabilities):
        with pytest.raises(CheckpointError, match=r"^the image: the network computes NaN"):
            ask(bad)


@every_way
def test_large_numbers_are_numbers(way: Callable[[nn.Module], Inference]) -> None:
    """The logarithm of a probability that is rounded to 0, and sums that overflow."""
    for large in (1e4, -1e4, 3e38, -3e38):
        assert len(list(predict_masks(way(OneBadPixel(large)), [two_images()]))) == 2
    assert all_finite(torch.full((1, 2, 9, 9), 3e38))


@every_bad
def test_a_validation_has_no_scores_then(bad: float) -> None:
    step = TrainStep(CrossEntropyLoss(), BYTES, CPU, Poly())
    settings: dict[str, Any] = {"num_classes": 3, "ignore_index": 255}
    matrix, loss, names = evaluate(OneBadPixel(0.0), [two_images()], step, **settings)
    assert names == []
    assert loss is not None
    assert matrix.compute()["miou"] == 1.0
    matrix, loss, names = evaluate(OneBadPixel(bad), [two_images()], step, **settings)
    assert names == ["bad"]
    assert loss is None
    assert matrix.compute() == ConfusionMatrix(3).compute()
    assert matrix.compute()["miou"] is None


class Opposite(nn.Module):
    """A loss that is infinite, of either sign, where the logits are finite."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.sum() * (math.inf if logits.sum() > 4000 else -math.inf)


def test_a_loss_that_is_not_finite_is_none() -> None:
    batch = two_images()
    batch.image[1] = 255
    step = TrainStep(Opposite(), BYTES, CPU, Poly())
    matrix, loss, names = evaluate(OneBadPixel(0.0), [batch], step, num_classes=3, ignore_index=255)
    assert (loss, names) == (None, [])
    assert matrix.compute()["miou"] is not None


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("bad", [None, *BAD])
def test_what_is_no_number_is_never_the_best(mode: str, bad: float | None) -> None:
    best, patience = Best("val/loss", mode), EarlyStopping("val/loss", mode, patience=2)
    for epoch in (1, 2):
        best.update(bad, epoch, {"miou": None}, keep=3)
        patience.update(bad)
    assert (best.epoch, best.score, best.scores, best.kept) == (0, None, {}, [])
    assert patience.exhausted
    best.update(0.5, 3, {"miou": 0.5}, keep=3)
    patience.update(0.5)
    best.update(bad, 4, {}, keep=3)
    assert (best.epoch, best.score, best.kept) == (3, 0.5, [(0.5, 3)])
    assert (patience.best, patience.waited) == (0.5, 0)


def test_scores_that_are_used_alone_refuse_it() -> None:
    target = torch.tensor([[[0, 255]]])
    for bad in (math.nan, math.inf):
        logits = torch.zeros(1, 2, 1, 2)
        logits[0, 1, 0, 1] = bad
        matrix = ConfusionMatrix(2)
        matrix.update(logits, target)  # ignored there
        assert matrix.compute()["pixel_accuracy"] == 1.0
        with pytest.raises(ValueError, match="none is that of NaN or infinity"):
            matrix.update(logits.flip(3), target)
    calibration = Calibration()
    pred = torch.zeros(1, 1, 2, dtype=torch.int64)
    calibration.update(pred, torch.tensor([[[0.9, math.nan]]]), target)
    assert calibration.compute()["ece"] == pytest.approx(0.1)
    for bad in (math.nan, math.inf, -0.1, 1.1):
        calibration = Calibration()
        calibration.update(pred, torch.tensor([[[bad, 0.9]]]), target)
        with pytest.raises(ValueError, match="confidence of 1 pixels is no number in"):
            calibration.compute()


def test_weights_and_statistics_are_looked_at_and_other_buffers_are_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.register_buffer("mask", torch.full((2, 2), -math.inf))
    refuse_weights(model, "file")
    statistics = model[1].get_buffer("running_var")
    statistics[2] = math.inf
    with pytest.raises(CheckpointError, match=r"^file: 1\.running_var of its weights hold NaN"):
        refuse_weights(model, "file")
    model[0].weight.data[0, 0] = math.nan
    with pytest.raises(CheckpointError, match=r"^file: 0\.weight and 1 more of its weights"):
        refuse_weights(model, "file")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, ``run``, and its weights with a NaN, ``nan.pt``, or overflowing, ``large.pt``."""
    folder = copy_of_run(tmp_path_factory, "short", "run")
    for name, factor in (("nan", math.nan), ("large", 3e38)):
        found = read_checkpoint(folder / "run")
        found.state["model"]["classifier.weight"][:] = factor
        save_checkpoint(folder / f"{name}.pt", found.state, found.metadata, found.scores)
    (folder / "photos").mkdir()
    Image.fromarray(photo(40, 56)).save(folder / "photos/a.png")
    return folder


@pytest.fixture(autouse=True)
def no_early_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the early look at the command line: :func:`segkit.cli.run` looks again."""
    monkeypatch.setattr("segkit.cli.check_command_line", lambda name: None)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.quick(
    "[evaluate.py checkpoint=nan.pt",
    "[evaluate.py checkpoint=large.pt-",
    "[predict.py checkpoint=large.pt",
    "format=pt2",
)
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("evaluate.py checkpoint=nan.pt", "error: nan.pt: classifier.weight of its weights hold"),
        ("evaluate.py checkpoint=large.pt", "error: val_0000: large.pt computes NaN or infinity"),
        ("evaluate.py checkpoint=[run,large.pt]", "best.pt, large.pt computes NaN or infinity"),
        ("evaluate.py checkpoint=large.pt report.write=true", "error: val_0000: large.pt"),
        ("evaluate.py checkpoint=run compare=large.pt", "error: val_0000: large.pt computes NaN"),
        ("evaluate.py checkpoint=large.pt tta.flip=true", "error: val_0000: large.pt computes"),
        ("evaluate.py checkpoint=large.pt window.size=[32,32]", "error: val_0000: large.pt"),
        ("predict.py checkpoint=nan.pt source=photos", "error: nan.pt: classifier.weight"),
        (
            "predict.py checkpoint=large.pt source=photos",
            "a.png: large.pt computes NaN or infinity",
        ),
        ("export.py checkpoint=nan.pt out=out/a.pt2 format=pt2", "nan.pt: classifier.weight"),
        ("export.py checkpoint=large.pt out=out/a.pt2 format=pt2", "large.pt computes NaN"),
        (
            "export.py checkpoint=large.pt out=out/a.onnx precision=int8_static",
            "train_00",  # the name of an image of the training split
        ),
    ],
)
def test_scripts_refuse_it_and_leave_nothing(home: Path, command: str, told: str) -> None:
    script, *arguments = command.split()
    if "export" not in script:
        arguments += ["out_dir=out", "device=cpu"]
    found: Result = call(script, *arguments, cwd=home)
    assert found.status == 1
    assert told in found.err.replace(f"{home}/", "").replace("run/checkpoints/", "")
    assert "expected finite" in found.err
    assert not (home / "out").exists()


def test_load_model_refuses_it(home: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nan\.pt: classifier\.weight of its weights hold"):
        load_model(home / "nan.pt", device="cpu")
    path = home / "photos/a.png"
    with pytest.raises(CheckpointError, match=rf"^{path}: .*large\.pt computes NaN or infinity"):
        load_model(home / "large.pt", device="cpu").predict(path)


def test_no_training_starts_from_it(home: Path) -> None:
    found = quick_call(*SMALL, "init_from=nan.pt", "out_dir=other", cwd=home)
    assert found.status == 1
    told = f"error: init_from={home}/nan.pt: classifier.weight of its weights hold NaN"
    assert told in found.err
    assert not (home / "other").exists()


@pytest.mark.slow
@pytest.mark.quick("val/miou")
@pytest.mark.parametrize(
    "monitor",
    ["val/miou", pytest.param("val/loss", marks=pytest.mark.slow), "train/loss"],
)
def test_a_training_that_diverges_has_no_best(home: Path, monitor: str) -> None:
    name = monitor.replace("/", "_")
    command = (
        *SMALL,
        "loader.batch_size=24",
        "optimizer=sgd",
        "optimizer.lr=1e38",
        f"trainer.monitor={monitor}",
        "trainer.keep_best=2",
        "trainer.patience=3",
        f"out_dir={name}",
    )
    found = quick_call(*command, "trainer.max_epochs=1", cwd=home)
    assert found.status == 0, found.err
    assert "warning: the network computes NaN or infinity for val_0000 and 5 more" in found.out
    assert "val mIoU none  (NaN or infinity)" in found.out
    assert "precision=fp32" not in found.out  # it is in use
    assert f"no epoch had a {monitor}, so there is no best.pt" in found.out
    run = home / name
    assert files(run / "checkpoints") == ["last.pt"]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["best_epoch"], summary["best_score"], summary["scores"]) == (None, None, {})
    (line,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert line["val/not_finite"] == 6
    empty = {"val/not_finite", "val/num_classes_averaged"}
    assert all(v is None for k, v in line.items() if k.startswith("val/") and k not in empty)
    state = read_checkpoint(run).state
    assert (state["best"]["epoch"], state["patience"]["waited"]) == (0, 1)
    # A resume knows that nothing was good; a step from there cannot be made.
    again = quick_call(f"resume={name}", "trainer.max_epochs=2", cwd=home)
    assert again.status == 1
    assert "step 2: train/loss/ce is nan" in again.err
    assert files(run / "checkpoints") == ["last.pt"]
