"""Labels of other tools, damaged at random: words that name the file, or a mask with the object."""

import copy
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from edits import JARGON, damage_text, pick
from label_files import PHOTO, XML, area, as_text, box, coco, labelme, masks, run, shape, write

from segkit.errors import DataError

HOSTILE: list[Any] = [
    *(10**400, -(10**400), 2**63, -(2**63), 1e308, -1e308, float("nan"), float("inf"), -1, 0, 1.5),
    *(
        None,
        True,
        False,
        "",
        "x",
        "a\0b",
        "\ud800",
        "\x1b[2J",
        3000 * "y",
        "../a.png",
        "/",
        "9" * 25,
    ),
    *([], {}, [[]], [[[1]]], {"a": 1}, [None], 50 * [1]),
]
SHAPES = {
    "polygon": (box(0, 0, 4, 2), {}),
    "rectangle": ([[1, 1], [4, 4]], {}),
    "circle": ([[3, 3], [3, 5]], {}),
    "mask": ([[1, 1], [2, 2]], {"mask": as_text(np.ones((2, 2), np.uint8))}),
}
SEGMENTATIONS = [
    area(18, 0, 0, 4, 2)["segmentation"],
    {"size": [6, 8], "counts": [12, 12, 24]},
    {"size": [6, 8], "counts": "<<h0"},
]
DRAWN = [
    '<polygon label="car" points="0,0;3,0;3,2;0,2" z_order="1"/>',
    '<box label="car" xtl="2" ytl="1" xbr="5" ybr="3" rotation="10" z_order="0"/>',
    '<ellipse label="car" cx="4" cy="3" rx="2" ry="2" z_order="0"/>',
    '<mask label="car" left="1" top="1" width="2" height="2" rle="1, 3" z_order="0"/>',
]


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value in a tree of JSON."""
    inner: list[Any] = []
    if isinstance(node, dict):
        inner = list(node.items())
    elif isinstance(node, list):
        inner = list(enumerate(node))
    return [
        *([path] if path else []),
        *(place for key, child in inner for place in places(child, (*path, key))),
    ]


def damage_tree(content: Any, rng: np.random.Generator) -> Any:
    """Another value somewhere, or one less, or one twice."""
    content = json.loads(json.dumps(content))
    *way, last = pick(rng, places(content))
    home = content
    for key in way:
        home = home[key]
    kind = rng.integers(6)
    if kind == 0:
        del home[last]
    elif kind == 1 and isinstance(home, list):
        home.append(copy.deepcopy(home[last]))
    elif kind == 2:
        home[last] = [home[last]]
    else:
        home[last] = pick(rng, HOSTILE)
    return content


def damage_xml(text: str, rng: np.random.Generator) -> str:
    root = ElementTree.fromstring(text)
    element = pick(rng, list(root.iter()))
    kind, keys = rng.integers(5), list(element.attrib)
    if kind == 0 and keys:
        del element.attrib[pick(rng, keys)]
    elif kind == 1:
        element.tag = pick(
            rng, ["x", "image", "label", "box", "polygon", "mask", "ellipse", "track"]
        )
    elif kind == 2 and len(element):
        element.append(copy.deepcopy(pick(rng, list(element))))
    elif kind == 3 and len(element):
        element.remove(pick(rng, list(element)))
    elif keys:
        words = [str(v) for v in HOSTILE if isinstance(v, int | float | str)]
        clean = [re.sub("[\x00-\x1f\ud800]", "", word) for word in words]
        element.set(pick(rng, keys), pick(rng, clean))
    return ElementTree.tostring(root, "unicode")


def labels(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """A command and its files: one image, with one object."""
    tool = pick(rng, ["labelme", "coco", "cvat"])
    if tool == "cvat":
        start, end = XML.index("  <polygon"), XML.index("</image>")
        text = XML[:start].replace("sub/", "") + pick(rng, DRAWN) + XML[end:]
        text = damage_xml(text, rng) if rng.random() < 0.7 else damage_text(text, rng)
        return "format=cvat source=labels", {"labels/annotations.xml": text}
    if tool == "labelme":
        kind = pick(rng, list(SHAPES))
        points, more = SHAPES[kind]
        content = labelme(shape("cat", kind, *points, **more))
    else:
        content = coco({"category_id": 18, "segmentation": pick(rng, SEGMENTATIONS)})
    if rng.random() < 0.7:
        text = json.dumps(damage_tree(content, rng))
    else:
        text = damage_text(json.dumps(content), rng)
    return f"format={tool} source=labels/x.json", {"labels/x.json": text}


def one_case(number: int, said: pytest.CaptureFixture[str]) -> str:
    """``refused``, ``empty`` (and told), or ``drawn``."""
    rng = np.random.default_rng([11, number])
    command, files = labels(rng)
    write({"labels/a.png": PHOTO})
    Path(*files).write_bytes(next(iter(files.values())).encode("utf-8", "surrogatepass"))
    said.readouterr()
    try:
        run(f"{command} out=out{number}")
    except DataError as error:
        assert not JARGON.search(str(error)), (files, error)
        assert not Path(f"out{number}").exists()
        return "refused"
    text = said.readouterr().out
    if any(set(drawn) - {"0", " "} for drawn in masks(root=f"out{number}").values()):
        return "drawn"
    source = next(iter(files.values()))
    without = re.search(r'"(shapes|annotations)": \[\]|</image>', source) and "<" not in source
    empty = source.startswith("<") and not re.search("<(polygon|box|ellipse|mask) ", source)
    assert without or empty or "note: " in text or '"label": "_' in source, (files, text)
    return "empty"


@pytest.mark.parametrize(
    "part", [range(150), pytest.param(range(150, 3000), marks=pytest.mark.slow)]
)
def test_damaged_labels_are_named_or_drawn(
    part: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found: Counter[str] = Counter()
    failures = []
    for number in part:
        try:
            found[one_case(number, capsys)] += 1
        except Exception as error:
            failures.append(f"{number}: {type(error).__name__}: {str(error)[:1500]}")
    assert not failures, "\n".join(failures)
    assert min(found["refused"], found["drawn"]) > 0.1 * len(part), found
