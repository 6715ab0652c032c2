"""Labels of every format become a data set that VOCSegmentation reads."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc_folder import SHARED, needs_shared

from segkit.data.check import check_splits
from segkit.data.decode import read_palette
from segkit.data.masks import read_mask, voc_palette, write_mask
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError, SegkitError
from segkit.tools.arguments import parse
from segkit.tools.convert import convert
from segkit.tools.formats.annotation import Request

SIZE = (6, 8)  # height, width


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)
    return path


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def run(*arguments: str) -> None:
    convert(parse(Request, arguments))


def result(out: Path, name: str, split: str = "all") -> list[list[int]]:
    """The mask of an item, read as training would; the whole set passes the check."""
    dataset = VOCSegmentation(out, split)
    check_splits({split: dataset}, progress=False)
    return dataset.read(dataset.ids.index(name))[1].tolist()


def box(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def labelme(path: Path, shapes: list[dict[str, object]], **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = SIZE
    content = {
        "imagePath": f"{path.stem}.png",
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        "shapes": shapes,
    }
    path.write_text(json.dumps(content | more))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "out"


# labelme


def test_labelme(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "labels"
    picture(source / "a.png")
    labelme(
        source / "a.json",
        [
            {"label": "dog", "points": box(0, 0, 4, 2), "shape_type": "polygon"},
            {"label": "cat", "points": [[3, 1], [6, 3]], "shape_type": "rectangle"},
            {"label": "__ignore__", "points": [[7, 0], [8, 6]], "shape_type": "rectangle"},
            {"label": "_background_", "points": [[0, 0], [1, 1]], "shape_type": "rectangle"},
            {"label": "cat", "points": [[1, 1]], "shape_type": "point"},
        ],
    )
    run("format=labelme", f"source={source}", f"out={out}")
    # In the order of the file: cat over dog, then background over dog; names in alphabetical order.
    assert result(out, "a") == [
        [0, 2, 2, 2, 0, 0, 0, 255],
        [2, 2, 2, 1, 1, 1, 0, 255],
        [0, 0, 0, 1, 1, 1, 0, 255],
        [0, 0, 0, 0, 0, 0, 0, 255],
        [0, 0, 0, 0, 0, 0, 0, 255],
        [0, 0, 0, 0, 0, 0, 0, 255],
    ]
    assert (out / "labels.txt").read_text() == "background\ncat\ndog\n"
    assert read_palette(out / "SegmentationClass/a.png") is not None
    assert (out / "JPEGImages/a.png").read_bytes() == (source / "a.png").read_bytes()
    assert "note: 1 shapes of type point (no area) left out" in capsys.readouterr().out


def test_labelme_circle_mask_and_embedded_picture(tmp_path: Path, out: Path) -> None:
    part = np.array([[0, 1, 1], [1, 1, 0]], bool)
    image = png(np.full((*SIZE, 3), 7, np.uint8))
    labelme(
        tmp_path / "labels/sub/one two.json",
        [
            {"label": "ring", "points": [[2, 2], [2, 3.9]], "shape_type": "circle"},
            {
                "label": "part",
                "points": [[5, 4], [7, 5]],
                "shape_type": "mask",
                "mask": base64.b64encode(png(part)).decode(),
            },
        ],
        imageData=base64.b64encode(image).decode(),
        imagePath="C:\\pictures\\one two.jpg",
    )
    run("format=labelme", f"source={tmp_path / 'labels'}", f"out={out}", "classes=[back,ring,part]")
    # The centres at a distance of up to 1.9 from (2, 2): all but the corners of 4 x 4 pixels.
    assert result(out, "sub/one_two") == [
        [0, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 2, 2],
        [0, 0, 0, 0, 0, 2, 2, 0],
    ]
    assert (out / "labels.txt").read_text() == "back\nring\npart\n"
    assert (out / "JPEGImages/sub/one_two.png").read_bytes() == image


def test_labels_may_be_ignored_and_must_be_known(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "labels"
    picture(source / "a.png")
    shapes = [
        {"label": name, "points": [[i, 0], [i + 1, 1]], "shape_type": "rectangle"}
        for i, name in enumerate(("cat", "dog", "mess"))
    ]
    labelme(source / "a.json", shapes)
    command = ("format=labelme", f"source={source}", f"out={out}", "classes=[background,dog,cat]")
    with pytest.raises(DataError, match=r"1 labels are not in classes: mess\. List them"):
        run(*command)
    run(*command, "ignore=[mess]")
    assert result(out, "a")[0][:4] == [2, 1, 255, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.json: is no JSON"),
        ('{"images": []}', r"a\.json: has no list of shapes"),
        ('{"shapes": [{}]}', r"a\.json: holds a shape without a label"),
        ('{"shapes": [], "imagePath": "x.png"}', r"1 pictures are missing .*\n.*a\.json: x\.png"),
        ('{"shapes": [], "imagePath": "x.png", "imageData": "?"}', "imageData is damaged"),
    ],
)
def test_labelme_files_that_cannot_be_read(
    tmp_path: Path, out: Path, content: str, message: str
) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        run("format=labelme", f"source={tmp_path / 'labels'}", f"out={out}")
    assert not out.exists()


@pytest.mark.parametrize(
    "shape",
    [
        {"points": [[0, 0], [1, 1]], "shape_type": "polygon"},
        {"points": [[0, 0]], "shape_type": "rectangle"},
        {"points": [[1, 1], [1, 1]], "shape_type": "circle"},
        {"points": [[0, 0], [1, 1]], "shape_type": "cube"},
        {"points": [[0, 0], [1, 1]], "shape_type": "mask", "mask": "!"},
        {"shape_type": "polygon"},
    ],
)
def test_shapes_that_cannot_be_drawn_are_named(
    tmp_path: Path, out: Path, shape: dict[str, object]
) -> None:
    picture(tmp_path / "labels/a.png")
    labelme(tmp_path / "labels/a.json", [{"label": "cat", **shape}])
    with pytest.raises(DataError, match=r"a\.json: shape 0 \(\w+ of 'cat'\) cannot be drawn"):
        run("format=labelme", f"source={tmp_path / 'labels'}", f"out={out}")


def test_a_type_of_shape_that_is_not_known_is_said_so(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "labels/a.png")
    shape = {"label": "cat", "points": box(0, 0, 1, 1), "shape_type": "oriented_rectangle"}
    labelme(tmp_path / "labels/a.json", [shape])
    with pytest.raises(DataError, match="cannot be drawn: a type that is not known here"):
        run("format=labelme", f"source={tmp_path / 'labels'}", f"out={out}")


# COCO


def coco(path: Path, shapes: list[dict[str, object]], **more: object) -> Path:
    height, width = SIZE
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": height, "width": width}],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 18, "name": "dog"}],
        "annotations": [{"image_id": 7, "id": i, **a} for i, a in enumerate(shapes)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | more))
    return path


def flat(*corners: float) -> list[list[float]]:
    return [[number for corner in box(*corners) for number in corner]]


def test_coco(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "images/a.png")
    # Down the columns of 6: 12 outside, then columns 2 and 3.
    crowd = {"size": list(SIZE), "counts": [12, 12, 24]}
    path = coco(
        tmp_path / "instances.json",
        [
            {"category_id": 18, "segmentation": flat(0, 0, 2, 1)},  # small, so above
            {"category_id": 90, "segmentation": flat(0, 0, 5, 3)},
            {"category_id": 18, "segmentation": crowd, "iscrowd": 1},
            {"category_id": 18, "segmentation": []},
        ],
    )
    run("format=coco", f"source={path}", f"out={out}", "split=train")
    assert result(out, "a", "train") == [
        [1, 1, 2, 2, 2, 0, 0, 0],
        [2, 2, 2, 2, 2, 0, 0, 0],
        [2, 2, 2, 2, 2, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
    ]
    assert (out / "labels.txt").read_text() == "background\ndog\nzebra\n"
    assert "1 annotations without segmentation left out" in capsys.readouterr().out


def test_coco_overlaps_on_request(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "a.png")
    path = coco(
        tmp_path / "x.json",
        [
            {"category_id": 18, "segmentation": flat(0, 0, 2, 1)},
            {"category_id": 90, "segmentation": flat(0, 0, 5, 1)},
        ],
    )
    first_rows = {}
    for overlap in ("area", "last", "ignore"):
        run("format=coco", f"source={path}", f"out={out}", f"overlap={overlap}", "force=true")
        first_rows[overlap] = result(out, "a")[0]
    assert first_rows == {
        "area": [1, 1, 2, 2, 2, 0, 0, 0],
        "last": [2, 2, 2, 2, 2, 0, 0, 0],
        "ignore": [255, 255, 2, 2, 2, 0, 0, 0],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": None}, "has no lists images, annotations, categories"),
        ({"annotations": [{"segments_info": []}]}, "panoptic format"),
        ({"annotations": [{"image_id": 7, "category_id": 1}]}, "category 1, which is not among"),
        ({"annotations": [{"image_id": 7}]}, "an entry is not as in COCO's format"),
        (
            {"annotations": [{"image_id": 8, "category_id": 18, "segmentation": [[0]]}]},
            "annotations of 1 pictures that are not among images",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 18, "segmentation": [[0]]}]},
            "annotation 5 cannot be drawn: a polygon of 1 numbers",
        ),
        ({"images": [{"id": 7, "file_name": "b.png", "height": 6, "width": 8}]}, "  - b.png"),
        ({"images": []}, "the source holds no pictures"),
        (
            {"images": [{"id": 7, "file_name": "a.png", "height": 8, "width": 6}]},
            r"x\.json \(a\): the mask is 6 x 8 \(width x height\), its image 8 x 6",
        ),
    ],
)
def test_coco_files_that_are_wrong(
    tmp_path: Path, out: Path, change: dict[str, object], message: str
) -> None:
    picture(tmp_path / "a.png")
    path = coco(tmp_path / "x.json", [], **change)
    with pytest.raises(DataError, match=message):
        run("format=coco", f"source={path}", f"out={out}")
    assert not out.exists()


# CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels>
  <label><name>tree</name><color>#00ff00</color></label>
  <label><name>car</name><color>#0000ff</color></label>
</labels></task></meta>
<image id="0" name="sub/a.png" width="8" height="6">
  <polygon label="car" points="0,0;3,0;3,2;0,2" z_order="1"/>
  <box label="tree" xtl="2" ytl="1" xbr="5" ybr="3" z_order="0"/>
  <mask label="tree" left="6" top="4" width="2" height="2" rle="1, 2, 1" z_order="0"/>
  <ellipse label="car" cx="4" cy="5" rx="0.8" ry="0.8"/>
  <box label="car" xtl="-0.9" ytl="3.6" xbr="2.9" ybr="5.4" rotation="90"/>
  <polyline label="car" points="0,0;1,1"/>
</image>
</annotations>"""


