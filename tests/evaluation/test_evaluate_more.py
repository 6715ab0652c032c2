"""evaluate.py beyond one plain checkpoint: scales, windows, saved masks, ensembles, comparisons."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import result_of
from scripts import ROOT, Result, call
from torch import nn
from voc_folder import example_mask, make_voc

from segkit.config.schema import EvaluateConfig
from segkit.data.loader import Batch
from segkit.data.masks import read_mask, voc_palette, write_mask
from segkit.errors import ConfigError, DataError
from segkit.evaluation.measures import Measures
from segkit.evaluation.outputs import EvaluationOutputs, evaluation_folder
from segkit.evaluation.split import EvaluationSplit
from segkit.inference.predictions import PredictedMask
from segkit.metrics import BoundaryIoU, ConfusionMatrix, trimap
from segkit.models import DeepLabV3Plus
from segkit.models.backbones import Tiny
from segkit.runs.checkpoint import CheckpointMetadata, save_checkpoint
from segkit.runtime.context import Runtime
from segkit.runtime.distributed import DistributedContext, connect
from segkit.runtime.signals import StopSignals
from segkit.training.monitor import Best, Monitor
from segkit.training.state import TrainState

CLASSES = ["background", "cat", "dog"]
IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``here`` to start in, with ``voc``, two runs and a folder of saved masks beside it."""
    folder = tmp_path_factory.mktemp("evaluate") / "here"
    folder.mkdir()
    make_voc(folder / "voc", {"train": ["t"], "val": IDS})
    for name in ("one", "two"):
        make_run(folder / name, folder / "voc", seed=len(name) + ord(name[0]))
    make_run(folder / "other_classes", folder / "voc", seed=1, classes=["background", "cat", "cow"])
    make_run(folder / "other_range", folder / "voc", seed=1, value_range=[0, 4095])
    make_run(folder / "other_mean", folder / "voc", seed=1, mean=[0.4, 0.5, 0.5])
    make_run(folder / "one_channel", folder / "voc", seed=1, mean=[0.5])
    make_run(folder / "windows", folder / "voc", seed=1, window=[16, 16])
    return folder


