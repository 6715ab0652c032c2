"""Labels with values that no tool should write: words that name them, and nothing lost silently."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_files import (
    PHOTO,
    XML,
    area,
    as_text,
    box,
    coco,
    labelme,
    masks,
    run,
    shape,
    tree,
    write,
)

from segkit.errors import DataError
from segkit.tools.formats.coco import decode_counts

HUGE = 10**400  # more than a float64 holds
LABELME, COCO = "format=labelme source=labels", "format=coco source=labels/x.json"
CVAT = "format=cvat source=labels"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(arguments: str, files: dict[str, Any], message: str) -> None:
    """In words, with nothing written."""
    write(files)
    before = tree(".")
    with pytest.raises(DataError, match=message) as error:
        run(arguments)
    assert len(str(error.value)) < 1000
    assert tree(".") == before
    assert not Path("out").exists()


# CVAT


def cvat(shapes: str, labels: str = "", head: str = "") -> dict[str, Any]:
    start, end = XML.index("  <polygon"), XML.index("</image>")
    text = XML[:start] + shapes + XML[end:]
    text = text.replace("<annotations>", f"{head}<annotations>").replace(
        "<labels>", labels or "<labels>"
    )
    return {"labels/sub/a.png": PHOTO, "labels/annotations.xml": text}


ELLIPSE = {"cx": "4", "cy": "3", "rx": "2", "ry": "2"}
BOX = {"xtl": "1", "ytl": "1", "xbr": "4", "ybr": "4"}
MASK = {"left": "0", "top": "0", "width": "2", "height": "2", "rle": "0, 4"}
POLYGON = {"points": "0,0;3,0;3,2;0,2"}
SHAPES = {"ellipse": ELLIPSE, "box": BOX, "mask": MASK, "polygon": POLYGON}
BAD_NUMBERS = ("nan", "-1e400", "1" + 400 * "0", "1e308", "", "1_0", None)


def element(tag: str, **change: str | None) -> str:
    values = {"label": "car", **SHAPES[tag], **change}
    return f"<{tag} " + " ".join(f'{k}="{v}"' for k, v in values.items() if v is not None) + "/>"


@pytest.mark.parametrize(
    ("tag", "key"), [(tag, key) for tag, keys in SHAPES.items() for key in [*keys, "rotation"]]
)
def test_cvat_numbers(tag: str, key: str) -> None:
    for value in BAD_NUMBERS:
        if key == "rotation" and value is None:
            continue
        if key == "points" and value is not None:
            value = f"0,0;3,{value};3,2"
        files = cvat(element(tag, **{key: value}))
        refused(CVAT, files, rf"a\.png: a {tag} of 'car' cannot be drawn")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (element("ellipse", rx="0"), "radii are 0 and 2; expected numbers above 0"),
        (element("ellipse", ry="-3"), "radii are 2 and -3"),
        (element("ellipse", ry="1e-320"), "expected numbers above 0"),
        (element("mask", rle="99999999999999999999"), "rle='99999999999999999999'; expected"),
        (element("mask", rle=",".join(["9" * 18] * 21)), "its runs make"),
        (element("mask", rle="-1,5"), "one of its runs is -1 pixels long"),
        (element("mask", width="-2", height="-2"), "height and width are -2 and -2"),
        (element("mask", width="99999999", height="99999999"), "its mask: height and width are"),
        (element("polygon", points="1,2,3;4,5;6,7"), "expected x,y;x,y;"),
        (element("polygon", label=None), "a label or a shape without a name"),
        ('<polygn label="car" points="0,0;1,1;1,0"/>', "holds polygn; known here are polygon"),
    ],
)
def test_cvat_shapes(shapes: str, message: str) -> None:
    refused(CVAT, cvat(shapes), message)


BOMB = (
    '<!DOCTYPE b [<!ENTITY a "'
    + 1000 * "ha"
    + '">'
    + "".join(f'<!ENTITY a{i} "{10 * f"&a{i - 1 if i else str()};"}">' for i in range(3))
    + "]>"
)


@pytest.mark.parametrize(
    "head", [BOMB, "<!DOCTYPE annotations>", '<!DOCTYPE x SYSTEM "/etc/passwd">']
)
def test_cvat_without_document_types(head: str) -> None:
    files = cvat(element("box"), "&a2;<labels>" if head == BOMB else "", head)
    refused(CVAT, files, r"annotations\.xml: has a document type")


@pytest.mark.slow
def test_cvat_of_great_depth() -> None:
    deep = 200_000 * "<x>" + 200_000 * "</x>"
    refused(CVAT, cvat(deep), r"holds x; known here are")


# COCO


@pytest.mark.parametrize(
    "value", [HUGE, -HUGE, 1e308, -1e16, float("nan"), float("inf"), None, "x", True, [1], {"a": 1}]
)
def test_coco_coordinates(value: Any) -> None:
    segmentation = [[0, 0, 3, value, 3, 3]] if value is not True else [True]
    annotation = {"category_id": 18, "segmentation": segmentation}
    refused(COCO, of_coco(annotation), "annotation 0 cannot be drawn")


def of_coco(*annotations: Any, **change: Any) -> dict[str, Any]:
    return {"labels/a.png": PHOTO, "labels/x.json": coco(*annotations, **change)}


RLE = {"size": [6, 8]}
IMAGE = {"id": 7, "file_name": "a.png", "height": 6, "width": 8}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (RLE | {"counts": [2**63, 1]}, "its runs make 9223372036854775809 pixels"),
        (RLE | {"counts": [2**64 + 48]}, "its runs make 18446744073709551664 pixels"),
        (RLE | {"counts": [HUGE]}, r"its runs make 10+\.\.\. \(401 characters\) pixels"),
        (RLE | {"counts": [49, -1]}, "one of its runs is -1 pixels long"),
        (RLE | {"counts": [24.0, 24]}, "expected a list of whole numbers"),
        (RLE | {"counts": None}, "its runs are None"),
        (RLE | {"counts": "_" * 50 + "0"}, "a number of more than 60 bits"),
        (RLE | {"counts": "_" * 400_000}, "a number of more than 60 bits"),
        (RLE | {"counts": "0" * 400_000}, "its runs make 0 pixels"),
        (RLE, "expected polygons or runs"),
        (RLE | {"counts": [48], "size": 6}, "its size is 6"),
        ("abc", "its segmentation is 'abc'"),
        ([0, 0, 1, 0, 1, 1], r"a polygon is 0; expected \[x, y"),
    ],
)
def test_coco_segmentations(segmentation: Any, message: str) -> None:
    refused(COCO, of_coco({"category_id": 18, "segmentation": segmentation}), message)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (of_coco(annotations=[5]), "annotations holds 5; expected mappings"),
        (of_coco(area(18, 0, 0, 1, 1) | {"iscrowd": "no"}), "iscrowd is 'no'"),
        (of_coco(images=[IMAGE, IMAGE | {"file_name": "b.png"}]), "several images have the id 7"),
        (
            of_coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
            "several categories have the id 1",
        ),
        (of_coco(categories=[{"id": [], "name": "a"}]), r"categories\[0\], id is \[\], no id"),
        (of_coco(categories=[{"id": 1, "name": "a\nb"}]), "without .* control characters"),
        (of_coco(categories=[{"id": 1, "name": "a\ud800"}]), "without .* control characters"),
        (of_coco(images=[IMAGE | {"file_name": "x" * 300}]), "1 images are missing"),
        (of_coco(images=[IMAGE | {"file_name": "a\0b"}]), "1 images are missing"),
        (of_coco(images=[IMAGE | {"file_name": ""}]), "1 images are missing"),
        (of_coco(images=[IMAGE | {"height": 6.5}]), "height and width are 6.5 and 8"),
        (of_coco(images=[IMAGE | {"height": HUGE}]), "height and width are 10+"),
        (of_coco(images=[IMAGE | {"height": None}]), "height and width are None and 8"),
    ],
)
def test_coco_entries(files: dict[str, Any], message: str) -> None:
    refused(COCO, files, message)


@pytest.mark.slow
def test_each_character_of_run_lengths_is_handled_once() -> None:
    """In numbers of one size: as one number, what is shifted in grows with the text's square."""
    assert decode_counts("02" * 2_000_000)[:6] == [0, 2, 0, 4, 0, 6]
    for text in ("o" * 4_000_000, "_" * 4_000_000):
        with pytest.raises(ValueError, match="more than 60 bits"):
            decode_counts(text)


