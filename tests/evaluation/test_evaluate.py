"""evaluate.py repeats what training logged, and trusts nothing that a checkpoint names."""

import csv
import json
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import call
from shared_run import copy_of_run

from segkit.data.masks import read_mask
from segkit.metrics import ConfusionMatrix


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run ``run``, which kept an average of its weights."""
    return copy_of_run(tmp_path_factory, "average", "run")


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return home / "run"


@pytest.fixture(autouse=True)
def no_early_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the early look at the command line: :func:`segkit.cli.run` looks again."""
    monkeypatch.setattr("segkit.cli.check_command_line", lambda name: None)


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not strict JSON")


def evaluated(run: Path, home: Path, *arguments: str) -> Path:
    name = f"out_dir=eval{len(list(home.iterdir()))}"
    result = call("evaluate.py", f"checkpoint={run}", name, *arguments, cwd=home)
    assert result.status == 0, result.err
    return home / name.partition("=")[2]


def scores(folder: Path) -> dict[str, Any]:
    text = (folder / "metrics.json").read_text()
    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content


@pytest.mark.quick("[1]")
@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_scores_are_those_that_training_logged(batch_size: int, run: Path, home: Path) -> None:
    found = scores(evaluated(run, home, f"loader.batch_size={batch_size}", "loader.num_workers=0"))
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((run / "summary.json").read_text())["best_epoch"]
    logged = log[best - 1]
    assert (found["epoch"], found["weights"]) == (best, "ema")
    assert found["miou"] == logged["val/miou"]
    assert found["iou"] == [logged[f"val/iou/{name}"] for name in found["classes"]]


def test_both_kinds_of_weights_can_be_scored(run: Path, home: Path) -> None:
    """The average, which training validated, and the raw weights beside it."""
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = log[json.loads((run / "summary.json").read_text())["best_epoch"] - 1]
    for which, name in (("ema", "val/miou"), ("raw", "val_raw/miou")):
        found = scores(evaluated(run, home, f"weights={which}"))
        assert (found["weights"], found["miou"]) == (which, logged[name])
    result = call("evaluate.py", f"checkpoint={run}", "weights=best", cwd=home)
    assert "weights=best: no such value; there are auto, ema, raw" in result.err


@pytest.mark.slow
def test_an_average_that_the_run_did_not_keep_is_refused(
    run: Path, home: Path, tmp_path: Path
) -> None:
    content = torch.load(run / "checkpoints/best.pt", weights_only=True)
    content["state"]["average"] = None
    torch.save(content, tmp_path / "plain.pt")
    arguments = (f"checkpoint={tmp_path / 'plain.pt'}", f"out_dir={tmp_path / 'eval'}")
    result = call("evaluate.py", *arguments, "weights=ema", cwd=home)
    assert result.err == "error: weights=ema: this run kept no average of its weights; use raw\n"
    assert call("evaluate.py", *arguments, cwd=home).status == 0
    assert scores(tmp_path / "eval")["weights"] == "raw"


def test_it_needs_nothing_but_the_checkpoint(run: Path, home: Path) -> None:
    elsewhere = home.parent / "nowhere"
    elsewhere.mkdir()
    result = call("evaluate.py", f"checkpoint={run / 'checkpoints/best.pt'}", cwd=elsewhere)
    assert result.status == 0, result.err
    assert list(elsewhere.iterdir()) == []
    files = {path.name for path in (run / "eval/val-best").iterdir()}
    assert files == {
        "metrics.json",
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "per_image.csv",
    }


def test_predictions_are_saved_in_own_colours(run: Path, home: Path) -> None:
    """The same ids, and no word of colours that the masks of the split do not have."""
    folder = evaluated(run, home, "save_predictions=true", "palette={disk: [250,130,0]}")
    for path in (folder / "predictions").iterdir():
        with Image.open(path) as image:
            colors = np.reshape(image.getpalette(), (-1, 3)).tolist()
        assert colors[:3] == [[0, 0, 0], [250, 130, 0], [0, 128, 0]]
    refused = call("evaluate.py", f"checkpoint={run}", "palette={dsk: red}", cwd=home)
    assert refused.status == 1
    assert "palette: dsk is no class; did you mean disk?" in refused.err


