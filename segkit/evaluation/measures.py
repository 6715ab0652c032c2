"""All that is measured of the predictions for a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkit.errors import DataError
from segkit.inference.predictions import PredictedMask, chunks
from segkit.metrics import (
    BoundaryIoU,
    Calibration,
    ConfusionMatrix,
    Scores,
    class_counts,
    iou_intervals,
    trimap,
    trust,
)
from segkit.metrics.uncertainty import METHOD
from segkit.runtime.distributed import DistributedContext


@dataclass(frozen=True)
class ImageScores:
    """One image: its own scores, and the counts that intervals need, (3, C)."""

    name: str
    scores: Scores
    counts: list[list[int]]

    def row(self) -> list[object]:
        """Name, pixels, mean IoU, pixel accuracy, and the IoU of each class."""
        s = self.scores
        return [self.name, sum(s["support"]), s["miou"], s["pixel_accuracy"], *s["iou"]]


class Measures:
    """Region, border, confidence and image scores of the images of this process.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value of the pixels that are not counted.
        dilation_ratio: Width of the boundary IoU's border over the image's diagonal.
        trimap_widths: Widths of the bands around label borders that are scored alone, in pixels.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        *,
        dilation_ratio: float = 0.02,
        trimap_widths: Sequence[int] = (),
    ) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.matrix = ConfusionMatrix(num_classes, ignore_index)
        self.boundary = BoundaryIoU(num_classes, ignore_index, dilation_ratio)
        self.trimaps = {
            width: ConfusionMatrix(num_classes, ignore_index) for width in trimap_widths
        }
        self.calibration = Calibration(ignore_index)
        self.images: list[ImageScores] = []

    def update(self, image: PredictedMask) -> None:
        """Count one image.

        Raises:
            DataError: Its prediction holds something that is no class.
        """
        pred, target, name = image.pred, image.batch.target, image.batch.ids[0]
        one = ConfusionMatrix(self.num_classes, self.ignore_index)
        try:
            for rows in chunks(slice(0, target.shape[1]), target.shape[2]):
                one.update(pred[:, rows], target[:, rows])
                if image.confidence is not None:
                    self.calibration.update(
                        pred[:, rows], image.confidence[:, rows], target[:, rows]
                    )
            scores = one.compute()
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
        self.matrix.merge(one)
        self.boundary.update(pred, target)
        for width, matrix in self.trimaps.items():
            near = trimap(target, width, self.ignore_index)
            for rows in chunks(slice(0, target.shape[1]), target.shape[2]):
                matrix.update(pred[:, rows], near[:, rows])
        self.images.append(ImageScores(name, scores, class_counts(one.matrix).tolist()))

    def gather(self, world: DistributedContext) -> None:
        """From here on these are the measures of the images of all processes."""
        self.matrix = world.sum_matrix(self.matrix)
        self.boundary.counts = world.all_reduce_sum(self.boundary.counts.cpu())
        self.trimaps = {width: world.sum_matrix(m) for width, m in self.trimaps.items()}
        self.calibration.counts = world.all_reduce_sum(self.calibration.counts.cpu())
        self.images = world.gather_interleaved(self.images)

    @property
    def counts(self) -> Tensor:
        """Of each image, int64 (N, 3, C); see :func:`segkit.metrics.class_counts`."""
        return torch.tensor([image.counts for image in self.images], dtype=torch.int64)

    @property
    def image_mious(self) -> list[tuple[str, float | None]]:
        return [(image.name, image.scores["miou"]) for image in self.images]

    def scores(self) -> dict[str, Any]:
        """Everything but the images, ready for strict JSON."""
        calibration = self.calibration.compute()
        return {
            **self.matrix.compute(),
            "boundary": {
                "dilation_ratio": self.boundary.dilation_ratio,
                **self.boundary.compute(),
            },
            "trimap": [
                {"width": width, "miou": scores["miou"], "iou": scores["iou"]}
                for width, scores in ((w, m.compute()) for w, m in self.trimaps.items())
            ],
            "calibration": None if calibration["ece"] is None else calibration,
        }

    def intervals(self, level: float) -> dict[str, Any]:
        """Of the mean IoU and of each class's, and how far they can be trusted."""
        miou, *iou = iou_intervals(self.counts, level)
        images = len(self.images)
        about = {"method": METHOD, "images": images, "trust": trust(images), "level": level}
        return {**about, "miou": miou, "iou": iou}
