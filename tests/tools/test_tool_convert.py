"""Labels of every format become a data set that VOCSegmentation reads."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from band_files import make_bands
from label_files import (
    PHOTO,
    XML,
    Files,
    area,
    as_text,
    box,
    coco,
    labelme,
    masks,
    png,
    run,
    shape,
    tree,
    write,
)
from PIL import Image
from scripts import ROOT
from voc_folder import SHARED, needs_shared

from segkit.cli.arguments import parse
from segkit.data.decode import read_palette
from segkit.data.masks import read_mask, voc_palette
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError
from segkit.tools.convert import convert
from segkit.tools.formats import READERS
from segkit.tools.formats.annotation import Request

ROW = PHOTO[:1, :3].copy()  # an image of three pixels


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all that follows happens: paths are relative to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


REST = 5 * " 00000000"  # of the rows
OVERLAP = {
    "labels/a.png": PHOTO,
    "labels/x.json": coco(area(18, 0, 0, 2, 1), area(90, 0, 0, 5, 1)),
}
CROWD = {"size": [6, 8], "counts": [12, 12, 24]}  # runs down columns: 2 and 3 are inside
BLACK, ROAD, GREY, RED = (0, 0, 0), (128, 64, 128), (9, 9, 9), (128, 0, 0)
LABELMAP = "# label:color_rgb:parts:actions\nother:0,0,0::\nroad:128,64,128::\nvoid:224,224,192::\n"


def row(values: Any, suffix: str = "") -> Files:
    """An image of three pixels, and its mask."""
    return {"images/a.png": ROW, f"masks/a{suffix}.png": np.array([values], np.uint8)}


TWO_COLORS = "colors={road:[128,64,128],other:[0,0,0]}"
RGB = row([BLACK, ROAD, (224, 224, 192)], "_L")  # the last is VOC's border
RGB_AND_MAP = RGB | {"masks/labelmap.txt": LABELMAP}
THREE_CHANNELS = row([[0] * 3, [128] * 3, [255] * 3])
IN_PALETTE = row([]) | {"masks/a.png": png(np.array([[0, 1, 1]], np.uint8), [*GREY, *BLACK])}


def binary_palette(*greys: int) -> Files:
    """A mask of the indices 0, 1, 1, which have these greys."""
    colors = [value for grey in greys for value in (grey, grey, grey)]
    return row([]) | {"masks/a.png": png(np.array([[0, 1, 1]], np.uint8), colors)}


FOLDERS = {
    **{f"images/{name}.png": ROW for name in "abc"},
    "masks/tree/a.png": np.array([[255, 255, 0]], np.uint8),
    "masks/car/a.png": np.array([[0, 7, 0]], np.uint8),
    "masks/car/b.png": np.array([[1, 0, 0]], np.uint8),
}


# What becomes of them


class Case(NamedTuple):
    """Files, and what they become: masks by id, classes, first colours, the tool's notes."""

    arguments: str
    files: Files
    masks: dict[str, str]
    classes: str
    colors: tuple[tuple[int, int, int], ...] = (BLACK, RED)  # VOC's
    notes: str = ""


