"""Every key of every tool with values that make no sense: accepted, or refused in words."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edits import JARGON
from label_files import PHOTO, png, tree, write

from segkit.cli.arguments import _fields, run_tool
from segkit.tools import check, convert, download, model, split, stats, tile
from segkit.tools.formats.annotation import Request as ConvertRequest

HOSTILE = [
    *("", "0", "1", "2", "-1", "0.5", "1e9", "1e400", "nan", "-inf", "99999999999999999999", "1_0"),
    *("9" * 5000, "null", "None", "true", "yes", "\u00e4\u65e5", "a\0b", "\x1b[2J", "x" * 5000),
    *(
        "[]",
        "{}",
        "[1]",
        "[[1]]",
        "[a,b]",
        "[null]",
        "{a: b}",
        "{1: 2}",
        "{a: {b: [1]}}",
        "{a: [0,0,0]}",
    ),
    *(
        "[",
        "}",
        "${x}",
        "${oc.env:HOME}",
        "${oc.decode:x}",
        "~",
        "~nobody/x",
        "/",
        ".",
        "..",
        "voc",
    ),
    *("(", "*", "(a", "s3://x/y", "/dev/null", "/dev/null/x", "a=b", "--x", "a,b", "auto"),
]
TOOLS: dict[str, tuple[Any, Callable[[Any], None], list[str]]] = {
    "check": (check.Request, check.check, ["data.root=voc"]),
    "split": (split.Request, split.split, ["data.root=voc", "dry_run=true"]),
    "stats": (stats.Request, stats.stats, ["data.root=voc", "dry_run=true"]),
    "tile": (tile.Request, tile.tile, ["data.root=voc", "out=new", "dry_run=true"]),
    "convert": (
        ConvertRequest,
        convert.convert,
        ["format=binary", "source=voc/masks", "images=voc/JPEGImages", "out=new", "dry_run=true"],
    ),
    "download": (
        download.Request,
        download.download,
        ["dataset=camvid", "out=new", "dry_run=true"],
    ),
    "model": (model.Request, model.model, ["checkpoint=voc/labels.txt", "dry_run=true"]),
}
KEYS = [
    (tool, f.metadata["name"] or f.name)
    for tool, (settings, _, _) in TOOLS.items()
    for f in _fields(settings)
    if f.name not in ("dry_run", "force")
]


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images with two classes, in two lists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "cache"))
    mask = np.eye(6, 8, dtype=np.uint8)
    images = {f"voc/JPEGImages/{n}.png": png(PHOTO) for n in "abcd"}
    masks = {f"voc/SegmentationClass/{n}.png": png(mask) for n in "abcd"}
    binary = {f"voc/masks/{n}.png": png(255 * mask) for n in "abcd"}
    lists = {"train": "a\nb\n", "val": "c\nd\n"}
    written = {f"voc/ImageSets/Segmentation/{name}.txt": text for name, text in lists.items()}
    write(images | masks | binary | written | {"voc/labels.txt": "ground\nthing\n"})


@pytest.mark.usefixtures("voc")
@pytest.mark.parametrize("count", [6, pytest.param(len(HOSTILE), marks=pytest.mark.slow)])
@pytest.mark.parametrize(("tool", "key"), KEYS)
def test_a_key_of_a_tool(
    tool: str, key: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, task, usual = TOOLS[tool]
    before = tree(".")
    found: Counter[int] = Counter()
    rng = np.random.default_rng([8, KEYS.index((tool, key))])
    for value in rng.permutation(np.array(HOSTILE, object))[:count]:
        if value == "/" and key in ("source", "images"):  # takes what it takes to walk a disk
            continue
        arguments = [word for word in usual if not word.startswith(f"{key}=")]
        status = run_tool(settings, task, [*arguments, f"{key}={value}"], "About.")
        said = capsys.readouterr()
        assert status in (0, 1), value
        assert (said.err != "") == (status == 1), value[:60]
        if status == 1:
            assert said.err.startswith("error: ")
            assert len(said.err) < 3000 + 4 * len(value)
            assert not JARGON.search(said.err), (value[:60], said.err[:300])
        found[status] += 1
        assert tree(".") == before, value
    assert found[1] > 0 or count < len(HOSTILE)
