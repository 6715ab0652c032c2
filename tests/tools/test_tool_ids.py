"""Masks of class ids, CVAT's and Roboflow's masks, and what lies outside of a field of view."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_files import Files, masks, png, run, write
from PIL import Image

from segkit.data.decode import read_palette
from segkit.errors import ConfigError, DataError

ROW = np.full((1, 4, 3), 90, np.uint8)
FOLDERS = "source=masks images=images"
IDS = f"format=ids {FOLDERS}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all that follows happens: paths are relative to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def row(values: Any, name: str = "a", end: str = "", kind: Any = np.uint8) -> Files:
    """An image of four pixels, and its mask."""
    return {f"images/{name}.png": ROW, f"masks/{name}{end}.png": np.array([values], kind)}


def names() -> list[str]:
    return Path("out/labels.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("keys", "values", "expected", "classes"),
    [
        ("", [0, 2, 1, 255], "021x", ["class_0", "class_1", "class_2"]),
        ("classes=[sky,tree,car]", [0, 2, 1, 255], "021x", ["sky", "tree", "car"]),
        ("first_id=1", [0, 3, 1, 2], "x201", ["class_0", "class_1", "class_2"]),
        ("first_id=1 classes=[a,b,c,d]", [0, 4, 1, 2], "x301", ["a", "b", "c", "d"]),
        ("label_map={7:road,8:car,other:ignore}", [7, 8, 33, 7], "01x0", ["road", "car"]),
        ("label_map={1:pet,2:ground,3:ignore}", [1, 2, 3, 255], "01xx", ["pet", "ground"]),
        (
            "label_map={1:pet,2:ground,3:ignore} classes=[ground,pet]",
            [1, 2, 3, 1],
            "10x1",
            ["ground", "pet"],
        ),
        ("label_map={0:0,7:1,9:1,3:ignore}", [0, 7, 9, 3], "011x", ["class_0", "class_1"]),
        ("label_map={0:a,1:b,2:c} ignore=[c]", [0, 1, 2, 1], "01x1", ["a", "b"]),
        ("label_map={0:a,255:b}", [0, 255, 255, 0], "0110", ["a", "b"]),
        ("classes=[a,void,b] ignore=[void]", [0, 1, 2, 255], "0x1x", ["a", "b"]),
        ("first_id=1 classes=[void,a,b] ignore=[void]", [0, 1, 2, 3], "xx01", ["a", "b"]),
    ],
)
def test_ids_become_classes(keys: str, values: Any, expected: str, classes: list[str]) -> None:
    write(row(values))
    run(f"{IDS} {keys}")
    assert masks() == {"a": expected}
    assert names() == classes


def test_ids_of_16_bits_and_of_three_equal_channels() -> None:
    write(row([1000, 0, 65535, 1000], kind=np.uint16))
    run(f"{IDS} label_map={{0:a,1000:b,65535:ignore}}")
    assert masks() == {"a": "10x1"}
    write(row([[0] * 3, [1] * 3, [1] * 3, [0] * 3]))
    run(f"{IDS} force=true")
    assert masks() == {"a": "0110"}


def test_the_colours_of_a_palette_are_kept() -> None:
    colors = [9, 9, 9, 0, 0, 200, 0, 200, 0]
    write(row([]) | {"masks/a.png": png(np.array([[1, 2, 1, 2]], np.uint8), colors)})
    run(f"{IDS} first_id=1")
    assert masks() == {"a": "0101"}
    palette = read_palette("out/SegmentationClass/a.png")
    assert palette is not None
    assert palette[:2].tolist() == [[0, 0, 200], [0, 200, 0]]


def test_palettes_that_disagree_are_refused_unless_they_do_not_matter() -> None:
    mask = np.array([[0, 1, 1, 0]], np.uint8)
    write({f"images/{name}.png": ROW for name in "ab"})
    write({"masks/a.png": png(mask, [1, 2, 3, 4, 5, 6])})
    write({"masks/b.png": png(mask, [4, 5, 6, 1, 2, 3])})
    with pytest.raises(DataError, match=r"(?s)palettes that disagree.*colours differ: c"):
        run(IDS)
    run(f"{IDS} colors=indices")
    assert masks() == {"a": "0110", "b": "0110"}


def test_files_with_other_ends_are_no_masks(capsys: pytest.CaptureFixture[str]) -> None:
    write(row([0, 1, 1, 0], "street/one", "_gtFine_labelIds"))
    write({"masks/street/one_gtFine_color.png": ROW})
    Path("images/street/one.png").rename("images/street/one_leftImg8bit.png")
    run(f"{IDS} image_suffix=_leftImg8bit mask_suffix=_gtFine_labelIds.png")
    assert masks() == {"street/one": "0110"}
    said = capsys.readouterr().out
    assert "note: 1 files whose names do not end in _gtFine_labelIds.png left out\n" in said


def test_names_out_of_a_file() -> None:
    write(row([0, 1, 1, 0]) | {"names.txt": "wall\nbuilding, edifice\n"})
    run(f"{IDS} labels=names.txt")
    assert names() == ["wall", "building, edifice"]


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (
            "classes=[a,b]",
            [0, 1, 2, 7],
            r"2 ids occur that are no class.*\n  - 2: 1 pix",
        ),
        ("label_map={0:a,1:b}", [0, 1, 2, 2], r"lacks 1 ids that occur:\n  - 2: 2 pixels\nAdd th"),
        ("", [0, 255, 0, 255], r"masks of 0 and 255 are format=binary"),
        ("", [0, 0, 0, 0], r"1 classes \(class_0\); expected 2 to 255"),
        (
            "",
            [[0, 0, 0], [1, 2, 3]] * 2,
            r"has colours; expected class ids in one cha",
        ),
        ("label_map={0:a,1:2}", [0, 1, 0, 1], r"holds names \(a\) and numbers \(2\)"),
        ("label_map={0:a,1:c} classes=[a,b]", [0, 1] * 2, r"the class 'c'; expected one of a, b"),
        ("label_map={x:a,1:b}", [0, 1] * 2, r"holds the id 'x'; expected each id once"),
        ("label_map={1:a} first_id=1", [0, 1] * 2, r"first_id and label_map both renumber"),
        ("labels=masks/n.txt classes=[a,b]", [0, 1] * 2, r"labels and classes both name"),
        ("first_id=5 classes=[a,b]", [0, 1] * 2, r"none of the ids 0, 1 becomes a class"),
        ("mask_suffix=_x", [0, 1] * 2, r"holds no masks whose names end in _x"),
        ("classes=[a,b] ignore=[viod]", [0, 1] * 2, r"ignore=\['viod'\]: no name of an id; expect"),
        ("ignore=[void]", [0, 1] * 2, r"ignore=\['void'\]: no name of an id"),
        ("colors={a:[0,0,0]}", [0, 1] * 2, r"which is for format=rgb; with format=ids leave it"),
    ],
)
def test_ids_that_are_no_classes(keys: str, values: Any, message: str) -> None:
    write(row(values))
    with pytest.raises(DataError, match=message):
        run(f"{IDS} {keys}")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("format=coco label_map={1:a}", r"label_map={1: 'a'}: is for format=ids"),
        ("format=folders threshold=128", r"threshold=128: is for format=binary"),
        ("format=coco colors={a:[0,0,0]}", r"colors=.*: is for format=rgb or ids"),
        ("format=ids overlap=last", r"overlap=last: is for format=labelme or coco or"),
        ("format=binary ignore=[a]", r"ignore=\['a'\]: is for format=labelme or coco or"),
        ("format=labelme valid=masks", r"valid=masks: is for format=ids or rgb or binary or fold"),
        ("format=ids valid_suffix=_x", r"valid_suffix=_x: is for valid=FOLDER"),
    ],
)
def test_keys_of_other_formats_are_refused(keys: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(f"{FOLDERS} {keys}")


# What counts


def test_outside_of_the_field_of_view_nothing_counts() -> None:
    write({"images/21_training.tif": b"", "masks/x.png": ROW})
    Path("masks/x.png").unlink()
    Image.fromarray(ROW).save("images/21_training.tif")
    for folder, name, values in (
        ("masks", "21_manual1", [0, 255, 255, 0]),
        ("fov", "21_training_mask", [0, 255, 255, 255]),
    ):
        Path(folder).mkdir(exist_ok=True)
        Image.fromarray(np.array([values], np.uint8)).save(f"{folder}/{name}.gif")
    keys = f"format=binary {FOLDERS} image_suffix=_training mask_suffix=_manual1"
    run(f"{keys} valid=fov valid_suffix=_training_mask classes=[ground,vessel]")
    assert masks() == {"21": "x110"}
    with pytest.raises(DataError, match=r"valid=fov: has no file for 21, the first is 21_trainin"):
        run(f"{keys} valid=fov force=true")
    with pytest.raises(DataError, match=r"valid=gone: holds no masks"):
        run(f"{keys} valid=gone force=true")
    Image.fromarray(np.ones((2, 4), np.uint8)).save("fov/21_training_mask.gif")
    with pytest.raises(DataError, match=r"is 4 x 2 \(width x height\), the mask .* 4 x 1"):
        run(f"{keys} valid=fov valid_suffix=_training_mask force=true")


def test_the_field_of_view_of_folders_and_ids() -> None:
    write(row([0, 1, 2, 1]) | {"valid/a.png": np.array([[1, 1, 1, 0]], np.uint8)})
    run(f"{IDS} valid=valid")
    assert masks() == {"a": "012x"}
    write({"classes/cat/a.png": np.array([[0, 9, 0, 9]], np.uint8)})
    run("format=folders source=classes images=images valid=valid force=true")
    assert masks() == {"a": "010x"}


def test_advice_about_ends_of_names() -> None:
    write(row([0, 1, 1, 0], "a"))
    Path("images/a.png").rename("images/a_0000.png")
    with pytest.raises(DataError, match=r"Then add image_suffix=_0000$"):
        run(IDS)
    run(f"{IDS} image_suffix=_0000")
    assert masks() == {"a": "0110"}


# As programs export them

LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
car:250,50,83::
road:128,64,128::
"""
OF_CVAT = [[[250, 50, 83], [0, 0, 0], [128, 64, 128], [0, 0, 0]]]


