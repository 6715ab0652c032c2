"""The pictures of a validation: a fixed set of images, and the confusion matrix."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segkit.data.loader import Batch
from segkit.metrics import ConfusionMatrix
from segkit.report.color_key import shown_classes, with_color_key, with_title
from segkit.report.images import GAP, confusion_image, panel, picture, shrunk

Write = Callable[[str, NDArray[np.uint8]], None]
SIDE = 300  # longer side of the images on the sheet, in pixels


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
        self.start()

    def start(self) -> None:
        self.seen = 0
        self.rows: list[NDArray[np.uint8]] = []  # of the sheet
        self.on_sheet: set[int] = set()  # ids of classes

    def add(self, batch: Batch, pred: Tensor, write: Write) -> None:
        """The next image: a batch of one and its class ids, (1, H, W)."""
        if self.seen in self.shown:
            image = picture(batch.image[0].permute(1, 2, 0).cpu().numpy())
            masks = [ids[0].cpu().numpy() for ids in (batch.target, pred)]
            drawn = panel(image, masks[0], masks[1], self.palette, self.ignore_index)
            shown = shown_classes(masks, len(self.classes)).tolist()
            name = f"val_images/image_mask_prediction/{batch.ids[0]}"
            write(name, with_color_key(drawn, shown, self.classes, self.palette))
            small, (target, found) = shrunk(image, masks, SIDE)
            row = panel(small, target, found, self.palette, self.ignore_index)
            self.rows.append(with_title(row, batch.ids[0]))
            self.on_sheet.update(shown)
        self.seen += 1

    def sheet(self, title: str) -> NDArray[np.uint8] | None:
        """The images of this validation below each other, small; None without any."""
        if not self.rows:
            return None
        width = max(row.shape[1] for row in self.rows)
        padded = [
            np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255)
            for row in self.rows
        ]
        sheet = with_title(np.concatenate(padded), title)
        return with_color_key(sheet, sorted(self.on_sheet), self.classes, self.palette)

    def confusion(self, matrix: ConfusionMatrix) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        return confusion_image(matrix.matrix.tolist(), self.classes)
