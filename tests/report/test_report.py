"""Scores as tables, files and images."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.data.masks import voc_palette
from segkit.files import write_csv, write_json
from segkit.metrics import ConfusionMatrix
from segkit.report.color_key import color_key, with_names
from segkit.report.images import GAP, color, confusion_image, panel, write_image
from segkit.report.tables import class_table, scalar_scores
from segkit.text import display_path, percent, throughput

CLASSES = ["road", "traffic light", "sky"]


def scores() -> dict[str, Any]:
    """Two road pixels, one of them called a traffic light; no sky anywhere."""
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 0, 1, 255]]))
    return dict(matrix.compute())


def test_names_of_logged_scores() -> None:
    flat = scalar_scores(scores(), CLASSES, "val/")
    assert flat["val/iou/road"] == flat["val/iou/traffic light"] == 0.5
    assert flat["val/iou/sky"] is None
    assert flat["val/miou"] == 0.5
    per_class = {
        f"val/{kind}/{c}" for kind in ("iou", "precision", "recall", "f1") for c in CLASSES
    }
    means = ["miou", "mean_accuracy", "mean_f1", "pixel_accuracy", "fw_iou", "num_classes_averaged"]
    assert set(flat) == per_class | {f"val/{name}" for name in means}
    assert all(value is None or isinstance(value, float | int) for value in flat.values())


def test_class_table() -> None:
    assert class_table(scores(), CLASSES).splitlines() == [
        "class            IoU   prec    rec     F1       pixels",
        "road           50.00 100.00  50.00  66.67            2",
        "traffic light  50.00  50.00 100.00  66.67            1",
        "1 class does not occur: sky",
        "mIoU 50.00 % over 2 of 3 classes (one confusion matrix over all pixels), "
        "pixel accuracy 66.67 %, mean accuracy 75.00 %, fw IoU 50.00 %",
    ]


def test_class_table_of_nothing() -> None:
    table = class_table(dict(ConfusionMatrix(1).compute()), ["a"])
    assert table.splitlines()[1] == "1 class does not occur: a"
    assert table.splitlines()[-1].startswith("mIoU - % over 0 of 1 classes")


def test_a_class_that_is_predicted_alone_keeps_its_row() -> None:
    """It has an IoU of 0, which is averaged."""
    matrix = ConfusionMatrix(21)
    matrix.update(torch.tensor([[0, 1, 2, 20]]), torch.tensor([[0, 1, 2, 2]]))
    table = class_table(dict(matrix.compute()), [f"c{i}" for i in range(21)]).splitlines()
    assert [line.split()[0] for line in table] == ["class", "c0", "c1", "c2", "c20", "17", "mIoU"]
    assert table[4] == "c20     0.00   0.00      -   0.00            0"
    assert table[5].startswith("17 classes do not occur: c3, c4, c5, ")


@pytest.mark.parametrize(("value", "text"), [(0.8731, " 87.31"), (1.0, "100.00"), (None, "     -")])
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_a_path_is_shown_from_here_where_there_is_a_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert display_path(tmp_path / "runs/a") == str(Path("runs/a"))

    def on_another_drive(path: Path) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", on_another_drive)
    assert display_path(Path("runs/a")) == str(tmp_path / "runs/a")


@pytest.mark.parametrize(
    ("speed", "text"),
    [(123.44, "123.4 images/s"), (1.0, "1.0 images/s"), (0.04, "25.0 s/image")],
)
def test_pace(speed: float, text: str) -> None:
    assert throughput(speed) == text


def test_files(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"miou": 0.5, "iou": [None, 1]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"miou": 0.5, "iou": [None, 1]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"miou": float("nan")})
    write_csv(tmp_path / "a.csv", ["id", "miou"], [["a, b", 0.5], ["c", None]])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "miou"], ["a, b", "0.5"], ["c", ""]]
    photo = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    write_image(tmp_path / "a.png", photo)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), photo)


def test_color() -> None:
    palette = voc_palette()
    found = color(np.array([[0, 1], [15, 300]]), palette)
    assert found.tolist() == [[[0, 0, 0], [128, 0, 0]], [[192, 128, 128], [224, 224, 192]]]


def test_panel_shows_image_target_and_prediction() -> None:
    palette = voc_palette()
    image = np.full((8, 6, 3), 9, np.uint8)
    target, pred = np.ones((8, 6), np.int64), np.full((8, 6), 2)
    target[:, 3:] = 255
    found = panel(image, target, pred, palette, ignore_index=255)
    assert found.shape == (8, 3 * 6 + 2 * GAP, 3)
    left, middle, right = (found[:, i * (6 + GAP) : i * (6 + GAP) + 6] for i in range(3))
    assert (left == 9).all()
    assert (middle[:, :3] == palette[1]).all()
    assert set(np.unique(middle[:, 3:])) == {90, 160}  # hatched grey
    assert (right == palette[2]).all()
    assert (found[:, 6 : 6 + GAP] == 255).all()


def test_a_color_key_takes_the_lines_it_needs() -> None:
    colors = voc_palette()[: len(CLASSES)]
    one, many = color_key(CLASSES, colors, 400), color_key(CLASSES, colors, 90)
    assert one.shape[1] == 400
    assert many.shape[1] == 90
    assert many.shape[0] - one.shape[0] == 2 * 19
    assert (one == colors[1]).all(axis=2).sum() > 100  # the box of class 1
    photo = np.zeros((5, 90, 3), np.uint8)
    assert np.array_equal(with_names(photo, CLASSES, colors)[5:], many)


@pytest.mark.parametrize("size", [1, 2, 21, 150])
def test_confusion_image_shades_by_share_of_the_row(size: int) -> None:
    classes = [f"class {i}" for i in range(size)]
    matrix = np.diag(np.arange(size))  # class 0 does not occur
    photo = confusion_image(matrix.tolist(), classes)
    height, width, _ = photo.shape
    assert height <= width < 2500
    cell = 36 if size <= 40 else 14
    dark = (photo == (8, 48, 107)).all(axis=2).sum()
    # A full cell but for its border and the number in it.
    assert dark == pytest.approx((size - 1) * (cell - 2) ** 2, rel=0.25)


def test_confusion_image_has_true_classes_in_rows() -> None:
    places = []
    for matrix in ([[5, 0], [5, 0]], [[0, 5], [0, 5]]):  # everything is called a, then b
        photo = confusion_image(matrix, ["a", "b"])
        dark = np.argwhere((photo == (8, 48, 107)).all(axis=2))
        (top, left), (bottom, right) = dark.min(axis=0), dark.max(axis=0)
        assert bottom - top > 60
        assert right - left < 40
        places.append(left)
    assert places[1] - places[0] == 36
