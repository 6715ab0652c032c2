"""Values that can be redone by hand."""

import doctest
import importlib
import math

import pytest
import torch
from torch import Tensor

from segkit.losses import (
    bce_loss,
    cross_entropy,
    dice_loss,
    focal_loss,
    lovasz_loss,
    mse_loss,
    topk_loss,
    tversky_loss,
)

LN2 = math.log(2.0)
THREE_LOGITS = [[0.7, 1.2, 0.3], [0.4, 0.2, 0.9], [0.6, 0.3, 0.4]]
THREE_LABELS = [1, 2, 0]


def pixel_row(logits: list[list[float]], labels: list[int]) -> tuple[Tensor, Tensor]:
    """One image of one row of pixels: float64 (1, C, 1, W) and int64 (1, 1, W)."""
    scores = torch.tensor(logits, dtype=torch.float64).T
    return scores[None, :, None], torch.tensor(labels)[None, None]


def of_probs(*probs: float) -> list[float]:
    return [math.log(p) for p in probs]


@pytest.mark.parametrize(
    ("logits", "label", "expected"),
    [*zip(THREE_LOGITS, THREE_LABELS, [0.69967604, 0.74342006, 0.93983102], strict=True)],
)
def test_cross_entropy_of_one_pixel(logits: list[float], label: int, expected: float) -> None:
    # The expected values carry the error of float32, in which they were computed.
    assert cross_entropy(*pixel_row([logits], [label])).item() == pytest.approx(expected, abs=1e-7)


SIGMOID_CE_ROWS = [
    (1.0798527, 0.34328249, 0.84435523),
    (0.89968193, 0.7914722, 0.40115389),
    (0.47748795, 0.84435523, 0.89968193),
]


@pytest.mark.parametrize(
    ("logits", "label", "row"), [*zip(THREE_LOGITS, THREE_LABELS, SIGMOID_CE_ROWS, strict=True)]
)
def test_smoothed_bce_of_one_pixel(
    logits: list[float], label: int, row: tuple[float, float, float]
) -> None:
    # Labels 0.0333 and 0.9333; the loss is the mean over the three classes.
    loss = bce_loss(*pixel_row([logits], [label]), label_smoothing=0.1)
    assert loss.item() == pytest.approx(sum(row) / 3, abs=1e-7)


def test_cross_entropy_of_a_3x3_image() -> None:
    class0 = [0.5546, 0.1304, 0.9288, 0.6879, 0.3553, 0.9984, 0.1474, 0.6745, 0.8948]
    class1 = [0.8524, 0.2278, 0.6476, 0.6203, 0.6977, 0.3352, 0.4946, 0.4613, 0.6882]
    logits = torch.tensor([class0, class1]).view(1, 2, 3, 3)
    target = torch.tensor([[[1, 1, 1], [1, 1, 1], [0, 0, 1]]])
    assert cross_entropy(logits, target).item() == pytest.approx(0.7403, abs=5e-5)


def test_cross_entropy_of_the_true_distribution_is_its_entropy() -> None:
    # Labels drawn as often as predicted: 1/2 * 1 + 1/8 * 3 + 1/4 * 2 + 1/8 * 3 = 1.75 bits.
    logits = [of_probs(0.5, 0.125, 0.25, 0.125)] * 8
    loss = cross_entropy(*pixel_row(logits, [0, 0, 0, 0, 1, 2, 2, 3]))
    assert loss.item() / LN2 == pytest.approx(1.75, abs=1e-12)


@pytest.mark.parametrize(("p", "rounded"), [(0.9, 4.5e-4), (0.6, 3.5e-2)])
def test_focal_in_base_ten(p: float, rounded: float) -> None:
    loss = focal_loss(*pixel_row([of_probs(p, 1 - p)], [0]), gamma=2.0).item() / math.log(10)
    assert loss == pytest.approx(-((1 - p) ** 2) * math.log10(p), rel=1e-12)
    assert loss == pytest.approx(rounded, rel=0.02)


def test_class_weights_divide_by_their_sum() -> None:
    # p_t = 1/2 of weight 3 and p_t = 1/4 of weight 1: (3 * 1 + 1 * 2) ln 2 / (3 + 1).
    pixels = pixel_row([of_probs(0.5, 0.5), of_probs(0.75, 0.25)], [0, 1])
    assert cross_entropy(*pixels, class_weights=[3, 1]).item() == pytest.approx(5 / 4 * LN2)


def test_alpha_multiplies_and_does_not_divide() -> None:
    # gamma = 1, p_t = 1/2 and 1/4: (3 * 1/2 * 1 + 1 * 3/4 * 2) ln 2 / 2 pixels.
    pixels = pixel_row([of_probs(0.5, 0.5), of_probs(0.75, 0.25)], [0, 1])
    assert focal_loss(*pixels, gamma=1, alpha=[3, 1]).item() == pytest.approx(3 / 2 * LN2)
    assert focal_loss(*pixels, gamma=1, alpha=2).item() == pytest.approx(2 * LN2)


def test_label_smoothing_of_cross_entropy() -> None:
    # Label (3/4, 1/4) against p = (1/2, 1/2): ln 2; against p = (1/4, 3/4): see the sum.
    even, uneven = (pixel_row([of_probs(p, 1 - p)], [0]) for p in (0.5, 0.25))
    assert cross_entropy(*even, label_smoothing=0.5).item() == pytest.approx(LN2)
    by_hand = -0.75 * math.log(0.25) - 0.25 * math.log(0.75)
    assert cross_entropy(*uneven, label_smoothing=0.5).item() == pytest.approx(by_hand)


