"""From a batch to its loss, the same way in every step, trial and validation of a run."""

from dataclasses import dataclass

from torch import Tensor, nn

from segkit.data.loader import Batch
from segkit.engine.distributed import World
from segkit.engine.precision import Normalize, Precision
from segkit.losses import global_loss

ALONE = World()


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
    world: World = ALONE

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Over the batches of all processes, given that of this one, on any device."""
        moved = batch.to(self.precision.device)
        with self.precision.autocast():
            logits = network(self.normalize(moved.image))
        return global_loss(self.loss_fn, logits, moved.target.long(), self.world.size)
