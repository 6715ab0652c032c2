"""The files that an evaluation leaves behind."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.files import write_csv, write_json
from segkit.report.pictures import confusion_picture, write_picture


def write_scores(
    folder: Path,
    result: Mapping[str, Any],
    matrix: Sequence[Sequence[int]],
    images: Iterable[Sequence[object]],
    classes: Sequence[str],
) -> None:
    """``metrics.json``, the confusion matrix as table and picture, ``per_image.csv``.

    Args:
        folder: Where they go.
        result: Content of ``metrics.json``.
        matrix: Counts; rows are true classes, columns predicted ones.
        images: Id, pixels, mean IoU, pixel accuracy and IoU of each class, of each image.
        classes: Names in index order.
    """
    write_json(folder / "metrics.json", result)
    write_csv(
        folder / "confusion_matrix.csv",
        ["true \\ predicted", *classes],
        [[c, *row] for c, row in zip(classes, matrix, strict=True)],
    )
    write_picture(folder / "confusion_matrix.png", confusion_picture(matrix, classes))
    columns = ["id", "pixels", "miou", "pixel_accuracy", *(f"iou/{name}" for name in classes)]
    write_csv(folder / "per_image.csv", columns, images)
