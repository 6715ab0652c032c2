"""Losses and batches for tests of accumulation: what an epoch of one or several batches does."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from loss_cases import LOSSES, NUM_CLASSES, UNEVEN, sum_of
from torch import Tensor, nn

from segkit.data.loader import Batch
from segkit.losses import CrossEntropyLoss, DiceLoss, PixelLoss, PixelScores
from segkit.losses.processes import all_reduce_sum
from segkit.runtime.device import Precision
from segkit.runtime.distributed import DistributedContext, wrap
from segkit.schedules import Poly
from segkit.training.loop import train_one_epoch
from segkit.training.monitor import Best, Monitor
from segkit.training.optimizer import param_groups
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState
from segkit.training.step import ALONE, TrainStep

CPU = Precision("fp32", torch.device("cpu"))


class OwnMean(nn.Module):
    """A user's own mean over the pixels that are not ignored: what nn.CrossEntropyLoss is."""

    def __init__(self) -> None:
        super().__init__()
        self.ignore_index = 255

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        values = F.cross_entropy(logits, target, ignore_index=255, reduction="none")
        return values.sum() / (target != 255).sum().clamp(min=1)


class OwnAmount(nn.Module):
    """A user's own mean that says what it divides by: the pixels of class 0."""

    def amount(self, target: Tensor) -> Tensor:
        return (target == 0).sum()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        chosen = (target == 0)[:, None] * logits.square()
        return chosen.sum() / self.amount(target).clamp(min=1)


class SquaredShare(PixelLoss):
    """A user's own function of sums over pixels, in two calls."""

    def on(self, pixels: PixelScores) -> Tensor:
        likely = all_reduce_sum(pixels.sum_per_class(torch.exp(-pixels.nll)))
        there = all_reduce_sum(pixels.valid.sum().to(likely))
        return (1 - likely.sum() / there.clamp(min=1)).square().to(pixels.logits.dtype)


MORE: dict[str, Callable[[], nn.Module]] = {
    "own mean": OwnMean,
    "own amount": OwnAmount,
    "own sums": SquaredShare,
    "torch": lambda: nn.CrossEntropyLoss(ignore_index=255),
    "ce + own": lambda: sum_of(ce=CrossEntropyLoss(UNEVEN), own=OwnMean(), sums=SquaredShare()),
    "sum in a sum": lambda: sum_of(
        first=sum_of(ce=CrossEntropyLoss(UNEVEN), dice=DiceLoss()), own=OwnMean()
    ),
    "no weight": lambda: CrossEntropyLoss([0.0] * NUM_CLASSES),
    "weight of the rare": lambda: CrossEntropyLoss([0.0, 0.0, 1.0, 1.0]),
}
CASES: dict[str, Callable[[], nn.Module]] = {
    name: lambda make=make: make(UNEVEN, 255)  # type: ignore[misc]
    for name, make in LOSSES.items()
} | MORE


def images(count: int, ignored: float = 0.5, seed: int = 0) -> list[Batch]:
    """Batches of one image each: unequal shares of ignored pixels, rare classes in some alone."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        image = torch.randint(0, 256, (1, 3, 6, 5), generator=generator, dtype=torch.uint8)
        target = torch.randint(0, 2 + 2 * (i % 2), (1, 6, 5), generator=generator).byte()
        share = ignored + (1 - ignored) * (i % 3 == 1) * 0.9
        target[torch.rand(target.shape, generator=generator) < share] = 255
        target[0, 0, 0] = i % NUM_CLASSES
        made.append(Batch(image, target, (str(i),)))
    return made


class Standing(EpochPlan):
    """Stays at the epoch's beginning, so at one learning rate."""

    def images_after(self, num_batches: int) -> int:
        return 0


def joined(group: Sequence[Batch]) -> Batch:
    return Batch(
        torch.cat([one.image for one in group]),
        torch.cat([one.target for one in group]),
        tuple(name for one in group for name in one.ids),
    )


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Conv2d(6, NUM_CLASSES, 1)).double()


def one_epoch(
    loss_fn: nn.Module,
    batches: Sequence[Batch],
    accumulate: int,
    model: nn.Module | None = None,
    *,
    world: DistributedContext = ALONE,
    frozen: bool = True,
) -> dict[str, Any]:
    """Means of the losses, and the weights after an epoch, which show the gradients."""
    model = network() if model is None else model
    if frozen:
        freeze_norm(model)
    optimizer = torch.optim.SGD(param_groups(model, 1.0, False, lr=1.0), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    values = train_one_epoch(
        TrainState(model, optimizer, scaler, Monitor(Best("val/miou", "max"))),
        batches,
        TrainStep(loss_fn, lambda image: image.double() / 255, CPU, Poly(), world),  # type: ignore[arg-type]
        Standing(epoch=1, max_epochs=1, num_images=6, batch_size=1, accumulate=accumulate),
        on_step=lambda values: None,
        network=wrap(model, world, CPU.device),
    )
    losses = {name: value for name, value in values.items() if name.startswith("train/loss")}
    return {"losses": losses, "weights": [p.detach().clone() for p in model.parameters()]}


def freeze_norm(model: nn.Module) -> None:
    """BatchNorm that stays in eval mode: the one thing that depends on how a batch is cut."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
            module.training = False
