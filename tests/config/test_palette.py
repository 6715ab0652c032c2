"""Own colours of classes: what may be written, and what is answered to the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.config.palette import painted, palette_problems, read_palette
from segkit.data.colors import voc_palette
from segkit.errors import SegkitError

CLASSES = ["background", "cat", "dog"]


@pytest.mark.parametrize(
    ("palette", "found"),
    [
        (None, {}),
        ({}, {}),
        ({"cat": [1, 2, 3]}, {"cat": [1, 2, 3]}),
        ({"cat": "red", "dog": "#0a141e"}, {"cat": [255, 0, 0], "dog": [10, 20, 30]}),
        ({1: "black"}, {"1": [0, 0, 0]}),
    ],
)
def test_a_mapping(palette: Any, found: dict[str, list[int]]) -> None:
    assert read_palette(palette) == found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "cat: [1, 2, 3]\ndog: 'red'\n"),
        ("a.json", '{"cat": [1, 2, 3], "dog": "red"}'),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncat:1,2,3::\ndog:255,0,0::\n"),
    ],
)
def test_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_palette(str(tmp_path / name)) == {"cat": [1, 2, 3], "dog": [255, 0, 0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cat: #ff0000\n",
            r"cat is nothing \(YAML takes # for a comment: write quotes\); expected",
        ),
        ("cat: [1, 2]\n", r"cat is \[1, 2\]; expected \[red, green, blue\] of 0 to 255, or"),
        ("cat: [1, 2, 256]\n", r"cat is \[1, 2, 256\]; expected"),
        ("cat: [1, 2, true]\n", r"cat is \[1, 2, True\]; expected"),
        ("cat: redd\n", r"cat is 'redd'; expected"),
        ("cat: '#ff000080'\n", r"cat is '#ff000080'; expected"),
        ("- 1\n", r"expected class names with colours, as 'cat: \[255, 0, 0\]'"),
        ("cat: red\ncat: blue\n", r"cannot be read as YAML \(.*duplicate key"),
        ("cat: [\n", r"cannot be read as YAML \("),
        ("\x00", r"cannot be read as YAML \("),
    ],
)
def test_a_file_that_holds_something_else(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    (problem,) = palette_problems(str(tmp_path / "a.yaml"))
    assert problem.startswith(f"palette={tmp_path / 'a.yaml'}: ")
    with pytest.raises(SegkitError, match=message):
        read_palette(str(tmp_path / "a.yaml"))


def test_a_list_without_colours(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(SegkitError, match="has no colours; write them as 'cat:255,0,0'"):
        read_palette(str(tmp_path / "labels.txt"))


def test_the_other_classes_keep_their_colours() -> None:
    before = voc_palette()
    after = painted(before, CLASSES, {"dog": "white"})
    assert after[2].tolist() == [255, 255, 255]
    assert np.array_equal(np.delete(after, 2, 0), np.delete(voc_palette(), 2, 0))
    assert np.array_equal(before, voc_palette())


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ({"catt": "red"}, r"palette: catt is no class; did you mean cat\? \(there are background"),
        ({"dog": [128, 0, 0]}, r"palette: cat and dog would both be \[128, 0, 0\]; give one of"),
        ({"cat": "red", "dog": "red"}, r"cat and dog would both be \[255, 0, 0\]"),
    ],
)
def test_what_does_not_fit_the_classes(palette: dict[str, Any], message: str) -> None:
    with pytest.raises(SegkitError, match=message):
        painted(voc_palette(), CLASSES, palette)
