"""Advice that a message gives, followed to the letter: it must end in a right result."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from label_files import PHOTO, area, box, coco, labelme, masks, png, run, shape, write

from segkit.cli.arguments import parse
from segkit.data.voc import VOCSegmentation
from segkit.errors import ConfigError, DataError
from segkit.tools import check, convert, split, stats
from segkit.tools.formats.annotation import Request as ConvertRequest

TOOLS: dict[str, tuple[Any, Callable[[Any], None]]] = {
    "segkit.data.check": (check.Request, check.check),
    "segkit.tools.split": (split.Request, split.split),
    "segkit.tools.stats": (stats.Request, stats.stats),
    "segkit.tools.convert": (ConvertRequest, convert.convert),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def command(line: str) -> None:
    """``python -m MODULE key=value ...``, as a message prints it."""
    python, flag, module, *arguments = shlex.split(line)
    assert (python, flag) == ("python", "-m")
    request, task = TOOLS[module]
    task(parse(request, arguments))


# Labels and masks


def edit(path: str, old: str, new: str) -> Callable[[], None]:
    def work() -> None:
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new))

    return work


def move(old: str, new: str) -> Callable[[], object]:
    return lambda: shutil.move(old, new)


class Case(NamedTuple):
    """A mistake, what is said, and what the user does then: to the files, or to the command."""

    command: str
    files: dict[str, Any]
    message: str
    advice: str = ""  # more for the command, or a pattern in the message that finds it
    work: Callable[[], object] | None = None
    result: str = "11000000 00000000"  # of the first rows of the mask
    without: str = ""  # what is taken out of the command, word by word


CAT = coco(area(18, 0, 0, 2, 1), categories=[{"id": 18, "name": "cat"}])
COCO = "format=coco source=labels/x.json"
DOT = np.zeros((6, 8), np.uint8)
DOT[0, :2] = 1
COLORED = np.array([(0, 0, 0), (128, 64, 128)], np.uint8)[DOT]
MASKS = "source=masks images=images"
PAIR = {"images/a.png": PHOTO, "masks/a.png": 255 * DOT}
LABELME = "format=labelme source=labels"
POINTS = [[0, 0], [4, 0], [4, 2], [0, 1]]
CORNERS = {
    "labels/a.png": PHOTO,
    "labels/a.json": labelme(shape("cat", "rectangle", *POINTS)),
}
CASES = {
    "no images": Case(
        COCO,
        {"labels/x.json": CAT, "other/deep/a.png": PHOTO},
        "images are missing in labels, .*give images=FOLDER, in or below which they lie",
        "images=other",
    ),
    "other images": Case(
        f"{COCO} images=wrong",
        {"labels/x.json": CAT, "other/a.png": PHOTO, "wrong/b.png": PHOTO},
        r"missing in wrong; give another images=FOLDER",
        "images=other",
        without="images=wrong",
    ),
    "labels too many": Case(
        f"{COCO} images=other",
        {
            "labels/x.json": CAT
            | {
                "images": [*CAT["images"], {"id": 8, "file_name": "b.png", "height": 6, "width": 8}]
            },
            "other/a.png": PHOTO,
        },
        r"take their labels out of labels/x\.json:\n  - b\.png",
        work=edit(
            "labels/x.json", ', {"id": 8, "file_name": "b.png", "height": 6, "width": 8}', ""
        ),
    ),
    "two of one name": Case(
        f"{COCO} images=other",
        {"labels/x.json": CAT, "other/1/a.png": PHOTO, "other/2/a.png": PHOTO[::-1].copy()},
        "2 images below images=other have this name; give images= the folder of the one",
        "images=other/1",
        without="images=other",
    ),
    "suffix of masks": Case(
        f"format=binary {MASKS}",
        {"images/a.png": PHOTO, "masks/a_mask.png": 255 * DOT},
        r"Then add mask_suffix=_mask",
        r"add (mask_suffix=\S+)",
    ),
    "masks without images": Case(
        "format=binary source=masks",
        PAIR,
        "images is not set: .*images=FOLDER must say",
        "images=images",
    ),
    "colours": Case(
        f"format=rgb {MASKS}",
        PAIR | {"masks/a.png": COLORED},
        "colors is not set",
        r"'(colors=.*)'",
    ),
    "grey levels": Case(
        f"format=binary {MASKS}",
        PAIR | {"masks/a.png": 200 * DOT},
        "With threshold=128 all from there on",
        "threshold=128",
    ),
    "grey for rgb": Case(
        f"format=rgb {MASKS} colors={{a:[0,0,0],b:[9,9,9]}}",
        PAIR,
        "masks of 0 and 255 are format=binary",
        "format=binary",
        without="format=rgb colors={a:[0,0,0],b:[9,9,9]}",
    ),
    "classes": Case(
        f"{COCO} classes=[background,dog]",
        {"labels/x.json": CAT, "labels/a.png": PHOTO},
        "labels are not in classes: cat. List them in classes",
        "classes=[background,cat]",
        without="classes=[background,dog]",
    ),
    "ignore": Case(
        f"{COCO} classes=[background,dog]",
        {
            "labels/x.json": coco(
                area(18, 0, 0, 2, 1),
                area(90, 0, 1, 2, 2),
                categories=[{"id": 18, "name": "cat"}, {"id": 90, "name": "dog"}],
            ),
            "labels/a.png": PHOTO,
        },
        "labels are not in classes: cat. List them in classes or in ignore",
        "ignore=[cat]",
        result="xx000000 11000000",
    ),
    "force": Case(
        COCO,
        {"labels/x.json": CAT, "labels/a.png": PHOTO, "out/SegmentationClass/a.bmp": b"old"},
        "Add force=true to replace them",
        "force=true",
    ),
    "another out": Case(
        COCO,
        {"labels/x.json": CAT, "labels/a.png": PHOTO, "old/SegmentationClass/a.bmp": b"old"},
        "give out= another folder",
        "out=out",
        without="out=old",
    ),
    "two of one id": Case(
        LABELME,
        {
            **dict.fromkeys(("labels/a.png", "labels/b.png"), PHOTO),
            "labels/a b.json": labelme(shape("cat", "polygon", *box(0, 0, 2, 1))),
            "labels/a_b.json": labelme(
                shape("cat", "polygon", *box(0, 0, 2, 1)), imagePath="b.png"
            ),
        },
        r"rename these:\n  - a_b",
        work=move("labels/a b.json", "labels/c.json"),
    ),
    "corners": Case(
        LABELME,
        CORNERS,
        "are no corners of a rectangle, one after another; a polygon may have them",
        work=edit("labels/a.json", '"rectangle"', '"polygon"'),
        result="11110000 00110000",
    ),
    "a key twice": Case(
        COCO,
        {"labels/x.json": json.dumps(CAT)[:-1] + ', "images": []}', "labels/a.png": PHOTO},
        "has the key 'images' twice; expected it once",
        work=edit("labels/x.json", ', "images": []', ""),
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_labels(name: str) -> None:
    case = CASES[name]
    write(case.files)
    given = case.command
    if case.without == "out=old":
        given += " out=old"
    with pytest.raises((DataError, ConfigError), match=case.message) as error:
        run(given)
    advice = case.advice
    if "(" in advice:
        found = re.search(advice, str(error.value))
        assert found is not None
        advice = found[1]
    if case.work is not None:
        case.work()
    kept = " ".join(word for word in given.split() if word not in case.without.split())
    convert.convert(
        parse(ConvertRequest, ["out=out", *kept.split(), *([advice] if advice else [])])
    )
    drawn = masks()
    assert next(iter(drawn.values())).startswith(case.result)


def test_grey_masks_have_a_format(capsys: pytest.CaptureFixture[str]) -> None:
    write({f"masks/{n}_L.png": DOT for n in "abc"} | {f"images/{n}.png": PHOTO for n in "abc"})
    with pytest.raises(DataError, match="grey values that are class ids are format=ids") as error:
        run(f"format=rgb {MASKS} mask_suffix=_L colors={{a:[0,0,0],b:[9,9,9]}}")
    found = re.search(r"class ids are (\S+),", str(error.value))
    assert found is not None
    run(f"{found[1]} {MASKS} mask_suffix=_L classes=[ground,thing]")
    command("python -m segkit.tools.split data.root=out")
    command("python -m segkit.data.check data.root=out")
    assert "fine" in capsys.readouterr().out
    dataset = VOCSegmentation("out", "train")
    np.testing.assert_array_equal(dataset.read(0)[1], DOT)


NAMES = "abcdefgh"


def many(first: str) -> dict[str, Any]:
    """Images with a cat each, below a folder of their own."""
    cat = shape("cat", "polygon", *box(0, 0, 2, 1))
    labels = {f"{first}/{first}{n}.json": labelme(cat, imagePath=f"{first}{n}.png") for n in NAMES}
    return labels | {f"{first}/{first}{n}.png": PHOTO for n in NAMES}


@pytest.mark.parametrize(
    ("splits", "follow"),
    [
        (["all"], "(python -m segkit.tools.split .*)"),
        (["mine"], "(python -m segkit.tools.split .* of=mine)$"),
        (["train"], "split=val, or divide these: (python -m .* of=train force=true)$"),
        (["val"], "split=train, or divide these: (python -m .* of=val force=true)$"),
        (["train"], "convert other images with (split=val)"),
        (["train", "val"], "(python -m segkit.data.check .*)"),
        (["train", "test"], "split=val, or divide these: (python -m .* of=train force=true)$"),
    ],
)
def test_the_next_step_of_convert(
    splits: list[str], follow: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in splits:
        write(many(name))
        run(f"format=labelme source={name} split={name}")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("next: ")
    found = re.search(follow, said)
    assert found is not None, said
    if found[1].startswith("python"):
        command(found[1])
    else:
        write(many("more"))
        run(f"format=labelme source=more {found[1]}")
    command("python -m segkit.data.check data.root=out")
    sets = {name: VOCSegmentation("out", name).ids for name in ("train", "val")}
    assert not set(sets["train"]) & set(sets["val"])
    assert min(map(len, sets.values())) > 0
    assert "fine" in capsys.readouterr().out


@pytest.mark.parametrize("advice", ["force=true", "prefix=b_"])
def test_lists_that_are_there(advice: str) -> None:
    write({f"out/SegmentationClass/{n}.png": png(DOT) for n in NAMES})
    write({f"out/JPEGImages/{n}.png": PHOTO for n in NAMES})
    command("python -m segkit.tools.split data.root=out")
    with pytest.raises(DataError, match=r"Add force=true to replace them, or prefix=NAME_"):
        command("python -m segkit.tools.split data.root=out val=0.5")
    command(f"python -m segkit.tools.split data.root=out val=0.5 {advice}")
    start = "b_" if advice.startswith("prefix") else ""
    ids = Path(f"out/ImageSets/Segmentation/{start}val.txt").read_text().split()
    assert len(ids) == 4


@pytest.mark.parametrize("advice", ["json=x.json force=true", "json=y.json"])
def test_a_file_that_is_there(advice: str) -> None:
    write(many("all"))
    run("format=labelme source=all")
    Path("x.json").write_text("old")
    start = "python -m segkit.tools.stats data.root=out split=all"
    with pytest.raises(
        ConfigError, match="Add force=true to replace a file, or give json= another"
    ):
        command(f"{start} json=x.json")
    command(f"{start} {advice}")
    name = re.search(r"json=(\S+)", advice)
    assert name is not None
    assert json.loads(Path(name[1]).read_text())["images"] == 8
