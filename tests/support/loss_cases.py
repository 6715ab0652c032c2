"""Every loss, some sums of losses, and a batch with ignored pixels, for the tests of them all."""

import os
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from segkit.losses import (
    BCELoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    MSELoss,
    TopKLoss,
    TverskyLoss,
    WeightedSum,
)

NUM_CLASSES = 4
EVEN = [1.0] * NUM_CLASSES
UNEVEN = [0.5, 2.0, 1.0, 1.25]

Make = Callable[[Sequence[float] | None, int], nn.Module]


def sum_of(**losses: nn.Module) -> WeightedSum:
    weights = (1.0, 0.5, 2.0, 0.25, 3.0, 0.5, 1.5)
    parts = zip(losses.items(), weights, strict=False)
    return WeightedSum({name: {"weight": w, "loss": loss} for (name, loss), w in parts})


# Each makes a loss of class weights and an ignore_index.
LOSSES: dict[str, Make] = {
    "ce": lambda w, i: CrossEntropyLoss(w, ignore_index=i),
    "ce_smooth": lambda w, i: CrossEntropyLoss(w, label_smoothing=0.1, ignore_index=i),
    "focal_0": lambda w, i: FocalLoss(0.0, class_weights=w, ignore_index=i),
    "focal_half": lambda w, i: FocalLoss(0.5, class_weights=w, ignore_index=i),
    "focal_2": lambda w, i: FocalLoss(2.0, class_weights=w, ignore_index=i),
    "focal_alpha": lambda w, i: FocalLoss(2.0, alpha=w, class_weights=w, ignore_index=i),
    "dice": lambda w, i: DiceLoss(class_weights=w, ignore_index=i),
    "dice_sharp": lambda w, i: DiceLoss(2.0, smooth=0.0, class_weights=w, ignore_index=i),
    "dice_all": lambda w, i: DiceLoss(average="all", class_weights=w, ignore_index=i),
    "dice_foreground": lambda w, i: DiceLoss(
        include_background=False, class_weights=w, ignore_index=i
    ),
    "tversky": lambda w, i: TverskyLoss(class_weights=w, ignore_index=i),
    "tversky_all": lambda w, i: TverskyLoss(
        1.0, 0.5, gamma=0.75, average="all", class_weights=w, ignore_index=i
    ),
    "lovasz": lambda w, i: LovaszLoss(class_weights=w, ignore_index=i),
    "topk": lambda w, i: TopKLoss(class_weights=w, ignore_index=i),
    "bce": lambda w, i: BCELoss(class_weights=w, ignore_index=i),
    "bce_smooth": lambda w, i: BCELoss(0.1, class_weights=w, ignore_index=i),
    "mse": lambda w, i: MSELoss(ignore_index=i),
    "ce+dice": lambda w, i: sum_of(
        ce=CrossEntropyLoss(w, ignore_index=i), dice=DiceLoss(class_weights=w, ignore_index=i)
    ),
    "all": lambda w, i: sum_of(
        focal=FocalLoss(0.5, class_weights=w, ignore_index=i),
        dice=DiceLoss(class_weights=w, ignore_index=i),
        bce=BCELoss(class_weights=w, ignore_index=i),
        mse=MSELoss(ignore_index=i),
        ce=CrossEntropyLoss(w, 0.1, ignore_index=i),
        lovasz=LovaszLoss(class_weights=w, ignore_index=i),
        topk=TopKLoss(0.5, w, ignore_index=i),
    ),
}
if os.environ.get("SEGKIT_TESTS_FUSED") == "1":
    # The same contract for the kernels, on a CPU through Triton's interpreter: test_fused.py.
    others = ("bce", "lovasz", "topk", "all")
    LOSSES = {n: make for n, make in LOSSES.items() if not n.startswith(others)}
    LOSSES["fused_sum"] = lambda w, i: sum_of(
        focal=FocalLoss(0.5, class_weights=w, ignore_index=i),
        dice=DiceLoss(class_weights=w, ignore_index=i),
        mse=MSELoss(ignore_index=i),
        ce=CrossEntropyLoss(w, 0.1, ignore_index=i),
    )

    def fused(make: Make) -> Make:
        def made(weights: Sequence[float] | None, ignore_index: int) -> nn.Module:
            loss = make(weights, ignore_index)
            if not isinstance(loss, WeightedSum):
                return WeightedSum({"own": {"weight": 1.0, "loss": loss}}, fused=True)
            named = zip(loss.names, loss.weights, loss.losses, strict=True)
            return WeightedSum({n: {"weight": w, "loss": one} for n, w, one in named}, fused=True)

        return made

    LOSSES = {name: fused(make) for name, make in LOSSES.items()}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)


def batch(ignore_index: int = 255, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 logits (2, 4, 6, 5) and a target with ignored pixels; class 3 is absent."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, NUM_CLASSES, 6, 5, generator=generator) * 2
    target = torch.randint(0, NUM_CLASSES - 1, (2, 6, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.3] = ignore_index
    assert 20 < (target != ignore_index).sum() < 60
    return logits, target