def test_cvat_segmentation_mask(capsys: pytest.CaptureFixture[str]) -> None:
    colors = np.array(OF_CVAT, np.uint8)
    write(
        {
            "task/labelmap.txt": LABELMAP,
            "task/ImageSets/Segmentation/default.txt": "sub/a\n",
            "task/SegmentationClass/sub/a.png": colors,
            "task/SegmentationObject/sub/a.png": colors,
        }
    )
    with pytest.raises(DataError, match=r"task: has no JPEGImages.*give images=FOLDER"):
        run("format=cvat source=task")
    write({"uploads/sub/a.jpg": b""})
    Image.fromarray(ROW).save("uploads/sub/a.jpg")
    run("format=cvat source=task images=uploads")
    assert masks() == {"sub/a": "1020"}
    assert names() == ["background", "car", "road"]
    palette = read_palette("out/SegmentationClass/sub/a.png")
    assert palette is not None
    assert palette[1].tolist() == [250, 50, 83]
    Path("uploads").rename("task/JPEGImages")
    run("format=cvat source=task force=true ignore=[road]")
    assert masks() == {"sub/a": "10x0"}
    assert names() == ["background", "car"]
    assert "python -m segkit.tools.split data.root=out" in capsys.readouterr().out


def test_cvat_background_comes_first() -> None:
    lines = LABELMAP.splitlines()
    write(
        {
            "task/labelmap.txt": "\n".join([lines[0], lines[2], lines[1], lines[3]]),
            "task/SegmentationClass/a.png": np.array(OF_CVAT, np.uint8),
            "task/JPEGImages/a.png": ROW,
        }
    )
    run("format=cvat source=task")
    assert names() == ["background", "car", "road"]
    write({"task/labelmap.txt": "# label:color_rgb:parts:actions\ncar:::\n"})
    with pytest.raises(DataError, match=r"labelmap\.txt: has labels without a colour"):
        run("format=cvat source=task force=true")


