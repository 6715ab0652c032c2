"""Each loss against torch or a literal loop over pixels and classes, in float64."""

import itertools
import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
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
from segkit.losses.bins import BINS

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


@pytest.mark.parametrize(("alpha", "beta", "gamma"), [(0.3, 0.7, 1.0), (1.0, 0.5, 0.75)])
@pytest.mark.parametrize("average", ["present", "all"])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_tversky_is_the_loop(
    pixels: tuple[Tensor, Tensor],
    alpha: float,
    beta: float,
    gamma: float,
    average: Literal["present", "all"],
    class_weights: list[float] | None,
) -> None:
    total = amount = 0.0
    for c in range(NUM_CLASSES):
        tp = sum(probs[c] for _, probs, label in valid_pixels(*pixels) if label == c)
        fn = sum(1 - probs[c] for _, probs, label in valid_pixels(*pixels) if label == c)
        fp = sum(probs[c] for _, probs, label in valid_pixels(*pixels) if label != c)
        if average == "present" and tp + fn == 0:
            continue
        weight = 1.0 if class_weights is None else class_weights[c]
        total += weight * (1 - (tp + 2) / (tp + alpha * fp + beta * fn + 2)) ** gamma
        amount += weight
    loss = tversky_loss(
        *pixels,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        smooth=2.0,
        average=average,
        class_weights=class_weights,
    )
    assert loss.item() == pytest.approx(total / amount, rel=1e-12)


def lovasz_by_sorting(found: list[tuple[list[float], list[float], int]], c: int) -> float:
    """The Lovasz extension of the Jaccard loss of one class, as the paper defines it."""
    errors = [(1 - probs[c] if label == c else probs[c], label == c) for _, probs, label in found]
    errors.sort(reverse=True)
    labelled = sum(own for _, own in errors)
    value = before = 0.0
    missed = wrong = 0
    for error, own in errors:
        missed, wrong = missed + own, wrong + 1
        jaccard = 1 - (labelled - missed) / (labelled + wrong - missed)
        value, before = value + error * (jaccard - before), jaccard
    return value


@pytest.mark.parametrize("average", ["present", "all"])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("size", [(5, 7), (40, 50)])
def test_lovasz_is_the_sorted_sum_to_within_a_bin(
    average: Literal["present", "all"], class_weights: list[float] | None, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, NUM_CLASSES, *size, dtype=torch.float64, generator=generator) * 3
    target = torch.randint(0, NUM_CLASSES - 1, (2, *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.3] = 255
    found = valid_pixels(logits, target)
    total = amount = 0.0
    for c in range(NUM_CLASSES):
        if average == "present" and not any(label == c for *_, label in found):
            continue
        weight = 1.0 if class_weights is None else class_weights[c]
        total, amount = total + weight * lovasz_by_sorting(found, c), amount + weight
    loss = lovasz_loss(logits, target, average=average, class_weights=class_weights).item()
    assert loss == pytest.approx(total / amount, abs=1 / BINS)


def test_lovasz_and_topk_are_exact_where_every_pixel_has_a_bin_of_its_own() -> None:
    """And so is the gradient: that of the sorted sum, by PyTorch's own differentiation."""
    p_true = torch.linspace(0.06, 0.93, 12, dtype=torch.float64).logit()
    order = torch.tensor([5, 2, 11, 0, 8, 3, 9, 1, 10, 4, 7, 6])
    logits = torch.stack([p_true[order], torch.zeros(12).double()])[None, :, None].requires_grad_()
    target = torch.tensor([[[0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0]]])
    probs = logits.softmax(1)[0, :, 0]
    expected = torch.zeros((), dtype=torch.float64)
    for c in (0, 1):
        own = target[0, 0] == c
        errors, rank = torch.where(own, 1 - probs[c], probs[c]).sort(descending=True)
        missed, wrong = own[rank].cumsum(0), torch.arange(1, 13)
        jaccard = 1 - (own.sum() - missed) / (own.sum() + wrong - missed)
        rise = torch.diff(jaccard, prepend=torch.zeros(1))
        expected = expected + (errors * rise).sum() / 2
    loss = lovasz_loss(logits, target)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    slopes = (
        torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected)
    )
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-8)

    values = F.cross_entropy(logits, target, reduction="none").flatten()
    hardest = values.topk(3).values.mean()
    loss = topk_loss(logits, target, fraction=0.25)
    assert loss.item() == pytest.approx(hardest.item(), rel=1e-12)
    slopes = (torch.autograd.grad(value, logits)[0] for value in (loss, hardest))
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-14)
