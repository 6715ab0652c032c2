"""Polygons of YOLO become masks."""

from pathlib import Path

import numpy as np
import pytest
from label_files import Files, masks, run, write

from segkit.errors import DataError

PHOTO = np.full((4, 8, 3), 90, np.uint8)
BOX = "0 0 0 0.5 0 0.5 0.5 0 0.5\n"  # the upper left quarter: 4 x 2 pixels
DATA = "path: ../gone/data\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all that follows happens: paths are relative to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def data(labels: str = BOX, text: str = DATA) -> Files:
    return {
        "set/data.yaml": text,
        "set/images/train/a.png": PHOTO,
        "set/labels/train/a.txt": labels,
        "set/images/val/b.png": PHOTO,
        "set/labels/val/b.txt": "",
    }


LISTED = "train: train.txt\nnames: [cat]\n"
EMPTY = "00000000 00000000 00000000 00000000"
QUARTER = "11110000 11110000 00000000 00000000"


def test_a_folder_with_its_description() -> None:
    write(data())
    run("format=yolo source=set")
    assert masks() == {"train/a": QUARTER, "val/b": EMPTY}
    assert Path("out/labels.txt").read_text().split() == ["background", "cat", "dog"]
    for split, name in (("train", "train/a"), ("val", "val/b")):
        run(f"format=yolo source=set/data.yaml split={split} out=divided")
        assert list(masks(split, "divided")) == [name]


def test_a_folder_of_labels() -> None:
    write(data())
    run("format=yolo source=set/labels/train")
    assert masks() == {"a": QUARTER}
    Path("set/images").rename("photos")
    run("format=yolo source=set/labels/train images=photos/train force=true")
    assert masks() == {"a": QUARTER}


def test_the_layout_of_roboflow(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        {
            "data.yaml": "train: ../train/images\nval: ../valid/images\nnames: ['cat', 'dog']\n",
            "train/images/a.png": PHOTO,
            "train/images/c.png": PHOTO,
            "train/labels/a.txt": BOX,
            "valid/images/b.png": PHOTO,
            "valid/labels/b.txt": BOX.replace("0 ", "1 ", 1),
        }
    )
    run("format=yolo source=.")
    dogs = QUARTER.replace("1", "2")
    assert masks() == {"train/a": QUARTER, "train/c": EMPTY, "valid/b": dogs}
    assert "note: 1 images without a file of labels are background\n" in capsys.readouterr().out


def test_a_list_of_images() -> None:
    write(data(text=LISTED) | {"set/train.txt": "./images/train/a.png\n"})
    run("format=yolo source=set")
    assert masks() == {"train/a": QUARTER}


def test_what_covers_what() -> None:
    whole = "1 0 0 1 0 1 1 0 1\n"
    write(data(BOX + whole))
    run("format=yolo source=set")  # the smaller one is above
    assert masks()["train/a"] == "11112222 11112222 22222222 22222222"
    run("format=yolo source=set overlap=last force=true")
    assert masks()["train/a"] == "22222222 22222222 22222222 22222222"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1 0.1", r"a\.txt, line 1: holds 4 numbers, a box; expected the corners"),
        ("2 0 0 1 0 1 1", r"the class is '2'; expected 0 to 1"),
        ("x 0 0 1 0 1 1", r"the class is 'x'"),
        ("0 0 0 1 0 1", r"holds 5 numbers; expected 3 or more pairs"),
        ("0 0 0 1 0 1 y", r"'0 0 1 0 1 y' are no numbers"),
        ("0 0 0 1 0 1 nan", r"are no numbers"),
        ("0 0 0 8 0 8 4", r"holds the coordinate 8; expected parts of the width and the height"),
    ],
)
def test_lines_that_are_no_polygon(line: str, message: str) -> None:
    write(data(f"{line}\n"))
    with pytest.raises(DataError, match=message):
        run("format=yolo source=set")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", r"data\.yaml: is no YAML"),
        ("[]", r"data\.yaml: holds no keys"),
        ("train: images/train\n", r"names is None; expected a list, or a mapping of 0, 1, 2"),
        ("names: {1: cat}\n", r"names is \{1: 'cat'\}"),
        ("names: [no]\n", r"names holds False, no text; put it in quotes"),
        ("names: [cat, cat]\n", r"names holds one name twice"),
        ("names: [cat]\ntrain: gone\n", r"train is gone; no such folder, looked for set/gone"),
        ("names: [cat]\n", r"has no train, no val, no test; expected the folders"),
        ("names: [cat]\ntrain: 5\n", r"train is 5; expected a path"),
        ("names: [cat]\ntrain: empty\n", r"train is empty, which holds no images"),
    ],
)
def test_descriptions_with_mistakes(text: str, message: str) -> None:
    write(data(text=text))
    Path("set/empty").mkdir()
    with pytest.raises(DataError, match=message):
        run("format=yolo source=set")


def test_what_is_missing() -> None:
    with pytest.raises(DataError, match="nowhere: no such folder; expected one with data"):
        run("format=yolo source=nowhere")
    write(data() | {"loose/a.txt": BOX})
    with pytest.raises(DataError, match=r"split=test: set/data\.yaml has train, val; expected"):
        run("format=yolo source=set split=test")
    Path("set/labels").rename("set/texts")
    with pytest.raises(DataError, match=r"no image has a file of labels; the first is expected as"):
        run("format=yolo source=set")
    with pytest.raises(DataError, match=r"has no data\.yaml, so the names are unknown"):
        run("format=yolo source=loose")
    with pytest.raises(DataError, match=r"images is not set: give the folder of the images of loo"):
        run("format=yolo source=loose classes=[background,cat]")
    with pytest.raises(DataError, match=r"1 images are missing in photos"):
        write({"photos/b.png": PHOTO})
        run("format=yolo source=loose classes=[background,cat] images=photos")


def test_key_points_are_no_polygons() -> None:
    text = "names: [person]\nkpt_shape: [2, 3]\ntrain: images\n"
    line = "0 0.5 0.5 0.4 0.4 0.3 0.3 1 0.6 0.6 1"
    write({"y/data.yaml": text, "y/images/a.png": PHOTO, "y/labels/a.txt": line})
    with pytest.raises(DataError, match=r"data\.yaml: describes key points \(kpt_shape\)"):
        run("format=yolo source=y")


@pytest.mark.parametrize("keys", ["source=y", "source=y/labels classes=[background,cat]"])
def test_labels_whose_type_is_in_capitals(keys: str, capsys: pytest.CaptureFixture[str]) -> None:
    write({"y/images/a.png": PHOTO, "y/labels/a.TXT": "0 0 0 1 0 1 1 0 1"})
    if keys == "source=y":
        write({"y/data.yaml": "names: [cat]\ntrain: images\n"})
    run(f"format=yolo {keys}")
    assert set(masks()["a"]) == {"1", " "}
    assert "without a file of labels" not in capsys.readouterr().out