LABELME, COCO = "format=labelme source=labels", "format=coco source=labels/x.json"
CVAT, MASKS = "format=cvat source=labels", "source=masks images=images"
COLORS = f"format=rgb {MASKS} mask_suffix=_L"
SHADES = f"format=rgb {MASKS} colors={{black:[0,0,0],grey:[9,9,9]}}"
BINARY, CLASS_FOLDERS = f"format=binary {MASKS}", f"format=folders {MASKS}"
CASES = [
    Case(  # in the order of the file: cat over dog, then background over dog; names by the alphabet
        LABELME,
        {
            "labels/a.png": PHOTO,
            "labels/a.json": labelme(
                shape("dog", "polygon", *box(0, 0, 4, 2)),
                shape("cat", "rectangle", [3, 1], [6, 3]),
                shape("__ignore__", "rectangle", [7, 0], [8, 6]),
                shape("_background_", "rectangle", [0, 0], [1, 1]),
                shape("cat", "point", [1, 1]),
            ),
        },
        {"a": "0222000x 2221110x 0001110x 0000000x 0000000x 0000000x"},
        "background cat dog",
        notes="note: 1 shapes of type point (no area) left out\n",
    ),
    Case(  # the centres at up to 1.9 from (2, 2): all but the corners of 4 x 4 pixels
        f"{LABELME} classes=[back,ring,part] ignore=[mess]",
        {
            "labels/sub/one two.json": labelme(
                shape("ring", "circle", [2, 2], [2, 3.9]),
                shape("part", "mask", [5, 4], [7, 5], mask=as_text(np.eye(2, 3, 1) > 0)),
                shape("mess", "rectangle", [0, 5], [1, 6]),
                imageData=as_text(PHOTO),
                imagePath="C:\\images\\one two.jpg",
            )
        },
        {"sub/one_two": "01100000 11110000 11110000 01100000 00000020 x0000002"},
        "back ring part",
    ),
    Case(
        COCO,
        {
            "labels/images/a.png": PHOTO,
            "labels/x.json": coco(
                area(18, 0, 0, 2, 1),  # small, so above
                area(90, 0, 0, 5, 3),
                {"category_id": 18, "segmentation": CROWD, "iscrowd": 1},
                {"category_id": 18, "segmentation": []},
            ),
        },
        {"a": "11222000 22222000 22222000 00110000 00110000 00110000"},
        "background dog zebra",
        notes="note: 1 annotations without segmentation left out\n",
    ),
    *(
        Case(f"{COCO} overlap={how}", OVERLAP, {"a": first + REST}, "background dog zebra")
        for how, first in (("area", "11222000"), ("last", "22222000"), ("ignore", "xx222000"))
    ),
    Case(  # the turned box stands upright about (1, 4.5): x from 0.1 to 1.9, y from 2.6 to 6.4
        CVAT,
        {"labels/images/sub/a.png": PHOTO, "labels/annotations.xml": XML},
        {"sub/a": "22200000 22211000 00111000 22000000 22022001 22022010"},
        "background tree car",
        (BLACK, (0, 255, 0), (0, 0, 255)),
        "note: 1 shapes of type polyline (no area) left out\n",
    ),
    *(
        Case(arguments, files, {"a": mask}, classes, colors)
        for arguments, files, mask, classes, colors in (
            (f"{COLORS} {TWO_COLORS}", RGB, "10x", "road other", (ROAD, BLACK)),
            (f"{COLORS} ignore=[void]", RGB_AND_MAP, "01x", "other road", (BLACK, ROAD)),
            (SHADES, IN_PALETTE, "100", "black grey", (BLACK, GREY)),
            (SHADES, row([0, 9, 0]), "010", "black grey", (BLACK, GREY)),
            (BINARY, binary_palette(0, 1), "011", "background object", (BLACK, RED)),
            (BINARY, binary_palette(0, 255), "011", "background object", (BLACK, RED)),
            (f"{BINARY} threshold=128", binary_palette(0, 255), "011", "background object", ()),
            (BINARY, row([0, 255, 0]), "010", "background object", (BLACK, RED)),
            (f"{BINARY} classes=[none,cell]", row([0, 1, 0]), "010", "none cell", (BLACK, RED)),
            (f"{BINARY} threshold=128", THREE_CHANNELS, "011", "background object", (BLACK, RED)),
        )
    ),
    *(  # numbered by the names of the folders, or as asked for; the later one covers
        Case(
            arguments,
            FOLDERS,
            {"a": a, "b": b},
            classes,
            notes="note: 1 images without a mask left out\n",
        )
        for arguments, a, b, classes in (
            (CLASS_FOLDERS, "220", "100", "background car tree"),
            (f"{CLASS_FOLDERS} classes=[none,tree,car]", "120", "200", "none tree car"),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.arguments for case in CASES])
def test_it_becomes_a_data_set(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    write(case.files)
    run(f"{case.arguments} split=mine")
    said = capsys.readouterr().out.splitlines(keepends=True)
    assert "".join(line for line in said if line.startswith("note: ")) == case.notes
    assert masks("mine") == case.masks
    assert Path("out/labels.txt").read_text().split() == case.classes.split()
    for name in case.masks:
        colors = read_palette(f"out/SegmentationClass/{name}.png")
        assert colors is not None
        assert [*map(tuple, colors[: len(case.colors)].tolist())] == [*case.colors]
        photo = Path(f"out/JPEGImages/{name}.png").read_bytes()
        assert photo in (png(PHOTO), png(ROW))  # as it was


@needs_shared
def test_real_masks_come_back_from_their_colours() -> None:
    samples = VOCSegmentation(SHARED / "voc_samples", "trainval")
    colors = zip(samples.classes, voc_palette(21).tolist(), strict=True)
    write({"colors.txt": "\n".join(f"{name}:{r},{g},{b}" for name, (r, g, b) in colors)})
    for index, name in enumerate(samples.ids):
        write({f"rgb/{name}.png": voc_palette()[read_mask(samples.files(index)[1])]})
    photos = SHARED / "voc_samples/JPEGImages"
    run(f"format=rgb source=rgb images={photos} colors=colors.txt")
    converted = VOCSegmentation("out", "all")
    assert sorted(converted.ids) == sorted(samples.ids)
    for index, name in enumerate(converted.ids):
        expected = samples.read(samples.ids.index(name))
        for ours, theirs in zip(converted.read(index), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_advice_about_grey_and_reversed_masks_ends_in_a_data_set() -> None:
    write(row([0, 2, 1]))  # class ids
    with pytest.raises(DataError) as error:
        run(f"format=rgb {MASKS}")
    advice = re.search(r"'(colors=\{.*\})'", str(error.value))
    assert advice
    run(f"format=rgb {MASKS} {advice[1].replace(' ', '')}")
    assert masks() == {"a": "021"}
    write(binary_palette(255, 0))
    with pytest.raises(DataError) as error:
        run(f"{BINARY} force=true")
    advice = re.search(r"(format=rgb) '(colors=\{.*\})'", str(error.value))
    assert advice
    run(f"{advice[1]} {MASKS} {advice[2].replace(' ', '')} force=true")
    assert masks() == {"a": "100"}


def test_images_without_a_fixed_range_are_copied_as_they_are() -> None:
    write(row([0, 255, 0]))
    Path("images/a.png").unlink()
    Image.fromarray(np.zeros((1, 3), np.float32)).save("images/a.tif")
    run(BINARY)
    assert Path("out/JPEGImages/a.tif").read_bytes() == Path("images/a.tif").read_bytes()


def test_turned_photographs_keep_their_labels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write({"labels/a.json": labelme(shape("cat", "polygon", *box(0, 0, 8, 1)))})
    Image.fromarray(PHOTO.swapaxes(0, 1).copy()).save("labels/a.png", exif=exif.tobytes())
    run(LABELME)
    image, mask = VOCSegmentation("out", "all").read(0)
    assert image.shape[:2] == mask.shape == read_mask("out/SegmentationClass/a.png").shape == (6, 8)


def test_255_classes_are_the_most() -> None:
    dots = [shape(f"l{i:03}", "polygon", *box(0, 0, 1, 1)) for i in range(255)]
    write({"labels/a.png": PHOTO, "labels/a.json": labelme(*dots)})
    with pytest.raises(DataError, match=r"256 classes .*expected 2 to 255"):
        run(LABELME)
    run(f"{LABELME} ignore=[l000]")
    assert len(VOCSegmentation("out", "all").classes) == 255


# What cannot be read


def test_all_that_is_wrong_with_labelme_files_is_told_at_once() -> None:
    odd = shape("cat", "blob", *box(0, 0, 2, 2))
    write(
        {
            "labels/a.json": "{",
            "labels/b.json": labelme(imagePath="gone.png"),
            "labels/c.png": PHOTO,
            "labels/c.json": labelme(odd, imagePath="c.png"),
        }
    )
    with pytest.raises(DataError) as info:
        run(LABELME)
    text = str(info.value)
    assert "2 of 3 cannot be used:\n" in text
    for part in ("a.json: is no JSON", "a type that is not known here", "1 images are missing in"):
        assert part in text


def of_labelme(content: dict[str, Any] | str) -> Files:
    return {"labels/a.png": PHOTO, "labels/a.json": content}


def drawn(**cat: Any) -> Files:
    return of_labelme(labelme({"label": "cat", **cat}))


def of_coco(*annotations: dict[str, Any], **change: Any) -> Files:
    return {"labels/a.png": PHOTO, "labels/x.json": coco(*annotations, **change)}


def of_cvat(old: str, new: str) -> Files:
    assert old in XML
    return {"labels/sub/a.png": PHOTO, "labels/annotations.xml": XML.replace(old, new)}


def cats(*names: str, folder: str = "labels") -> Files:
    """Images with a cat of 4 pixels each."""
    cat = shape("cat", "polygon", *box(0, 0, 2, 2))
    labels = {f"{folder}/{name}.json": labelme(cat, imagePath=f"{name}.png") for name in names}
    return {f"{folder}/{name}.png": PHOTO for name in names} | labels


NOT_DRAWN = r"a\.json: shape 0 \(\w+ of 'cat'\) cannot be drawn"
REFUSED: dict[str, list[tuple[Files, str]]] = {
    LABELME: [
        (of_labelme("{"), r"a\.json: is no JSON"),
        (of_labelme({"images": []}), r"a\.json: has no list of shapes"),
        (of_labelme({"shapes": [{}]}), r"a\.json: holds a shape without a label"),
        (of_labelme(labelme(imagePath="x.png")), r"1 images are missing .*\n.*a\.json: x\.png"),
        (of_labelme(labelme(imagePath="x.png", imageData="?")), "imageData is damaged"),
        (drawn(points=[[0, 0], [1, 1]], shape_type="polygon"), NOT_DRAWN),
        (drawn(points=[[0, 0]], shape_type="rectangle"), NOT_DRAWN),
        (drawn(points=[[1, 1], [1, 1]], shape_type="circle"), NOT_DRAWN),
        (drawn(points=[[0, 0], [1, 1]], shape_type="mask", mask="!"), NOT_DRAWN),
        (drawn(shape_type="polygon"), NOT_DRAWN),
        (drawn(points=[], shape_type="cube"), f"{NOT_DRAWN}: a type that is not known here"),
        (
            of_labelme(labelme(shape("cat", "polygon", *box(0, 0, 1, 1)), imageHeight=10**9)),
            r"a\.json: height and width are 1000000000 and 8; expect",
        ),
        (cats("a b", "a_b"), r"1 ids .* belong to several images.*\n  - a_b"),
    ],
    f"{LABELME} classes=[background,dog]": [
        (cats("a"), r"1 labels are not in classes: cat\. List them"),
    ],
    f"{LABELME} classes=[cat,background]": [
        (
            cats("a"),
            r"background is class 1, but pixels .* become class 0, cat\. Put background fir",
        ),
    ],
    f"{COCO} ignore=[zebar]": [
        (OVERLAP, r"x\.json is called zebar; did you mean zebra\?"),
    ],
    f"{COLORS} ignore=[viod]": [(RGB_AND_MAP, r"called viod; did you mean void\?")],
    f"{CLASS_FOLDERS} ignore=[cat]": [(FOLDERS, r"called cat; did you mean car\?")],
    COCO: [
        (of_coco(categories=None), "has no lists images, annotations, categories"),
        (of_coco({"segments_info": []}), "panoptic format"),
        (of_coco({"category_id": 1}), "category 1, which is not among"),
        (of_coco({}), "an entry is not as in COCO's format"),
        (
            of_coco(area(18, 0, 0, 1, 1) | {"image_id": 8}),
            "of 1 images that are not among images",
        ),
        (
            of_coco({"id": 5, "category_id": 18, "segmentation": [[0]]}),
            "annotation 5 cannot be drawn: a polygon of 1 numbers",
        ),
        (of_coco(images=[{"id": 7, "file_name": "b.png"}]), r"  - b\.png"),
        (of_coco(images=[]), "the source holds no images"),
        (of_coco(categories=[{"id": 1, "name": 5}]), "name is 5, no text"),
        (of_coco(categories=[{"id": 1, "name": None}]), "name is None, no text"),
        (of_coco(images=[{"id": 7, "file_name": 5}]), "file_name is 5"),
        (
            of_coco(images=[{"id": 7, "file_name": "a.png", "height": "six", "width": 8}]),
            r"x\.json: a\.png: height and width are 'six' and 8; expected whole numbers",
        ),
        (
            of_coco(images=[{"id": 7, "file_name": "a.png", "height": 8, "width": 6}]),
            r"x\.json \(a\): the mask is 6 x 8 \(width x height\), its image 8 x 6",
        ),
    ],
    CVAT: [
        (of_cvat("</annotations>", ""), "is no XML"),
        (of_cvat("<image ", "<track/><image "), "CVAT for images 1.1"),
        (of_cvat("1, 2, 1", "1, 2"), "a mask of 'tree' cannot be drawn: its runs make 3"),
        (of_cvat("0,0;3,0;3,2;0,2", "0,0;x,1"), "a polygon of 'car' cannot be drawn"),
        (
            of_cvat('width="8" height="6"', 'height="6"'),
            r"sub/a\.png: height and width are '6' and None",
        ),
        (
            of_cvat('height="6"', 'height="9000000000"'),
            "height and width are '9000000000' and '8'",
        ),
        (of_cvat('z_order="1"', 'z_order="top"'), "z_order is no number"),
        (
            of_cvat('encoding="utf-8"', 'encoding="latin-99"'),
            r"is no XML \(unknown encoding: latin-99\)",
        ),
        (of_cvat('encoding="utf-8"', 'encoding="big5"'), "is no XML"),
        (of_cvat("sub/a.png", "b.png"), "1 images are missing"),
    ],
    COLORS: [
        (RGB, r"3 colours occur:\n  - \[0, 0, 0\]: 1 pixels\n"),
        (RGB, r"'colors=\{NAME0: \[0, 0, 0\], NAME1:"),
    ],
    f"{COLORS} colors={{road:[128,64,128],other:[1,1,1]}}": [
        (RGB, r"a_L\.png: colour \(0, 0, 0\) at row 0, column 0"),
    ],
    f"{COLORS} colors={{road:[300,0,0],other:[1,1,1]}}": [
        (RGB, r"'road' is \[300, 0, 0\]; expected \[red"),
    ],
    f"{COLORS} colors={{road:[1,1,1],other:[1,1,1]}}": [(RGB, "two names have one colour")],
    SHADES: [
        (row([0, 9, 5]), r"a\.png: colour \(5, 5, 5\) at row 0, column 2 is not in colors"),
        (row([]) | {"masks/a.png": np.array([[0, 9, 9]], np.uint16)}, "grey with more than 8 bits"),
    ],
    BINARY: [
        (binary_palette(255, 0), r"its palette shows the index 0 as \(255, 255, 255\)"),
        (THREE_CHANNELS, r"a\.png: holds values besides 0 and 255: 128\. Was it"),
    ],
    "format=binary source=masks": [(THREE_CHANNELS, "images is not set")],
    f"{CLASS_FOLDERS} classes=[none,tree]": [
        (FOLDERS, "expected a folder for each class but the background"),
    ],
    CLASS_FOLDERS: [
        (
            FOLDERS | {"masks/tree/a.png": np.zeros((2, 3), np.uint8)},
            r"have the sizes \[\(1, 3\), \(2, 3\)\]",
        ),
    ],
    **{
        f"format={format} source=nowhere images=images": [({"images/a.png": ROW}, "nowhere")]
        for format in READERS
    },
}


@pytest.mark.parametrize(
    ("arguments", "files", "message"),
    [(arguments, *row) for arguments, rows in REFUSED.items() for row in rows],
)
def test_what_cannot_be_read_is_named_and_leaves_no_trace(
    arguments: str, files: Files, message: str
) -> None:
    write(files)
    before = tree(".")
    with pytest.raises(DataError, match=message):
        run(arguments)
    assert tree(".") == before
    assert not Path("out").exists()


def test_what_unlabelled_pixels_become_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    write(cats("a"))
    run(f"{LABELME} classes=[cat,dog] ignore=[horse]")
    out = capsys.readouterr().out
    assert "note: no shape has the label horse of ignore\n" in out
    assert "note: pixels without a label became cat, which comes first in classes; if" in out
    run(f"{LABELME} classes=[background,cat,dog] force=true")
    assert "note:" not in capsys.readouterr().out


def test_names_that_no_list_can_hold_leave_no_trace() -> None:
    write({f"images/{name}.png": ROW for name in "ab"})
    write({f"masks/{name}.png": np.array([[0, 255, 0]], np.uint8) for name in "ab"})
    for folder in ("images", "masks"):
        Path(folder, "a.png").rename(Path(folder, os.fsdecode(b"\xe9.png")))
    with pytest.raises(DataError, match=r"all\.txt: 1 ids hold ends of lines, or bytes"):
        run(BINARY)
    assert not Path("out").exists()


# What is written, and when


def test_nothing_is_overwritten_unless_asked_for() -> None:
    write(cats("a", "b"))
    run(LABELME)
    before = tree("out")
    with pytest.raises(DataError, match=r"5 files are there already; nothing was written"):
        run(LABELME)
    assert tree("out") == before
    with pytest.raises(DataError, match=r"labels\.txt \(with other classes\)"):
        run(f"{LABELME} classes=[background,dog,cat] split=more")
    # An image or mask that had another suffix counts, and makes room for the new one.
    Path("out/JPEGImages/a.png").rename("out/JPEGImages/a.JPG")
    Path("out/SegmentationClass/a.png").rename("out/SegmentationClass/a.bmp")
    with pytest.raises(DataError, match=r"5 files are there already; nothing was written"):
        run(LABELME)
    run(f"{LABELME} --force")
    assert tree("out") == before


def test_a_second_source_adds_to_the_first() -> None:
    for name, split in (("a", "train"), ("b", "val")):
        write(cats(name, folder=split))
        run(f"format=labelme source={split} split={split}")
    assert [VOCSegmentation("out", split).ids for split in ("train", "val")] == [["a"], ["b"]]


def test_pairs_that_the_source_has_no_more_do_not_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """Their masks would be trained on, with the class ids of a conversion before."""
    write(cats("a", "b", "c"))
    run(LABELME)
    for name, ids in (("train", "a\nc\n"), ("val", "b\n")):  # as split writes them
        Path(f"out/ImageSets/Segmentation/{name}.txt").write_text(ids)
    Path("labels/c.json").unlink()
    write({"labels/a.json": labelme(shape("ant", "polygon", *box(0, 0, 2, 2)))})  # cat is 2 now
    before = tree("out")
    with pytest.raises(DataError, match=r"1 pairs .* not in the source .* prune=true .*\n  - c$"):
        run(f"{LABELME} force=true")
    assert tree("out") == before
    run(f"{LABELME} force=true prune=true dry_run=true")
    assert tree("out") == before
    assert "2 pairs to out, 6 of them over existing ones, and remove 1" in capsys.readouterr().out
    run(f"{LABELME} force=true prune=true")
    said = capsys.readouterr().out
    assert "1 pairs removed:\n  - c\n" in said
    assert "segkit.tools.split data.root=out force=true" in said  # train.txt still names c
    assert sorted(tree("out")) == sorted(name for name in before if Path(name).stem != "c")
    run(f"{LABELME} force=true prune=true")  # b goes while train.txt still names c
    Path("labels/b.json").unlink()
    run(f"{LABELME} force=true prune=true")
    assert "1 pairs removed:\n  - b\n" in capsys.readouterr().out


def test_pairs_of_another_conversion_stay() -> None:
    """An image that went from one split to the other, whose source has it now."""
    for name, ids in (("train", "ac"), ("val", "b")):
        write(cats(*ids, folder=name))
        run(f"format=labelme source={name} split={name}")
    Path("train/c.json").rename("val/c.json")
    Path("train/c.png").rename("val/c.png")
    for name in ("val", "train"):
        run(f"format=labelme source={name} split={name} force=true")
    assert [VOCSegmentation("out", split).ids for split in ("train", "val")] == [["a"], ["b", "c"]]


def test_masks_that_stay_keep_their_classes(capsys: pytest.CaptureFixture[str]) -> None:
    write(cats("a", folder="train"))
    run("format=labelme source=train split=train")
    ant = labelme(shape("ant", "polygon", *box(0, 0, 2, 2)), imagePath="b.png")
    write({"val/b.png": PHOTO, "val/b.json": ant})
    before = tree("out")
    with pytest.raises(DataError, match=r"holds 1 pairs .*\(background, cat\).*background, ant"):
        run("format=labelme source=val split=val force=true")
    assert tree("out") == before
    run("format=labelme source=val split=val force=true classes=[background,cat,ant]")
    assert masks("train")["a"] == masks("val")["b"].replace("2", "1")


def test_a_dry_run_finds_mistakes_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write(cats("a", "b"))
    run(f"{LABELME} dry_run=true")
    assert not Path("out").exists()
    said = capsys.readouterr().out
    assert "dry run: would write 2 pairs to out" in said
    assert "  cat " in said and "8.33%" in said  # 4 of 48 pixels
    write({"labels/b.png": b""})
    with pytest.raises(DataError, match=r"1 of 2 cannot be used:\n  - .*b\.png: is empty"):
        run(f"{LABELME} dry_run=true")


def test_bad_files_are_told_together_and_leave_no_trace() -> None:
    write(cats("a", "b", "c") | {f"labels/{name}.png": PHOTO[:3, :3] for name in "bc"})
    before = tree(".")
    with pytest.raises(DataError, match="2 of 3 cannot be used"):
        run(LABELME)
    assert tree(".") == before


def test_the_same_source_gives_the_same_bytes() -> None:
    write(cats("b", "a", "c"))
    for out in ("1", "2"):
        run(f"{LABELME} out={out}")
    assert tree("1") == tree("2")
    assert Path("1/ImageSets/Segmentation/all.txt").read_text() == "a\nb\nc\n"


@pytest.mark.slow
def test_the_command(here: Path) -> None:
    write(cats("a"))
    command = [sys.executable, "-m", "segkit.tools.convert", "format=labelme"]
    command.append(f"source={here / 'labels'}")
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "cwd": ROOT}
    done = subprocess.run([*command, f"out={here / 'out'}"], **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"next: python -m segkit.tools.split data.root={here / 'out'}" in done.stdout
    done = subprocess.run([*command, "overlap=top"], **options)
    assert done.returncode == 1
    assert done.stderr.startswith("error: overlap=top: no such value; did you mean auto?")
    assert "out is not set" in done.stderr


def test_images_of_many_bands_are_paired_with_their_masks() -> None:
    root = make_bands(Path("voc"))
    for path in sorted((root / "SegmentationClass").glob("*.png")):
        write({f"masks/{path.name}": 255 * read_mask(path)})
    run("format=binary source=masks images=voc/JPEGImages")
    settings = {"value_range": [0, 4095], "channels": 5}
    dataset, expected = (
        VOCSegmentation(folder, split, **settings)
        for folder, split in (("out", "all"), (root, "train"))
    )
    assert (dataset.read(0)[0] == expected.read(0)[0]).all()


def test_a_class_with_two_colours_is_refused() -> None:
    write(RGB | {"colors.txt": "other:0,0,0\nroad:128,0,0\nroad:128,64,128\n"})
    with pytest.raises(DataError, match=r"colors\.txt: the name 'road' has several colours"):
        run("format=rgb source=masks images=images mask_suffix=_L colors=colors.txt")


def test_what_comes_after_a_test_part_is_not_to_divide_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(row([0, 1, 255]))
    run("format=ids source=masks images=images split=test")
    assert capsys.readouterr().out.splitlines()[-1] == (
        "next: convert other images with split=train, and others with split=val"
    )


def test_what_comes_next_can_be_pasted(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = here / "my data"
    place.mkdir()
    monkeypatch.chdir(place)
    write(row([0, 1, 255]))
    convert(parse(Request, ["format=ids", "source=masks", "images=images", f"out={place}/a b"]))
    last = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(last)[-1] == f"data.root={place}/a b"
