"""The generated data set: the same bytes every time, whole or not at all, and worth learning."""

import colorsys
import json

import numpy as np
import pytest
from PIL import Image
from voc_folder import make_voc

from segkit.data import scenes
from segkit.data.scenes import CLASSES, IGNORE, draw_scene
from segkit.data.shapes import Shapes
from segkit.errors import DataError

SMALL = {"num_train": 4, "num_val": 2, "height": 64, "width": 80}


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_two_generations_have_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        Shapes(tmp_path / name, "train", **SMALL)
    first = contents(tmp_path / "one")
    assert len(first) == 2 * 6 + 2 + 1 + 1  # pairs, split files, labels.txt, shapes.json
    assert first == contents(tmp_path / "two")
    Shapes(tmp_path / "three", "train", **SMALL, seed=1)
    third = contents(tmp_path / "three")
    assert not any(third[key] == first[key] for key in first if key.endswith(".png"))


def test_the_validation_images_do_not_depend_on_the_number_of_others(tmp_path):
    Shapes(tmp_path / "few", "val", **SMALL)
    Shapes(tmp_path / "more", "val", **{**SMALL, "num_train": 6})
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert all(few[key] == more[key] for key in few if key.endswith(".png"))


def test_it_is_a_voc_folder_of_palette_masks(tmp_path):
    train, val = (Shapes(tmp_path / "shapes", split, **SMALL) for split in ("train", "val"))
    assert (len(train), len(val), train.classes) == (4, 2, list(CLASSES))
    assert not set(train.ids) & set(val.ids)
    image, mask = train.read(0)
    assert image.shape == (64, 80, 3)
    assert mask.shape == (64, 80)
    with Image.open(train.files(0)[1]) as file:
        assert (file.format, file.mode) == ("PNG", "P")


def test_made_once(tmp_path):
    root = tmp_path / "shapes"
    Shapes(root, "train", **SMALL)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    Shapes(root, "val", **SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("segkit.data.shapes.write_mask", stop)
    with pytest.raises(KeyboardInterrupt):
        Shapes(tmp_path / "shapes", "train", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "shapes").mkdir()
    assert len(Shapes(tmp_path / "shapes", "val", **SMALL)) == 2


def test_a_faster_process_wins(tmp_path, monkeypatch):
    root = tmp_path / "shapes"

    def draw_while_another_process_finishes(*arguments):
        if not root.exists():
            monkeypatch.undo()
            Shapes(root, "train", **SMALL)
        return draw_scene(*arguments)

    monkeypatch.setattr("segkit.data.shapes.draw_scene", draw_while_another_process_finishes)
    assert len(Shapes(root, "train", **SMALL)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_other_settings_or_contents_are_not_overwritten(tmp_path):
    Shapes(tmp_path / "shapes", "train", **SMALL)
    with pytest.raises(DataError, match=r"holds shapes of other settings: .*'seed': 0.*'seed': 5"):
        Shapes(tmp_path / "shapes", "train", **SMALL, seed=5)
    (tmp_path / "shapes" / "shapes.json").write_text("{")
    with pytest.raises(DataError, match=r"holds no shapes \(shapes\.json is missing or damaged"):
        Shapes(tmp_path / "shapes", "train", **SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match=r"other: is not empty and holds no shapes"):
        Shapes(tmp_path / "other", "train", **SMALL)


def test_a_folder_of_ones_own_data_is_recognised(tmp_path):
    make_voc(tmp_path / "mine")
    with pytest.raises(DataError, match=r"holds no shapes .*For your own data add data=voc$"):
        Shapes(tmp_path / "mine", "train", **SMALL)


def test_no_folders_are_made_out_of_a_misspelt_path(tmp_path):
    with pytest.raises(DataError, match=r"not/exist: no such folder; .* add data=voc$"):
        Shapes(tmp_path / "does/not/exist", "train", **SMALL)
    assert list(tmp_path.iterdir()) == []
    assert len(Shapes(tmp_path / "data/shapes", "val", **SMALL)) == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/x: cannot be made \(File exists\)$"):
        Shapes(tmp_path / "file/x", "train", **SMALL)


@pytest.mark.parametrize("wrong", [{"num_val": 0}, {"height": 8}, {"seed": -1}])
def test_impossible_settings_are_refused(tmp_path, wrong):
    with pytest.raises(DataError, match="expected at least 1 image"):
        Shapes(tmp_path / "shapes", "train", **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_folder_reader_are_passed_on(tmp_path):
    dataset = Shapes(
        tmp_path / "shapes",
        "val",
        **SMALL,
        classes=["ground", "object"],
        label_map={n: min(n, 1) for n in range(6)},
    )
    assert set(np.unique(dataset.read(0)[1])) <= {0, 1, 255}


def test_the_settings_file_is_the_last_thing_written_and_readable(tmp_path):
    Shapes(tmp_path / "shapes", "train", **SMALL)
    settings = json.loads((tmp_path / "shapes" / "shapes.json").read_text())
    assert settings == {"version": 1, "seed": 0, **SMALL}


def test_a_border_two_pixels_wide_parts_all_regions():
    for seed in range(8):
        image, mask = draw_scene(np.random.default_rng(seed), 64, 80)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {*range(len(CLASSES)), IGNORE}
        for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            touching = (one != other) & (one != IGNORE) & (other != IGNORE)
            assert not touching.any()
    mask = np.zeros((3, 6), dtype=np.uint8)
    mask[:, 3:] = 1
    assert scenes._with_borders(mask)[1].tolist() == [0, 0, 255, 255, 1, 1]


def test_every_class_is_common_and_colour_alone_does_not_give_it_away():
    pixels = np.zeros(256, dtype=np.int64)
    hits = []
    for seed in range(60):
        image, mask = draw_scene(np.random.default_rng(seed), 96, 128)
        pixels += np.bincount(mask.ravel(), minlength=256)
        for kind in range(1, len(CLASSES)):
            if (mask == kind).any():
                hue = colorsys.rgb_to_hsv(*(image[mask == kind].mean(axis=0) / 255))[0]
                hits.append(round(hue * (len(CLASSES) - 1)) % (len(CLASSES) - 1) == kind - 1)
    share = pixels / pixels.sum()
    assert (share[1 : len(CLASSES)] > 0.02).all()
    assert 0.5 < share[0] < 0.85
    assert 0.03 < share[IGNORE] < 0.12
    # The nearest of the classes' hues is mostly right, and often wrong.
    assert 0.7 < np.mean(hits) < 0.97
