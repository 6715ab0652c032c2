"""Draw an image of a result: images, their masks, and what was predicted, side by side.

    python evaluate.py checkpoint=RUN split=test save_predictions=true
    python benchmarks/result_image.py RUN/eval/test-best --data PATH --out result.png

Of the images in the order of their own mIoU it takes those at three quarters, at the middle and at
one quarter: neither the best nor the worst. What is ignored is striped in the mask.
"""

import segkit  # isort: skip  # noqa: F401

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image

from segkit.data.arrays import Image
from segkit.data.masks import read_mask
from segkit.data.voc import VOCSegmentation
from segkit.report.color_key import with_names
from segkit.report.images import GAP, panel

WIDTH = 320  # of each of the three images in a row
QUARTERS = (3, 2, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluation", type=Path, help="folder that evaluate.py wrote")
    parser.add_argument("--data", required=True, help="folder of the data, in VOC layout")
    parser.add_argument("--out", type=Path, default=Path("result.png"))
    args = parser.parse_args()
    result = json.loads((args.evaluation / "metrics.json").read_text(encoding="utf-8"))
    dataset = VOCSegmentation(args.data, result["split"], classes=result["classes"])
    rows: list[Image] = []
    for name in chosen(args.evaluation / "per_image.csv"):
        image, target = dataset.read(dataset.ids.index(name))
        pred = read_mask(args.evaluation / "predictions" / f"{name}.png")
        rows += [row(image, target, pred, dataset), np.full((GAP, 3 * WIDTH + 2 * GAP, 3), 255)]
    names, colors = dataset.classes, dataset.palette[: len(dataset.classes)]
    drawn = with_names(np.concatenate(rows).astype(np.uint8), names, colors)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # With 256 colours the file has a third of the size, and looks the same.
    PIL.Image.fromarray(drawn).quantize(256).save(args.out, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB")


def chosen(per_image: Path) -> list[str]:
    """Ids of the images to show."""
    with per_image.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["miou"]]  # none without a label
    ranked = sorted((float(row["miou"]), row["id"]) for row in rows)
    return [ranked[len(ranked) * quarter // 4][1] for quarter in QUARTERS]


def row(image: Image, target: Image, pred: Image, dataset: VOCSegmentation) -> Image:
    """The three images, made ``WIDTH`` pixels wide."""
    size = WIDTH, round(WIDTH * image.shape[0] / image.shape[1])
    small = PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.LANCZOS)
    masks = (
        PIL.Image.fromarray(mask).resize(size, PIL.Image.Resampling.NEAREST)
        for mask in (target, pred)
    )
    return panel(np.asarray(small), *map(np.asarray, masks), dataset.palette, dataset.ignore_index)


if __name__ == "__main__":
    main()
