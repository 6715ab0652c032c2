"""What each batch is of the optimizer step that several batches, in several processes, make.

Cut into parts, the pixels have the loss and the gradient of one batch with all of them:

- A mean over pixels is ``sum / amount``, and the amount of the whole step (pixels, or their
  weights) is known from the targets alone. So each part's mean counts by its share of the amount.
- Any other function of sums over pixels, as Dice is, needs the sums of the whole step first. They
  come from a pass of the network without gradients over all batches; the gradient of each batch is
  then taken at these sums.
- A loss that is not segkit's is taken for a mean over the pixels of its part.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segkit.losses.class_sums import ClassSums
from segkit.losses.pixels import PixelLoss, PixelScores, count_dtype, ratio
from segkit.losses.processes import across_processes, all_reduce_sum, alone, is_collecting


@dataclass(frozen=True)
class Part:
    """One batch of a step.

    Attributes:
        world_size: Number of processes.
        batches: Number of batches of each process in this step.
        shares: How much of the step's loss the value of each loss is, by the loss; 1 where absent.
        sums: Over all pixels of the step, in the order in which the losses ask for them; None
            where the shares say enough.
    """

    world_size: int = 1
    batches: int = 1
    shares: Mapping[nn.Module, Tensor] = field(default_factory=dict)
    sums: Sequence[Tensor] | None = None


_WHOLE = Part()
_part: ContextVar[Part] = ContextVar("part", default=_WHOLE)


def parts(
    losses: Sequence[nn.Module],
    targets: Sequence[Tensor],
    world_size: int = 1,
    sums: Sequence[Tensor] | None = None,
) -> list[Part]:
    """What the batches of this process are of the step that they make together.

    Args:
        losses: That are summed, each a mean or a function of sums of its own.
        targets: Targets of the batches, integer (N, H, W).
        world_size: Number of processes; all must call this.
        sums: Those of the step, where one of the losses :func:`needs_sums`.
    """
    batches = len(targets)
    own = [loss for loss in losses if not isinstance(loss, PixelLoss)]
    if batches == 1 and (world_size == 1 or not own):
        return [Part(world_size)]
    # With the sums of the step at hand all of ours have the step's value, in each of its batches.
    weighed = losses if sums is None and batches > 1 else own
    shares: list[dict[nn.Module, Tensor]] = [{} for _ in targets]
    if weighed:
        rows = [torch.stack([amount(loss, target) for loss in weighed]) for target in targets]
        here = torch.stack(rows)  # (batches, losses)
        with across_processes(world_size):
            everywhere = all_reduce_sum(here)
        step = everywhere.sum(0)
        for i, loss in enumerate(weighed):
            # Our values are those of all processes already.
            part = everywhere if isinstance(loss, PixelLoss) else here
            for batch, share in zip(shares, ratio(part[:, i], step[i]), strict=True):
                batch[loss] = share
    if sums is not None:
        equal = targets[0].new_full((), 1 / batches, dtype=count_dtype(targets[0]))
        for batch in shares:
            batch.update({loss: equal for loss in losses if isinstance(loss, PixelLoss)})
    return [Part(world_size, batches, batch, sums) for batch in shares]


def needs_sums(losses: Sequence[nn.Module]) -> bool:
    """Whether one of ours is no mean over pixels, so that no amount says what a batch weighs."""
    return any(isinstance(x, PixelLoss) and type(x).amount is PixelLoss.amount for x in losses)


def amount(loss: nn.Module, target: Tensor) -> Tensor:
    """What the mean of a loss divides by for a target (N, H, W): a scalar of many digits.

    A loss that does not say so by a method ``amount(target)`` is taken for a mean over the pixels
    that are not its ``ignore_index``, or over all if it has none.
    """
    dtype = count_dtype(target)
    own: Any = getattr(loss, "amount", None)
    if callable(own):
        named: Tensor = own(target)
        return named.to(dtype)
    ignore_index = getattr(loss, "ignore_index", None)
    if ignore_index is None:
        return target.new_full((), target.numel(), dtype=dtype)
    valid: Tensor = target != ignore_index
    return valid.sum(dtype=dtype)


@contextmanager
def of_step(part: Part) -> Iterator[None]:
    """Inside, the losses of this batch are what it contributes to the loss of the step."""
    token = _part.set(part)
    try:
        with across_processes(part.world_size, part.sums, part.batches):
            yield
    finally:
        _part.reset(token)


def contribution(
    loss: nn.Module,
    logits: Tensor,
    target: Tensor,
    pixels: PixelScores | ClassSums | None = None,
) -> Tensor:
    """What a batch contributes to the step; outside of :func:`of_step` its loss.

    Args:
        loss: Called with the next two, unless it can read ``pixels``.
        logits: Float (N, C, H, W).
        target: Integer (N, H, W).
        pixels: What is computed of logits and target once for several losses, or their sums, which
            only a loss with ``of_sums`` can read; None: nothing.
    """
    compiled = torch.compiler.is_compiling()  # of one batch of one process
    part = _WHOLE if compiled else _part.get()
    share = part.shares.get(loss)
    if isinstance(loss, PixelLoss):
        if isinstance(pixels, ClassSums):
            value = loss.of_sums(pixels)
        else:
            value = loss(logits, target) if pixels is None else loss.on(pixels)
        return value if share is None else value * share.to(value)
    if is_collecting():  # it has no sums
        return logits.new_zeros(())
    with nullcontext() if compiled else alone():
        own: Tensor = loss(logits, target)
    if share is None:
        return own
    with across_processes(part.world_size):
        return all_reduce_sum(own * share.to(own))