def test_dice_of_two_pixels() -> None:
    # p = (3/4, 1/4) of class 0 and (1/2, 1/2) of class 1.
    pixels = pixel_row([of_probs(0.75, 0.25), of_probs(0.5, 0.5)], [0, 1])
    # Class 0: 2 * 3/4 of 5/4 + 1; class 1: 2 * 1/2 of 3/4 + 1.
    by_hand = ((1 - 1.5 / 2.25) + (1 - 1.0 / 1.75)) / 2
    assert dice_loss(*pixels, smooth=0).item() == pytest.approx(by_hand)
    smoothed = ((1 - 2.5 / 3.25) + (1 - 2.0 / 2.75)) / 2
    assert dice_loss(*pixels, smooth=1).item() == pytest.approx(smoothed)
    # beta = 2, class 1 alone: tp = 1/2, fn = 1/2, fp = 1/4.
    f2 = 5 * 0.5 / (5 * 0.5 + 4 * 0.5 + 0.25)
    loss = dice_loss(*pixels, smooth=0, beta=2, include_background=False)
    assert loss.item() == pytest.approx(1 - f2)


def test_dice_leaves_absent_classes_out() -> None:
    target = torch.zeros(1, 20, 20, dtype=torch.int64)
    target[:, 10:] = 1
    right = torch.full((1, 21, 20, 20), -50.0)
    right.scatter_(1, target[:, None], 50.0)
    wrong = right.roll(2, dims=1)
    assert dice_loss(right, target).item() == pytest.approx(0.0, abs=1e-6)
    assert dice_loss(wrong, target).item() == pytest.approx(1.0, abs=0.01)
    assert dice_loss(wrong, target, smooth=0).item() == pytest.approx(1.0, abs=1e-6)
    # Over all 21 classes the 17 that are neither labelled nor predicted score as perfect.
    diluted = dice_loss(wrong, target, smooth=1e-6, average="all").item()
    assert diluted == pytest.approx(4 / 21, abs=1e-6)


def test_adding_unused_classes_does_not_change_dice() -> None:
    logits = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.arange(64).view(1, 8, 8) % 2
    more = torch.cat((logits, torch.full((1, 19, 8, 8), -1e4)), dim=1)
    torch.testing.assert_close(dice_loss(more, target), dice_loss(logits, target))


def test_tversky_of_two_pixels() -> None:
    # The pixels of Dice above: (tp, fn, fp) are (3/4, 1/4, 1/2) and (1/2, 1/2, 1/4).
    pixels = pixel_row([of_probs(0.75, 0.25), of_probs(0.5, 0.5)], [0, 1])
    first = 1 - 0.75 / (0.75 + 0.7 * 0.25 + 0.3 * 0.5)
    second = 1 - 0.5 / (0.5 + 0.7 * 0.5 + 0.3 * 0.25)
    assert tversky_loss(*pixels, smooth=0).item() == pytest.approx((first + second) / 2)
    squared = tversky_loss(*pixels, smooth=0, gamma=2).item()
    assert squared == pytest.approx((first**2 + second**2) / 2)
    dice = tversky_loss(*pixels, alpha=0.5, beta=0.5, smooth=0.5)  # half of numerator and all
    torch.testing.assert_close(dice, dice_loss(*pixels, smooth=1))


def test_lovasz_of_two_pixels() -> None:
    # Class 0: the other pixel errs by 1/2, its own by 1/4; the Jaccard loss rises to 1/2, then 1.
    # Class 1: its own pixel errs by 1/2, and with it missed the loss is 1 at once.
    pixels = pixel_row([of_probs(0.75, 0.25), of_probs(0.5, 0.5)], [0, 1])
    by_hand = ((1 / 2 * 1 / 2 + 1 / 2 * 1 / 4) + 1 / 2) / 2
    assert lovasz_loss(*pixels).item() == pytest.approx(by_hand)
    assert lovasz_loss(*pixels, class_weights=[0, 1]).item() == pytest.approx(1 / 2)


def test_lovasz_of_sure_predictions_is_one_minus_their_iou() -> None:
    target = torch.tensor([[[0, 0, 1, 1, 1, 1]]])
    predicted = torch.tensor([[[0, 1, 1, 1, 1, 0]]])
    logits = 100.0 * torch.nn.functional.one_hot(predicted, 2).permute(0, 3, 1, 2)
    # IoU of class 0: 1 of 3; of class 1: 3 of 5.
    assert lovasz_loss(logits, target).item() == pytest.approx((2 / 3 + 2 / 5) / 2)


def test_topk_of_four_pixels() -> None:
    pixels = pixel_row([of_probs(p, 1 - p) for p in (0.9, 0.5, 0.99, 0.25)], [0, 0, 0, 0])
    assert topk_loss(*pixels, fraction=0.25).item() == pytest.approx(2 * LN2)
    assert topk_loss(*pixels, fraction=0.5).item() == pytest.approx(1.5 * LN2)
    # One pixel and a half: (2 + 1/2 * 1) ln 2 / 1.5.
    assert topk_loss(*pixels, fraction=0.375).item() == pytest.approx(2.5 / 1.5 * LN2)
    torch.testing.assert_close(topk_loss(*pixels, fraction=1.0), cross_entropy(*pixels))


def test_brier_score_of_two_pixels() -> None:
    # (1/4)^2 + (1/4)^2 and (1/2)^2 + (1/2)^2.
    pixels = pixel_row([of_probs(0.75, 0.25), of_probs(0.5, 0.5)], [0, 1])
    assert mse_loss(*pixels).item() == pytest.approx((1 / 8 + 1 / 2) / 2)


@pytest.mark.parametrize(
    "name", ["bce", "cross_entropy", "dice", "focal", "lovasz", "mse", "topk", "tversky"]
)
def test_example_in_the_docstring(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"segkit.losses.{name}"))
    assert result.failed == 0
    assert result.attempted in (3, 4)
