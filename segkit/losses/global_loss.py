"""The loss of the global batch, whose parts several processes hold."""

from torch import Tensor, nn

from segkit.losses.pixels import PixelLoss
from segkit.losses.processes import across_processes, average
from segkit.losses.weighted_sum import WeightedSum


def global_loss(loss_fn: nn.Module, logits: Tensor, target: Tensor, world_size: int) -> Tensor:
    """The loss over the batches of all processes together; every process gets the same value.

    Ours are what one process would compute with the whole batch: their sums go over the pixels of
    all processes. Any other module, as a term too, is called with the local batch and its values
    are averaged. All processes must take part; a batch whose pixels are all ignored is no trouble.

    Args:
        loss_fn: Called as ``loss_fn(logits, target)``.
        logits: Raw scores of this process's images, float (N, C, H, W).
        target: Class ids or ``ignore_index``, integer (N, H, W).
        world_size: Number of processes; with 1 this is ``loss_fn(logits, target)``.

    Returns:
        A scalar. Its gradient in each process is scaled so that DistributedDataParallel's average
        over the processes is the gradient of the value: call ``backward`` on it as it is.
    """
    with across_processes(world_size):
        loss: Tensor = loss_fn(logits, target)
        return loss if isinstance(loss_fn, (PixelLoss, WeightedSum)) else average(loss)
