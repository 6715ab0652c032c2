"""Advice about lists, masks and images, followed to the letter: it must end in a right result."""

import gzip
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from label_files import png, write
from PIL import Image

from segkit.cli.arguments import parse
from segkit.data.check import check_splits, open_splits
from segkit.data.colors import voc_palette
from segkit.data.file_kinds import _KINDS
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError
from segkit.tools.check import Request

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
DOT = np.zeros((6, 8), np.uint8)
DOT[0, :2] = 1
TWO = DOT.copy()
TWO[1, :2] = 2
VOC = voc_palette()
COLORED = VOC[DOT]
LABELS, TRAIN, VAL = "labels.txt", *(f"ImageSets/Segmentation/{n}.txt" for n in ("train", "val"))
FILES: dict[str, Any] = {
    **{f"JPEGImages/{n}.png": IMAGES[i] for i, n in enumerate("abc")},
    **{f"SegmentationClass/{n}.png": DOT for n in "abc"},
    **{TRAIN: "a\nb\n", VAL: "c\n", LABELS: "ground\nthing\n"},
}
Work = Callable[[re.Match[str]], object]


def masks(mask: Any, names: str = "abc") -> dict[str, Any]:
    return {f"SegmentationClass/{n}.png": mask for n in names}


def encoded(array: np.ndarray, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **settings)
    return stream.getvalue()


def stored(array: np.ndarray) -> bytes:
    """A TIFF of RGB that Pillow cannot write: in planes, or of 16 bits."""
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    planes = "separate" if len(array) == 3 else "contig"
    tifffile.imwrite(stream, array, photometric="rgb", planarconfig=planes)
    return stream.getvalue()


def short_palette() -> bytes:
    """A palette PNG with one colour and the indices 0 and 1."""
    writer = pytest.importorskip("png").Writer(8, 6, palette=[(0, 0, 0)], bitdepth=8)
    stream = io.BytesIO()
    writer.write(stream, DOT.tolist())
    return stream.getvalue()


def to(path: str, content: Any) -> Work:
    """What the user does: write this into a file of the data set."""
    return lambda found: write({f"voc/{path}": content})


def saved(content: Any) -> Work:
    """The user saves the first mask anew."""
    return to("SegmentationClass/a.png", content)


def replaced(path: str, old: str, new: str) -> Work:
    """The user edits a text; in both {0}, {1} and so on are what the message names."""

    def work(found: re.Match[str]) -> None:
        text = Path("voc", path).read_text()
        before = old.format(*found.groups())
        assert before in text
        Path("voc", path).write_text(text.replace(before, new.format(*found.groups())))

    return work


def without_line(path: str) -> Work:
    """The user deletes the line whose number the message gives, counted from 1."""

    def work(found: re.Match[str]) -> None:
        lines = Path("voc", path).read_text().splitlines()
        del lines[int(found[1]) - 1]
        Path("voc", path).write_text("".join(f"{line}\n" for line in lines))

    return work


class Case(NamedTuple):
    """A mistake, what is said, and what the user does then: to the command, or to the files.

    In ``advice`` {0}, {1} and so on are what the groups of ``message`` find.
    """

    files: dict[str, Any]
    keys: str  # the wrong ones, which ``advice`` takes the place of
    message: str
    advice: str = ""
    work: Work | None = None
    result: str = "11000000 00000000"  # of the first rows of the first mask
    classes: tuple[str, ...] = ("ground", "thing")


