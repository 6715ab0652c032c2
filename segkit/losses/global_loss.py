"""The loss of an optimizer step, whose pixels several processes and several batches hold."""

from torch import Tensor, nn

from segkit.losses.parts import Part, contribution, of_step, parts
from segkit.losses.weighted_sum import WeightedSum, summands


def global_loss(
    loss_fn: nn.Module, logits: Tensor, target: Tensor, world_size: int, part: Part | None = None
) -> Tensor:
    """What this batch contributes to the loss of the step; every process gets the same value.

    The contributions of all batches of a step add up to what one process would compute with all
    their pixels together. That is exact for our losses, whose sums go over the pixels of all. Any
    other module, as a term too, is called with the local batch, and its value counts by the number
    of its pixels, see :func:`segkit.losses.parts.amount`. All processes must take part; a batch
    whose pixels are all ignored is no trouble.

    Args:
        loss_fn: Called as ``loss_fn(logits, target)``.
        logits: Raw scores of this process's images, float (N, C, H, W).
        target: Class ids or ``ignore_index``, integer (N, H, W).
        world_size: Number of processes; with 1 this is ``loss_fn(logits, target)``.
        part: What the batch is of a step with several, from :func:`segkit.losses.parts.parts`;
            None if it is all that this process has.

    Returns:
        A scalar. Its gradient in each process is scaled so that DistributedDataParallel's average
        over the processes is the gradient of the value: call ``backward`` on it as it is.
    """
    if part is None:
        (part,) = parts(summands(loss_fn), [target], world_size)
    with of_step(part):
        return step_loss(loss_fn, logits, target)


def step_loss(loss_fn: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """:func:`global_loss` of a batch inside of :func:`segkit.losses.parts.of_step`."""
    if isinstance(loss_fn, WeightedSum):
        loss: Tensor = loss_fn(logits, target)
        return loss
    return contribution(loss_fn, logits, target)
