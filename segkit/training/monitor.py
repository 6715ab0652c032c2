"""Which logged value decides what is best, and when a run is over."""

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from segkit.config.schema import less_is_better
from segkit.errors import ConfigError
from segkit.metrics import ConfusionMatrix
from segkit.report.tables import scalar_scores
from segkit.runs.checkpoint import Checkpoint
from segkit.runtime.log import log
from segkit.text import did_you_mean


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


def make_best(cfg: DictConfig) -> Best:
    """The search for the best value of ``trainer.monitor``; unknown names are refused here."""
    return Best(*_checked(cfg, cfg.trainer.monitor, "monitor"))


def make_patience(cfg: DictConfig) -> EarlyStopping | None:
    """What ends the run before its last epoch, if that is wanted."""
    monitor = cfg.trainer.patience_monitor or cfg.trainer.monitor
    monitor, mode = _checked(cfg, monitor, "patience_monitor")
    if cfg.trainer.patience is None:
        return None
    return EarlyStopping(monitor, mode, cfg.trainer.patience, cfg.trainer.min_delta)


def is_over(cfg: DictConfig, epoch: int, patience: EarlyStopping | None) -> bool:
    """Whether no epoch comes after this one."""
    return epoch >= cfg.trainer.max_epochs or (patience is not None and patience.exhausted)


def is_finished(cfg: DictConfig, saved: Checkpoint) -> bool:
    """Whether a saved run has nothing left to train; says so."""
    patience = make_patience(cfg)
    if patience is not None and saved.state["patience"]:
        patience.load_state_dict(saved.state["patience"])
    epoch = saved.state["epoch"]
    if not is_over(cfg, epoch, patience):
        return False
    way = "trainer.max_epochs" if epoch >= cfg.trainer.max_epochs else "trainer.patience"
    log.info("%s has finished after epoch %d; a larger %s goes on", saved.path, epoch, way)
    return True


def _checked(cfg: DictConfig, monitor: str, key: str) -> tuple[str, str]:
    """The name, and whether more (``max``) or less (``min``) of it is better."""
    classes = list(cfg.data.classes)
    scores = ConfusionMatrix(len(classes)).compute()
    terms = [f"train/loss/{name}" for name in cfg.loss.get("terms", [])]
    names = ["train/loss", *terms, "val/loss", *scalar_scores(scores, classes, "val/")]
    if cfg.trainer.ema_decay is not None:
        names += ["val_raw/loss", "val_raw/miou"]
    if monitor not in names:
        raise ConfigError(
            f"trainer.{key}={monitor}: no such logged value{did_you_mean(monitor, names)}"
        )
    mode = cfg.trainer.monitor_mode if monitor == cfg.trainer.monitor else "auto"
    return monitor, ("min" if less_is_better(monitor) else "max") if mode == "auto" else mode
