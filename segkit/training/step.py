"""From a batch to its loss, and how a step is made of it: the same in every step of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from segkit.config import build
from segkit.config.schema import TrainConfig
from segkit.data.loader import Batch
from segkit.errors import ConfigError
from segkit.losses.global_loss import step_loss
from segkit.losses.parts import Part, needs_sums, of_step, parts
from segkit.losses.processes import collecting
from segkit.losses.weighted_sum import WeightedSum, summands, takes_low_resolution
from segkit.models.deeplabv3plus import aux_weight_of, gives_low_resolution
from segkit.models.normalize import Normalize
from segkit.runtime.context import Runtime
from segkit.runtime.device import Precision
from segkit.runtime.distributed import DistributedContext
from segkit.schedules import Schedule

ALONE = DistributedContext()


@dataclass(frozen=True)
class TrainStep:
    """What a batch passes through besides the network, and what changes the weights then.

    Attributes:
        loss_fn: Called with logits and target.
        normalize: Bytes to floats.
        precision: Number format and device of the network.
        schedule: Factor of the learning rate.
        world: The processes that share each step.
        clip_grad_norm: Largest norm of all gradients together; None clips nothing.
        seed: Seed of the random numbers that layers draw, as dropout does.
        compile: Make one graph of normalisation, network and loss.
    """

    loss_fn: nn.Module
    normalize: Normalize
    precision: Precision
    schedule: Schedule
    world: DistributedContext = ALONE
    clip_grad_norm: float | None = None
    seed: int = 0
    compile: bool = False

    @classmethod
    def build(cls, settings: TrainConfig, runtime: Runtime) -> "TrainStep":
        """The step that a configuration describes, on the runtime's device.

        Raises:
            ConfigError: The loss leaves out another label than the data.
        """
        data, trainer = settings.data, settings.trainer
        loss_fn: nn.Module = build(settings.loss, "loss").to(runtime.device)
        refuse_other_ignored(loss_fn, data.ignore_index)
        return cls(
            loss_fn=loss_fn,
            normalize=Normalize(tuple(data.mean), tuple(data.std), trainer.channels_last),
            precision=runtime.precision,
            schedule=build(settings.scheduler, "scheduler"),
            world=runtime.world,
            clip_grad_norm=trainer.clip_grad_norm,
            seed=settings.seed,
            compile=trainer.compile,
        )

    def loss(self, network: nn.Module, batch: Batch, part: Part | None = None) -> Tensor:
        """The loss over the batches of all processes, given that of this one, on any device.

        Args:
            network: From normalised images to logits.
            batch: The batch of this process.
            part: Its part of a step with several batches; None if it is the only one.
        """
        moved = batch.to(self.precision.device)
        if self.compile and part is None and self.world.size == 1:
            # What a batch is of a larger step would be a constant of the graph: not compiled then.
            constants = self.normalize.constants(moved.image.device)
            loss: Tensor = self._compiled(network, moved.image, moved.target, *constants)
            return loss
        if part is None:
            (part,) = parts(summands(self.loss_fn), [moved.target], self.world.size)
        with of_step(part):
            return self._of_batch(network, self.normalize(moved.image), moved.target)

    def whole(
        self, network: nn.Module, image: Tensor, target: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        """The loss of a step that is one batch, without a look at anything but tensors.

        Args:
            network: From normalised images to logits.
            image: uint8 (N, C, H, W).
            target: Class ids or ``ignore_index``, (N, H, W).
            mean: Of :meth:`Normalize.constants <segkit.models.normalize.Normalize.constants>`.
            std: Likewise.
        """
        return self._of_batch(network, self.normalize.by(image, mean, std), target)

    @cached_property
    def _compiled(self) -> Callable[..., Tensor]:
        return torch.compile(self.whole)

    def _of_batch(self, network: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        """What a batch of normalised images contributes to the step, inside of :func:`of_step`."""
        with self.precision.autocast():
            logits = self._logits(network, image)
        target = target if takes_low_resolution(self.loss_fn) else target.long()
        *others, own = [step_loss(self.loss_fn, one, target) for one in reversed(logits)]
        if not others:
            return own
        if isinstance(self.loss_fn, WeightedSum):  # has the terms of the call before, of `own`
            self.loss_fn.last_terms["aux"] = others[0].detach()
        return own + aux_weight_of(network) * others[0]

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
            with collecting() as seen:
                self._of_batch(model, self.normalize(moved.image), moved.target)
            sums = [a + b for a, b in zip(sums, seen, strict=True)] if sums else seen
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        return [self.world.all_reduce_sum(one) for one in sums]

    def _logits(self, network: nn.Module, image: Tensor) -> Sequence[Tensor]:
        """Logits, and those of the second classifier where there is one."""
        settings = {}
        if takes_low_resolution(self.loss_fn) and gives_low_resolution(network):
            settings["resize"] = False
        if aux_weight_of(network):
            return network(image, aux=True, **settings)  # type: ignore[no-any-return]
        return (network(image, **settings),)


def refuse_other_ignored(loss_fn: nn.Module, ignore_index: int) -> None:
    """Raise a ConfigError if a loss that was built leaves out another label than the data."""
    for one in summands(loss_fn):
        found = getattr(one, "ignore_index", None)
        if isinstance(found, int) and found != ignore_index:
            raise ConfigError(
                f"loss: {type(one).__name__} leaves out pixels of the value {found}, and those "
                f"without a label have {ignore_index}, data.ignore_index. Give it the argument "
                "ignore_index: ${data.ignore_index}"
            )