def make_run(
    run: Path,
    root: Path,
    seed: int,
    classes: Sequence[str] = CLASSES,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    value_range: Sequence[float] | None = None,
    window: Sequence[int] | None = None,
) -> None:
    """A run folder with an untrained network in it."""
    torch.manual_seed(seed)
    channels = len(mean)
    tiny = Tiny(width=4, in_channels=channels)
    model = DeepLabV3Plus(tiny, 3, in_channels=channels, aspp_channels=8, decoder_channels=8)
    nn.init.normal_(model.classifier.weight, std=2.0)  # several classes in every image
    backbone = {"_target_": "segkit.models.backbones.Tiny", "_partial_": True, "width": 4}
    config = {
        "data": {
            "dataset": {
                "_target_": "segkit.data.VOCSegmentation",
                "_partial_": True,
                "root": str(root),
                "channels": channels,
                "value_range": value_range,
            },
            "val_split": "val",
            "range": value_range,
        },
        "model": {
            "_target_": "segkit.models.DeepLabV3Plus",
            "backbone": backbone,
            "num_classes": 3,
            "in_channels": channels,
            "aspp_channels": 8,
            "decoder_channels": 8,
        },
        "trainer": {"channels_last": True},
        "val": {"window": {"size": window, "stride": None}},
    }
    metadata = CheckpointMetadata(
        config, list(classes), voc_palette().tolist(), 255, list(mean), [0.25] * channels, "fp32"
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainState(model, optimizer, scaler, Monitor(Best("val/miou", "max")), epoch=seed)
    (run / "checkpoints").mkdir(parents=True)
    save_checkpoint(run / "checkpoints/best.pt", state, metadata, {})


@pytest.fixture(autouse=True)
def no_early_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the early look at the command line: :func:`segkit.cli.run` looks again."""
    monkeypatch.setattr("segkit.cli.check_command_line", lambda name: None)


def evaluate(home: Path, out: str, *arguments: str) -> tuple[dict[str, Any], Result]:
    result = call("evaluate.py", f"out_dir={out}", "loader.num_workers=0", *arguments, cwd=home)
    assert result.status == 0, result.err
    return json.loads((home / out / "metrics.json").read_text()), result


def refused(home: Path, *arguments: str) -> str:
    result = call("evaluate.py", "out_dir=none", "loader.num_workers=0", *arguments, cwd=home)
    assert result.status == 1
    assert not (home / "none").exists()
    return result.err


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_mask(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def plain(home: Path) -> dict[str, Any]:
    return evaluate(home, "plain", "checkpoint=one", "save_predictions=true")[0]


def test_two_folders_are_scored_as_the_voc_folder_that_was_trained_on(
    home: Path, plain: dict[str, Any]
) -> None:
    folders = ("data.images=voc/JPEGImages", "data.masks=voc/SegmentationClass")
    listed = (*folders, "data.splits=voc/ImageSets/Segmentation", "split=val")
    same, _ = evaluate(home, "listed", "checkpoint=one", *listed)
    assert same["iou"] == plain["iou"]
    _, result = evaluate(home, "folders", "checkpoint=one", *folders)
    assert "6 images of all" in result.out  # t too
    saved = ("predictions=plain/predictions", "data.num_classes=3", *listed)
    again, _ = evaluate(home, "saved", *saved)
    assert again["iou"] == plain["iou"]
    assert "data.root=voc: is for a folder in VOC layout" in refused(
        home, "checkpoint=one", "data.root=voc", *folders
    )
    part = ("data.val=0.5", "split=val")
    _, result = evaluate(home, "part", "checkpoint=one", *folders, *part)
    assert "3 images of val" in result.out


def test_borders_confidence_and_interval(home: Path, plain: dict[str, Any]) -> None:
    boundary, band, matrix = BoundaryIoU(3), ConfusionMatrix(3), ConfusionMatrix(3)
    pixels = 0
    for name, pred in masks_of(home / "plain/predictions").items():
        ids = torch.from_numpy(pred.astype(np.int64))[None]
        path = home / f"voc/SegmentationClass/{name}.png"
        target = torch.from_numpy(read_mask(path).astype(np.int64))[None]
        boundary.update(ids, target)
        band.update(ids, trimap(target, 5))
        matrix.update(ids, target)
        pixels += int((target != 255).sum())
    assert plain["boundary"] == {"dilation_ratio": 0.02, **boundary.compute()}
    found = band.compute()
    assert plain["trimap"] == [{"width": 5, "miou": found["miou"], "iou": found["iou"]}]
    assert plain["iou"] == matrix.compute()["iou"]
    assert 0 <= plain["calibration"]["ece"] <= 1
    assert sum(one["pixels"] for one in plain["calibration"]["bins"]) == pixels
    low, high = plain["bootstrap"]["miou"]
    assert low <= plain["miou"] <= high
    assert len(plain["bootstrap"]["iou"]) == 3


@pytest.mark.slow
def test_the_batch_size_changes_nothing(home: Path, plain: dict[str, Any]) -> None:
    again, _ = evaluate(home, "batch_3", "checkpoint=one", "loader.batch_size=3")
    assert again == plain
    same = [(home / folder / "per_image.csv").read_text() for folder in ("batch_3", "plain")]
    assert same[0] == same[1]


def test_saved_masks_have_the_scores_of_the_model_that_wrote_them(
    home: Path, plain: dict[str, Any]
) -> None:
    found, result = evaluate(home, "saved", "predictions=plain/predictions", "data.root=voc")
    different = {"predictions", "checkpoint", "weights", "exported", "epoch", "calibration"}
    settings = {"number_format", "tta", "window", "stride", "window_after_out_of_memory"}
    assert found["calibration"] is None
    assert "calibration" not in result.out
    for key in plain.keys() - different - settings:
        assert found[key] == plain[key], key
    assert found["predictions"] == str(home / "plain/predictions")


@pytest.mark.slow
def test_saved_masks_go_beside_their_folder_by_default(home: Path, plain: dict[str, Any]) -> None:
    arguments = ["predictions=plain/predictions", "data.root=voc", "data.check=false"]
    result = call("evaluate.py", *arguments, cwd=home)
    assert result.status == 0, result.err
    assert (home / "plain/eval/val-predictions/metrics.json").is_file()


def test_saved_masks_as_colours(home: Path, plain: dict[str, Any]) -> None:
    (home / "colours").mkdir()
    for name, mask in masks_of(home / "plain/predictions").items():
        Image.fromarray(voc_palette()[mask]).save(home / f"colours/{name}.png")
    arguments = ["predictions=colours", "data.root=voc", "data.colormap=voc"]
    assert evaluate(home, "from_colours", *arguments)[0]["iou"] == plain["iou"]


def test_saved_masks_that_do_not_fit_are_refused(home: Path) -> None:
    (home / "bad").mkdir()
    given = ["predictions=bad", "data.root=voc"]
    error = refused(home, *given)
    assert "bad: 5 of 5 masks are missing; expected <id>.png" in error
    for name in IDS:
        write_mask(home / f"bad/{name}.png", np.zeros((8, 12), np.uint8))
    write_mask(home / "bad/c.png", np.zeros((12, 8), np.uint8))
    result = call("evaluate.py", *given, "out_dir=refused", "loader.num_workers=0", cwd=home)
    assert "c.png: the mask is 8 x 12 (width x height), its image 12 x 8" in result.err
    write_mask(home / "bad/c.png", np.full((8, 12), 7, np.uint8))
    result = call("evaluate.py", *given, "out_dir=refused", "loader.num_workers=0", cwd=home)
    assert "bad/c.png: holds 7 (88 pixels); expected 0 to 2. Set num_classes, or" in result.err


@pytest.mark.slow
def test_saved_masks_may_have_other_colours_than_those_of_the_data_set(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc", {"val": ["a"]})
    (tmp_path / "saved").mkdir()
    others = np.array([[9, 9, 9], [0, 0, 128], [128, 0, 0], [7, 7, 7]], np.uint8)
    classes = example_mask()
    Image.fromarray(others[classes.clip(max=3)]).save(tmp_path / "saved/a.png")
    Image.fromarray(voc_palette()[classes]).save(root / "SegmentationClass/a.png")
    given = ["predictions=saved", "data.root=voc", "loader.num_workers=0", "data.colormap=voc"]
    result = call("evaluate.py", *given, "out_dir=refused", cwd=tmp_path)
    assert "saved/a.png: colour (9, 9, 9) at row 0, column 0 is not in predictions_c" in result.err
    colors = str(others.tolist()).replace(" ", "")  # the last one where nothing is labelled
    found, _ = evaluate(tmp_path, "done", *given, f"predictions_colormap={colors}")
    assert found["miou"] == 1.0


@pytest.mark.slow
def test_saved_masks_of_0_and_255_are_renumbered_as_advised(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc", {"val": ["a", "b"]})
    (root / "labels.txt").write_text("background\ncat\n")
    (tmp_path / "saved").mkdir()
    object_255 = np.repeat(np.uint8([[0] * 9 + [255] * 3]), 8, axis=0)
    for name in ("a", "b"):
        for folder in (root / "SegmentationClass", tmp_path / "saved"):
            Image.fromarray(object_255).save(folder / f"{name}.png")
    given = ["predictions=saved", "data.root=voc", "loader.num_workers=0", "bootstrap.resamples=0"]
    error = refused(tmp_path, *given)
    assert "set 'data.label_map={255: 1}'" in error
    given.append("data.label_map={255: 1}")
    result = call("evaluate.py", *given, "out_dir=refused", cwd=tmp_path)
    assert "saved/a.png: holds 255 (24 pixels); expected 0 to 1. 255 is usually" in result.err
    assert "'predictions_label_map={255: 1}'" in result.err
    found, _ = evaluate(tmp_path, "done", *given, "predictions_label_map={255: 1}")
    assert (found["miou"], found["support"]) == (1.0, [144, 48])
    error = refused(tmp_path, *given, "predictions_label_map={255: 2}")
    assert "predictions_label_map holds 255: 2; expected" in error


@pytest.mark.slow
def test_saved_masks_whose_palettes_disagree_are_refused(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc", {"val": ["a", "b"]})
    (tmp_path / "saved").mkdir()
    colors = voc_palette()
    for name, order in {"a": [0, 1, 2], "b": [0, 2, 1]}.items():
        mask = np.argsort([*order, *range(3, 256)])[example_mask()].astype(np.uint8)
        write_mask(tmp_path / f"saved/{name}.png", mask, colors[order])
    given = ["predictions=saved", "data.root=voc"]
    error = refused(tmp_path, *given)
    assert "the saved masks have palettes that disagree" in error
    assert re.search(r"saved/[ab]\.png: index 1 is \(\d+, \d+, 0\); in .*it is", error)
    assert "[224,224,192]" not in error  # the border's colour is no class
    # Nothing is predicted where 255 is: VOC's border colour is an id that is ignored.
    found, _ = evaluate(tmp_path, "done", *given, "data.colormap=voc", "loader.num_workers=0")
    assert found["miou"] == 1.0


def test_saved_masks_of_folders_whose_images_have_many_bands(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    mask = example_mask()
    write_mask(tmp_path / "masks/a.png", mask)
    bands = np.zeros((*mask.shape, 5), np.uint8)
    settings = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "images/a.tif", bands, **settings)
    given = ["predictions=masks", "data.images=images", "data.masks=masks", "split=all"]
    options = ["data.colormap=voc", "data.num_classes=3"]
    found, _ = evaluate(tmp_path, "done", *given, *options)
    assert found["miou"] == 1.0


@pytest.mark.slow
def test_scores_of_masks_with_one_class_say_so(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc", {"val": ["a"]})
    write_mask(root / "SegmentationClass/a.png", np.zeros((8, 12), np.uint8))
    given = ["predictions=voc/SegmentationClass", "data.root=voc", "loader.num_workers=0"]
    for check in ("true", "false"):
        _, result = evaluate(tmp_path, "done", *given, f"data.check={check}")
        assert "'background' is the only class in these masks: the scores say nothing" in result.out
        assert ("the val split holds the class 'background' only" in result.out) == (
            check == "true"
        )


def test_masks_for_the_voc_server(home: Path, plain: dict[str, Any]) -> None:
    found, _ = evaluate(home, "server", "checkpoint=one", "voc_results=true")
    folder = home / "server/results/VOC2012/Segmentation/comp6_val_cls"
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.png" for name in IDS]
    with Image.open(folder / "a.png") as image:
        assert image.mode == "P"
    assert found["miou"] == plain["miou"]
    assert not (home / "server/predictions").exists()


@pytest.mark.slow
def test_windows_and_scales_are_used_and_written_down(home: Path, plain: dict[str, Any]) -> None:
    arguments = ["tta.scales=[0.5,1,1.5]", "tta.flip=true", "window.size=[6,6]"]
    found, _ = evaluate(home, "tta", "checkpoint=one", *arguments, "save_predictions=true")
    assert found["tta"] == {"scales": [0.5, 1.0, 1.5], "flip": True}
    assert (found["window"], found["stride"]) == ([6, 6], None)
    assert found["window_after_out_of_memory"] is None
    assert plain["tta"] == {"scales": [1.0], "flip": False}
    assert plain["number_format"] == "fp32"
    one, other = masks_of(home / "tta/predictions"), masks_of(home / "plain/predictions")
    assert any((one[name] != other[name]).any() for name in IDS)


@pytest.mark.slow
def test_an_ensemble_of_one_model_with_itself_is_that_model(
    home: Path, plain: dict[str, Any]
) -> None:
    found, _ = evaluate(home, "ensemble", "checkpoint=[one,one/checkpoints/best.pt]")
    assert found["iou"] == plain["iou"]
    assert found["calibration"]["ece"] == pytest.approx(plain["calibration"]["ece"], abs=1e-6)
    assert found["checkpoint"] == [str(home / "one/checkpoints/best.pt")] * 2
    assert found["epoch"] == [plain["epoch"]] * 2
    result = call("evaluate.py", "checkpoint=[one,two]", "loader.num_workers=0", cwd=home)
    assert result.status == 0, result.err
    assert (home / "one/eval/val-ensemble-of-2/metrics.json").is_file()


@pytest.mark.slow
def test_scores_of_an_evaluation_with_other_settings_do_not_stay(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc", {"train": ["t"], "val": ["a", "b"]})
    make_run(tmp_path / "run", tmp_path / "voc", seed=1)
    always = {"metrics.json", "confusion_matrix.csv", "confusion_matrix.png", "per_image.csv"}

    def files(*arguments: str) -> set[str]:
        command = ("checkpoint=run", "loader.num_workers=0", "bootstrap.resamples=0", *arguments)
        result = call("evaluate.py", *command, cwd=tmp_path)
        assert result.status == 0, result.err
        out = tmp_path / "run/eval/val-best"
        return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} - always

    masks = {"predictions/a.png", "predictions/b.png"}
    assert files("save_predictions=true", "compare=run") == {*masks, "compare.json"}
    for name in ("report.html", "suspicious_labels.csv", "notes.txt"):
        (tmp_path / "run/eval/val-best" / name).touch()
    assert files("compare=run") == {*masks, "notes.txt", "compare.json"}
    assert files() == {*masks, "notes.txt"}


def test_masks_of_an_earlier_evaluation_are_told(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc", {"train": ["t"], "val": ["a", "b"], "test": ["b", "c"]})
    make_run(tmp_path / "run", tmp_path / "voc", seed=1)

    def said(*arguments: str) -> str:
        command = ("checkpoint=run", "loader.num_workers=0", "bootstrap.resamples=0", "out_dir=out")
        result = call("evaluate.py", *command, *arguments, cwd=tmp_path)
        assert result.status == 0, result.err
        return result.out

    for _ in range(2):
        assert "earlier" not in said("save_predictions=true")
    told = "note: out/predictions holds {} masks of an earlier evaluation, such as {}"
    assert told.format(2, "a.png") in said()
    assert told.format(1, "a.png") in said("split=test", "save_predictions=true")


def alone() -> Runtime:
    return Runtime(DistributedContext(), StopSignals(), ExitStack())


@pytest.mark.parametrize("key", ["save_predictions", "voc_results"])
def test_more_classes_than_a_mask_holds(key: str, tmp_path: Path) -> None:
    settings = EvaluateConfig(out_dir=str(tmp_path / "out"), **{key: True})
    dataset: Any = SimpleNamespace(classes=[str(i) for i in range(300)], ids=["a"])
    split = EvaluationSplit(dataset, "val", 999, voc_palette(), voc_palette())
    paths = [tmp_path / "best.pt"]
    with pytest.raises(
        ConfigError, match=f"^{key}=true: a palette PNG holds 256 .* has 300.*leave"
    ):
        EvaluationOutputs(settings, split, paths, alone())
    assert not (tmp_path / "out").exists()
    settings = EvaluateConfig(out_dir=str(tmp_path / "out"))  # left out
    assert EvaluationOutputs(settings, split, paths, alone()).folder == tmp_path / "out"


def test_models_that_are_no_ensemble_are_refused(home: Path) -> None:
    error = refused(home, "checkpoint=[one,other_classes]")
    assert "other_classes/checkpoints/best.pt knows the classes background, cat, cow" in error
    assert "the data has background, cat, dog" in error
    error = refused(home, "checkpoint=[one,other_mean]")
    assert "other_mean/checkpoints/best.pt is no ensemble with" in error
    assert "[0.4, 0.5, 0.5]" in error


def test_a_comparison(home: Path, plain: dict[str, Any]) -> None:
    found, result = evaluate(home, "compare", "checkpoint=one", "compare=two")
    other, _ = evaluate(home, "two_alone", "checkpoint=two")
    assert found == plain
    content = json.loads((home / "compare/compare.json").read_text())
    assert content["miou"]["first"] == plain["miou"]
    assert content["miou"]["second"] == other["miou"]
    assert content["miou"]["difference"] == other["miou"] - plain["miou"]
    low, high = content["miou"]["interval"]
    assert low <= content["miou"]["difference"] <= high
    assert 0 < content["miou"]["p_value"] <= 1
    assert [one["class"] for one in content["iou"]] == CLASSES
    assert [one["second"] for one in content["iou"]] == other["iou"]
    assert {one["id"] for one in content["images"]} == set(IDS)
    changes = [abs(one["difference"]) for one in content["images"]]
    assert changes == sorted(changes, reverse=True)
    with (home / "two_alone/per_image.csv").open(newline="") as file:
        alone = {row["id"]: float(row["miou"]) for row in csv.DictReader(file)}
    assert {one["id"]: one["second"] for one in content["images"]} == alone
    assert "images whose mIoU differs most:" in result.out


def test_what_was_computed_in_another_way_is_said(home: Path) -> None:
    """A difference was told of two models that was one of their windows."""
    _, result = evaluate(home, "ways", "checkpoint=one", "compare=windows")
    assert "warning: the two were computed differently" in result.out
    assert "by that: window null and [16, 16]" in result.out
    files = json.loads((home / "ways/compare.json").read_text())["files"]
    assert [one["window"] for one in files] == [None, [16, 16]]
    assert [one["number_format"] for one in files] == ["fp32", "fp32"]
    _, result = evaluate(home, "ways", "checkpoint=one", "compare=windows", "window.size=[16,16]")
    assert "computed differently" not in result.out


def test_the_advice_to_name_the_checkpoint_first_works(home: Path) -> None:
    shutil.copytree(home / "voc", home / "deep")
    for path in (home / "deep/JPEGImages").iterdir():  # of 12 bits
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray(16 * grey).save(path)
    masks = "deep/SegmentationClass"
    error = refused(home, f"predictions={masks}", "data.root=deep", "compare=other_range")
    assert "compare=" in error and masks in error
    arguments = ("checkpoint=other_range", f"compare={masks}", "data.root=deep")
    found, _ = evaluate(home, "first", *arguments)
    assert found["checkpoint"] == str(home / "other_range/checkpoints/best.pt")
    assert json.loads((home / "first/compare.json").read_text())["miou"]["second"] == 1.0


def test_folders_of_masks_whose_names_hold_dots_have_results_of_their_own(tmp_path: Path) -> None:
    made = {}
    for name in ("v1.2", "v1.3"):
        (tmp_path / name).mkdir()
        made[name] = evaluation_folder(None, [tmp_path / name], "val")[0].name
    assert made == {"v1.2": "val-v1.2", "v1.3": "val-v1.3"}


@pytest.mark.slow
def test_a_model_compared_with_what_it_wrote_does_not_differ(
    home: Path, plain: dict[str, Any]
) -> None:
    _, result = evaluate(home, "itself", "checkpoint=one", "compare=plain/predictions")
    content = json.loads((home / "itself/compare.json").read_text())
    assert content["miou"]["interval"] == [0.0, 0.0]
    assert content["miou"]["p_value"] == 1.0
    assert content["files"][1] == {"predictions": str(home / "plain/predictions")}
    assert "images whose mIoU differs most" not in result.out


@pytest.mark.slow
def test_without_draws_there_are_no_intervals(home: Path) -> None:
    arguments = [
        "checkpoint=one",
        "compare=two",
        "bootstrap.resamples=0",
        "boundary.trimap_widths=[]",
    ]
    found, _ = evaluate(home, "no_draws", *arguments)
    assert "bootstrap" not in found
    assert found["trimap"] == []
    assert "interval" not in json.loads((home / "no_draws/compare.json").read_text())["miou"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("split=val", "checkpoint is not set: give checkpoint=PATH"),
        ("checkpoint=null", "or predictions=FOLDER with masks to score"),
        ("checkpoint=[]", "checkpoint is not set"),
        ("checkpoint=one predictions=voc", "checkpoint and predictions are both set"),
        ("checkpoint=[one,nothing]", "checkpoint=nothing: no such file or folder"),
        ("checkpoint=5", "checkpoint=5: no such file or folder"),
        ("checkpoint=one data.classes=[a,b]", "data.classes is for predictions=..."),
        ("predictions=voc", "data.root is not set: give data.root=PATH"),
        ("predictions=voc data.root=voc tta.flip=true", "tta.flip=true: is for checkpoint=..."),
        (
            "checkpoint=one predictions_label_map={1:0}",
            "predictions_label_map={1: 0}: is for predictions=FOLDER",
        ),
        ("checkpoint=one compare=nothing", "compare=nothing: no such file or folder"),
        (
            "checkpoint=one compare=other_range",
            "was trained with data.range=(0.0, 4095.0); here the images are read with null",
        ),
        (
            "checkpoint=one compare=one_channel",
            "one_channel/checkpoints/best.pt was trained with channels=1; here the images are read "
            "with 3, so it would see other numbers. Two checkpoints that differ in this are",
        ),
        (
            "predictions=voc/SegmentationClass data.root=voc compare=one_channel",
            "Name it first: checkpoint=",
        ),
        (
            "predictions=voc/SegmentationClass data.root=voc compare=other_range",
            "voc/SegmentationClass; then the images are read as it was trained, and of data.* only",
        ),
        ("checkpoint=one compare=[]", "compare=[]: expected a checkpoint, several, or a folder"),
        ("checkpoint=one bootstrap.level=95", "bootstrap.level=95.0: expected a number below 1"),
        ("checkpoint=one tta.scales=[1,0]", "tta.scales=[1.0, 0.0]: expected a number above 0"),
        ("checkpoint=one window.size=[5]", "window.size=[5]: expected 2 values"),
        ("checkpoint=one window.stride=[5,5]", "window.stride is set and window.size is not"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: str, text: str, home: Path) -> None:
    error = refused(home, *arguments.split())
    assert error.startswith("error: ")
    assert text in error
    assert len(error.splitlines()) == 1


def test_keys_of_a_training_are_no_way_out_for_a_checkpoint(home: Path, tmp_path: Path) -> None:
    """evaluate.py refuses them beside a checkpoint, and used to recommend them."""
    root = make_voc(tmp_path / "five", {"val": ["a"]})
    write_mask(root / "SegmentationClass/a.png", np.full((8, 12), 5, np.uint8))
    other = make_voc(tmp_path / "named", {"val": ["a"]})
    (other / "labels.txt").write_text("background\ndog\ncat\n")
    for place in (root, other):
        error = refused(home, "checkpoint=one", f"data.root={place}")
        assert "one/checkpoints/best.pt brings its own data.classes" in error or (
            "one/checkpoints/best.pt knows the classes" in error
        )
        assert "init_from=" in error


def random_mask(number: int) -> PredictedMask:
    generator = torch.Generator().manual_seed(number)
    size = (1, 9 + number, 20)
    pred, target = (torch.randint(0, 3, size, generator=generator) for _ in range(2))
    target[torch.rand(size, generator=generator) < 0.1] = 255
    batch = Batch(torch.zeros(1, 3, *size[1:], dtype=torch.uint8), target, (f"image {number}",))
    return PredictedMask(batch, pred, torch.rand(size, generator=generator))


def share(rank: int, size: int, port: int) -> tuple[dict[str, Any], list[list[object]]]:
    """What a process that has every ``size``-th of five images knows in the end."""
    environment = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in environment.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    measures = Measures(3, 255, trimap_widths=[2])
    with connect() as world:
        for number in range(rank, 5, size):
            measures.update(random_mask(number))
        measures.gather(world)
    rows = [image.row() for image in measures.images]
    return measures.scores() | measures.intervals(0.9), rows


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.quick("[2]")
@pytest.mark.parametrize("size", [2, 6])
def test_processes_find_together_what_one_finds_alone(size: int) -> None:
    alone = result_of(lambda: share(0, 1, 0))
    port = free_port()
    with ThreadPoolExecutor(size) as pool:
        tasks = [partial(share, rank, size, port) for rank in range(size)]
        results = list(pool.map(lambda task: result_of(task, limit=120), tasks))
    for result in results:
        assert result == alone


@pytest.mark.slow
def test_torchrun_writes_the_same_files(home: Path, plain: dict[str, Any]) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        f"--master-port={free_port()}",
        *(str(ROOT / "evaluate.py"), "checkpoint=one", "out_dir=torchrun", "compare=two"),
    ]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((home / "torchrun/metrics.json").read_text()) == plain
    same = [(home / folder / "per_image.csv").read_text() for folder in ("torchrun", "plain")]
    assert same[0] == same[1]


def test_an_impossible_class_names_its_image() -> None:
    mask = random_mask(3)
    mask.pred[0, 0, 0], mask.batch.target[0, 0, 0] = 3, 0
    with pytest.raises(DataError, match=r"^image 3: the prediction of 1 pixels is no class id"):
        Measures(3, 255).update(mask)


# --- an exported file ------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["false", "true"])
def exported(home: Path, request: pytest.FixtureRequest) -> str:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra export")
    file = f"one/export/preprocessing-{request.param}.onnx"
    options = (f"include_preprocessing={request.param}", f"out={file}", "latency.runs=0")
    result = call("export.py", "checkpoint=one", *options, cwd=home)
    assert result.status == 0, result.err
    return file


@pytest.mark.slow
def test_an_exported_file_scores_like_its_checkpoint(
    home: Path, plain: dict[str, Any], exported: str
) -> None:
    scores, _ = evaluate(home, "exported", f"checkpoint={exported}", "save_predictions=true")
    assert scores["iou"] == pytest.approx(plain["iou"], abs=2e-3)
    assert (scores["epoch"], scores["exported"], scores["weights"]) == (
        plain["epoch"],
        "fp32",
        None,
    )
    for name, mask in masks_of(home / "exported/predictions").items():
        same = mask == read_mask(home / f"plain/predictions/{name}.png")
        assert same.mean() > 0.999


@pytest.mark.slow
def test_predict_takes_an_exported_file(home: Path, exported: str) -> None:
    evaluate(home, "exported", f"checkpoint={exported}", "save_predictions=true")
    out = f"predicted-{Path(exported).stem}"
    result = call(
        "predict.py", f"checkpoint={exported}", "source=voc/JPEGImages", f"out_dir={out}", cwd=home
    )
    assert result.status == 0, result.err
    for name, mask in masks_of(home / "exported/predictions").items():
        assert np.array_equal(mask, read_mask(home / out / "index" / f"{name}.png"))


@pytest.mark.slow
def test_an_exported_file_has_its_folder_in_the_run(home: Path, exported: str) -> None:
    result = call("evaluate.py", f"checkpoint={exported}", "loader.num_workers=0", cwd=home)
    assert result.status == 0, result.err
    assert (home / f"one/eval/val-{Path(exported).stem}-onnx/metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["weights=ema", "precision=bf16"])
def test_what_was_decided_at_the_export_is_no_choice_any_more(
    home: Path, exported: str, setting: str
) -> None:
    assert f"{setting}: " in (text := refused(home, f"checkpoint={exported}", setting))
    assert "was exported with its choice" in text


def test_a_foreign_onnx_file_is_refused(home: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    (home / "foreign.onnx").write_bytes(b"no network")
    assert "onnxruntime cannot read it" in refused(home, "checkpoint=foreign.onnx")


def test_saved_masks_with_the_colours_of_other_classes_are_refused(tmp_path: Path) -> None:
    """Scored by their indices they would be wrong in every object, by their colours in none."""
    make_voc(tmp_path / "voc", {"val": ["a"]})
    (tmp_path / "saved").mkdir()
    colors, order = voc_palette(), [0, 2, 1, *range(3, 256)]
    write_mask(tmp_path / "voc/SegmentationClass/a.png", example_mask(), colors)
    write_mask(
        tmp_path / "saved/a.png", np.argsort(order)[example_mask()].astype("u1"), colors[order]
    )
    given = ["predictions=saved", "data.root=voc"]
    error = refused(tmp_path, *given)
    assert (
        "its palette has the colours of the data set's masks, but at other indices: 1 is" in error
    )
    advice = re.search(r"'(predictions_colormap=\[.*?\]\])'", error)
    assert advice
    found, _ = evaluate(tmp_path, "done", *given, advice[1])
    assert found["miou"] == 1.0
    found, _ = evaluate(tmp_path, "other", *given, "predictions_colormap=indices")
    assert found["iou"][1:] == [0.0, 0.0]
    write_mask(tmp_path / "saved/a.png", example_mask(), colors[::-1].copy())  # other colours: fine
    found, _ = evaluate(tmp_path, "done2", *given)
    assert found["miou"] == 1.0
