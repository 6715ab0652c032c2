"""A network that computes NaN or infinity has no prediction, and no score.

argmax would take NaN for a class like any other, so its masks and scores look as if they were some.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segkit.errors import CheckpointError


def gentler(precision: str) -> str:
    """What keeps a training that computes in ``precision`` from diverging, as the end of advice."""
    if precision == "fp32":
        return "a lower optimizer.lr or trainer.clip_grad_norm=1"
    return "a lower optimizer.lr, trainer.clip_grad_norm=1 or trainer.precision=fp32"


def all_finite(values: Tensor) -> Tensor:
    """Whether there is neither NaN nor infinity: a bool scalar on the device, without a wait."""
    # A sum takes a tenth of the time. Where it overflows, there may still be only finite numbers.
    if values.device.type == "cpu" and math.isfinite(values.sum().item()):
        return torch.tensor(True)
    return values.isfinite().all()


def refuse_weights(model: nn.Module, source: object, precision: str = "fp32") -> None:
    """Raise a CheckpointError if a weight, or a statistic of BatchNorm, is NaN or infinite.

    Args:
        model: With its weights loaded.
        source: What the message begins with: the file that they come from.
        precision: That they were trained in, where it is known.
    """
    bad = [name for name, values in _numbers(model) if not all_finite(values)]
    if bad:
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CheckpointError(
            f"{source}: {bad[0]}{others} of its weights hold NaN or infinity, expected finite "
            f"numbers. {_advice(precision)}"
        )


def _numbers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):  # other buffers may hold infinity on purpose
            yield from module.named_buffers(name)


def refuse_logits(finite: list[Tensor], image: str, source: str, precision: str) -> None:
    """Raise a CheckpointError unless all logits of an image were finite.

    Args:
        finite: One bool scalar for each time the network computed; read together.
        image: Name of the image.
        source: What messages call the network: its file, or the setting it comes from.
        precision: That it computed in.
    """
    if bool(torch.stack(finite).all()):
        return
    ways = ("" if precision == "fp32" else "Try precision=fp32. ") + _advice(precision)
    raise CheckpointError(
        f"{image}: {source} computes NaN or infinity for it, expected finite logits, so there is "
        f"neither a mask nor a score. {ways}"
    )


def _advice(precision: str) -> str:
    return (
        "It comes from a training that diverged: take a checkpoint of an earlier epoch, or train "
        f"again with {gentler(precision)}"
    )