def test_cvat(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "task"
    picture(source / "images/sub/a.png")
    (source / "annotations.xml").write_text(CVAT)
    run("format=cvat", f"source={source}", f"out={out}")
    # The turned box stands upright about (1, 4.5): x from 0.1 to 1.9, y from 2.6 to 6.4.
    assert result(out, "sub/a") == [
        [2, 2, 2, 0, 0, 0, 0, 0],
        [2, 2, 2, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [2, 2, 0, 0, 0, 0, 0, 0],
        [2, 2, 0, 2, 2, 0, 0, 1],
        [2, 2, 0, 2, 2, 0, 1, 0],
    ]
    assert (out / "labels.txt").read_text() == "background\ntree\ncar\n"
    assert read_palette(out / "SegmentationClass/sub/a.png")[:3].tolist() == [
        [0, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
    ]
    assert "1 shapes of type polyline" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotations>", "", "is no XML"),
        ("<image ", "<track/><image ", "CVAT for images 1.1"),
        ("1, 2, 1", "1, 2", "a mask of 'tree' cannot be drawn: its runs make 3"),
        ("0,0;3,0;3,2;0,2", "0,0;x,1", "a polygon of 'car' cannot be drawn"),
        ('width="8" height="6"', 'height="6"', "width, height or z_order"),
        ("sub/a.png", "b.png", "1 pictures are missing"),
    ],
)
def test_cvat_files_that_are_wrong(
    tmp_path: Path, out: Path, old: str, new: str, message: str
) -> None:
    picture(tmp_path / "images/sub/a.png")
    assert old in CVAT
    (tmp_path / "annotations.xml").write_text(CVAT.replace(old, new))
    with pytest.raises(DataError, match=message):
        run("format=cvat", f"source={tmp_path / 'annotations.xml'}", f"out={out}")


# Masks that are pictures


def rgb_masks(tmp_path: Path) -> tuple[str, str, str]:
    picture(tmp_path / "images/a.png", (1, 3))
    (tmp_path / "masks").mkdir()
    colors = np.array([[[0, 0, 0], [128, 64, 128], [224, 224, 192]]], np.uint8)
    Image.fromarray(colors).save(tmp_path / "masks/a_L.png")
    return f"source={tmp_path / 'masks'}", f"images={tmp_path / 'images'}", "mask_suffix=_L"


def test_rgb_masks(tmp_path: Path, out: Path) -> None:
    command = ("format=rgb", *rgb_masks(tmp_path), f"out={out}")
    run(*command, "colors={road: [128,64,128], other: [0,0,0]}")
    assert result(out, "a") == [[1, 0, 255]]
    assert (out / "labels.txt").read_text() == "road\nother\n"
    assert read_palette(out / "SegmentationClass/a.png")[0].tolist() == [128, 64, 128]
    (tmp_path / "masks/labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nother:0,0,0::\nroad:128,64,128::\nvoid:224,224,192::\n"
    )
    run(*command, "ignore=[void]", "force=true")
    assert result(out, "a") == [[0, 1, 255]]


def test_colors_that_are_not_given_are_listed(tmp_path: Path, out: Path) -> None:
    command = ("format=rgb", *rgb_masks(tmp_path), f"out={out}")
    with pytest.raises(DataError) as error:
        run(*command)
    assert "3 colours occur:\n  - [0, 0, 0]: 1 pixels" in str(error.value)
    assert "'colors={NAME0: [0, 0, 0], NAME1:" in str(error.value)
    with pytest.raises(DataError, match=r"a_L\.png: colour \(0, 0, 0\) at row 0, column 0"):
        run(*command, "colors={road: [128,64,128], other: [1,1,1]}")
    with pytest.raises(DataError, match=r"'road' is \[300, 0, 0\]; expected \[red"):
        run(*command, "colors={road: [300,0,0], other: [1,1,1]}")
    with pytest.raises(DataError, match="two names have one colour"):
        run(*command, "colors={road: [1,1,1], other: [1,1,1]}")


def test_palette_masks_are_read_by_their_colours(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png", (1, 2))
    (tmp_path / "masks").mkdir()
    palette = np.array([[9, 9, 9], [0, 0, 0]], np.uint8)
    write_mask(tmp_path / "masks/a.png", np.array([[0, 1]]), palette)
    command = ("format=rgb", f"source={tmp_path / 'masks'}", f"images={tmp_path / 'images'}")
    run(*command, f"out={out}", "colors={black: [0,0,0], grey: [9,9,9]}")
    assert result(out, "a") == [[1, 0]]
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(tmp_path / "masks/a.png")
    with pytest.raises(DataError, match="is grey, not coloured"):
        run(*command, f"out={out}", "colors={black: [0,0,0], grey: [9,9,9]}", "force=true")


@needs_shared
def test_real_masks_come_back_from_their_colours(tmp_path: Path, out: Path) -> None:
    samples = VOCSegmentation(SHARED / "voc_samples", "trainval")
    (tmp_path / "rgb").mkdir()
    for index, name in enumerate(samples.ids):
        mask = read_mask(samples.files(index)[1])
        Image.fromarray(voc_palette()[mask]).save(tmp_path / f"rgb/{name}.png")
    lines = (
        f"{c}:{r},{g},{b}" for c, (r, g, b) in zip(samples.classes, voc_palette(21), strict=True)
    )
    (tmp_path / "colors.txt").write_text("\n".join(lines))
    images = f"images={SHARED / 'voc_samples/JPEGImages'}"
    colors = f"colors={tmp_path / 'colors.txt'}"
    run("format=rgb", f"source={tmp_path / 'rgb'}", images, f"out={out}", colors)
    converted = VOCSegmentation(out, "all")
    assert sorted(converted.ids) == sorted(samples.ids)
    for index, name in enumerate(converted.ids):
        expected = samples.read(samples.ids.index(name))
        for ours, theirs in zip(converted.read(index), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_binary_masks(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png", (1, 3))
    (tmp_path / "masks").mkdir()
    path = tmp_path / "masks/a.png"
    command = ("format=binary", f"source={tmp_path / 'masks'}", f"images={tmp_path / 'images'}")
    for values in ([0, 255, 0], [0, 1, 0]):
        Image.fromarray(np.array([values], np.uint8)).save(path)
        run(*command, f"out={out}", "classes=[background,cell]", "force=true")
        assert result(out, "a") == [[0, 1, 0]]
    grey = np.array([[0, 128, 255]], np.uint8)
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(path)
    with pytest.raises(DataError, match=r"a\.png: holds values besides 0 and 255: 128\. Was it"):
        run(*command, f"out={out}", "force=true")
    run(*command, f"out={out}", "threshold=128", "classes=[background,cell]", "force=true")
    assert result(out, "a") == [[0, 1, 1]]
    with pytest.raises(DataError, match="images is not set"):
        run(*command[:2], f"out={out}")


def test_a_folder_per_class(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / f"images/{name}.png", (1, 3))
    for folder, name, values in (
        ("tree", "a", [255, 255, 0]),
        ("car", "a", [0, 7, 0]),
        ("car", "b", [1, 0, 0]),
    ):
        (tmp_path / "masks" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / f"masks/{folder}/{name}.png")
    command = (
        "format=folders",
        f"source={tmp_path / 'masks'}",
        f"images={tmp_path / 'images'}",
        f"out={out}",
    )
    run(*command)
    assert result(out, "a") == [[2, 2, 0]]  # car, tree by name; the later one covers
    assert result(out, "b") == [[1, 0, 0]]
    assert "note: 1 pictures without a mask left out" in capsys.readouterr().out
    run(*command, "classes=[none,tree,car]", "force=true")
    assert result(out, "a") == [[1, 2, 0]]
    with pytest.raises(DataError, match="expected a folder for each class but the background"):
        run(*command, "classes=[none,tree]")
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "masks/tree/a.png")
    with pytest.raises(DataError, match=r"have the sizes \[\(1, 3\), \(2, 3\)\]"):
        run(*command, "force=true")


# What is written, and when


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def labelme_folder(tmp_path: Path, *names: str) -> str:
    for name in names:
        picture(tmp_path / f"labels/{name}.png")
        shape = {"label": "cat", "points": box(0, 0, 2, 2), "shape_type": "polygon"}
        labelme(tmp_path / f"labels/{name}.json", [shape])
    return f"source={tmp_path / 'labels'}"


def test_nothing_is_overwritten_unless_asked_for(tmp_path: Path, out: Path) -> None:
    command = ("format=labelme", labelme_folder(tmp_path, "a", "b"), f"out={out}")
    run(*command)
    before = tree(out)
    with pytest.raises(DataError, match=r"5 files are there already; nothing was written"):
        run(*command)
    assert tree(out) == before
    with pytest.raises(DataError, match=r"labels\.txt \(with other classes\)"):
        run(*command, "classes=[background,dog,cat]", "split=more")
    # A picture or mask that had another suffix counts, and makes room for the new one.
    (out / "JPEGImages/a.png").rename(out / "JPEGImages/a.JPG")
    (out / "SegmentationClass/a.png").rename(out / "SegmentationClass/a.bmp")
    with pytest.raises(DataError, match=r"5 files are there already; nothing was written"):
        run(*command)
    run(*command, "--force")
    assert tree(out) == before


def test_a_second_source_adds_to_the_first(tmp_path: Path, out: Path) -> None:
    run("format=labelme", labelme_folder(tmp_path / "1", "a"), f"out={out}", "split=train")
    run("format=labelme", labelme_folder(tmp_path / "2", "b"), f"out={out}", "split=val")
    assert VOCSegmentation(out, "train").ids == ["a"]
    assert VOCSegmentation(out, "val").ids == ["b"]


def test_a_dry_run_finds_mistakes_and_writes_nothing(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("format=labelme", labelme_folder(tmp_path, "a", "b"), f"out={out}", "dry_run=true")
    run(*command)
    assert not out.exists()
    text = capsys.readouterr().out
    assert f"dry run: would write 2 pairs to {out}" in text
    assert "cat" in text and "8.33%" in text  # 4 of 48 pixels
    (tmp_path / "labels/b.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 2 cannot be used:\n  - .*b\.png: is empty"):
        run(*command)


def test_one_bad_file_leaves_no_trace(tmp_path: Path, out: Path) -> None:
    command = ("format=labelme", labelme_folder(tmp_path, "a", "b", "c"), f"out={out}")
    for name in "bc":
        picture(tmp_path / f"labels/{name}.png", (3, 3))
    before = tree(tmp_path)
    with pytest.raises(DataError, match="2 of 3 cannot be used"):
        run(*command)
    assert tree(tmp_path) == before


def test_two_pictures_of_one_name_are_refused(tmp_path: Path, out: Path) -> None:
    source = labelme_folder(tmp_path, "a b", "a_b")
    with pytest.raises(DataError, match=r"1 ids .* belong to several pictures.*\n  - a_b"):
        run("format=labelme", source, f"out={out}")


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = labelme_folder(tmp_path, "b", "a", "c")
    for name in ("1", "2"):
        run("format=labelme", source, f"out={tmp_path / name}")
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    assert (tmp_path / "1/ImageSets/Segmentation/all.txt").read_text() == "a\nb\nc\n"


def test_turned_photographs_keep_their_labels(tmp_path: Path, out: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "labels").mkdir()
    turned = Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    turned.save(tmp_path / "labels/a.png", exif=exif.tobytes())
    labelme(tmp_path / "labels/a.json", [{"label": "cat", "points": box(0, 0, 8, 1)}])
    run("format=labelme", f"source={tmp_path / 'labels'}", f"out={out}")
    image, mask = VOCSegmentation(out, "all").read(0)
    assert image.shape[:2] == mask.shape == SIZE
    assert read_mask(out / "SegmentationClass/a.png").shape == SIZE


def test_too_many_classes(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "labels/a.png")
    shapes = [{"label": f"l{i:03}", "points": box(0, 0, 1, 1)} for i in range(255)]
    labelme(tmp_path / "labels/a.json", shapes)
    command = ("format=labelme", f"source={tmp_path / 'labels'}", f"out={out}")
    with pytest.raises(DataError, match=r"256 classes .*expected 2 to 255"):
        run(*command)
    run(*command, "ignore=[l000]")
    assert len(VOCSegmentation(out, "all").classes) == 255


def test_the_command(tmp_path: Path, out: Path) -> None:
    source = labelme_folder(tmp_path, "a")
    command = [sys.executable, "-m", "segkit.tools.convert", "format=labelme", source]
    done = subprocess.run([*command, f"out={out}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"next: python -m segkit.tools.split data.root={out}" in done.stdout
    done = subprocess.run([*command, "overlap=top"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: overlap=top: expected auto, last, area, ignore")
    assert "out is not set" in done.stderr


@pytest.mark.parametrize("format", ["labelme", "coco", "cvat", "binary", "folders"])
def test_a_source_that_is_not_there(tmp_path: Path, format: str) -> None:
    picture(tmp_path / "images/a.png")
    with pytest.raises(SegkitError, match="nowhere"):
        run(
            f"format={format}",
            f"source={tmp_path / 'nowhere'}",
            f"images={tmp_path / 'images'}",
            f"out={tmp_path / 'out'}",
        )
