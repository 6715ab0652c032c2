"""What a data set holds, counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from voc_folder import SHARED, make_voc, needs_shared

from segkit.cli.arguments import parse
from segkit.data.masks import write_mask
from segkit.errors import ConfigError, DataError
from segkit.metrics.objects import object_sizes
from segkit.tools.stats import Found, Request, stats, suggest_crop


def run(root: Path, *arguments: str) -> None:
    stats(parse(Request, [f"data.root={root}", *arguments]))


def test_objects_touch_at_corners_too() -> None:
    mask = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 2], [1, 1, 1, 0]])
    # The first: (0, 0), (1, 1), (0, 2), (0, 3): 4 pixels in 2 rows and 4 columns.
    assert object_sizes(mask, 1).tolist() == [[4, 2, 4], [3, 1, 3]]
    assert object_sizes(mask, 2).tolist() == [[1, 1, 1]]
    assert object_sizes(mask, 3).shape == (0, 3)


def test_the_numbers_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Two masks of 8 rows with 4 x 0, 3 x 1, 1 x 255, 4 x 2; one gets a second cat, no dog.
    root = make_voc(tmp_path / "voc")
    mask = np.repeat(np.array([[1, 0, 0, 0, 1, 1, 1, 255, 0, 0, 0, 0]], np.uint8), 8, axis=0)
    write_mask(root / "SegmentationClass/a.png", mask)
    run(root, f"json={tmp_path / 'new/stats.json'}")
    found = json.loads((tmp_path / "new/stats.json").read_text())
    assert (found["images"], found["labelled_pixels"], found["ignored_pixels"]) == (2, 176, 16)
    assert found["commonest_sizes"] == [{"height": 8, "width": 12, "images": 2}]
    cat, dog = found["classes"][1:]
    assert (cat["pixels"], cat["images"], cat["objects"]) == (8 * (4 + 3), 2, 3)
    assert cat["object_pixels"][1] == 24  # of 8, 24, 24
    assert (dog["pixels"], dog["images"], dog["objects"]) == (32, 1, 1)
    assert dog["share"] == 32 / 176
    assert cat["objects_below_256_pixels"] == 3
    # 88, 56 and 32 pixels: the median over each.
    assert found["class_weights"]["median_frequency"] == [56 / 88, 1.0, 56 / 32]
    assert found["crop_size"] == [160, 160]  # the least that is suggested
    out = capsys.readouterr().out
    assert " 1 cat 56 31.82% 2 3 24 100% " in " ".join(out.split())
    assert "2 images; width x height of the commonest: 12 x 8 (2)" in out
    assert "suggested: 'augment.crop_size=[160,160]'" in out


def found_with(side: int, *, size: tuple[int, int] = (600, 700)) -> Found:
    objects = [np.array([[360_000, 600, 700]]), np.array([[side * side, side, side], [9, 3, 3]])]
    values = np.zeros((3, 2), np.int64)
    return Found(size, np.array([1, 1]), 0, objects, values, False)


def test_the_crop_shows_objects_with_their_surroundings() -> None:
    # 1.5 * 100 = 150, so 160; the background and the speck of 9 pixels do not count.
    assert suggest_crop([found_with(100)], ["background", "cat"]) == [160, 160]
    # No larger than the image, in multiples of 32.
    assert suggest_crop([found_with(550)], ["background", "cat"]) == [576, 672]
    assert suggest_crop([found_with(2000, size=(3000, 3000))], ["background", "cat"]) == [768, 768]
    assert suggest_crop([found_with(3)], ["background", "cat"]) == [576, 672]


def test_a_class_that_is_absent_has_no_numbers(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    (root / "labels.txt").write_text("background\ncat\ndog\nowl\n")
    run(root, f"json={tmp_path / 's.json'}")
    owl = json.loads((tmp_path / "s.json").read_text())["classes"][3]
    assert (owl["pixels"], owl["objects"], owl["object_pixels"]) == (0, 0, [None] * 3)


def test_keys_are_those_of_the_check(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    run(root, "data.label_map={2: ignore}", f"json={tmp_path / 's.json'}", "split=val")
    assert json.loads((tmp_path / "s.json").read_text())["ignored_pixels"] == 8 * 5
    (root / "SegmentationClass/a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: is empty"):
        run(root)


def test_the_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, path = make_voc(tmp_path / "voc"), tmp_path / "s.json"
    run(root, f"json={path}", "--dry-run")
    assert f"dry run: would write {path}" in capsys.readouterr().out
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"s\.json: is there already; nothing was written"):
        run(root, f"json={path}")
    assert path.read_text() == "mine"
    run(root, f"json={path}", "--force")
    assert json.loads(path.read_text())["images"] == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.num_classes=many", "expected a whole number"),
        ("data.num_classes=1.5", "expected a whole number"),
        ("data.label_map=ignore", "expected a mapping"),
    ],
)
def test_values_of_other_types(tmp_path: Path, argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{argument}: {message}"):
        run(make_voc(tmp_path / "voc"), argument)


@needs_shared
def test_voc_samples(capsys: pytest.CaptureFixture[str]) -> None:
    run(SHARED / "voc_samples", "split=val")
    out = capsys.readouterr().out
    assert "13 images" in out
    assert "'augment.crop_size=[" in out
