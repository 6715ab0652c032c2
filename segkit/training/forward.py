"""From a batch to its loss, the same way in every step, trial and validation of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkit.data.loader import Batch
from segkit.losses import global_loss
from segkit.losses.parts import Part, needs_sums, parts
from segkit.losses.processes import collecting
from segkit.losses.weighted_sum import summands
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision
from segkit.runtime.distributed import DistributedContext

ALONE = DistributedContext()


@dataclass(frozen=True)
class Forward:
    """All that a batch passes through but the network.

    Attributes:
        loss_fn: Called with logits and target.
        normalize: Bytes to floats.
        precision: Of the network.
        world: The processes that share each step.
    """

    loss_fn: nn.Module
    normalize: Normalize
    precision: Precision
    world: DistributedContext = ALONE

    def loss(self, network: nn.Module, batch: Batch, part: Part | None = None) -> Tensor:
        """Of the batches of all processes, given that of this one, on any device.

        Args:
            network: From normalised images to logits.
            batch: Of this process.
            part: What it is of a step with several batches; None if it is the only one.
        """
        moved = batch.to(self.precision.device)
        logits = self._logits(network, moved)
        return global_loss(self.loss_fn, logits, moved.target.long(), self.world.size, part)

    def parts(self, model: nn.Module, group: Sequence[Batch]) -> list[Part] | list[None]:
        """What each batch is of the step that they make together.

        A loss that is no mean over pixels needs a pass over all of them for that, which leaves the
        model as it was. It draws random numbers: seed them anew before the step itself.
        """
        if len(group) == 1:
            return [None]
        targets = [batch.target.to(self.precision.device, non_blocking=True) for batch in group]
        losses = summands(self.loss_fn)
        sums = self._sums(model, group) if needs_sums(losses) else None
        return parts(losses, targets, self.world.size, sums)

    @torch.no_grad()
    def _sums(self, model: nn.Module, group: Sequence[Batch]) -> list[Tensor]:
        """What the losses sum over pixels, over all batches of all processes."""
        before = [buffer.clone() for buffer in model.buffers()]  # BatchNorm's statistics
        sums: list[Tensor] = []
        for batch in group:
            moved = batch.to(self.precision.device)
            logits = self._logits(model, moved)
            with collecting() as seen:
                self.loss_fn(logits, moved.target.long())
            sums = [a + b for a, b in zip(sums, seen, strict=True)] if sums else seen
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        return [self.world.all_reduce_sum(one) for one in sums]

    def _logits(self, network: nn.Module, moved: Batch) -> Tensor:
        with self.precision.autocast():
            logits: Tensor = network(self.normalize(moved.image))
        return logits
