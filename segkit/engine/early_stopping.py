"""Stop when a monitored value has not improved for a while."""

import math
from typing import Any


class Patience:
    """Counts the validations since a value was last better than ever before.

    None (the class is absent from the split), NaN and infinity are no improvement.

    Args:
        monitor: Log name of the value.
        mode: ``max`` if more of it is better, ``min`` if less is.
        patience: Validations in a row without improvement after which it is exhausted, at least 1.
        min_delta: How much better than the best so far a value must be to count, at least 0.

    Attributes:
        best: The last value that counted.
        waited: Validations since then.
    """

    def __init__(self, monitor: str, mode: str, patience: int, min_delta: float = 0.0) -> None:
        self.monitor, self.mode, self.patience, self.min_delta = monitor, mode, patience, min_delta
        self.best: float | None = None
        self.waited = 0

    @property
    def exhausted(self) -> bool:
        return self.waited >= self.patience

    def update(self, value: float | None) -> None:
        """Take note of one validation."""
        if value is not None and math.isfinite(value) and self._improves(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    def _improves(self, value: float) -> bool:
        if self.best is None:
            return True
        gain = value - self.best if self.mode == "max" else self.best - value
        return gain > self.min_delta

    def state_dict(self) -> dict[str, Any]:
        """Builtins only."""
        return {"monitor": self.monitor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting; from the start if the run monitored another value then."""
        if state["monitor"] == self.monitor:
            self.best, self.waited = state["best"], state["waited"]