def test_masks_of_roboflow() -> None:
    image = "robo/train/cat-1_jpg.rf.0a1b"
    write(
        {
            "robo/train/_classes.csv": "Pixel Value, Class\n0, background\n1, cat\n2, dog\n",
            f"{image}_mask.png": np.array([[0, 2, 1, 1]], np.uint8),
        }
    )
    Image.fromarray(ROW).save(f"{image}.jpg")
    run("format=ids source=robo/train split=train")
    assert masks("train") == {"cat-1_jpg.rf.0a1b": "0211"}
    assert names() == ["background", "cat", "dog"]
    write({"robo/train/_classes.csv": "Pixel Value, Class\n0 background\n"})
    with pytest.raises(DataError, match=r"_classes\.csv: expected a head, and lines of a number"):
        run("format=ids source=robo/train split=train")


def test_a_class_that_is_a_list_is_refused_in_words() -> None:
    write(row([0, 1, 2, 1]))
    with pytest.raises(DataError, match=r"label_map holds the class \['a'\]; expected one of a"):
        run(f"{IDS} label_map={{0:[a],1:a,2:a}}")


def test_a_field_of_view_of_two_files_is_refused() -> None:
    write(row([0, 1, 2, 1]) | {"valid/a.png": ROW, "valid/a.tif": ROW})
    with pytest.raises(
        DataError, match=r"(?s)valid=valid: 1 images have several.*a\.png, .*a\.tif"
    ):
        run(f"{IDS} classes=[a,b,c] valid=valid")
