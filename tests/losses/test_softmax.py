"""The one softmax of all terms: exact, cleared at ignored pixels, and kept only once."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from loss_cases import NUM_CLASSES, UNEVEN, batch, sum_of
from loss_speed import kept_bytes
from torch import Tensor, nn

from segkit.losses import CrossEntropyLoss, DiceLoss, FocalLoss
from segkit.losses.softmax import Softmax, SumOfMargins


def inputs(weights: list[float] | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    logits, target = batch()
    ignored = target == 255
    logits = logits.double().requires_grad_()
    over = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    return logits, target.masked_fill(ignored, 0), ignored, over


@pytest.fixture
def count_of_softmax(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of softmax and log_softmax, as they come."""
    calls = []
    for name in ("softmax", "log_softmax"):
        original = getattr(F, name)

        def counted(*args: object, name: str = name, call: Callable = original, **settings: object):  # type: ignore[type-arg, no-untyped-def]
            calls.append(name)
            return call(*args, **settings)

        monkeypatch.setattr(F, name, counted)
    return calls


def test_values_are_those_of_log_softmax() -> None:
    logits, target, ignored, weights = inputs(UNEVEN)
    nll, probs, over = Softmax.apply(logits, target, ignored, weights)
    log_probs = F.log_softmax(logits, 1)
    valid = ~ignored
    torch.testing.assert_close(nll, -log_probs.gather(1, target[:, None])[:, 0] * valid)
    torch.testing.assert_close(probs, log_probs.exp() * valid[:, None])
    weighed = (log_probs * weights[:, None, None]).sum(1)
    torch.testing.assert_close(over, weighed * valid)
    margins = SumOfMargins.apply(logits, target, ignored, weights)
    torch.testing.assert_close(margins - weights.sum() * nll, weighed * valid)


