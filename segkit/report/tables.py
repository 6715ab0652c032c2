"""Scores as text and as files."""

from collections.abc import Mapping, Sequence
from typing import Any

from segkit.text import absent_classes, percent


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
    """One line per class (IoU, precision, recall, F1 in percent, target pixels), then the means.

    Classes that are neither in the target nor predicted share one line, and are not averaged.
    """
    absent = [name for name, iou in zip(classes, scores["iou"], strict=True) if iou is None]
    width = max(len(name) for name in ["class", *classes] if name not in absent)
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
        if iou is not None:
            numbers = " ".join(percent(value) for value in (iou, precision, recall, f1))
            lines.append(f"{name:<{width}} {numbers} {support:12d}")
    if absent:
        lines.append(absent_classes(absent))
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
