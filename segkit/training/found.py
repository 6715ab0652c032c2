"""What an optimizer step found: losses and gradient norms, and whether they are finite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkit.errors import TrainingError
from segkit.runtime.finite import all_finite, gentler


@dataclass
class Found:
    """The values of one step on their way from the device; :meth:`read` waits for them.

    Attributes:
        step: Its number, from 1.
        names: Log names of the losses.
        losses: Of each batch, on the device, (batches, names).
        norms: Of the gradient of each parameter in ``params``, (P,).
        norm: Of all gradients together, a scalar.
        params: The parameters that have a gradient.
        ids: Names of the images of each batch.
        precision: Number format that the network computed in.
    """

    step: int
    names: Sequence[str]
    losses: Tensor
    norms: Tensor
    norm: Tensor
    params: Sequence[nn.Parameter]
    ids: Sequence[Sequence[str]]
    precision: str

    def __post_init__(self) -> None:
        values = torch.cat([self.losses.flatten(), self.norms, self.norm[None]])
        self._ready: torch.cuda.Event | None = None
        self._values = values
        self._numbers: list[float] | None = None
        if values.device.type == "cuda":  # to pinned memory, behind all that is computed so far
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record()

    def read(self, model: nn.Module, *, may_overflow: bool) -> tuple[dict[str, float], float]:
        """Losses of the step by log name, and the norm of its gradient before clipping.

        Args:
            model: What was trained; its weights are those before the step if that is refused.
            may_overflow: Whether a norm that is not finite is no error, as in fp16.

        Raises:
            TrainingError: A value is not finite.
        """
        if self._numbers is None:
            if self._ready is not None:
                self._ready.synchronize()
            self._numbers = self._values.tolist()
        *values, norm = self._numbers
        losses: dict[str, float] = dict.fromkeys(self.names, 0.0)
        count = self.losses.numel()
        for i, value in enumerate(values[:count]):
            losses[self.names[i % len(self.names)]] += value
        self._check_losses(losses, model)
        if not math.isfinite(norm) and not may_overflow:
            bad = self._first_bad_layer(values[count:], model)
            raise TrainingError(
                f"step {self.step}: the gradient of {bad} is not finite. Batch: {self._files()}. "
                f"{self._unchanged()}"
            )
        return losses, norm

    def _check_losses(self, losses: dict[str, float], model: nn.Module) -> None:
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if not bad:
            return
        # The terms rather than their sum, which comes first.
        told = ", ".join(f"{name} is {losses[name]}" for name in bad[1:] or bad)
        start = f"step {self.step}: {told}. Batch: {self._files()}. "
        if not all(bool(all_finite(p)) for p in model.parameters()):
            raise TrainingError(
                f"{start}The weights held NaN or infinity before this step: the training had "
                "diverged. Start again, or resume best.pt if there is one, with "
                f"{gentler(self.precision)}"
            )
        raise TrainingError(
            f"{start}{self._unchanged()}; look at these files if it always happens with them"
        )

    def _files(self) -> str:
        return ", ".join(name for batch in self.ids for name in batch)

    def _unchanged(self) -> str:
        return f"The weights were not changed by this step. Try {gentler(self.precision)}"

    def _first_bad_layer(self, norms: Sequence[float], model: nn.Module) -> str:
        bad = {id(p) for p, n in zip(self.params, norms, strict=True) if not math.isfinite(n)}
        names = (name for name, p in model.named_parameters() if id(p) in bad)
        return next(names, "all layers together")
