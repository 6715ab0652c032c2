"""Learning-rate schedules against values that can be redone by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.schedules import Cosine, Poly, Schedule, Step


def factors(schedule: Schedule, total_steps: int, steps_per_epoch: int = 1) -> list[float]:
    return [schedule.factor(step, total_steps, steps_per_epoch) for step in range(total_steps + 1)]


def test_poly_with_power_one_is_a_straight_line() -> None:
    assert factors(Poly(power=1.0), 4) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_poly_with_power_two() -> None:
    assert factors(Poly(power=2.0), 4) == [1.0, 0.75**2, 0.25, 0.0625, 0.0]


def test_cosine_goes_from_one_to_the_final_factor() -> None:
    expected = [
        1.0,
        0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2,
        0.55,
        0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2,
    ]
    assert factors(Cosine(final_factor=0.1), 4) == pytest.approx([*expected, 0.1], rel=1e-15)


def test_step_falls_at_each_milestone() -> None:
    schedule = Step(milestones=(0.5, 0.75), gamma=0.5)
    assert factors(schedule, 4) == [1.0, 1.0, 0.5, 0.25, 0.25]


def test_warm_up_rises_in_equal_steps_to_the_decay() -> None:
    # 1.5 epochs of 2 steps are 3 steps: 1/4, 2/4, 3/4; then 4 steps of decay.
    rates = factors(Poly(power=1.0, warmup_epochs=1.5), 7, steps_per_epoch=2)
    assert rates == [0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_warm_up_longer_than_the_run_never_reaches_one() -> None:
    assert factors(Poly(warmup_epochs=10), 3) == [0.25, 0.5, 0.75, 1.0]


@given(
    st.sampled_from([Poly(0.9), Poly(0.5, 2), Cosine(), Cosine(0.3, 0.7), Step(), Step((), 2.0)]),
    st.integers(0, 10**6),
    st.integers(1, 10**5),
    st.integers(1, 1000),
)
def test_factors_are_real_and_not_negative_even_past_the_end(
    schedule: Schedule, step: int, total_steps: int, steps_per_epoch: int
) -> None:
    factor = schedule.factor(step, total_steps, steps_per_epoch)
    assert isinstance(factor, float)  # python's (negative) ** 0.9 would be complex
    assert 0 <= factor <= 1
    if step > total_steps:
        assert factor == schedule.factor(total_steps, total_steps, steps_per_epoch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poly(power=0), "power must be above 0"),
        (lambda: Poly(power=math.nan), "power must be above 0"),
        (lambda: Poly(warmup_epochs=-1), "warmup_epochs must be at least 0"),
        (lambda: Poly(warmup_epochs=math.inf), "warmup_epochs must be at least 0"),
        (lambda: Cosine(final_factor=1.5), r"final_factor must lie in \[0, 1\], got 1.5"),
        (lambda: Step(milestones=(0.9, 0.6)), "milestones must be rising"),
        (lambda: Step(milestones=(0.5, 1.0)), "milestones must be rising"),
        (lambda: Step(gamma=-0.1), "gamma must be above 0"),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
