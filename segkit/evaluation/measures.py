"""All that is measured of the predictions for a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.errors import DataError
from segkit.inference.predictions import PredictedMask
from segkit.metrics import (
    Calibration,
    ConfusionMatrix,
    JointCounts,
    class_counts,
    iou_intervals,
    trust,
)
from segkit.metrics.confusion import mean, ratio
from segkit.metrics.counting import row_strips
from segkit.metrics.joint import PIXELS
from segkit.metrics.uncertainty import METHOD
from segkit.runtime.distributed import DistributedContext


@dataclass(frozen=True)
class ImageScores:
    """One image: what its scores, and intervals of the split's, need.

    Attributes:
        name: The image's id.
        counts: Its :func:`segkit.metrics.class_counts`, (3, C): int32, which is enough for what can
            be decoded, and 12 bytes a class.
    """

    name: str
    counts: NDArray[np.int32]

    @property
    def miou(self) -> float | None:
        return mean(self._iou())

    def row(self) -> list[object]:
        """Name, pixels, mean IoU, pixel accuracy, and the IoU of each class."""
        hits, target, _ = self.counts.sum(1, dtype=np.int64).tolist()
        return [self.name, target, self.miou, ratio(hits, target), *self._iou()]

    def _iou(self) -> list[float | None]:
        return [ratio(hit, t + p - hit) for hit, t, p in self.counts.T.tolist()]


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
        self.joint = JointCounts(
            num_classes, ignore_index, dilation_ratio=dilation_ratio, trimap_widths=trimap_widths
        )
        self.calibration = Calibration(ignore_index)
        self.images: list[ImageScores] = []

    def update(self, image: PredictedMask) -> None:
        """Count one image.

        Raises:
            DataError: Its prediction holds something that is no class.
        """
        pred, target, name = image.pred, image.batch.target, image.batch.ids[0]
        try:
            matrix = self.joint.update(pred, target)
            if matrix.device.type != "cpu":
                self.joint.matrix.refuse(self.joint.matrix.outside)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
        if image.confidence is not None:
            for rows in row_strips(slice(0, target.shape[1]), target.shape[2], PIXELS):
                self.calibration.update(pred[:, rows], image.confidence[:, rows], target[:, rows])
        counts = class_counts(matrix).to("cpu", torch.int32)
        self.images.append(ImageScores(name, counts.numpy()))

    def gather(self, world: DistributedContext) -> None:
        """From here on these are the measures of the images of all processes."""
        joint = self.joint
        joint.matrix = world.sum_matrix(joint.matrix)
        joint.boundary.counts = world.all_reduce_sum(joint.boundary.counts.cpu())
        joint.trimaps = {width: world.sum_matrix(m) for width, m in joint.trimaps.items()}
        self.calibration.counts = world.all_reduce_sum(self.calibration.counts.cpu())
        self.images = world.gather_interleaved(self.images)

    @property
    def matrix(self) -> ConfusionMatrix:
        """Of all pixels."""
        return self.joint.matrix

    @property
    def counts(self) -> Tensor:
        """Of each image, int64 (N, 3, C); see :func:`segkit.metrics.class_counts`."""
        return torch.from_numpy(np.stack([image.counts for image in self.images])).long()

    @property
    def image_mious(self) -> list[tuple[str, float | None]]:
        return [(image.name, image.miou) for image in self.images]

    def scores(self) -> dict[str, Any]:
        """Everything but the images, ready for strict JSON."""
        calibration = self.calibration.compute()
        return {
            **self.matrix.compute(),
            "boundary": {
                "dilation_ratio": self.joint.boundary.dilation_ratio,
                **self.joint.boundary.compute(),
            },
            "trimap": [
                {"width": width, "miou": scores["miou"], "iou": scores["iou"]}
                for width, scores in ((w, m.compute()) for w, m in self.joint.trimaps.items())
            ],
            "calibration": None if calibration["ece"] is None else calibration,
        }

    def intervals(self, level: float) -> dict[str, Any]:
        """Of the mean IoU and of each class's, and how far they can be trusted."""
        miou, *iou = iou_intervals(self.counts, level)
        images = len(self.images)
        about = {"method": METHOD, "images": images, "trust": trust(images), "level": level}
        return {**about, "miou": miou, "iou": iou}