# labelme


def of_labelme(*shapes: Any, **more: Any) -> dict[str, Any]:
    return {"labels/a.png": PHOTO, "labels/a.json": labelme(*shapes, **more)}


NUMBERS = [HUGE, -HUGE, 1e308, -1e16, float("nan"), float("-inf"), None, "x", [1], {}, [[1]]]
POINTS: dict[str, list[Any]] = {
    "polygon": box(0, 0, 3, 3),
    "rectangle": [[0, 0], [3, 3]],
    "circle": [[3, 3], [3, 5]],
    "mask": [[0, 0], [2, 2]],
}


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("kind", list(POINTS))
def test_labelme_coordinates(kind: str, value: Any) -> None:
    points = [list(point) for point in POINTS[kind]]
    points[1][1] = value
    bad = shape("cat", kind, *points, mask=as_text(np.ones((3, 3), np.uint8)))
    refused(LABELME, of_labelme(bad), rf"a\.json: shape 0 \({kind} of 'cat'\) cannot be drawn: p")


CAT = shape("cat", "polygon", *box(0, 0, 3, 3))
TURNED = [[4, 0], [7, 3], [4, 6], [1, 3]]
STRETCHED = [[4, 0], [7, 3], [4, 6], [0, 3]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape("cat", "rectangle", [0, 0]), "1 points; expected 2 or 4"),
        (shape("cat", "rectangle", *box(0, 0, 3, 3)[:3]), "3 points; expected 2 or 4"),
        (shape("cat", "rectangle", *STRETCHED), "are no corners of a rectangle"),
        (shape("cat", "rectangle", *TURNED[:2], TURNED[3], TURNED[2]), "are no corners"),
        (shape("cat", "circle", [3, 3], [3, 5], [4, 4]), "3 points; expected 2"),
        (shape("cat", "circle", [3, 3], [3, 3]), "radii are 0 and 0"),
        (shape("cat", "rotation", [0, 0], [3, 3]), "2 points; expected 4"),
        (shape("cat", "polygon"), r"points \[\]"),
        (shape("cat", "polygon", 1, 2, 3), r"points \[1, 2, 3\]; expected a list of \[x, y\]"),
        ({"label": "cat", "shape_type": "polygon"}, "points None"),
        ({"label": "cat", "shape_type": ["polygon"], "points": []}, "that is not known here"),
        (shape("cat", "mask", [0, 0], [1, 1]), "its mask is None; expected a PNG"),
        (shape("cat", "mask", [0, 0], [1, 1], mask=as_text(np.ones((3, 2), np.uint8))), "its box"),
        (shape("cat", "mask", [0, 0], [1, 1], mask=5), "its mask is 5"),
        (shape("cat", "mask", [0, 0], [1, 1], mask="aGVsbG8="), "its mask: "),
    ],
)
def test_labelme_shapes(bad: dict[str, Any], message: str) -> None:
    refused(LABELME, of_labelme(bad), rf"shape 0 \(.*\) cannot be drawn: .*{message}")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (of_labelme(CAT, imageHeight=6.5), "height and width are 6.5 and 8"),
        (of_labelme(CAT, imageWidth=HUGE), "height and width are 6 and 10+"),
        (of_labelme(shape("cat\x1b[2J", "polygon", *box(0, 0, 3, 3))), "control characters"),
        (
            {"labels/a.json": labelme(CAT, imagePath="b.png", imageData="aGVsbG8=")},
            r"labels/a\.json: the image inside: ",
        ),
    ],
)
def test_labelme_files(files: dict[str, Any], message: str) -> None:
    refused(LABELME, files, message)


