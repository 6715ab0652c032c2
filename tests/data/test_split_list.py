"""Split files as other tools write them, and ids that are spelt in several ways."""

from pathlib import Path

import pytest
from PIL import Image
from voc_folder import make_pair, make_voc

from segkit.data.voc import VOCSegmentation, read_split
from segkit.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_voc(tmp_path / "VOC2012")
    (root / "JPEGImages" / "sub").mkdir()
    (root / "SegmentationClass" / "sub").mkdir()
    make_pair(root, "sub/c d")
    return root


def write(root: Path, text: str) -> None:
    (root / "ImageSets/Segmentation/train.txt").write_text(text)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a\nb\n", ["a", "b"]),
        ("./a\nb\n", ["a", "b"]),
        ("a\nsub//c d\n", ["a", "sub/c d"]),
        ("./sub/./c d\n", ["sub/c d"]),
        ("a 1\nb -1\n", ["a", "b"]),  # VOC's lists of one class
        ("a  0\nsub/c d  1\n", ["a", "sub/c d"]),
        ("a 1 1 1\nb 12 2 5\n", ["a", "b"]),  # Oxford Pet's
        # VainF, PaddleSeg and others: pairs of paths, where they are those of this layout
        ("JPEGImages/a.png SegmentationClass/a.png\n", ["a"]),
        ("JPEGImages/a.png\tSegmentationClass/a.png\n", ["a"]),
        ("JPEGImages/a.png,SegmentationClass/a.png\n", ["a"]),
        ("/JPEGImages/b.png /SegmentationClass/b.png\n", ["b"]),
        ("VOC2012/JPEGImages/b.png VOC2012/SegmentationClass/b.png\n", ["b"]),
        ("ROOT/JPEGImages/b.png ROOT/SegmentationClass/b.png\n", ["b"]),
        ("./JPEGImages/sub/c d.png ./SegmentationClass/sub/c d.png\n", ["sub/c d"]),
    ],
)
def test_lists_that_are_read(root: Path, text: str, ids: list[str]) -> None:
    write(root, text.replace("ROOT", str(root)))
    dataset = VOCSegmentation(root, "train")
    assert dataset.ids == ids
    assert [dataset.files(i)[1].name for i in range(len(ids))] == [
        f"{Path(i).name}.png" for i in ids
    ]


def test_a_number_is_part_of_the_id_where_there_is_such_a_image(root: Path) -> None:
    for name in ("x", "y", "x 1", "y 1"):
        make_pair(root, name)
    write(root, "x 1\ny 1\n")
    assert read_split(root, "train") == ["x 1", "y 1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "JPEGImages/a.png SegmentationClassAug/a.png\n",
            r"1 lines hold two paths .*\n  - line 1: .*write a, with the image as "
            r"JPEGImages/a\.png and the mask as SegmentationClass/a\.png",
        ),
        ("JPEGImages/a.png SegmentationClass/b.png\n", "two paths that are not those of an id"),
        (
            "JPEGImages/a.jpg SegmentationClass/a.png\n",
            r"line 1: .*JPEGImages/a\.jpg: no such file",
        ),
        (
            "leftImg8bit/train/x_leftImg8bit.png gtFine/train/x_gtFine_labelTrainIds.png\n",
            "write x_leftImg8bit, with the image as",
        ),
        ("a\n\nJPEGImages/b.png SegmentationClass/b.png\n", r"\(line 3: two paths, expected an id"),
        ("a 7\nb 3\n", r"a 7: no image \(line 1: more columns than one: write a alone\)"),
        ("a 1 2\nb 3 4\n", r"line 2: more columns than one: write b alone"),
        ("a 1 2 3 4\n", "write a alone"),
        ("a,b\n", r"write a alone"),
        ("a\tb\n", r"write a alone"),
        ("# ids\na\n", r"\(line 1: a comment\? delete the line"),
        ("a.png\nb.png\n", r"\(line 1: an id has no suffix .*: write a\)"),
        ("JPEGImages/a.png\n", r"write a\)"),
        ("- a\n- b\n", "no plain list: write one id per line"),
        ('["a", "b"]\n', "no plain list"),
        ("sub\\c d\n", r"write / for \\: sub/c d"),
        ("a\nsub/../a\n", r"'sub/\.\./a' points out of the folder .*\(line 2\)"),
        ("a\n./a\n", r"1 ids stand there more than once; .*again in line 2"),
        ("a\nb 1\nA/../a\na\n", r"(?s)points out.*more than once"),
    ],
)
def test_lists_that_are_refused(root: Path, text: str, message: str) -> None:
    write(root, text)
    with pytest.raises(DataError, match=message):
        VOCSegmentation(root, "train")


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("a 7\nb 3\n", "a\nb\n"),
        ("a.png\n", "a\n"),
        ("# ids\na\n", "a\n"),
        ("sub\\c d\n", "sub/c d\n"),
        ("sub/../a\n", "a\n"),
    ],
)
def test_what_a_refusal_says_to_write_is_right(root: Path, text: str, better: str) -> None:
    write(root, text)
    with pytest.raises(DataError):
        VOCSegmentation(root, "train")
    write(root, better)
    assert VOCSegmentation(root, "train").ids == better.split("\n")[:-1]


def test_pairs_of_other_folders_work_once_the_files_lie_as_advised(root: Path) -> None:
    text = "img/x_leftImg8bit.png gt/x_labelTrainIds.png\n"
    write(root, text)
    with pytest.raises(DataError, match=r"write x_leftImg8bit, with"):
        VOCSegmentation(root, "train")
    make_pair(root, "x_leftImg8bit")
    write(root, "x_leftImg8bit\n")
    assert VOCSegmentation(root, "train").read(0)[0].shape == (8, 12, 3)


def test_an_image_in_two_formats_is_still_ambiguous_in_pairs(root: Path) -> None:
    Image.new("RGB", (12, 8)).save(root / "JPEGImages" / "a.bmp")
    write(root, "JPEGImages/a.png SegmentationClass/a.png\n")
    with pytest.raises(DataError, match=r"2 files for one image"):
        VOCSegmentation(root, "train")