NO_LABELS: dict[str, Any] = {LABELS: None}
THREE = ("class_0", "class_1", "class_2")
CASES = {
    # classes
    "no names: a file": Case(
        NO_LABELS,
        "",
        r"Write it \(one name per line, in index order\)",
        work=to(LABELS, "ground\nthing\n"),
    ),
    "no names: a list": Case(
        NO_LABELS, "", r"or set (data\.classes)", "{0}=[x,y]", classes=("x", "y")
    ),
    "no names: a number": Case(
        NO_LABELS, "", r"or (data\.num_classes)", "{0}=2", classes=THREE[:2]
    ),
    "the background counts": Case(
        NO_LABELS,
        "data.num_classes=1",
        r"one kind of object needs (\d)",
        "data.num_classes={0}",
        classes=THREE[:2],
    ),
    "names and number": Case(
        NO_LABELS,
        "data.classes=[x,y] data.num_classes=3",
        "Leave num_classes out",
        "data.classes=[x,y]",
        classes=("x", "y"),
    ),
    "number and file": Case({}, "data.num_classes=3", "Leave num_classes out, or"),
    "number and file: the file": Case(
        masks(TWO),
        "data.num_classes=3",
        "or correct the file",
        "data.num_classes=3",
        to(LABELS, "ground\nthing\nother\n"),
        "11000000 22000000",
        ("ground", "thing", "other"),
    ),
    "names and file": Case(
        {},
        "data.classes=[x,y]",
        r"labels\.txt: holds the classes \['(\w+)', '(\w+)'\], .* Correct one",
        "data.classes=[{0},{1}]",
    ),
    "UTF-16": Case(
        {LABELS: "ground\nthing\n".encode("utf-16")},
        "",
        "Save it as UTF-8",
        work=to(LABELS, "ground\nthing\n"),
    ),
    "zero bytes": Case(
        {LABELS: "ground\nthing\n".encode("utf-16-le")},
        "",
        "Save it as plain UTF-8",
        work=to(LABELS, "ground\nthing\n"),
    ),
    "an empty name": Case(
        {LABELS: "ground\n\nthing\n"},
        "",
        r"line (\d+): .*: delete the line",
        work=without_line(LABELS),
    ),
    "a name twice": Case(
        {LABELS: "thing\nthing\n"},
        "",
        r"line (\d): the name 'thing' stands there twice, in line 1 too\. Make names unique",
        work=replaced(LABELS, "thing\nthing", "ground\nthing"),
    ),
    "a comment": Case(
        {LABELS: "# mine\nground\nthing\n"},
        "",
        r"line (\d): .* a comment; expected one class name per line",
        work=without_line(LABELS),
    ),
    "a table": Case(
        {LABELS: "1 thing\n0 ground\n"},
        "",
        r"sort the lines by their numbers, .* and leave '(\w+)' of '1 \1'",
        work=to(LABELS, "ground\nthing\n"),
    ),
    "labelme's first name": Case(
        {LABELS: "ground\n__ignore__\nthing\n"},
        "",
        r"line (\d): __ignore__ is .* Delete the line",
        work=without_line(LABELS),
    ),
    "CVAT's line": Case(
        {LABELS: "# label:color_rgb:parts:actions\nground:0,0,0::\nthing:999,0,0::\n"},
        "",
        r"expected name:red,green,blue:parts:actions, as cat:(128,0,0)::",
        work=replaced(LABELS, "999,0,0", "{0}"),
    ),
    # renumbering
    "to ignore": Case(
        masks(TWO),
        "data.label_map={2:5}",
        r"expected an id .* \(0 to 1\) or (ignore)",
        "data.label_map={{2:{0}}}",
        result="11000000 xx000000",
    ),
    "a taken number": Case(
        masks(TWO),
        "data.label_map={2:1}",
        r"id (1) .* List it as well, with its new id",
        "data.label_map={{{0}:1,2:1}}",
        result="11000000 11000000",
    ),
    "a taken number: ignore": Case(
        masks(TWO),
        "data.label_map={2:1}",
        r"id (1) .* List it as well, with its new id or (ignore)",
        "data.label_map={{{0}:{1},2:1}}",
        result="xx000000 11000000",
    ),
    "0/255, where 255 has no meaning": Case(
        masks(255 * DOT),
        "data.ignore_index=254",
        r"in a 0/255 mask, the object \('(data\.label_map=.*?)'\)",
        "'{0}'",
    ),
    "0/255, where 255 has no meaning: the border": Case(
        masks(np.where(TWO == 2, 255, TWO).astype(np.uint8)),
        "data.ignore_index=254",
        r"255 is usually the border without a label \((data\.ignore_index)\)",
        "{0}=255",
        result="11000000 xx000000",
    ),
    "0/255": Case(masks(255 * DOT), "", r"set '(data\.label_map=.*?)'", "'{0}'"),
    "0/255 among 0/1": Case(
        masks(255 * DOT, "a"), "", r"set '(data\.label_map=\{1: 1, .*?)'", "'{0}'"
    ),
    "0/255 among 0/1: no label": Case(
        masks(255 * DOT, "a"),
        "",
        r"does mean no label: '(data\.label_map=.*?)'",
        "'{0}'",
        result="xx000000 00000000",
    ),
    "one class too few": Case(
        NO_LABELS | masks(TWO),
        "data.num_classes=2",
        "num_classes is one too small",
        "data.num_classes=3",
        result="11000000 22000000",
        classes=THREE,
    ),
    "labels from 1": Case(
        masks(DOT + 1),
        "",
        r"the labels start at 1 \(renumber them with (data\.label_map)\)",
        "{0}={{1:0,2:1}}",
    ),
    "an id far away": Case(
        NO_LABELS | masks(5 * DOT),
        "data.num_classes=2",
        "Set num_classes, or",
        "data.num_classes=6",
        result="55000000 00000000",
        classes=tuple(f"class_{i}" for i in range(6)),
    ),
    "an id far away: renumbered": Case(
        masks(5 * DOT), "", r"renumber or ignore ids with (data\.label_map)", "{0}={{5:1}}"
    ),
    "all is ignored": Case(
        {},
        "data.label_map={0:ignore,1:ignore}",
        r"every pixel .* is ignored .*correct data\.label_map",
        "data.label_map={{0:0,1:1}}",
    ),
    "blank masks": Case(
        masks(0 * DOT, "ab")
        | {"ImageSets/Segmentation/other.txt": "d\n"}
        | masks(DOT, "d")
        | {"JPEGImages/d.png": IMAGES[0]},
        "",
        r"(data\.train_split) names another list",
        "{0}=other",
    ),
    # colours
    "RGB of VOC": Case(
        masks(COLORED), "", r"Say which colour is which class: (data\.colormap=voc)", "{0}"
    ),
    "RGB": Case(
        masks(COLORED),
        "",
        "or RGB triples in class order",
        "data.colormap=[[128,0,0],[0,0,0]]",
        result="00111111 11111111",
    ),
    "an unknown colour": Case(
        masks(VOC[TWO]),
        "data.colormap=[[0,0,0],[128,0,0]]",
        r"colour \((\d+), (\d+), (\d+)\) at row 1, .* List every colour",
        "data.colormap=[[0,0,0],[128,0,0],[{0},{1},{2}]]",
        to(LABELS, "ground\nthing\nother\n"),
        "11000000 22000000",
        ("ground", "thing", "other"),
    ),
    "a palette's colour": Case(
        masks(png(DOT, VOC.ravel().tolist())),
        "data.colormap=[[9,9,9],[8,8,8]]",
        r"or set (data\.colormap=indices)",
        "{0}",
    ),
    "a palette's colour: as grey": Case(
        masks(png(DOT, VOC.ravel().tolist()), "a"),
        "data.colormap=[[9,9,9],[8,8,8]]",
        "save the mask as grey PNG",
        "data.colormap=[[9,9,9],[8,8,8]]",
        saved(DOT),
    ),
    "palettes that disagree": Case(
        masks(png(DOT, [0, 0, 0, 9, 0, 0]), "a") | masks(png(1 - DOT, [9, 0, 0, 0, 0, 0]), "bc"),
        "",
        r"'(data\.colormap=)\[\.\.\.\]' with these in the order of the classes: (\S+) (\S+)\.",
        "{0}[{1},{2}]",
    ),
    "palettes that disagree: the indices": Case(
        masks(png(DOT, [0, 0, 0, 9, 0, 0]), "a") | masks(png(DOT, [9, 0, 0, 0, 0, 0]), "bc"),
        "",
        r"only the colours differ: (data\.colormap=indices)",
        "{0}",
    ),
    "greys that could be both": Case(
        masks(255 * DOT),
        "data.colormap=[[0,0,0],[255,255,255]]",
        "Save it as RGB if they are colours",
        "data.colormap=[[0,0,0],[255,255,255]]",
        lambda _: write(
            {f"voc/{k}": v for k, v in masks(255 * DOT[..., None].repeat(3, 2)).items()}
        ),
    ),
    "greys that could be both: ids": Case(
        masks(255 * DOT),
        "data.colormap=[[0,0,0],[255,255,255]]",
        r"leave data\.colormap out and renumber the values with (data\.label_map)",
        "{0}={{255:1}}",
    ),
    "no colours": Case(
        masks(COLORED), "data.colormap=vco", "expected (voc), a list of RGB", "data.colormap={0}"
    ),
    # masks that are none
    "a JPEG": Case(
        masks(encoded(DOT, "JPEG"), "a"), "", "Export the masks again as PNG", work=saved(DOT)
    ),
    "two bands": Case(
        masks(png(np.stack([DOT, DOT], -1)), "a"),
        "",
        "Save it as an 8-bit palette or grey PNG",
        work=saved(png(DOT, VOC.ravel().tolist())),
    ),
    "negative ids": Case(
        masks(encoded(np.where(TWO == 2, -1, TWO.astype(np.int32)), "TIFF"), "a"),
        "",
        "Save it with (255) where nothing is labelled, and the class elsewhere",
        work=saved(np.where(TWO == 2, 255, TWO).astype(np.uint8)),
        result="11000000 xx000000",
    ),
    # lists
    "another list": Case(
        {VAL: None, "ImageSets/Segmentation/valid.txt": "c\n"},
        "",
        r"Splits found in .*: train, (\w+)",
        "data.val_split={0}",
    ),
    "out of the folder": Case(
        {TRAIN: "../JPEGImages/a\nb\n"},
        "",
        r"the id '\.\./JPEGImages/a' .* Write it without \.\. and without /",
        work=replaced(TRAIN, "../JPEGImages/a", "a"),
    ),
    "an id twice": Case(
        {TRAIN: "a\nb\na\n"},
        "",
        r"keep each once \(again in line (\d)\)",
        work=without_line(TRAIN),
    ),
    "a comment in a list": Case(
        {TRAIN: "# mine\na\nb\n"},
        "",
        r"\(line (\d): a comment\? delete the line",
        work=without_line(TRAIN),
    ),
    "quotes": Case(
        {TRAIN: '"a"\nb\n'},
        "",
        "write one id per line, without quotes and brackets",
        work=replaced(TRAIN, '"a"', "a"),
    ),
    "backslashes": Case(
        {TRAIN: "x\\d\nb\n", "JPEGImages/x/d.png": IMAGES[0], "SegmentationClass/x/d.png": DOT},
        "",
        r"write / for \\: (\S+)\)",
        work=replaced(TRAIN, "x\\d", "{0}"),
    ),
    "columns": Case(
        {TRAIN: "a,1,2\nb\n"},
        "",
        r"more columns than one: write (\w+) alone",
        work=replaced(TRAIN, "a,1,2", "{0}"),
    ),
    "numbers": Case(
        {TRAIN: "a 7 8\nb\n"},
        "",
        r"more columns than one: write (\w+) alone",
        work=replaced(TRAIN, "a 7 8", "{0}"),
    ),
    "a suffix": Case(
        {TRAIN: "JPEGImages/a.png\nb\n"},
        "",
        r"an id has no suffix .*: write (\w+)",
        work=replaced(TRAIN, "JPEGImages/a.png", "{0}"),
    ),
    "in both lists": Case(
        {VAL: "b\nc\n"},
        "",
        r"Take them out of one of them:\n  - (\w)",
        work=replaced(VAL, "{0}\n", ""),
    ),
    # images
    "an archive": Case(
        {"JPEGImages/a.png": gzip.compress(png(IMAGES[0]))},
        "",
        "is a gzip archive.* Unpack it",
        work=lambda _: write(
            {"voc/JPEGImages/a.png": gzip.decompress(Path("voc/JPEGImages/a.png").read_bytes())}
        ),
    ),
    "an animation": Case(
        {
            "JPEGImages/a.png": encoded(
                IMAGES[1], "GIF", save_all=True, append_images=[Image.fromarray(IMAGES[2])]
            )
        },
        "",
        "Save the frame that is meant as PNG",
        work=to("JPEGImages/a.png", IMAGES[0]),
    ),
    "an empty file": Case(
        {"JPEGImages/a.png": b""},
        "",
        r"is empty \(0 bytes\).* Get it again from its source",
        work=to("JPEGImages/a.png", IMAGES[0]),
    ),
    "another size": Case(
        masks(DOT[:3], "a"),
        "",
        "find the mask that was drawn on this image",
        work=saved(DOT),
    ),
}


