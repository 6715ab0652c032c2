"""The sum of named loss terms."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.losses import BCELoss, CrossEntropyLoss, DiceLoss, MSELoss, WeightedSum, dice_loss
from segkit.losses.weighted_sum import summands


class MyLoss(nn.Module):
    """A user's own loss that knows nothing of segkit."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        assert logits.dtype == torch.float32
        assert target.dtype == torch.int64
        return F.cross_entropy(logits, target, ignore_index=255)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 4, 4), generator=generator, dtype=torch.uint8)
    target[0, 0] = 255
    return torch.randn(2, 3, 4, 4, generator=generator), target


def test_what_it_is_a_sum_of() -> None:
    inner = WeightedSum({"bce": {"weight": 2.0, "loss": BCELoss()}})
    loss = WeightedSum(
        {"inner": {"weight": 1.0, "loss": inner}, "dice": {"weight": 0.0, "loss": DiceLoss()}}
    )
    assert [type(one) for one in summands(loss)] == [BCELoss, DiceLoss]
    # What the logits mean: dice had made those of softmax of them, in windows.
    assert [type(one) for one in summands(loss, weighted=True)] == [BCELoss]


def test_is_the_weighted_sum_and_keeps_each_term(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch[0].requires_grad_(), batch[1]
    ce, dice = CrossEntropyLoss(), DiceLoss()
    loss = WeightedSum({"ce": {"weight": 1, "loss": ce}, "dice": {"weight": 0.5, "loss": dice}})
    total = loss(logits, target)
    expected = ce(logits, target) + 0.5 * dice(logits, target)
    torch.testing.assert_close(total, expected)
    assert list(loss.last_terms) == ["ce", "dice"]
    assert loss.last_terms["dice"].equal(dice(logits, target))  # unweighted
    assert not any(term.requires_grad for term in loss.last_terms.values())
    slopes = [torch.autograd.grad(value, logits)[0] for value in (total, expected)]
    torch.testing.assert_close(*slopes)


def test_takes_a_users_own_loss(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch[0].bfloat16(), batch[1]
    own: WeightedSum = WeightedSum({"mine": {"weight": 2.0, "loss": MyLoss()}})
    assert own.ignore_index is None
    torch.testing.assert_close(own(logits, target), 2 * CrossEntropyLoss()(logits, target))
    mixed = WeightedSum(
        {"mine": {"weight": 1, "loss": MyLoss()}, "dice": {"weight": 1, "loss": DiceLoss()}}
    )
    with torch.autocast("cpu", torch.bfloat16):
        total = mixed(logits, target)
    torch.testing.assert_close(total, own(logits, target) / 2 + dice_loss(logits, target))


def test_a_users_own_loss_gets_checked_shapes(batch: tuple[Tensor, Tensor]) -> None:
    loss = WeightedSum({"mine": {"weight": 1, "loss": MyLoss()}})
    with pytest.raises(ValueError, match=r"got torch\.float32"):
        loss(batch[0], batch[1].float())


def test_sums_nest_and_take_any_name(batch: tuple[Tensor, Tensor]) -> None:
    inner = WeightedSum({"type": {"weight": 1, "loss": CrossEntropyLoss()}})
    outer = WeightedSum({"a.b": {"weight": 3, "loss": inner}})
    assert outer.ignore_index == 255
    torch.testing.assert_close(outer(*batch), 3 * CrossEntropyLoss()(*batch))


def test_a_term_of_weight_zero_is_only_watched(batch: tuple[Tensor, Tensor]) -> None:
    loss = WeightedSum(
        {"ce": {"weight": 1, "loss": CrossEntropyLoss()}, "mse": {"weight": 0, "loss": MSELoss()}}
    )
    assert loss(*batch).equal(CrossEntropyLoss()(*batch))
    assert loss.last_terms["mse"].equal(MSELoss()(*batch))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "needs at least one term"),
        ({"": {"weight": 1, "loss": MSELoss()}}, "non-empty name, got ''"),
        ({"a": {"weight": 0, "loss": MSELoss()}}, "all weights are 0 (terms: a)"),
        ({"a": {"weight": -1, "loss": MSELoss()}}, "weight of loss term 'a' must be a finite"),
        ({"a": {"weight": float("nan"), "loss": MSELoss()}}, "got nan"),
        ({"a": {"weight": "1", "loss": MSELoss()}}, "got '1'"),
        ({"a": {"wieght": 1, "loss": MSELoss()}}, "must have the keys weight and loss, got ['loss"),
        ({"a": MSELoss()}, "must have the keys weight and loss, got MSELoss()"),
        ({"a": {"weight": 1, "loss": {"_target_": "x"}}}, "loss of term 'a' must be a torch"),
        (
            {
                "a": {"weight": 1, "loss": MSELoss(ignore_index=0)},
                "b": {"weight": 1, "loss": DiceLoss()},
                "c": {"weight": 1, "loss": MyLoss()},
            },
            "must agree about ignore_index, got a: 0, b: 255",
        ),
    ],
)
def test_impossible_terms_are_refused(terms: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        WeightedSum(terms)  # type: ignore[arg-type]


def test_a_term_must_be_a_scalar(batch: tuple[Tensor, Tensor]) -> None:
    class PerPixel(nn.Module):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return logits.sum(1)

    loss = WeightedSum({"map": {"weight": 1, "loss": PerPixel()}})
    with pytest.raises(ValueError, match=r"'map' must return a scalar tensor, got \(2, 4, 4\)"):
        loss(*batch)


def test_terms_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(ValueError, match="terms must be a mapping of names"):
        WeightedSum("..")  # type: ignore[arg-type]
