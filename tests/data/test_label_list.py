"""labels.txt as it comes from other tools: read exactly right, or refused by file and line."""

import codecs
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc_folder import example_mask, make_voc

from segkit.data.classes import read_labels_file, write_lines
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError
from segkit.tools.formats.annotation import check_classes

NAMES = ["background", "cat", "dog"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "voc")


def write(root: Path, text: str | bytes) -> None:
    (root / "labels.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("background\ncat\ndog\n", NAMES),
        ("traffic light\nbuilding, edifice\ndoor;double door\n", None),
        ("background\n1 euro\n2 euro\n", None),
        ("lane 1\nlane 2\nlane 3\n", None),
        ("1 lane\n2 lane\n3 lane\n", None),
        ("class_0\nclass_1\n", None),
        ("0\n1\n2\n", None),
        ("_background_\ncat\ndog\n", None),  # class_names.txt of labelme
        ("C++\nC#\nno. 5\nA/B (old)\n", None),
        ("caf\u00e9\u2028\na\x85b\nx\x0cy\n", ["caf\u00e9", "a\x85b", "x\x0cy"]),
        ("background\rcat\rdog\r", NAMES),
        (codecs.BOM_UTF8 + b"background\r\n cat \r\ndog\r\n\r\n\r\n", NAMES),
        # labelme's labels.txt: the ids -1 (stored as 255), 0, 1, 2
        ("__ignore__\n_background_\ncat\ndog\n", ["_background_", "cat", "dog"]),
        (codecs.BOM_UTF8 + b"__ignore__\r\n_background_\r\ncat\r\n", ["_background_", "cat"]),
        # CVAT's labelmap.txt
        (
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n",
            NAMES,
        ),
        ("# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog::head,leg:run\n", NAMES),
        ("# label:color (RGB)\n\nbackground:0,0,0\n# more\ncat:128,0,0\n", ["background", "cat"]),
        ("background:0,0,0::\ncat:128,0,0::\na:b:0,128,0::\n", ["background", "cat", "a:b"]),
    ],
)
def test_lists_that_are_read(tmp_path: Path, text: str | bytes, names: list[str] | None) -> None:
    write(tmp_path, text)
    expected = str(text).splitlines() if names is None else names
    assert read_labels_file(tmp_path / "labels.txt").names == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("_background_\n__ignore__\ncat\n", 2, "labelme's name .* Delete the line"),
        ("__ignore__\ncat\ndog\n", 1, "labelme's name"),
        ("background\n__ignore__\ncat\n", 2, "labelme's name"),
        ("cat\ndog\n__ignore__\n", 3, "labelme's name"),
        ("# my classes\nbackground\ncat\n", 1, "looks like a comment; expected one class name"),
        ("background\n// cats\ncat\n", 2, "looks like a comment"),
        ("background\n\ncat\n", 2, "class 1 has an empty name.*delete the line"),
        ("\nbackground\ncat\n", 1, "class 0 has an empty name"),
        ("background\ncat\nbackground\n", 3, "'background' stands there twice, in line 1 too"),
        ("0 background\n1 cat\n2 dog\n", 1, "begins a table with a number.*leave 'background'"),
        ("0: background\n1: cat\n", 1, "begins a table with a number"),
        ("0\tbackground\n1\tcat\n", 1, "a line of a table"),
        ("0,background\n1,cat\n", 1, "begins a table"),
        ("1. background\n2. cat\n", 1, "begins a table"),
        ("1) background\n2) cat\n", 1, "begins a table"),
        ("0=background\n1=cat\n", 1, "begins a table"),
        ("background,0\ncat,1\n", 1, "begins a table with a number.*leave 'background'"),
        ("background 0\ncat 1\n", 1, "begins a table"),
        ("background: 0\ncat: 1\n", 1, "begins a table"),
        ("id,name\n0,background\n1,cat\n", 1, "begins a table"),
        ("name,id\nbackground,0\ncat,1\n", 1, "begins a table"),
        ("id name\n0 background\n1 cat\n", 1, "begins a table"),
        ("Pixel Value, Class\n0, background\n1, cat\n", 1, "begins a table"),  # Roboflow's CSV
        ("name,supercategory\ncat,animal\ndog,animal\n", 1, "the head of a table"),
        ("1\n2\n3\n", 1, "are numbers, not their own"),
        ("background, cat, dog\n", 1, "several names in one line"),
        ("background 0 0 0\ncat 128 0 0\n", 1, "a name with a colour"),
        ("background\ncat 128,0,0\n", 2, "a name with a colour"),
        ("0 0 0 background\n128 0 0 cat\n", 1, "a name with a colour"),
        ("64 128 64\tAnimal\n192 0 128\tArchway\n", 1, "a name with a colour"),
        ("name,r,g,b\nbackground,0,0,0\ncat,128,0,0\n", 2, "a name with a colour"),
        ("background: [0, 0, 0]\ncat: [128, 0, 0]\n", 1, "looks like"),
        ("background #000000\ncat #800000\n", 1, "a name with a colour"),
        ("background 0 0 0 255\ncat 128 0 0 255\n", 1, "begins a table"),
        ("0 background 0 0 0\n1 cat 128 0 0\n", 1, "a name with a colour"),
        ("names:\n  - background\n  - cat\n", 1, "a piece of YAML"),
        ("- background\n- cat\n", 1, "a piece of YAML"),
        ("---\nbackground\ncat\n", 1, "a piece of YAML"),
        ('["background",\n"cat"]\n', 1, "a piece of JSON"),
        ('{\n"0": "background",\n"1": "cat"\n}\n', 1, "a piece of JSON"),
        ('"background"\n"cat"\n', 1, "a piece of JSON"),
        ("background,\ncat,\n", 1, "a piece of JSON"),
        ("item {\n  id: 1\n  name: 'cat'\n}\n", 1, "a piece of JSON or YAML"),
        ("<labels>\n<label>cat</label>\n", 1, "a piece of XML"),
        (
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat 128 0 0\n",
            3,
            "CVAT's labelmap",
        ),
        ("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:300,0,0::\n", 3, "CVAT's"),
        ("# label:color_rgb:parts:actions\ncat:0,0,0::\ncat:1,0,0::\n", 3, "'cat' stands there"),
        ("background\ncat\n".encode("utf-16-le"), 1, "holds zero bytes, as UTF-16 has"),
        ("background\n".encode("utf-8-sig") + "cat\n".encode("utf-8-sig"), 2, "byte order mark"),
    ],
)
def test_lists_that_are_refused_by_their_line(
    root: Path, text: str | bytes, line: int, message: str
) -> None:
    write(root, text)
    with pytest.raises(DataError, match=rf"(?s)labels\.txt, line {line}: .*{message}"):
        VOCSegmentation(root, "train")
    write(root, "\n".join(NAMES))  # one name per line, in index order, and nothing else
    assert VOCSegmentation(root, "train").classes == NAMES


