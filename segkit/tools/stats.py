"""Show what a data set holds: class pixels, image and object sizes, and what follows from them.

python -m segkit.tools.stats data.root=PATH [split=train] [json=FILE] [key=value ...]
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.cli.arguments import output_file, run_tool
from segkit.config.schema import option
from segkit.console import say
from segkit.data.arrays import Pixels
from segkit.data.check import judge
from segkit.data.facts import Facts, facts_of
from segkit.data.threads import map_parallel
from segkit.files import write_json
from segkit.losses.class_weights import WEIGHTINGS
from segkit.metrics.objects import object_sizes
from segkit.models.atrous import ATROUS_RATES, fitting_rates, needed_crop
from segkit.tools.data_keys import DataKeys

SMALL = 16 * 16  # pixels of one cell of the last features at output stride 16
STEP = 32  # crop sizes are multiples of it
LARGEST_CROP, SMALLEST_CROP = 768, 160
OUTPUT_STRIDE = 16  # what model.output_stride is unless it is set
BACKGROUND = "background"
NO_OBJECTS = np.empty((0, 3), np.int64)


@dataclass
class Request(DataKeys):
    """The keys of ``stats``."""

    split: str = option("train", "split, as train.py calls it")
    json: str | None = option(None, "file for the numbers", path=True)
    force: bool = option(False, "replace that file")
    dry_run: bool = option(False, "do everything but write")


class Found(NamedTuple):
    """What one image holds."""

    size: tuple[int, int]  # height, width
    pixels: NDArray[np.int64]  # of each class
    ignored: int
    objects: list[NDArray[np.int64]]  # of each class, (objects, 3)
    values: NDArray[np.int64]  # of each channel: sum of the bytes, and of their squares
    grey: bool  # all channels are equal


def stats(request: Request) -> None:
    """Print what ``split`` holds, and write it to ``json``."""
    path = None if request.json is None else output_file("json", request.json, request.force)
    dataset = request.open(request.split)

    def look(index: int) -> tuple[Found, Facts]:
        item = dataset.examine(index)
        mask = item.mask
        facts = facts_of(item, dataset, dataset.ids[index], request.ignore_index)
        labelled = mask[mask != request.ignore_index]
        pixels = np.bincount(labelled, minlength=dataset.num_classes)
        objects = [
            object_sizes(mask, number) if pixels[number] else NO_OBJECTS
            for number in range(dataset.num_classes)
        ]
        values, grey = _values(item.image)
        ignored = mask.size - labelled.size
        return Found(mask.shape, pixels, ignored, objects, values, grey), facts

    looked = map_parallel(look, range(len(dataset)), "look")
    facts = {name: one for name, (_, one) in zip(dataset.ids, looked, strict=True)}
    _, warnings = judge(
        {request.split: dataset},
        {request.split: facts},
        ignore_index=request.ignore_index,
        trained=False,
    )
    content = summarize([found for found, _ in looked], dataset.classes)
    say(report(content))
    for warning in warnings:
        say(f"warning: {warning}")
    if path is not None and request.dry_run:
        say(f"dry run: would write {path}")
    elif path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"root": str(dataset.root), "split": dataset.split, **content})
        say(f"written: {path}")


def _values(image: Pixels) -> tuple[NDArray[np.int64], bool]:
    """Of uint8 (H, W, C): the sums (C, 2) of values and squares, and whether channels are equal."""
    channels = image.reshape(-1, image.shape[2]).T
    counts = np.array([np.bincount(channel, minlength=256) for channel in channels])
    powers = np.stack([np.arange(256), np.arange(256) ** 2], axis=1)
    return counts @ powers, bool((image == image[..., :1]).all())


def summarize(found: Sequence[Found], classes: Sequence[str]) -> dict[str, Any]:
    """All numbers as builtins, in the layout of the JSON file."""
    pixels = np.sum([one.pixels for one in found], axis=0)
    shown = np.sum([one.pixels > 0 for one in found], axis=0)
    ignored = sum(one.ignored for one in found)
    per_class = []
    for number, name in enumerate(classes):
        sizes = np.concatenate([one.objects[number] for one in found])
        per_class.append(
            {
                "name": name,
                "pixels": int(pixels[number]),
                "share": float(pixels[number] / max(pixels.sum(), 1)),
                "images": int(shown[number]),
                "objects": len(sizes),
                "object_pixels": _quantiles(sizes[:, 0], (10, 50, 90)),
                "object_side": _quantiles(sizes[:, 1:].max(axis=1, initial=0), (10, 50, 90)),
                "objects_below_256_pixels": int((sizes[:, 0] < SMALL).sum()),
            }
        )
    heights, widths = np.array([one.size for one in found]).T
    common = Counter(one.size for one in found).most_common(5)
    weights = {name: weighting(pixels) for name, weighting in WEIGHTINGS.items() if pixels.any()}
    return {
        "images": len(found),
        "height": _quantiles(heights, (0, 50, 100)),
        "width": _quantiles(widths, (0, 50, 100)),
        "commonest_sizes": [{"height": h, "width": w, "images": n} for (h, w), n in common],
        "labelled_pixels": int(pixels.sum()),
        "ignored_pixels": ignored,
        "classes": per_class,
        "class_weights": weights,
        "crop_size": suggest_crop(found, classes),
        **_mean_and_std(found),
    }


def _mean_and_std(found: Sequence[Found]) -> dict[str, Any]:
    """Of each channel, over all pixels of the images, of values in 0 to 1."""
    pixels = sum(one.size[0] * one.size[1] for one in found)
    mean, square = (np.sum([one.values for one in found], axis=0) / pixels).T
    std = np.sqrt(np.maximum(square - mean**2, 0)) / 255
    return {
        "mean": (mean / 255).tolist(),
        "std": std.tolist(),
        "grey": all(one.grey for one in found),
    }


def suggest_crop(found: Sequence[Found], classes: Sequence[str]) -> list[int]:
    """Height and width of a crop that shows most objects with their surroundings.

    One and a half times the side that 9 of 10 objects stay below, in multiples of 32 from 160 to
    768, but not more than the median image has. Areas of the background do not count, nor do
    those of less than 16 x 16 pixels, which are often specks.
    """
    counted = [number for number, name in enumerate(classes) if name != BACKGROUND]
    sizes = np.concatenate([one.objects[number] for one in found for number in counted])
    sides = sizes[sizes[:, 0] >= SMALL, 1:].max(axis=1, initial=0)
    wanted = 1.5 * float(np.percentile(sides, 90)) if len(sides) else float(LARGEST_CROP)
    crop = []
    for side in np.median([one.size for one in found], axis=0):
        fits = min(np.ceil(wanted / STEP) * STEP, np.floor(side / STEP) * STEP, LARGEST_CROP)
        crop.append(int(max(fits, SMALLEST_CROP)))
    return crop


def report(content: dict[str, Any]) -> str:
    """The summary as text."""
    names = [one["name"] for one in content["classes"]]
    width = max(len(name) for name in ["class", *names])
    head = f" id  {'class':{width}}         pixels   share   images  objects  median px  < 256 px"
    lines = [head]
    for number, one in enumerate(content["classes"]):
        small = one["objects_below_256_pixels"] / max(one["objects"], 1)
        lines.append(
            f"{number:>3}  {one['name']:{width}}{one['pixels']:>15,}{one['share']:>8.2%}"
            f"{one['images']:>9}{one['objects']:>9}{one['object_pixels'][1] or 0:>11,.0f}"
            f"{small:>10.0%}"
        )
    total = content["labelled_pixels"] + content["ignored_pixels"]
    share = content["ignored_pixels"] / max(total, 1)
    lines.append(f"     {'(ignored)':{width}}{content['ignored_pixels']:>15,}{share:>8.2%}")
    sizes = ", ".join(
        f"{s['width']} x {s['height']} ({s['images']})" for s in content["commonest_sizes"]
    )
    lines += [
        "",
        f"{content['images']} images; width x height of the commonest: {sizes}",
        f"height {_range(content['height'])}, width {_range(content['width'])}",
        "objects are connected areas of one class; those below 256 px are smaller than one cell of "
        "the features at output stride 16 (model.output_stride=8 halves its sides)",
        "",
        crop_text(content["crop_size"]),
        "class weights, as loss.terms.ce.loss.class_weights=NAME would set them:",
    ]
    for name, weights in content["class_weights"].items():
        lines.append(f"  {name:17}[{', '.join(f'{weight:.3g}' for weight in weights)}]")
    lines += channel_lines(content)
    return "\n".join(lines)


def channel_lines(content: dict[str, Any]) -> list[str]:
    """The keys that normalise these images, instead of ImageNet's numbers."""

    def keys(channels: int) -> str:
        # A channel that is the same everywhere is divided by 1.
        values = {"mean": content["mean"], "std": [std or 1.0 for std in content["std"]]}
        texts = (
            f"data.{name}=[{','.join(f'{value:.4g}' for value in numbers[:channels])}]"
            for name, numbers in values.items()
        )
        return " ".join(f"'{text}'" for text in texts)

    count = len(content["mean"])
    lines = [f"mean and deviation of the {count} channels: {keys(count)}"]
    if count == 3:
        lines[0] += " (the default is ImageNet's, which its weights were trained with)"
    if count > 1 and content["grey"]:
        lines.append(f"all images are grey; for a network with one channel: {keys(1)}")
    return lines


def crop_text(crop: Sequence[int]) -> str:
    """The suggested crop, and what the atrous rates become with it."""
    rates, usual = fitting_rates(crop, OUTPUT_STRIDE), ATROUS_RATES[OUTPUT_STRIDE]
    text = f"suggested: 'augment.crop_size=[{crop[0]},{crop[1]}]'"
    if rates == usual:
        return text
    side = needed_crop(usual[-1], OUTPUT_STRIDE)
    return (
        f"{text}; the model's atrous rates follow it: {', '.join(map(str, rates))} "
        f"({', '.join(map(str, usual))}, with a wider view, from {side} x {side} on)"
    )


def _range(quantiles: Sequence[float | None]) -> str:
    low, middle, high = (f"{value:.0f}" for value in quantiles if value is not None)
    return f"{low} to {high}, median {middle}"


def _quantiles(values: NDArray[Any], percents: Sequence[int]) -> list[float | None]:
    """Null where there are no values."""
    if len(values) == 0:
        return [None] * len(percents)
    return [float(value) for value in np.percentile(values, percents)]


if __name__ == "__main__":
    sys.exit(run_tool(Request, stats, sys.argv[1:], str(__doc__)))