TIFF = "JPEGImages/a.tif"
RGBA = np.dstack([COLORED, np.where(DOT, 255, 0).astype(np.uint8)])
RGBA[5] = (0, 0, 0, 255)  # the same black, opaque
CASES |= {
    "pairs of other files": Case(
        {TRAIN: "JPEGImages/a.png masks/a.png\nJPEGImages/b.png masks/b.png\n"},
        "",
        "Expected one id per line",
        work=to(TRAIN, "a\nb\n"),
    ),
    "pairs of other files: of these": Case(
        {TRAIN: "JPEGImages/a.png masks/a.png\nJPEGImages/b.png masks/b.png\n"},
        "",
        r"or JPEGImages/ID\.jpg SegmentationClass/ID\.png where these files are there",
        work=replaced(TRAIN, "masks/", "SegmentationClass/"),
    ),
    "several images": Case(
        {
            "JPEGImages/a.png": None,
            TIFF: encoded(
                IMAGES[0], "TIFF", save_all=True, append_images=[Image.fromarray(IMAGES[1])]
            ),
        },
        "",
        "holds 2 images; expected one. Split the file",
        work=to(TIFF, encoded(IMAGES[0], "TIFF")),
    ),
    "planes": Case(
        masks(stored(COLORED.transpose(2, 0, 1) * np.uint16(257)), "a"),
        "",
        "Save it with the bands of a pixel side by side",
        work=saved(DOT),
    ),
    "colours of 16 bits": Case(
        masks(stored(COLORED * np.uint16(257)), "a"),
        "",
        "colours of 16 bits.* Save it as an 8-bit palette or grey PNG",
        work=saved(DOT),
    ),
    "an index without a colour": Case(
        masks(COLORED) | masks(short_palette(), "a"),
        "data.colormap=voc",
        "expected a colour for each index. Export the mask again",
        "data.colormap=voc",
        saved(COLORED),
    ),
    "transparency that differs": Case(
        masks(COLORED) | masks(RGBA, "a"),
        "data.colormap=voc",
        "Paint the transparent ones in a colour of their own, and save it as RGB",
        "data.colormap=voc",
        saved(COLORED),
    ),
}
# What is no image: the user converts, unpacks or fetches it, and it is one.
CASES |= {
    f"{kind} {signature!r}": Case(
        {"JPEGImages/a.png": bytes(place) + signature + bytes(range(1, 90))},
        "",
        rf"is {re.escape(kind)}; expected.* {re.escape(way_out)}",
        work=to("JPEGImages/a.png", IMAGES[0]),
    )
    for place, signature, kind, way_out in _KINDS
    if (place, signature) != (0, b"\x1f\x8b")  # above: it is unpacked indeed
}


