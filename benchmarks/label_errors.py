"""Plant label errors in masks, and see at which places of the report's list they come out.

    python benchmarks/label_errors.py --errors 10 -- checkpoint=RUN data.root=PATH split=val

What follows ``--`` goes to evaluate.py; ``data.root`` and ``split`` name masks in VOC layout, which
are copied, not changed. An error is one object (connected pixels of one class) in one image that
gets the class of a random other one. Prints a Markdown table of the errors, and how many of the
first places of ``suspicious_labels.csv`` are theirs.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segkit.data.masks import read_mask, write_mask

EVALUATE = Path(__file__).resolve().parent.parent / "evaluate.py"


class Planted(NamedTuple):
    """One error: the image, the true class, the false one, and the rows and columns it fills."""

    image: str
    true: str
    label: str
    rows: slice
    columns: slice
    pixels: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--errors", type=int, default=10, help="how many to plant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.003, help="least share of the image")
    parser.add_argument("--most", type=float, default=0.1, help="likewise, of the object")
    parser.add_argument("--keep", help="folder for the report")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    given = dict(text.partition("=")[::2] for text in args.overrides)
    root, split = Path(given["data.root"]), given.get("split", "val")
    classes = (root / "labels.txt").read_text().split("\n")
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder, "data"), Path(args.keep or Path(folder, "out")).absolute()
        planted = plant(root, copy, split, classes, args.errors, (args.least, args.most), args.seed)
        command = [
            *(sys.executable, str(EVALUATE), *args.overrides),
            *(f"data.root={copy}", f"out_dir={out}", "report.write=true"),
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        with (out / "suspicious_labels.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    places = [place(error, rows) for error in planted]
    print("| image | true class | planted label | pixels | place | score |")
    print("| --- | --- | --- | --- | --- | --- |")
    for error, number in sorted(zip(planted, places, strict=True), key=lambda one: one[1] or 10**9):
        score = f"{float(rows[number - 1]['score']):.3f}" if number else "-"
        print(
            f"| {error.image} | {error.true} | {error.label} | {error.pixels} | "
            f"{number or 'not listed'} | {score} |"
        )
    print(f"\n{len(rows)} regions in all.", end="")
    for first in (args.errors, 2 * args.errors):
        found = sum(number is not None and number <= first for number in places)
        print(f" {found} of the {args.errors} planted are among the first {first}.", end="")
    print()


def plant(
    root: Path,
    copy: Path,
    split: str,
    classes: list[str],
    errors: int,
    sizes: tuple[float, float],
    seed: int,
) -> list[Planted]:
    """Copy the data with so many errors, each in an image of its own."""
    for name in ("JPEGImages", "ImageSets"):
        shutil.copytree(root / name, copy / name)
    shutil.copy(root / "labels.txt", copy)
    shutil.copytree(root / "SegmentationClass", copy / "SegmentationClass")
    ids = (root / f"ImageSets/Segmentation/{split}.txt").read_text().split()
    rng = np.random.default_rng(seed)
    planted: list[Planted] = []
    for name in rng.permutation(ids):
        path = copy / f"SegmentationClass/{name}.png"
        mask = read_mask(path)
        present = [int(c) for c in np.unique(mask[mask != 255])]
        true = int(rng.choice(present))
        areas, count = ndimage.label(mask == true, np.ones((3, 3)))
        pixels = np.bincount(areas.ravel(), minlength=count + 1) / mask.size
        fitting = [n for n in range(1, count + 1) if sizes[0] <= pixels[n] <= sizes[1]]
        if not fitting or len(planted) == errors:
            continue
        area = areas == rng.choice(fitting)
        label = int(rng.choice([c for c in range(len(classes)) if classes[c] and c != true]))
        mask[area] = label
        write_mask(path, mask)
        rows, columns = ndimage.find_objects(area.astype(int))[0]
        planted.append(
            Planted(str(name), classes[true], classes[label], rows, columns, int(area.sum()))
        )
    return planted


def place(error: Planted, rows: list[dict[str, str]]) -> int | None:
    """Where the list has a region of this image and label that shares half of a box with it."""
    for number, row in enumerate(rows, start=1):
        top, bottom, left, right = (int(row[key]) for key in ("top", "bottom", "left", "right"))
        height = min(bottom, error.rows.stop) - max(top, error.rows.start)
        width = min(right, error.columns.stop) - max(left, error.columns.start)
        mine = (error.rows.stop - error.rows.start) * (error.columns.stop - error.columns.start)
        least = min(mine, (bottom - top) * (right - left)) / 2
        same = (row["image"], row["label"]) == (error.image, error.label)
        if same and min(height, width) > 0 and height * width >= least:
            return number
    return None


if __name__ == "__main__":
    main()
