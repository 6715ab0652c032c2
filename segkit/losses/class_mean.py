"""Losses that are a mean over classes, each with a loss of its own: Dice, Tversky, Lovasz."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segkit.losses.class_sums import ClassSums
from segkit.losses.pixels import PixelLoss, PixelScores, ratio
from segkit.losses.settings import class_values

Average = Literal["present", "all"]


class ClassMeanLoss(PixelLoss):
    """Which classes are averaged, and with which weights.

    A class absent from its target has no say by default: it can neither dilute the mean with easy
    zeros nor reward predicting nothing. Without any class to average (all pixels ignored, or all of
    classes that are left out or have weight 0) the loss is 0 with a zero gradient.

    Args:
        average: Mean over the classes ``present`` in the target of the step, or over ``all``.
        class_weights: None or one weight per class, each at least 0, of the mean over classes.
        ignore_index: Target value of the pixels that have no part in the loss.
        include_background: Whether class 0 is one of the averaged classes.

    Raises:
        ValueError: For settings outside their range or a weighting given by name.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        average: Average,
        class_weights: Sequence[float] | Tensor | None,
        ignore_index: int,
        include_background: bool = True,
    ) -> None:
        super().__init__(ignore_index)
        if average not in ("present", "all"):
            raise ValueError(f"average must be 'present' or 'all', got {average!r}")
        self.average = average
        self.include_background = include_background
        self.register_buffer("class_weights", class_values("class_weights", class_weights))

    def mean_over_classes(
        self, pixels: PixelScores | ClassSums, loss: Tensor, labelled: Tensor
    ) -> Tensor:
        """The mean of the losses of the classes, (C,), a scalar of the dtype of ``pixels``.

        Args:
            pixels: What the losses are of.
            loss: Of each class, (C,).
            labelled: Number of pixels of each class in the target of the whole step, (C,).
        """
        if self.class_weights is None:
            weights = torch.ones_like(labelled)
        else:
            weights = pixels.per_class(self.class_weights, "class_weights").to(labelled.dtype)
        if self.average == "present":
            weights = weights * (labelled > 0)
        if not self.include_background:
            weights = torch.cat((torch.zeros_like(weights[:1]), weights[1:]))
        return ratio((weights * loss).sum(), weights.sum()).to(pixels.dtype)