def request(keys: str) -> Request:
    return parse(Request, ["data.root=voc", *shlex.split(keys)])


def opened(keys: str) -> VOCSegmentation:
    """The training split, where both splits pass the check."""
    asked = request(keys)
    names = (asked.train_split, asked.val_split)
    splits = open_splits(asked.open, names, ignore_index=asked.ignore_index, progress=False)
    check_splits(splits, ignore_index=asked.ignore_index, progress=False)
    train = splits[asked.train_split]
    assert isinstance(train, VOCSegmentation)
    return train


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", list(CASES))
def test_a_data_set(name: str) -> None:
    case = CASES[name]
    files = {path: what for path, what in (FILES | case.files).items() if what is not None}
    write({f"voc/{path}": what for path, what in files.items()})
    with pytest.raises(DataError) as error:
        opened(case.keys)
    found = re.search(case.message, str(error.value), re.DOTALL)
    assert found is not None, str(error.value)
    if case.work is not None:
        case.work(found)
    dataset = opened(case.advice.format(*found.groups()))
    image, mask = dataset.read(0)
    rows = ["".join("x" if v == 255 else str(v) for v in row) for row in mask[:2]]
    assert " ".join(rows) == case.result
    np.testing.assert_array_equal(image, IMAGES[0])
    assert tuple(dataset.classes) == case.classes


def test_a_image_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    write({f"voc/{path}": what for path, what in FILES.items()})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # of 48
    with pytest.raises(
        DataError, match=r"at most 30 pixels are decoded.* Cut the image into tiles"
    ):
        opened("")
    left = {path: what[:, :5] for path, what in FILES.items() if isinstance(what, np.ndarray)}
    write({f"voc/{path}": what for path, what in left.items()})
    image, mask = opened("").read(0)
    np.testing.assert_array_equal(image, IMAGES[0][:, :5])
    np.testing.assert_array_equal(mask, DOT[:, :5])
