"""What a run keeps of itself: counted by hand, and taken up again to the last bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from states import assert_same, make_state, take_steps
from torch import nn

from segkit.errors import CheckpointError
from segkit.training.monitor import Best, EarlyStopping, Monitor


@pytest.mark.parametrize(
    ("mode", "scores", "improved"),
    [
        ("max", [0.2, 0.1, 0.2, 0.3], [True, False, False, True]),
        ("min", [0.2, 0.3, 0.1], [True, False, True]),
        ("max", [None, None, 0.0, None], [False, False, True, False]),
    ],
)
def test_best(mode: str, scores: list[float | None], improved: list[bool]) -> None:
    best = Best("val/miou", mode)
    for epoch, (score, expected) in enumerate(zip(scores, improved, strict=True), 1):
        assert best.improves(score) is expected
        best.update(score, epoch, {"miou": score})
        assert (best.epoch == epoch) is expected
    assert best.scores == {"miou": best.score}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # Scores 0.2, 0.1, none, 0.2, 0.3: of equal ones the earlier stays before the later.
        ("max", [[1], [1, 2], [1, 2], [1, 4], [5, 1]]),
        ("min", [[1], [2, 1], [2, 1], [2, 1], [2, 1]]),
    ],
)
def test_the_two_best_are_kept(mode: str, expected: list[list[int]]) -> None:
    best, kept = Best("val/miou", mode), []
    for epoch, score in enumerate([0.2, 0.1, None, 0.2, 0.3], 1):
        best.update(score, epoch, {}, keep=2)
        kept.append([number for _, number in best.kept])
    assert kept == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_the_best(bad: float) -> None:
    best = Best("val/loss", "min")
    found = []
    for epoch, score in enumerate((bad, 0.5, bad, 0.4, 0.6), 1):
        best.update(score, epoch, {}, keep=2)
        found.append((best.score, best.epoch))
    assert found == [(None, 0), (0.5, 2), (0.5, 2), (0.4, 4), (0.4, 4)]
    assert best.kept == [(0.4, 4), (0.5, 2)]


def test_fewer_are_kept_from_the_next_epoch_on() -> None:
    best = Best("val/miou", "max", kept=[(0.3, 1), (0.2, 2), (0.1, 3)])
    best.update(0.25, 4, {}, keep=1)
    assert best.kept == [(0.3, 1)]


def test_means_are_over_the_steps_that_had_a_value() -> None:
    state = make_state()
    state.count({"train/loss": 1.0, "train/grad_norm": 4.0})
    state.count({"train/loss": 2.0})  # the scaler skipped this step: no norm
    assert state.means() == {"train/loss": 1.5, "train/grad_norm": 4.0}
    state.images = 7
    state.finish_epoch()
    assert (state.epoch, state.images, state.means()) == (1, 0, {})


def test_a_run_goes_on_bit_for_bit() -> None:
    whole = make_state(with_average=True)
    take_steps(whole, 4)
    first = make_state(with_average=True)
    take_steps(first, 2)
    second = make_state(seed=7, with_average=True)
    second.load_state_dict(first.state_dict())
    take_steps(second, 2)
    assert_same(second.state_dict(), whole.state_dict())
    assert whole.scaler.get_scale() == 16.0  # it grew once, after the third step


def test_everything_that_counts_is_taken_up() -> None:
    state = make_state(with_average=True)
    state.monitor.best = Best("val/miou", "max", 0.5, 1, {"miou": 0.5}, [(0.5, 1)])
    assert state.monitor.patience is not None
    state.monitor.patience.update(0.5)
    state.monitor.patience.update(0.7)
    state.epoch, state.images, state.step, state.skipped_steps = 2, 16, 5, 1
    state.seconds, state.last_values = 12.5, {"lr": 0.1}
    state.count({"train/loss": 3.0})
    other = make_state(seed=1, with_average=True)
    other.load_state_dict(state.state_dict())
    assert other.monitor.best == state.monitor.best
    assert other.monitor.patience is not None
    assert (other.monitor.patience.best, other.monitor.patience.waited) == (0.5, 1)
    assert (other.epoch, other.images, other.step, other.skipped_steps) == (2, 16, 5, 1)
    assert (other.seconds, other.last_values) == (12.5, {"lr": 0.1})
    assert other.means() == {"train/loss": 3.0}


def test_the_optimizer_keeps_its_momentum_and_takes_todays_settings() -> None:
    state = make_state()
    take_steps(state, 1)
    other = make_state()
    other.optimizer.param_groups[0] |= {"base_lr": 0.7, "weight_decay": 0.01}
    other.load_state_dict(state.state_dict())
    (group,) = other.optimizer.param_groups
    assert (group["base_lr"], group["weight_decay"]) == (0.7, 0.01)
    for mine, theirs in zip(
        state.model.parameters(), other.model.parameters(), strict=True
    ):  # the momentum of each
        assert_same(state.optimizer.state[mine], other.optimizer.state[theirs])
        assert "momentum_buffer" in other.optimizer.state[theirs]


@pytest.mark.parametrize("other", [Best("val/loss", "min"), Best("val/miou", "min")])
def test_what_is_best_begins_anew_where_something_else_is_monitored(other: Best) -> None:
    state = make_state()
    state.monitor.best.score, state.monitor.best.epoch = 0.5, 1
    changed = replace(make_state(), monitor=Monitor(other))
    changed.load_state_dict(state.state_dict())
    assert (changed.monitor.best.epoch, changed.monitor.best.score) == (0, None)


def test_patience_begins_anew_where_it_watches_something_else() -> None:
    state = make_state(with_average=True)
    assert state.monitor.patience is not None
    state.monitor.patience.update(0.5)
    other = make_state()
    other.monitor.patience = EarlyStopping("val/miou", "max", patience=3)
    other.load_state_dict(state.state_dict())
    assert other.monitor.patience is not None
    assert other.monitor.patience.best is None


def test_an_average_that_is_asked_for_later_begins_with_the_weights_then() -> None:
    state = make_state()
    take_steps(state, 2)
    other = make_state(seed=1, with_average=True)
    other.load_state_dict(state.state_dict())
    assert other.average is not None
    assert other.average.updates == 0
    assert_same(dict(other.average.model.state_dict()), dict(state.model.state_dict()))


def test_an_average_that_is_no_longer_wanted_is_dropped() -> None:
    other = make_state()
    other.load_state_dict(make_state(with_average=True).state_dict())
    assert other.state_dict()["average"] is None


def test_a_run_without_a_scaler_goes_on_from_one_with() -> None:
    state = make_state()
    other = replace(make_state(), scaler=torch.amp.GradScaler("cpu", enabled=False))
    other.load_state_dict(state.state_dict())
    state.load_state_dict(other.state_dict())
    assert state.scaler.get_scale() == 8.0


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_a_model_may_call_its_layers_as_a_wrapper_does(name: str) -> None:
    class Own(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.add_module(name, model)

    state, other = make_state(), make_state(seed=1)
    own, loaded = (replace(one, model=Own(one.model)) for one in (state, other))
    loaded.load_state_dict(own.state_dict())
    assert_same(dict(other.model.state_dict()), dict(state.model.state_dict()))


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in make_state().state_dict().items() if name != key}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (make_state(num_classes=5).state_dict(), "RuntimeError: .*size mismatch for 3.weight"),
        (without("step"), "KeyError: 'step'"),
        (without("optimizer"), "KeyError: 'optimizer'"),
        (make_state().state_dict() | {"best": {"score": 1}}, "TypeError"),
        (
            make_state().state_dict() | {"optimizer": {"state": {}, "param_groups": []}},
            "ValueError: loaded state dict has a different number of parameter groups",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(state: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as info:
        make_state().load_state_dict(state)
    assert str(info.value).startswith("the state in it does not fit this run")
    assert str(info.value).endswith("use init_from instead of resume")
    assert "\n" not in str(info.value)


def test_a_learning_rate_that_is_far_too_high_is_not_said_to_misfit() -> None:
    state = make_state()
    take_steps(state, 2)
    other = make_state(seed=1)
    other.optimizer = torch.optim.AdamW(other.model.parameters(), lr=1e38)
    state.optimizer = torch.optim.AdamW(state.model.parameters(), lr=0.1)
    take_steps(state, 1)
    other.load_state_dict(state.state_dict())
    assert_same(dict(other.model.state_dict()), dict(state.model.state_dict()))
