"""Learning-rate schedules: pure functions of the step, so that a resume needs no state of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence


class Schedule(ABC):
    """Factor of the learning rate for each optimizer step; linear warm-up, then :meth:`decay`.

    Args:
        warmup_epochs: Length of the warm-up in epochs, at least 0; may be a fraction.
    """

    def __init__(self, warmup_epochs: float = 0.0) -> None:
        if not (math.isfinite(warmup_epochs) and warmup_epochs >= 0):
            raise ValueError(f"warmup_epochs must be at least 0 and finite, got {warmup_epochs}")
        self.warmup_epochs = warmup_epochs

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Factor at a part ``progress`` in [0, 1] of the way from the warm-up to the end."""

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Factor for optimizer step ``step``, counted from 0. Past the end nothing changes."""
        step = min(step, total_steps)  # past it, (negative) ** 0.9 is a complex number
        warmup_steps = min(round(self.warmup_epochs * steps_per_epoch), total_steps)
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return self.decay((step - warmup_steps) / max(1, total_steps - warmup_steps))


class Poly(Schedule):
    """``(1 - progress) ** power``, as in DeepLab (Chen et al. 2017, arXiv:1606.00915).

    Args:
        power: Above 0; 1 is a straight line.
        warmup_epochs: Length of the warm-up in epochs, at least 0; may be a fraction.
    """

    def __init__(self, power: float = 0.9, warmup_epochs: float = 0.0) -> None:
        super().__init__(warmup_epochs)
        if not 0 < power < math.inf:
            raise ValueError(f"power must be above 0 and finite, got {power}")
        self.power = power

    def decay(self, progress: float) -> float:
        return float((1.0 - progress) ** self.power)


class Cosine(Schedule):
    """Half a cosine from 1 to ``final_factor`` (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Args:
        final_factor: Factor of the learning rate at the end, in [0, 1].
        warmup_epochs: Length of the warm-up in epochs, at least 0; may be a fraction.
    """

    def __init__(self, final_factor: float = 0.0, warmup_epochs: float = 0.0) -> None:
        super().__init__(warmup_epochs)
        if not 0 <= final_factor <= 1:
            raise ValueError(f"final_factor must lie in [0, 1], got {final_factor}")
        self.final_factor = final_factor

    def decay(self, progress: float) -> float:
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2


class Step(Schedule):
    """Times ``gamma`` at each milestone.

    Args:
        milestones: Parts of the run in (0, 1), rising, so that they fit any number of epochs.
        gamma: Factor at each, above 0.
        warmup_epochs: Length of the warm-up in epochs, at least 0; may be a fraction.
    """

    def __init__(
        self,
        milestones: Sequence[float] = (0.6, 0.9),
        gamma: float = 0.1,
        warmup_epochs: float = 0.0,
    ) -> None:
        super().__init__(warmup_epochs)
        if not all(0 < m < 1 for m in milestones) or list(milestones) != sorted(milestones):
            raise ValueError(
                f"milestones must be rising parts of the run between 0 and 1, got {milestones}"
            )
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma must be above 0 and finite, got {gamma}")
        self.milestones, self.gamma = tuple(milestones), gamma

    def decay(self, progress: float) -> float:
        return float(self.gamma ** sum(progress >= milestone for milestone in self.milestones))