@pytest.mark.parametrize(
    "points",
    [
        box(1, 1, 4, 3),
        box(1, 1, 4, 3)[::-1],
        [[4, 3], [1, 1], [4, 1], [1, 3]],
        [[1, 1], [4, 3]],
        [[4, 1], [1, 3]],
    ],
)
@pytest.mark.parametrize("kind", ["rectangle", "rotation", "oriented_rectangle"])
def test_a_rectangle_of_four_points(points: list[list[float]], kind: str) -> None:
    if len(points) == 2:
        kind = "rectangle"
    write(of_labelme(shape("cat", kind, *points)))
    run(LABELME)
    assert masks() == {"a": "00000000 01110000 01110000 00000000 00000000 00000000"}


def test_a_turned_rectangle() -> None:
    write(of_labelme(shape("cat", "rectangle", *TURNED)))
    run(LABELME)
    assert masks() == {"a": "00010000 00111000 01111100 01111100 00111000 00010000"}


# What all have in common


@pytest.mark.parametrize("name", ["a", "x"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"shapes": [1], "shapes": []}', "the key 'shapes' twice"),
        (100_000 * '{"shapes":[' + 100_000 * "]}", "too deep in each other"),
        ('{"shapes": ' + 5000 * "9" + "}", "holds a number of thousands of digits"),
        ("[" * 10, "is no JSON"),
        ("\x00", "is no JSON"),
    ],
)
def test_json(name: str, text: str, message: str) -> None:
    command = LABELME if name == "a" else COCO
    refused(command, {"labels/a.png": PHOTO, f"labels/{name}.json": text}, message)


