"""The recipes of docs/recipes.md, on made-up files with the real names."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from doc_commands import commands
from doc_folder import write_shown_files
from recipe_files import make_recipes
from scripts import ROOT, call

from segkit.data.voc import VOCSegmentation

PAGE = ROOT / "docs/recipes.md"
RECIPES = re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder in which all commands but trainings were run, and what each printed."""
    folder = tmp_path_factory.mktemp("recipes") / "here"
    folder.mkdir()
    make_recipes(folder)
    write_shown_files(PAGE, folder)
    outputs = {}
    for shown in commands(PAGE):
        program, *words = shlex.split(shown.written)
        if words[0] == "-m":
            script = words[1].replace("segkit.data.check", "segkit.tools.check").replace(".", "/")
            result = call(f"{script}.py", *words[2:], cwd=folder)
            assert (program, result.status, result.err) == ("python", 0, ""), shown.written
            outputs[shown.written] = result.out
    return folder, outputs


@pytest.mark.parametrize(
    ("words", "train", "val", "ignored"),
    [
        ("leftImg8bit data.masks", "2 pairs in train", "1 pairs in val", 0.25),
        ("data/ade20k", "2 pairs in train", "2 pairs in val", 0.25),
        ("pets/images", "2 pairs in trainval", "1 pairs in test", 0.5),
        ("data/drive data.val_split=test", "4 pairs in train", "2 pairs in test", 0.25),
        ("ISIC2018", "2 pairs in Training", "1 pairs in Validation", 0.0),
        ("LoveDA", "2 pairs in Train", "1 pairs in Val", 0.125),
        ("potsdam", "4 pairs in train", "1 pairs in val", 0.0),
        ("mmseg", "3 pairs in train", "1 pairs in val", 0.25),
        ("CamVid", "3 pairs in train", "1 pairs in val", 5 / 64),
        ("data.splits=paddle", "3 pairs in train", "1 pairs in val", 0.25),
        ("Dataset001", "3 pairs in train", "1 pairs in val", 0.25),
        ("pairs.csv", "3 pairs in train", "1 pairs in val", 0.25),
        ("data.root=data/yolo", "3 pairs in train", "1 pairs in val", 0.0),
        ("data.root=data/roboflow", "3 pairs in train", "1 pairs in val", 0.0),
    ],
)
def test_a_data_set_is_read_whole(
    words: str, train: str, val: str, ignored: float, said: tuple[Path, dict[str, str]]
) -> None:
    (out,) = (text for command, text in said[1].items() if "check" in command and words in command)
    assert out.endswith(f"{train}, {val}: fine\n")
    found = re.search(r"\(ignored\) +([0-9,]+)", out)
    assert found is not None
    images = int(train.split()[0])
    assert int(found[1].replace(",", "")) == round(images * 48 * 64 * ignored)


@pytest.mark.parametrize(
    ("root", "split", "bars"),
    [
        ("cityscapes", "train", [0, 1, 13, 255]),  # road, sidewalk, car; 3 is none of the 19
        ("ade20k", "train", [255, 0, 1, 149]),
        ("ade20k", "val", [255, 0, 1, 255]),
        ("drive", "test", [255, 1, 1, 0]),
        ("roboflow", "val", [0, 1, 2, 0]),
        ("task", "all", [0, 1, 2, 0]),
    ],
)
def test_the_masks_are_those_that_were_meant(
    root: str, split: str, bars: list[int], said: tuple[Path, dict[str, str]]
) -> None:
    dataset = VOCSegmentation(said[0] / "data" / root, split)
    for index in range(len(dataset)):
        mask = dataset.read(index)[1]
        np.testing.assert_array_equal(mask, np.repeat(np.uint8([bars]), 16, axis=1).repeat(48, 0))


def test_polygons_are_drawn(said: tuple[Path, dict[str, str]]) -> None:
    mask = VOCSegmentation(said[0] / "data/yolo", "train").read(0)[1]
    expected = np.zeros((48, 64), np.uint8)
    expected[:24, :32] = 1
    np.testing.assert_array_equal(mask, expected)


def test_names_are_those_of_the_benchmarks(said: tuple[Path, dict[str, str]]) -> None:
    names = (said[0] / "cityscapes/gtFine/labels.txt").read_text().splitlines()
    assert VOCSegmentation(said[0] / "data/cityscapes", "train").classes == names
    assert len(names) == 19
    assert len(VOCSegmentation(said[0] / "data/ade20k", "val").classes) == 150
