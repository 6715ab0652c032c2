"""Accumulated batches: the loss and the gradient of one batch with all their images."""

from typing import Any

import pytest
import torch
from accumulated import CASES, images, joined, network, one_epoch
from loss_cases import EVEN, UNEVEN
from torch import Tensor, nn

from segkit.losses import CrossEntropyLoss, DiceLoss, PixelLoss, PixelScores, WeightedSum
from segkit.losses.processes import all_reduce_sum

every_case = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@every_case
@pytest.mark.parametrize("ignored", [0.5, 0.9])
def test_one_batch_however_it_is_cut(make: Any, ignored: float) -> None:
    six = images(6, ignored)
    whole = one_epoch(make(), [joined(six)], 1)
    for sizes in ((1,) * 6, (2, 2, 2), (1, 5)):
        rest = iter(six)
        batches = [joined([next(rest) for _ in range(size)]) for size in sizes]
        assert_equal(one_epoch(make(), batches, len(batches)), whole)


@every_case
def test_a_batch_without_any_label(make: Any, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.id == "torch":
        pytest.skip("NaN where nothing is labelled")
    three = images(3)
    three[1].target.fill_(255)
    whole = one_epoch(make(), [joined(three)], 1)
    assert_equal(one_epoch(make(), three, 3), whole)
    for one in three:
        one.target.fill_(255)
    if "own" not in request.node.callspec.id:
        assert one_epoch(make(), three, 3)["losses"]["train/loss"] == 0


@every_case
def test_the_last_group_may_be_shorter(make: Any) -> None:
    five = images(5)
    expected = one_epoch(make(), [joined(five[:3]), joined(five[3:])], 1)
    assert_equal(one_epoch(make(), five, 3), expected)


def test_averaging_the_batches_would_not_do() -> None:
    """What the tests above would not see with batches that are too much alike."""
    six = images(6)
    whole = one_epoch(CrossEntropyLoss(), [joined(six)], 1)["losses"]["train/loss"]
    each = [one_epoch(CrossEntropyLoss(), [one], 1)["losses"]["train/loss"] for one in six]
    assert abs(sum(each) / 6 - whole) > 1e-2


def test_half_of_the_images_ignored() -> None:
    four = images(4, 0.0)
    for one in four[2:]:
        one.target.fill_(255)
    expected = one_epoch(CrossEntropyLoss(), [joined(four[:2])], 1)
    assert_equal(one_epoch(CrossEntropyLoss(), four, 4), expected)


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), DiceLoss()])
def test_each_batch_enters_the_statistics_of_batchnorm_once(loss: nn.Module) -> None:
    model, expected = network(), network().train()
    three = images(3)
    for one in three:
        expected(one.image.double() / 255)
    one_epoch(loss, three, 3, model, frozen=False)
    for found, wanted in zip(model.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_sums_are_those_of_the_same_dropout() -> None:
    """The loss that is logged is computed from a first pass, the gradient from the second."""
    seen: list[Tensor] = []

    class Watched(DiceLoss):
        def on(self, pixels: PixelScores) -> Tensor:
            seen.append(pixels.logits.detach())
            return super().on(pixels)

    one_epoch(Watched(), images(3), 3, network(dropout=0.5))
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], seen[1])


def test_means_over_pixels_need_no_first_pass() -> None:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for loss, expected in ((CrossEntropyLoss(EVEN), 3), (DiceLoss(), 6)):
        model, calls = network(), 0
        model.register_forward_hook(count)
        one_epoch(loss, images(3), 3, model)
        assert calls == expected


def test_terms_of_a_sum_are_those_of_the_step() -> None:
    terms: dict[str, Any] = {
        "ce": {"weight": 1.0, "loss": CrossEntropyLoss(UNEVEN)},
        "dice": {"weight": 0.5, "loss": DiceLoss()},
    }
    four = images(4)
    found = one_epoch(WeightedSum(terms), four, 4)["losses"]
    parts = found["train/loss/ce"] + 0.5 * found["train/loss/dice"]
    assert found["train/loss"] == pytest.approx(parts, rel=1e-12)


def test_a_loss_that_asks_for_other_sums_each_time_is_refused() -> None:
    class Moody(PixelLoss):
        calls = 0

        def on(self, pixels: PixelScores) -> Tensor:
            self.calls += 1
            values = pixels.logits.sum((0, 2, 3))
            if self.calls > 3:
                values = values[:2]
            return all_reduce_sum(values).sum()

    with pytest.raises(ValueError, match="with the same shapes for every batch"):
        one_epoch(Moody(), images(3), 3)
