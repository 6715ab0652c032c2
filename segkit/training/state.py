"""Everything that goes on changing during a run, in one place: what a checkpoint keeps."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config import build
from segkit.config.schema import TrainConfig
from segkit.errors import CheckpointError
from segkit.models.weights import match_tensors
from segkit.runs.saved_state import COUNTERS
from segkit.runtime.device import Precision
from segkit.training.ema import ModelEMA
from segkit.training.monitor import Monitor
from segkit.training.optimizer import (
    backbone_factor,
    make_optimizer,
    param_groups,
    ready_for_kernels,
)


@dataclass
class TrainState:
    """The state of a run between two optimizer steps.

    No random state: every number that is drawn derives from (seed, epoch, index) or (seed, step).

    Attributes:
        model: The network itself, not what wraps it.
        monitor: Which epochs are the best, and whether the run is over.
        average: The average of its weights, if the run keeps one.
        epoch: Finished epochs, with their validation.
        images: Images already used of the epoch in progress, over all processes.
        step: Finished optimizer steps.
        skipped_steps: Steps that the fp16 scaler left out because a gradient overflowed.
        seconds: Time spent so far, over all resumes.
        sums: Log name -> (sum, count) over the steps of the epoch in progress.
        last_values: Log name -> value of the last step.
        unsettled: Reads the values of the last step, if the device may still be at it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    monitor: Monitor
    average: ModelEMA | None = None
    epoch: int = 0
    images: int = 0
    step: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    last_values: dict[str, float] = field(default_factory=dict)
    unsettled: Callable[[], None] | None = None

    @classmethod
    def start(cls, model: nn.Module, settings: TrainConfig, precision: Precision) -> "TrainState":
        """All that training changes, before its first step.

        Args:
            model: On its device.
            settings: The configuration.
            precision: Number format of the forward pass.
        """
        trainer, lr = settings.trainer, settings.optimizer["lr"]
        factor = backbone_factor(settings)
        groups = param_groups(model, factor, trainer.decay_norm_and_bias, lr)
        decay = trainer.ema_decay
        return cls(
            model,
            make_optimizer(build(settings.optimizer, "optimizer"), groups, precision.device),
            precision.grad_scaler(),
            Monitor.of(settings),
            average=None if decay is None else ModelEMA(model, decay),
        )

    def settle(self) -> None:
        """Wait for the last step, if the device may still be at it, and take in its values.

        Raises:
            TrainingError: It was no step: a value is not finite.
        """
        read, self.unsettled = self.unsettled, None
        if read is not None:
            read()

    def count(self, values: dict[str, float]) -> None:
        """Add the values of one step to those of the epoch."""
        for name, value in values.items():
            total, number = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, number + 1)

    def means(self) -> dict[str, float]:
        """Of the steps of the epoch in progress, by log name."""
        return {name: total / number for name, (total, number) in self.sums.items()}

    def finish_epoch(self) -> None:
        self.epoch, self.images, self.sums = self.epoch + 1, 0, {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and builtins only, after :meth:`settle`."""
        self.settle()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            **self.monitor.state_dict(),
        } | {name: getattr(self, name) for name in COUNTERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state`` was taken.

        The settings of the optimizer stay: they are the configuration's, which may have changed.
        So does the value that is monitored; if it is another one, the search for the best begins
        anew.

        Raises:
            CheckpointError: It does not fit model or optimizer, or lacks something.
        """
        try:
            self.model.load_state_dict(state["model"])
            _fit(self.model, state["model"])
            settings = [
                # Not lr: every step sets it, from base_lr.
                {name: value for name, value in group.items() if name not in ("params", "lr")}
                for group in self.optimizer.param_groups
            ]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, kept in zip(self.optimizer.param_groups, settings, strict=True):
                group.update(kept)
            _check_buffers(self.optimizer)
            ready_for_kernels(self.optimizer)
            if state["scaler"] and self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            self.monitor.load_state_dict(state)
            if self.average and state["average"]:
                _fit(self.average.model, state["average"]["model"])
                self.average.load_state_dict(state["average"])
            elif self.average:  # asked for only now
                self.average = ModelEMA(self.model, self.average.decay)
            for name in COUNTERS:
                setattr(self, name, state[name])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"the state in it does not fit this run ({type(error).__name__}: {text}); to start "
                "from its weights alone use init_from instead of resume"
            ) from error


def _fit(model: nn.Module, tensors: dict[str, Any]) -> None:
    """Raise a ValueError unless the tensors are the model's, by name, shape and kind."""
    report = match_tensors(model, tensors)
    if report.skipped:
        raise ValueError(report.reasons())


def _check_buffers(optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError if what it keeps of a parameter is not what its next step reads."""
    if not type(optimizer).__module__.startswith("torch.optim."):
        return  # of the user's own, which may keep anything
    # In 64 bits no setting overflows: a learning rate may be far too high, that is not asked here.
    trial = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    trial.grad = torch.zeros_like(trial)
    known = inspect.signature(type(optimizer)).parameters  # AdamW has one default more
    settings = {name: value for name, value in optimizer.defaults.items() if name in known}
    settings |= {"fused": None} if "fused" in settings else {}  # it keeps the same
    fresh = type(optimizer)([trial], **settings)
    fresh.step()
    expected = fresh.state[trial]
    for parameter, buffers in optimizer.state.items():
        if not buffers:  # of a frozen one
            continue
        if buffers.keys() != expected.keys():
            raise ValueError(f"the optimizer keeps {sorted(buffers)}, not {sorted(expected)}")
        for name, value in buffers.items():
            one_each = isinstance(value, Tensor) and (
                value.numel() == 1 or _broadcasts(value.shape, parameter.shape)
            )
            if value is not None and isinstance(expected[name], Tensor) and not one_each:
                raise ValueError(f"{name} of the optimizer does not fit its parameter")


def _broadcasts(shape: torch.Size, other: torch.Size) -> bool:
    """Whether it is the other shape, or 1 in some of its places."""
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(side in (1, full) for side, full in pairs)
