"""Average of the weights over the last steps, smoother and mostly better than the last ones.

Polyak & Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging" (SIAM J. Control
Optim. 30), here with exponentially falling weights.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from segkit.errors import ConfigError


class ModelEMA:
    """A copy of a model that follows it: ``average = d * average + (1 - d) * weights``.

    ``d`` grows as ``min(decay, (1 + n) / (10 + n))`` with the number n of updates before, so that
    the random weights of the start are soon forgotten, whatever the decay.

    The statistics of BatchNorm are averaged likewise. They are those of the raw weights, and what
    the averaged weights need follows them just as late: copied, they fitted so badly that the
    average was worse than the raw weights in a test with decay 0.99. What counts (integers) is
    copied. A tensor that never changes keeps its bits.

    Args:
        model: Unwrapped, on its device; float32.
        decay: In [0, 1). The average is over about ``1 / (1 - decay)`` steps; 0 is a plain copy.

    Attributes:
        model: The averaged model, in eval mode, without gradients.
        updates: How many there were.

    Raises:
        ConfigError: For a decay out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(
                f"trainer.ema_decay={decay}: expected at least 0 and below 1; 0.999 averages over "
                "about 1000 steps"
            )
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module, failed: Tensor | None = None) -> None:
        """Take in the weights after one more optimizer step.

        Args:
            model: The one that this follows.
            failed: On the device, whether that was no step, since a value was not finite: the
                statistics of BatchNorm may hold NaN then, and are left out. None: it was one.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        buffers = [*zip(self.model.buffers(), model.buffers(), strict=True)]
        if failed is not None:
            buffers = [(mine, torch.where(failed, mine, theirs)) for mine, theirs in buffers]
        pairs = [*zip(self.model.parameters(), model.parameters(), strict=True), *buffers]
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(
            [mine for mine, _ in averaged], [theirs for _, theirs in averaged], 1 - decay
        )
        counted = [pair for pair in pairs if not pair[0].is_floating_point()]
        if counted:
            torch._foreach_copy_([mine for mine, _ in counted], [theirs for _, theirs in counted])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and builtins only; the tensors go on changing with the next update."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state`` was taken."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