def test_the_files_agree_with_each_other(run: Path, home: Path) -> None:
    folder = evaluated(run, home, "save_predictions=true")
    found = scores(folder)
    matrix = ConfusionMatrix(len(found["classes"]))
    masks = home / "data/shapes/SegmentationClass"
    predictions = sorted((folder / "predictions").iterdir())
    assert len(predictions) == found["images"] == 6
    for path in predictions:
        pred, target = read_mask(path), read_mask(masks / path.name)
        matrix.update(torch.from_numpy(pred.astype(np.int64)), torch.from_numpy(target).long())
    assert matrix.compute()["iou"] == found["iou"]

    with (folder / "confusion_matrix.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [[int(n) for n in row[1:]] for row in rows[1:]] == matrix.matrix.tolist()
    with (folder / "per_image.csv").open(newline="") as file:
        images = list(csv.DictReader(file))
    assert [image["id"] for image in images] == [path.stem for path in predictions]
    assert sum(int(image["pixels"]) for image in images) == int(matrix.matrix.sum())
    assert math.isclose(
        sum(int(i["pixels"]) * float(i["pixel_accuracy"]) for i in images),
        int(matrix.matrix.trace()),
    )


@pytest.mark.slow
def test_another_split(run: Path, home: Path) -> None:
    found = scores(evaluated(run, home, "split=train"))
    assert (found["split"], found["images"]) == ("train", 24)


def test_data_with_other_classes_is_refused(run: Path, home: Path) -> None:
    other = home / "other"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets"):
        (other / part).parent.mkdir(exist_ok=True)
        (other / part).symlink_to(home / "data/shapes" / part)
    settings = (home / "data/shapes/shapes.json").read_text()
    (other / "shapes.json").write_text(settings)
    (other / "labels.txt").write_text("background\na\nb\nc\nd\ne\n")
    result = call("evaluate.py", f"checkpoint={run}", "data.root=other", cwd=home)
    assert result.status == 1
    assert len(result.err.splitlines()) == 1
    assert "other/labels.txt: holds the classes ['background', 'a'" in result.err
    assert "but data.classes is ['background', 'disk'" in result.err
    assert "brings its own data.classes" in result.err


@pytest.mark.parametrize(
    ("place", "target", "expected"),
    [
        ("model", "torch.utils.collect_env.run", "which is no part of segkit (model.backbone)"),
        ("model", "segkit.models.weights.torch.load", "that may stand as model.backbone: refused"),
        ("model", "segkitten.Model", "which is no part of segkit (model.backbone): ref"),
        ("dataset", "os.system", "which is no part of segkit (data.dataset): ref"),
        ("hidden", "torch.utils.collect_env.run", "expected a text, resolved but for"),
    ],
)
def test_a_checkpoint_that_names_foreign_code_is_refused(
    place: str, target: str, expected: str, run: Path, home: Path, tmp_path: Path
) -> None:
    content = torch.load(run / "checkpoints/best.pt", weights_only=True)
    config = content["about"]["config"]
    if place == "model":
        config["model"]["backbone"]["_target_"] = target
    elif place == "dataset":
        config["data"]["dataset"]["_target_"] = target
    else:  # a node that is only made when it is looked at
        config["model"]["backbone"] = "${oc.create:{_target_:" + target + "}}"
    torch.save(content, tmp_path / "evil.pt")
    result = call("evaluate.py", f"checkpoint={tmp_path / 'evil.pt'}", cwd=home)
    assert result.status == 1
    assert expected in result.err
    assert (
        place == "hidden"
        or f"the checkpoint names {target}, which is no part of segkit" in result.err
    )
    assert len(result.err.splitlines()) == 1


def test_a_second_interpolation_is_refused(run: Path, home: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints/best.pt", weights_only=True)
    content["about"]["config"]["model"]["backbone"] = r"\${oc.create:{_target_:os.system}}"
    torch.save(content, tmp_path / "evil.pt")
    result = call("evaluate.py", f"checkpoint={tmp_path / 'evil.pt'}", cwd=home)
    assert result.status == 1
    assert "hides a second interpolation" in result.err
