"""What TensorBoard shows of a validation: a fixed set of images, and the confusion matrix."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segkit.data.loader import Batch
from segkit.metrics import ConfusionMatrix
from segkit.report.images import confusion_image, panel, picture, with_legend

Write = Callable[[str, NDArray[np.uint8]], None]


class ValidationImages:
    """Image, target and prediction side by side, of ``count`` images spread over the split.

    Args:
        classes: Names in index order.
        palette: RGB of each mask value, uint8 (256, 3).
        ignore_index: Mask value without a label.
        size: Number of images that come.
        count: Number of images to show.
    """

    def __init__(
        self,
        classes: Sequence[str],
        palette: NDArray[np.uint8],
        ignore_index: int,
        size: int,
        count: int,
    ) -> None:
        self.classes, self.palette, self.ignore_index = classes, palette, ignore_index
        self.shown = {size * i // count for i in range(min(count, size))} if count else set()
        self.seen = 0

    def start(self) -> None:
        self.seen = 0

    def add(self, batch: Batch, pred: Tensor, write: Write) -> None:
        """The next image: a batch of one and its class ids, (1, H, W)."""
        if self.seen in self.shown:
            drawn = panel(
                picture(batch.image[0].permute(1, 2, 0).cpu().numpy()),
                batch.target[0].cpu().numpy(),
                pred[0].cpu().numpy(),
                self.palette,
                self.ignore_index,
            )
            name = f"val/image_target_prediction/{batch.ids[0]}"
            write(name, with_legend(drawn, self.classes, self.palette))
        self.seen += 1

    def confusion(self, matrix: ConfusionMatrix, write: Write) -> None:
        write("val/confusion_matrix", confusion_image(matrix.matrix.tolist(), self.classes))
