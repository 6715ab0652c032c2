"""Two models on the same images: where they differ, and whether that is more than chance."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from segkit.metrics import difference_intervals, swap_p_values, trust
from segkit.metrics.uncertainty import METHOD
from segkit.text import absent_classes, percent

Rows = Sequence[tuple[str, float | None]]


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    counts: tuple[Tensor, Tensor],
    images: tuple[Rows, Rows],
    classes: Sequence[str],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """What ``compare.json`` holds; every difference is the second's score minus the first's.

    Args:
        first: Scores with ``miou`` and ``iou``.
        second: The same scores of the other model.
        counts: For each model :func:`segkit.metrics.class_counts` of the images, int64 (N, 3, C).
        images: For each model (name, mean IoU) of the images, in one order.
        classes: Names in index order.
        resamples: Swaps of the models' answers for the p values; 0: neither these nor intervals.
        level: How often an interval is to hold the true difference.
        seed: Seed of the random swaps.
    """
    pairs = [first["miou"], *first["iou"]], [second["miou"], *second["iou"]]
    chances: list[dict[str, Any]] = [{} for _ in pairs[0]]
    if resamples:
        found = difference_intervals(*counts, level), swap_p_values(*counts, resamples, seed)
        chances = [{"interval": ends, "p_value": p} for ends, p in zip(*found, strict=True)]
    miou, *iou = (
        {"first": a, "second": b, "difference": difference(a, b), **chance}
        for a, b, chance in zip(*pairs, chances, strict=True)
    )
    rows = [
        {"id": name, "first": a, "second": b, "difference": difference(a, b)}
        for (name, a), (_, b) in zip(*images, strict=True)
    ]
    return {
        "difference": "second - first",
        "resamples": resamples,
        "level": level,
        "seed": seed,
        "method": f"{METHOD}; p values: the models' answers to single images are swapped",
        "trust": trust(len(counts[0])),
        "miou": miou,
        "iou": [{"class": name, **one} for name, one in zip(classes, iou, strict=True)],
        "images": sorted(rows, key=lambda row: -abs(row["difference"] or 0.0)),
    }


def difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else second - first


def comparison_table(comparison: Mapping[str, Any], num_images: int = 5) -> str:
    """Classes, the mean and the images that differ most, in percent.

    Classes that neither model's answers nor the masks show share one line.
    """
    absent = [
        row["class"] for row in comparison["iou"] if row["first"] is None and row["second"] is None
    ]
    level = f"{100 * comparison['level']:g} % interval"
    rows = [row for row in comparison["iou"] if row["class"] not in absent]
    rows.append({"class": "mIoU", **comparison["miou"]})
    width = max(len(row["class"]) for row in rows)
    lines = [f"{'IoU':<{width}}  first second   diff  {level if comparison['resamples'] else ''}"]
    for row in rows:
        low_high, p = row.get("interval"), row.get("p_value")
        chance = "" if low_high is None else f"  {percent(low_high[0])} to {percent(low_high[1])}"
        chance += "" if p is None else f"  p = {p:.3f}"
        numbers = " ".join(percent(row[key]) for key in ("first", "second", "difference"))
        lines.append(f"{row['class']:<{width}} {numbers}{chance}")
    if absent:
        lines.append(absent_classes(absent))
    if comparison["resamples"]:
        lines.append(comparison["trust"])
    changed = [row for row in comparison["images"] if row["difference"]][:num_images]
    if changed:
        lines.append("images whose mIoU differs most:")
    for row in changed:
        numbers = " ".join(percent(row[key]) for key in ("first", "second", "difference"))
        lines.append(f"  {numbers}  {row['id']}")
    return "\n".join(lines)
