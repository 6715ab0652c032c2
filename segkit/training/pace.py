"""How fast an epoch is, what it waits for, and how long the run still takes."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from segkit.runtime.log import bar
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState

T = TypeVar("T")
LONG = 0.1
"""Share of an epoch from which on waiting for the loader is worth a word."""


class Pace:
    """The speed of a run, epoch by epoch.

    Attributes:
        waited: Seconds of this epoch in which no batch was there.
        waiting: Share of the last whole epoch in which no batch was there, 0 to 1.
    """

    def __init__(self) -> None:
        self.waited = self.waiting = 0.0
        self._begun: float | None = None  # the run, in this process
        self._done = 0  # images of the epochs before, in this process
        self._epoch: tuple[float, EpochPlan]  # when it began, and its plan; set by follow
        self._bar: tqdm[object] | None = None

    def follow(self, batches: Iterable[T], plan: EpochPlan) -> Iterator[T]:
        """The batches of an epoch; counts the time until each of them is there."""
        now = time.perf_counter()
        self._begun = now if self._begun is None else self._begun
        self.waited, self._epoch = 0.0, (now, plan)
        self._bar = bar(self._timed(batches), f"epoch {plan.epoch}", plan.num_batches)
        yield from self._bar
        self._done += plan.images_per_epoch - plan.start
        self.waiting = self._waiting()

    def _timed(self, batches: Iterable[T]) -> Iterator[T]:
        remaining = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(remaining)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - before
            yield batch

    def _waiting(self) -> float:
        return self.waited / max(time.perf_counter() - self._epoch[0], 1e-9)

    def show(self, loss: float, state: TrainState) -> None:
        """Write behind the bar of the epoch, if one is shown."""
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(self.text(loss, state), refresh=False)

    def text(self, loss: float, state: TrainState) -> str:
        """Loss, images per second, share of waiting, and the time until the run ends."""
        began, plan = self._epoch
        speed = (state.images - plan.start) / max(time.perf_counter() - began, 1e-9)
        left = self.seconds_left(state)
        return (
            f"loss {loss:.4f}, {speed:.1f} images/s, waiting {self._waiting():.0%}, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )

    def seconds_left(self, state: TrainState) -> float:
        """Until the last epoch ends, as fast as this process was so far, validations included."""
        began, plan = self._epoch
        done = self._done + state.images - plan.start
        epochs = plan.max_epochs - plan.epoch
        remaining = plan.images_per_epoch - state.images + epochs * plan.images_per_epoch
        started = began if self._begun is None else self._begun
        return (time.perf_counter() - started) * remaining / max(done, 1)