@pytest.mark.parametrize("weights", [None, UNEVEN])
def test_slopes_of_each_result_and_of_all(weights: list[float] | None) -> None:
    logits, target, ignored, over = inputs(weights)
    logits = logits.detach()[:1, :, :2, :3].requires_grad_()
    target, ignored = target[:1, :2, :3], ignored[:1, :2, :3]
    assert ignored.any()

    def some(which: tuple[int, ...]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def function(z: Tensor) -> tuple[Tensor, ...]:
            results = Softmax.apply(z, target, ignored, over)
            return tuple(results[i] for i in which)

        return function

    for which in ((0,), (1,), (0, 1)) if weights is None else ((2,), (0, 2), (1, 2), (0, 1, 2)):
        assert torch.autograd.gradcheck(some(which), (logits,))
    if over is not None:
        assert torch.autograd.gradcheck(SumOfMargins.apply, (logits, target, ignored, over))


def test_a_slope_that_is_nan_at_ignored_pixels_stays_out() -> None:
    logits, target, ignored, weights = inputs(UNEVEN)
    results = Softmax.apply(logits, target, ignored, weights)
    slopes = [torch.ones_like(result) for result in results]
    for slope in slopes:
        slope[(ignored[:, None] if slope.ndim == 4 else ignored).expand_as(slope)] = math.nan
    (grad,) = torch.autograd.grad(results, logits, slopes)
    assert grad.isfinite().all()
    assert torch.count_nonzero(grad.movedim(1, -1)[ignored]) == 0


@pytest.mark.parametrize("scale", [4.0, 40.0, 4000.0])  # 40: some p_t are below 1e-30
@pytest.mark.parametrize("weights", [None, UNEVEN])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_float32_is_float64_to_a_millionth(
    scale: float, weights: list[float] | None, label_smoothing: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, NUM_CLASSES, 65, 63, generator=generator) * scale
    target = torch.randint(0, NUM_CLASSES, (2, 65, 63), generator=generator)
    target[:, :5] = 255
    exact = logits.double().requires_grad_()
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(
        exact, target, weight, ignore_index=255, label_smoothing=label_smoothing
    )
    (expected_slope,) = torch.autograd.grad(expected, exact)
    logits.requires_grad_()
    value = CrossEntropyLoss(weights, label_smoothing)(logits, target)
    (slope,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (slope - expected_slope).norm() <= 1e-6 * expected_slope.norm()
    assert torch.count_nonzero(slope[:, :, :5]) == 0


@pytest.mark.parametrize("loss", [CrossEntropyLoss(UNEVEN, 0.1), sum_of(d=DiceLoss())])
def test_a_second_backward_pass_finds_the_same(loss: nn.Module) -> None:
    logits, target = batch()
    value = loss(logits.requires_grad_(), target)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    (second,) = torch.autograd.grad(value, logits)
    assert second.equal(first)


# Bytes a pixel: 4 C of probabilities, 8 of class ids, 1 of `ignored`; the rest are maps of one
# float32 or bool a pixel. A second map of all classes would be 84 more.
@pytest.mark.parametrize(
    ("loss", "most"),
    [
        (CrossEntropyLoss(), 4 * 21 + 9),
        (CrossEntropyLoss([1.0] * 21), 4 * 21 + 13),
        (CrossEntropyLoss(label_smoothing=0.1), 4 * 21 + 9),
        (CrossEntropyLoss([1.0] * 21, 0.1), 4 * 21 + 13),
        (sum_of(ce=CrossEntropyLoss(), dice=DiceLoss()), 4 * 21 + 14),
        (sum_of(dice=DiceLoss(), ce=CrossEntropyLoss(label_smoothing=0.1)), 4 * 21 + 14),
        (sum_of(ce=CrossEntropyLoss(), focal=FocalLoss(), dice=DiceLoss()), 4 * 21 + 38),
    ],
    ids=["ce", "weights", "smooth", "both", "ce+dice", "dice+smooth", "trio"],
)
def test_one_map_of_all_classes_is_kept(loss: nn.Module, most: int) -> None:
    logits = torch.randn(1, 21, 64, 64, requires_grad=True)
    target = torch.randint(0, 21, (1, 64, 64))
    # What does not grow with the image: sums, and the bins of sum_per_class.
    constant = 64 * 21 * 8 * 2 + 1024
    assert kept_bytes(loss, logits, target) <= most * target.numel() + constant


def test_one_softmax_per_step(count_of_softmax: list[str]) -> None:
    loss = sum_of(ce=CrossEntropyLoss(), dice=DiceLoss(), focal=FocalLoss())
    loss(*batch())
    assert len(count_of_softmax) == 1
    loss(*batch(seed=1))
    assert len(count_of_softmax) == 2


def test_no_term_takes_the_softmax_again(count_of_softmax: list[str]) -> None:
    smooth = CrossEntropyLoss(UNEVEN, 0.1)
    sum_of(smooth=smooth, dice=DiceLoss())(*batch())
    assert count_of_softmax == ["log_softmax"]
    count_of_softmax.clear()
    value = sum_of(dice=DiceLoss(), smooth=smooth)(*batch())
    assert count_of_softmax == ["softmax"]
    torch.testing.assert_close(value, DiceLoss()(*batch()) + 0.5 * smooth(*batch()))


def test_a_tiny_probability_takes_the_log_softmax(count_of_softmax: list[str]) -> None:
    logits, target = batch()
    CrossEntropyLoss()(logits * 1e3, target)
    assert count_of_softmax == ["softmax", "log_softmax"]


@pytest.mark.parametrize("num_classes", [4, 20])  # 20: the softmax goes over the last axis
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_order_of_the_memory_does_not_matter(num_classes: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, num_classes, 7, 6, dtype=torch.float64, generator=generator)
    target = torch.randint(0, num_classes, (2, 7, 6), generator=generator)
    target[:, 2] = 255
    loss = sum_of(ce=CrossEntropyLoss([1.0] * num_classes, smoothing), dice=DiceLoss())
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        z = logits.contiguous(memory_format=order).requires_grad_()
        value = loss(z, target)
        (slope,) = torch.autograd.grad(value, z)
        # The resize before the loss goes back several times faster in channels_last.
        assert slope.is_contiguous(memory_format=order)
        found.append((value, slope))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)