def test_all_bad_lines_are_told_at_once(root: Path) -> None:
    write(root, "# one\nbackground\n\ncat\ncat\n")
    with pytest.raises(DataError) as caught:
        VOCSegmentation(root, "train")
    lines = str(caught.value).splitlines()
    assert [line.partition("line ")[2][0] for line in lines] == ["1", "3", "5"]


def test_labelmes_list_numbers_its_masks_rightly(root: Path) -> None:
    write(root, "__ignore__\n_background_\ncat\ndog\n")
    dataset = VOCSegmentation(root, "train")
    _, mask = dataset.read(0)
    found = {dataset.classes[i]: int((mask == i).sum()) for i in range(3)}
    assert found == {"_background_": 32, "cat": 24, "dog": 32}
    assert (mask == 255).sum() == 8


def test_cvats_map_gives_the_colours_too(root: Path) -> None:
    """Its "segmentation mask 1.1" holds RGB masks, and labelmap.txt says which colour is what."""
    write(root, "# label:color_rgb:parts:actions\ndog:0,9,0::\nbackground:0,0,0::\ncat:9,0,0::\n")
    colors = np.zeros((256, 3), np.uint8)
    colors[[1, 2, 255]] = [[9, 0, 0], [0, 9, 0], [224, 224, 192]]
    for name in ("a", "b"):
        Image.fromarray(colors[example_mask()]).save(root / "SegmentationClass" / f"{name}.png")
    dataset = VOCSegmentation(root, "train")
    _, mask = dataset.read(0)
    found = {dataset.classes[i]: int((mask == i).sum()) for i in range(3)}
    assert found == {"dog": 32, "background": 32, "cat": 24}
    given = VOCSegmentation(root, "train", colormap=[[0, 9, 0], [0, 0, 0], [9, 0, 0]])
    np.testing.assert_array_equal(given.read(0)[1], mask)


@pytest.mark.parametrize("name", ["#1", "cat 1 2 3", "- x", "a\tb", "a\nb", "x,"])
def test_no_list_is_written_that_would_be_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        check_classes(["background", name])
    check_classes(["background", "cat"])
    write_lines(tmp_path / "labels.txt", ["background", "cat"])
    assert read_labels_file(tmp_path / "labels.txt").names == ["background", "cat"]


def test_a_line_that_never_ends_is_refused_at_once(root: Path) -> None:
    """The patterns for tables took minutes for it."""
    names = ["background", "cat", "d" * 300_000]
    with pytest.raises(
        DataError, match=r"begins with 'ddd.*has 300,000 characters; a name has 200"
    ):
        check_classes(names)
    (root / "labels.txt").write_text("\n".join(names))
    with pytest.raises(DataError, match=r"labels\.txt, line 3: begins with 'ddd"):
        read_labels_file(root / "labels.txt")


@pytest.mark.parametrize("other", ["cafe\u0301", "caf\u00e9\u200b", "caf\u00e9"])
def test_names_that_look_alike_are_one_name(other: str, root: Path) -> None:
    (root / "labels.txt").write_text(f"background\ncaf\u00e9\n{other}\n", encoding="utf-8")
    same = "stands there twice" if other == "caf\u00e9" else r"looks like 'caf\\xe9'"
    with pytest.raises(DataError, match=rf"labels\.txt, line 3: the name '.*' {same}, in line 2"):
        read_labels_file(root / "labels.txt")
