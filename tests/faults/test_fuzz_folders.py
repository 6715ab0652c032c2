"""Tables, lists and files of YOLO, damaged at random: words that name the file, or a data set."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edits import JARGON, damage_text
from label_files import PHOTO, masks, run, write

from segkit.data import FolderSegmentation
from segkit.errors import SegkitError

MASK = np.tile(np.array([0, 1], np.uint8), (6, 4))
FILES = {f"images/{name}.png": PHOTO for name in "ab"} | {f"masks/{n}.png": MASK for n in "ab"}
TABLE = "image,mask,split\nimages/a.png,masks/a.png,train\nimages/b.png,masks/b.png,val\n"
LISTS = ("a\nb.png\n", "images/a.png masks/a.png\n\nimages/b.png masks/b.png\n")
DATA = "path: .\ntrain: images\nnames:\n  0: cat\n  1: dog\n"
POLYGONS = "0 0 0 0.5 0 0.5 0.5 0 0.5\n1 0.5 0.5 1 0.5 1 1\n"
ROBOFLOW = "Pixel Value, Class\n0, background\n1, cat\n"


def table(text: str, split: str = "train") -> None:
    write({"all.csv": text})
    read(FolderSegmentation(split, splits="all.csv", num_classes=2))


def listed(text: str) -> None:
    write({"train.txt": text})
    read(FolderSegmentation("train", images="images", masks="masks", splits=".", num_classes=2))


def read(dataset: FolderSegmentation) -> None:
    assert len(set(dataset.ids)) == len(dataset) > 0
    for index in range(len(dataset)):
        dataset.read(index)


def described(text: str) -> None:
    write({"data.yaml": text, "labels/a.txt": POLYGONS})
    converted("format=yolo source=.")


def drawn(text: str) -> None:
    write({"data.yaml": DATA, "labels/a.txt": text})
    converted("format=yolo source=.")


def named(text: str) -> None:
    write({"masks/_classes.csv": text})
    converted("format=ids source=masks images=images mask_suffix=.png")


def converted(command: str) -> None:
    try:
        run(f"{command} force=true")
    finally:
        assert not list(Path().glob(".convert-*"))
    assert masks()


KINDS: list[tuple[Callable[[str], None], str]] = [
    *((listed, text) for text in LISTS),
    (table, TABLE),
    (described, DATA),
    (drawn, POLYGONS),
    (named, ROBOFLOW),
]


@pytest.mark.parametrize(
    "part", [range(120), pytest.param(range(120, 3000), marks=pytest.mark.slow)]
)
def test_damaged_texts_are_named_or_read(
    part: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "here"
    home.mkdir()
    monkeypatch.chdir(home)
    write(FILES)
    found: Counter[str] = Counter()
    failures = []
    for number in part:
        rng = np.random.default_rng([7, number])
        use, text = KINDS[number % len(KINDS)]
        damaged = damage_text(text, rng)
        try:
            use(damaged)
            found["read"] += 1
        except SegkitError as error:
            found["refused"] += 1
            if JARGON.search(str(error)):
                failures.append(f"{number}: {damaged!r}: {error}")
        except Exception as error:
            failures.append(f"{number}: {damaged!r}: {type(error).__name__}: {str(error)[:500]}")
    assert not failures, "\n".join(failures)
    assert min(found["refused"], found["read"]) > 0.1 * len(part), found