UNSEEN = [
    (COCO, of_coco(area(18, 20, 20, 22, 22), area(18, 0, 0, 2, 2)), r"x\.json: annotation 0"),
    (COCO, of_coco(area(18, 0.6, 0, 0.9, 5), area(18, 0, 0, 2, 2)), r"x\.json: annotation 0"),
    (
        CVAT,
        cvat(element("box", xtl="9", xbr="12") + element("ellipse", cx="1", cy="1")),
        r"sub/a\.png: a box of 'car'",
    ),
    (
        LABELME,
        of_labelme(
            shape("cat", "rectangle", [0, 0], [0.2, 3]), shape("cat", "rectangle", [0, 0], [2, 2])
        ),
        r"a\.json: shape 0 \(rectangle of 'cat'\)",
    ),
    (  # a mask that hangs over the edge by less than its own size
        LABELME,
        of_labelme(
            shape("cat", "mask", [9, 6], [18, 15], mask=as_text(np.ones((10, 10), np.uint8))),
            shape("cat", "rectangle", [0, 0], [2, 2]),
        ),
        r"a\.json: shape 0 \(mask of 'cat'\)",
    ),
]


@pytest.mark.parametrize(("arguments", "files", "what"), UNSEEN)
def test_shapes_without_a_pixel_are_told(
    arguments: str, files: dict[str, Any], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(files)
    run(arguments)
    said = capsys.readouterr().out
    assert "note: 1 shapes cover no pixel" in said
    assert np.any(["1" in drawn or "2" in drawn for drawn in masks().values()])
    assert re.search(rf"  - .*{what}", said)


# Files that are not the ones that the labels mean


def two_images(first: str, second: str) -> dict[str, Any]:
    """Labels of two images, as COCO."""
    images = [
        {"id": i, "file_name": name, "height": 6, "width": 8}
        for i, name in enumerate((first, second))
    ]
    return coco(area(18, 0, 0, 2, 1) | {"image_id": 0}, images=images)


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (COCO, {"labels/x.json": two_images("cam1/a.png", "cam2/a.png")}),
        (
            LABELME,
            {f"labels/{i}.json": labelme(shape("tree", "point", [1, 1])) for i in "ab"},
        ),
        (
            LABELME,
            {f"labels/cam{i}/a.json": labelme(shape("tree", "point", [1, 1])) for i in (1, 2)},
        ),
    ],
)
def test_no_image_gets_the_labels_of_two(arguments: str, labels: dict[str, Any]) -> None:
    """The second one used to be the first one's photograph with other labels."""
    message = r"(?s)1 images would get the labels of several entries.*images/a\.png: .*, "
    refused(f"{arguments} images=images", {"images/a.png": PHOTO, **labels}, message)


def test_images_of_another_folder_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    write({"train/a.png": PHOTO, "labels/x.json": two_images("val/a.png", "train/b.png")})
    write({"train/b.png": PHOTO})
    run(f"{COCO} images=train")
    out = capsys.readouterr().out
    assert "note: 1 images are not in the folders that the labels name" in out
    assert "  - val/a.png: taken from train/a.png" in out


def test_names_that_only_look_alike_are_told() -> None:
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    for there, named in ((apart, composed), ("A.PNG", "a.png"), ("a.png", "a\u200b.png")):
        labels = {"labels/x.json": two_images(named, named)}
        for home in ("images", "labels"):
            keys = "images=images" if home == "images" else ""
            write({f"{home}/{there}": PHOTO})
            with pytest.raises(DataError, match=r"1 images are missing|2 images are missing") as e:
                write(labels)
                run(f"{COCO} {keys}")
            assert f"(there is {there!a}, not {named!a}: rename the file" in str(e.value)
            Path(home, there).unlink()
