"""What the bar of an epoch tells: speed, waiting, time left; on a made-up clock."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from states import make_state

from segkit.training.pace import Pace
from segkit.training.plan import EpochPlan


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("segkit.training.pace.time.perf_counter", clock)
    return clock


def test_speed_waiting_and_the_time_left_by_hand(clock: Clock) -> None:
    """Each batch of 4 images takes 1 s to load and 3 s to learn from: 1 image/s, 25 % waiting.

    After the first of two batches 4 images of 3 epochs of 8 are done: 20 s are left.
    """

    def batches() -> Iterator[str]:
        for name in "ab":
            clock.now += 1
            yield name

    pace, state = Pace(), make_state()
    for epoch in (1, 2):
        plan = EpochPlan(epoch=epoch, max_epochs=3, num_images=8, batch_size=4)
        state.images, seen = 0, []
        for name in pace.follow(batches(), plan):
            clock.now += 3
            state.images += 4
            seen.append((name, pace.text(0.5, state)))
        left = [(20, 16), (12, 8)][epoch - 1]
        assert seen == [
            (name, f"loss 0.5000, 1.0 images/s, waiting 25%, 0:{seconds:02d} left")
            for name, seconds in zip("ab", left, strict=True)
        ]
        assert pace.waiting == 0.25
        clock.now += 0  # no validation


def test_a_validation_counts_for_the_time_left(clock: Clock) -> None:
    pace, state = Pace(), make_state()
    plan = EpochPlan(epoch=1, max_epochs=3, num_images=4, batch_size=4)
    for _ in pace.follow(["a"], plan):
        clock.now += 1
    clock.now += 9
    plan = EpochPlan(epoch=2, max_epochs=3, num_images=4, batch_size=4)
    for _ in pace.follow(["a"], plan):
        clock.now += 1
        state.images = 4
        # 11 s for two epochs, of which one validation is still to come.
        assert pace.seconds_left(state) == pytest.approx(5.5)


def test_an_epoch_that_goes_on_counts_what_it_uses(clock: Clock) -> None:
    pace, state = Pace(), make_state()
    plan = EpochPlan(epoch=1, max_epochs=1, num_images=8, batch_size=2, start=4)
    state.images = 4
    for _ in pace.follow(["a", "b"], plan):
        clock.now += 2
        state.images += 2
        assert pace.text(1.0, state).startswith("loss 1.0000, 1.0 images/s, waiting 0%")
    assert pace.seconds_left(state) == 0
