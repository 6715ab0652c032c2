"""Which logged value decides what is best, and when a run is over."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from segkit.config.schema import TrainConfig, less_is_better
from segkit.errors import ConfigError
from segkit.metrics import ConfusionMatrix
from segkit.report.tables import scalar_scores
from segkit.text import did_you_mean
from segkit.training.fall import FallWatch


@dataclass
class Best:
    """The best values so far of what the run monitors; ``epoch`` is 0 while there is none.

    Attributes:
        scores: All scores of that epoch.
        kept: (value, epoch) of the epochs whose checkpoints are kept, the best first.
    """

    monitor: str
    mode: str
    score: float | None = None
    epoch: int = 0
    scores: dict[str, Any] = field(default_factory=dict)
    kept: list[tuple[float, int]] = field(default_factory=list)

    def improves(self, score: float | None) -> bool:
        """Whether ``score`` is better; None (class absent, not finite) never is."""
        if score is None or self.score is None:
            return score is not None
        return score > self.score if self.mode == "max" else score < self.score

    def update(
        self, score: float | None, epoch: int, scores: dict[str, Any], keep: int = 1
    ) -> None:
        """Take note of one validation; ``keep`` epochs hold on to their checkpoints.

        What is not a finite number counts as None: nothing would ever be better than NaN.
        """
        if score is not None and not math.isfinite(score):
            score = None
        if self.improves(score):
            self.score, self.epoch, self.scores = score, epoch, scores
        entered = self.kept if score is None else [*self.kept, (score, epoch)]
        # Of equal ones the earlier stays, as in improves.
        entered = sorted(entered, key=lambda x: (-x[0] if self.mode == "max" else x[0], x[1]))
        self.kept = entered[:keep]


class EarlyStopping:
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


@dataclass
class Monitor:
    """What a run goes by: its best epochs, its patience, and a score that falls.

    Attributes:
        best: The best values so far of what is monitored.
        patience: What ends the run early, if anything does.
        fall: What notices a validation score that falls.
        keep: How many of the best epochs hold on to their checkpoints.
    """

    best: Best
    patience: EarlyStopping | None = None
    fall: FallWatch = field(default_factory=FallWatch)
    keep: int = 1

    @classmethod
    def of(cls, settings: TrainConfig) -> "Monitor":
        """The one that a configuration describes, before the first validation.

        Raises:
            ConfigError: It names a value that is not logged.
        """
        trainer = settings.trainer
        best = Best(*_checked(settings, trainer.monitor, "monitor"))
        name = trainer.patience_monitor or trainer.monitor
        name, mode = _checked(settings, name, "patience_monitor")
        patience = None
        if trainer.patience is not None:
            patience = EarlyStopping(name, mode, trainer.patience, trainer.min_delta)
        return cls(best, patience, keep=trainer.keep_best)

    def update(
        self, values: Mapping[str, float | None], scores: dict[str, Any], epoch: int
    ) -> str | None:
        """Take note of one validation; returns what to say of a score that fell far.

        Args:
            values: By log name. With ``val/not_finite`` among them nothing of it counts.
            scores: All scores of the validation.
            epoch: Its number, from 1.
        """
        broken = "val/not_finite" in values  # whatever is monitored, train/loss too
        self.best.update(None if broken else values[self.best.monitor], epoch, scores, self.keep)
        if self.patience is not None:
            self.patience.update(None if broken else values[self.patience.monitor])
        return self.fall.update(scores["miou"], values["train/loss"], epoch)

    def is_over(self, epoch: int, max_epochs: int) -> bool:
        """Whether no epoch comes after this one."""
        return epoch >= max_epochs or (self.patience is not None and self.patience.exhausted)

    def state_dict(self) -> dict[str, Any]:
        """Builtins only."""
        return {
            "best": asdict(self.best),
            "patience": self.patience.state_dict() if self.patience else None,
            "fall": self.fall.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on; if another value is monitored now, the search for its best begins anew."""
        best = Best(**state["best"])
        if (best.monitor, best.mode) == (self.best.monitor, self.best.mode):
            self.best = best
        if self.patience and state["patience"]:
            self.patience.load_state_dict(state["patience"])
        self.fall.load_state_dict(state.get("fall", {}))  # absent in files of segkit 0.1


def _checked(settings: TrainConfig, monitor: str, key: str) -> tuple[str, str]:
    """The name, and whether more (``max``) or less (``min``) of it is better."""
    trainer, classes = settings.trainer, list(settings.data.classes or ())
    scores = ConfusionMatrix(len(classes)).compute()
    terms = [f"train/loss/{name}" for name in settings.loss.get("terms") or ()]
    names = ["train/loss", *terms, "val/loss", *scalar_scores(scores, classes, "val/")]
    raw = ["val_raw/loss", "val_raw/miou"] if trainer.ema_decay is not None else []
    if key == "monitor" and monitor in raw:
        raise ConfigError(
            f"trainer.monitor={monitor}: best.pt is used with the average of the weights, whose "
            f"scores are val/...; monitor these, or stop by trainer.patience_monitor={monitor}"
        )
    if monitor not in (names := [*names, *raw]):
        raise ConfigError(
            f"trainer.{key}={monitor}: no such logged value{did_you_mean(monitor, names)}"
        )
    mode = trainer.monitor_mode if monitor == trainer.monitor else "auto"
    return monitor, ("min" if less_is_better(monitor) else "max") if mode == "auto" else mode
