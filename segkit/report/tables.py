"""Scores as text and as files."""

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any


def scalar_scores(
    scores: Mapping[str, Any], classes: Sequence[str], prefix: str
) -> dict[str, float | None]:
    """Scores under their log names: ``val/miou``, ``val/iou/<class>``, and so on."""
    flat: dict[str, float | None] = {}
    for name, value in scores.items():
        if name in ("iou", "precision", "recall", "f1"):
            for class_name, one in zip(classes, value, strict=True):
                flat[f"{prefix}{name}/{class_name}"] = one
        elif name != "support":
            flat[f"{prefix}{name}"] = value
    return flat


def class_table(scores: Mapping[str, Any], classes: Sequence[str]) -> str:
    """One line per class (IoU, precision, recall, F1 in percent, target pixels), then the means."""
    width = max(len("class"), *(len(name) for name in classes))
    lines = [f"{'class':<{width}}    IoU   prec    rec     F1       pixels"]
    columns = zip(
        classes,
        scores["iou"],
        scores["precision"],
        scores["recall"],
        scores["f1"],
        scores["support"],
        strict=True,
    )
    for name, iou, precision, recall, f1, support in columns:
        numbers = " ".join(percent(value) for value in (iou, precision, recall, f1))
        absent = "  (absent, not averaged)" if iou is None else ""
        lines.append(f"{name:<{width}} {numbers} {support:12d}{absent}")
    lines.append(
        f"mIoU {percent(scores['miou']).strip()} % over {scores['num_classes_averaged']} of "
        f"{len(classes)} classes (one confusion matrix over all pixels), "
        f"pixel accuracy {percent(scores['pixel_accuracy']).strip()} %, "
        f"mean accuracy {percent(scores['mean_accuracy']).strip()} %, "
        f"fw IoU {percent(scores['fw_iou']).strip()} %"
    )
    return "\n".join(lines)


def more_scores(result: Mapping[str, Any]) -> str:
    """One line with the scores near borders, the calibration error and the interval."""
    border = result["boundary"]
    parts = [
        f"boundary IoU {percent(border['miou']).strip()} % ({border['dilation_ratio']:g} of the "
        "diagonal)"
    ]
    for band in result["trimap"]:
        parts.append(f"trimap IoU {percent(band['miou']).strip()} % ({band['width']} pixels)")
    if result["calibration"] is not None:
        parts.append(f"calibration error {percent(result['calibration']['ece']).strip()} %")
    if (result.get("bootstrap") or {}).get("miou") is not None:
        draws = result["bootstrap"]
        low, high = (percent(end).strip() for end in draws["miou"])
        parts.append(
            f"mIoU between {low} and {high} % ({100 * draws['level']:g} % interval over "
            f"{draws['images']} images; {draws['trust']})"
        )
    return ", ".join(parts)


def percent(value: float | None) -> str:
    """Six characters: `` 87.31``, or a dash where a score is not defined."""
    return f"{'-':>6}" if value is None else f"{100 * value:6.2f}"


def shown(path: Path) -> str:
    """A path as people like to read it: from the current folder on, where there is such a way."""
    try:
        return os.path.relpath(path)
    except ValueError:  # Windows: on another drive
        return str(path.absolute())


def pace(images_per_second: float) -> str:
    """``12.3 images/s``, or ``21.4 s/image`` where that says more."""
    if images_per_second >= 1:
        return f"{images_per_second:.1f} images/s"
    return f"{1 / images_per_second:.1f} s/image"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON: null where a score is not defined, never NaN."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a line of names; see :class:`CSVTable`."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = CSVTable(file)
        table.add(header)
        for row in rows:
            table.add(row)


class CSVTable:
    """Rows of a CSV file that a spreadsheet may open.

    A text that it would take for a formula (``=``, ``+``, ``-``, ``@``, a tab or an end of a line
    in front) gets an apostrophe in front; texts that are numbers, as ``-0.5``, stay.
    """

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file)

    def add(self, row: Iterable[object]) -> None:
        self._writer.writerow([_cell(value) for value in row])


NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def _cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n") and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value
