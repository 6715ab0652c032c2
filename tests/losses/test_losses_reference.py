"""Each loss against torch or a literal loop over pixels and classes, in float64."""

import itertools
import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.losses import bce_loss, cross_entropy, dice_loss, focal_loss, mse_loss

NUM_CLASSES = 4
WEIGHTS = [0.5, 2.0, 0.0, 1.25]  # exact in float32, in which the losses hold them


@pytest.fixture
def pixels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, NUM_CLASSES, 5, 7, dtype=torch.float64, generator=generator) * 3
    target = torch.randint(0, NUM_CLASSES - 1, (2, 5, 7), generator=generator)  # class 3 is absent
    target[torch.rand(target.shape, generator=generator) < 0.3] = 255
    return logits, target


def valid_pixels(logits: Tensor, target: Tensor) -> list[tuple[list[float], list[float], int]]:
    """(logits, softmax, label) of every pixel that is not ignored."""
    found = []
    num_images, height, width = target.shape
    for n, y, x in itertools.product(range(num_images), range(height), range(width)):
        label = int(target[n, y, x])
        if label != 255:
            scores = [float(score) for score in logits[n, :, y, x]]
            total = sum(math.exp(score) for score in scores)
            found.append((scores, [math.exp(score) / total for score in scores], label))
    return found


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_that_of_torch(
    pixels: tuple[Tensor, Tensor], class_weights: list[float] | None, label_smoothing: float
) -> None:
    logits, target = (pixels[0].requires_grad_(), pixels[1])
    weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)
    expected = F.cross_entropy(
        logits, target, weight, ignore_index=255, label_smoothing=label_smoothing
    )
    loss = cross_entropy(
        logits, target, class_weights=class_weights, label_smoothing=label_smoothing
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    slopes = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_focal_with_gamma_0_is_cross_entropy(
    pixels: tuple[Tensor, Tensor], class_weights: list[float] | None
) -> None:
    focal = focal_loss(*pixels, gamma=0, class_weights=class_weights)
    ce = cross_entropy(*pixels, class_weights=class_weights)
    torch.testing.assert_close(focal, ce, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("alpha", [None, 0.25, [1.0, 0.5, 0.75, 2.0]])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_focal_is_the_loop(
    pixels: tuple[Tensor, Tensor],
    gamma: float,
    alpha: float | list[float] | None,
    class_weights: list[float] | None,
) -> None:
    total = amount = 0.0
    for _, probs, label in valid_pixels(*pixels):
        weight = 1.0 if class_weights is None else class_weights[label]
        factor = alpha[label] if isinstance(alpha, list) else 1.0 if alpha is None else alpha
        total -= weight * factor * (1 - probs[label]) ** gamma * math.log(probs[label])
        amount += weight
    loss = focal_loss(*pixels, gamma=gamma, alpha=alpha, class_weights=class_weights)
    assert loss.item() == pytest.approx(total / amount, rel=1e-12)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("average", ["present", "all"])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_dice_is_the_loop(
    pixels: tuple[Tensor, Tensor],
    beta: float,
    smooth: float,
    average: Literal["present", "all"],
    include_background: bool,
    class_weights: list[float] | None,
) -> None:
    total = amount = 0.0
    for c in range(NUM_CLASSES):
        tp = fp = fn = 0.0
        for _, probs, label in valid_pixels(*pixels):
            tp += probs[c] if label == c else 0.0
            fn += 1 - probs[c] if label == c else 0.0
            fp += probs[c] if label != c else 0.0
        if (average == "present" and tp + fn == 0) or (c == 0 and not include_background):
            continue
        hit = (1 + beta**2) * tp + smooth
        weight = 1.0 if class_weights is None else class_weights[c]
        total += weight * (1 - hit / (hit + beta**2 * fn + fp))
        amount += weight
    loss = dice_loss(
        *pixels,
        beta=beta,
        smooth=smooth,
        average=average,
        include_background=include_background,
        class_weights=class_weights,
    )
    # Without background and class 3 (absent) only class 2 is left, which has weight 0.
    expected = total / amount if amount else 0.0
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_bce_is_the_loop(
    pixels: tuple[Tensor, Tensor], label_smoothing: float, class_weights: list[float] | None
) -> None:
    total = amount = 0.0
    for scores, _, label in valid_pixels(*pixels):
        weight = 1.0 if class_weights is None else class_weights[label]
        for c, score in enumerate(scores):
            t = (1 - label_smoothing) * (c == label) + label_smoothing / NUM_CLASSES
            yes = 1 / (1 + math.exp(-score))
            total -= weight * (t * math.log(yes) + (1 - t) * math.log(1 - yes))
        amount += weight * NUM_CLASSES
    loss = bce_loss(*pixels, label_smoothing=label_smoothing, class_weights=class_weights)
    assert loss.item() == pytest.approx(total / amount, rel=1e-12)


def test_mse_is_the_loop(pixels: tuple[Tensor, Tensor]) -> None:
    found = valid_pixels(*pixels)
    total = sum((p - (c == label)) ** 2 for _, probs, label in found for c, p in enumerate(probs))
    assert mse_loss(*pixels).item() == pytest.approx(total / len(found), rel=1e-12)
