"""Wrong input and impossible settings are refused, and the message says what came."""

from collections.abc import Callable

import pytest
import torch
from loss_cases import UNEVEN, Make, batch, every_loss
from torch import nn

from segkit.losses import (
    BCELoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    MSELoss,
    TopKLoss,
    TverskyLoss,
)


@every_loss
class TestEveryLoss:
    @pytest.mark.parametrize(
        ("logits", "target"),
        [
            ((2, 4, 8, 8), (2, 4, 8)),
            ((2, 4, 8, 8), (1, 8, 8)),
            ((1, 4, 8, 8), (2, 8, 8)),
            ((2, 4, 8, 8), (2, 1, 8, 8)),
            ((2, 4, 8), (2, 8)),
        ],
    )
    def test_wrong_shapes_are_named(
        self, make: Make, logits: tuple[int, ...], target: tuple[int, ...]
    ) -> None:
        message = f"got logits {logits} and target {target}"
        with pytest.raises(ValueError, match=message.translate({40: r"\(", 41: r"\)"})):
            make(UNEVEN, 255)(torch.zeros(logits), torch.zeros(target, dtype=torch.int64))

    def test_wrong_dtypes_are_named(self, make: Make) -> None:
        logits, target = batch()
        with pytest.raises(ValueError, match=r"class ids as .*torch\.int64, got torch\.float32"):
            make(UNEVEN, 255)(logits, target.float())
        with pytest.raises(ValueError, match=r"class ids as .*torch\.int64, got torch\.bool"):
            make(UNEVEN, 255)(logits, target.bool())
        with pytest.raises(ValueError, match=r"logits must be floats, got torch\.int64"):
            make(UNEVEN, 255)(logits.long(), target)

    @pytest.mark.parametrize("label", [4, 254, -1])
    def test_labels_that_are_no_class_are_named(self, make: Make, label: int) -> None:
        logits, target = batch()
        target[1, 2, 3] = label
        message = rf"target holds {label}, .* \[0, 4\) nor ignore_index=255"
        with pytest.raises(ValueError, match=message):
            make(UNEVEN, 255)(logits, target)

    def test_wrong_number_of_class_weights(
        self, make: Make, request: pytest.FixtureRequest
    ) -> None:
        if request.node.callspec.id == "mse":
            pytest.skip("has no class weights")
        with pytest.raises(ValueError, match="has 3 values for logits with 4 classes"):
            make([1.0, 2.0, 3.0], 255)(*batch())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocalLoss(gamma=-1), "gamma must be a finite number at least 0, got -1"),
        (lambda: FocalLoss(gamma="two"), "gamma must be .* got 'two'"),  # type: ignore[arg-type]
        (lambda: FocalLoss(alpha=float("nan")), "alpha must be .* got nan"),
        (lambda: FocalLoss(alpha=[1, -2]), r"alpha\[1\] must be .* got -2"),
        (lambda: FocalLoss(alpha="balanced"), "alpha='balanced': .* training split by train.py"),  # type: ignore[arg-type]
        (lambda: CrossEntropyLoss("balanced"), "class_weights='balanced': .* train.py"),  # type: ignore[arg-type]
        (lambda: CrossEntropyLoss(3), "class_weights must be a list"),  # type: ignore[arg-type]
        (lambda: CrossEntropyLoss([1, float("inf")]), r"class_weights\[1\] must be .* got inf"),
        (lambda: CrossEntropyLoss(label_smoothing=1.5), r"label_smoothing must be .* in \[0, 1\]"),
        (lambda: BCELoss(label_smoothing=-0.1), r"label_smoothing must be .* got -0\.1"),
        (lambda: DiceLoss(beta=0), "beta must be above 0"),
        (lambda: DiceLoss(smooth=-1), "smooth must be a finite number at least 0"),
        (lambda: DiceLoss(average="mean"), "average must be 'present' or 'all', got 'mean'"),  # type: ignore[arg-type]
        (lambda: TverskyLoss(beta=0), "beta must be above 0"),
        (lambda: TverskyLoss(gamma=0), "gamma must be above 0"),
        (lambda: TverskyLoss(alpha=-1), "alpha must be a finite number at least 0, got -1"),
        (lambda: LovaszLoss(average="mean"), "average must be 'present' or 'all', got 'mean'"),  # type: ignore[arg-type]
        (lambda: TopKLoss(0), "fraction must be above 0"),
        (lambda: TopKLoss(1.5), r"fraction must be a finite number in \[0, 1\], got 1\.5"),
        (lambda: MSELoss(ignore_index=25.5), r"ignore_index must be an int, got 25\.5"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
