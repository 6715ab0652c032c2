"""The optimizer of a run: its groups of parameters, its kernels, a step that may be left out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config.schema import TrainConfig

PRETRAINED_FACTOR = 0.1
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Have one kernel for all parameters of a group, and can leave out a step on the device."""


def backbone_factor(settings: TrainConfig) -> float:
    """What the learning rate is multiplied with for the backbone.

    By default less than 1 for one that is trained already, which a high rate would spoil.
    """
    factor = settings.trainer.backbone_lr_factor
    if factor is not None:
        return factor
    backbone = settings.model.get("backbone")
    weights = backbone.get("weights") if isinstance(backbone, Mapping) else None
    taken = settings.init_from is not None and "backbone" in (settings.init_parts or ["backbone"])
    return PRETRAINED_FACTOR if weights is not None or taken else 1.0


def param_groups(
    model: nn.Module, backbone_lr_factor: float, decay_norm_and_bias: bool, lr: float
) -> list[dict[str, object]]:
    """Trainable parameters in up to four groups: backbone or not, weight decay or not.

    Norms and biases (all tensors with fewer than two dimensions) have no weight decay unless
    ``decay_norm_and_bias``: shrinking them regularises nothing.
    """
    backbone = {id(p) for p in getattr(model, "backbone", nn.Module()).parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            decays = decay_norm_and_bias or p.ndim > 1
            groups.setdefault((id(p) in backbone, decays), []).append(p)
    result: list[dict[str, object]] = []
    for (in_backbone, decays), params in groups.items():
        factor = backbone_lr_factor if in_backbone else 1.0
        group: dict[str, object] = {"params": params, "lr": lr * factor, "base_lr": lr * factor}
        result.append(group if decays else group | {"weight_decay": 0.0})
    return result


def make_optimizer(
    make: Callable[..., torch.optim.Optimizer], groups: list[dict[str, Any]], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer for some groups of parameters: a fused one, if nothing else is asked.

    Args:
        make: A class or a partial of one, called with the groups.
        groups: As :func:`param_groups` returns them.
        device: Where the parameters are.
    """
    kind, given = getattr(make, "func", make), getattr(make, "keywords", {})
    chosen = {
        name for name in ("fused", "foreach", "capturable", "differentiable") if name in given
    }
    if device.type in ("cpu", "cuda") and kind in FUSED and not chosen:
        make = partial(make, fused=True)
    return make(groups)


def leaves_out_steps(optimizer: torch.optim.Optimizer) -> bool:
    """Whether :func:`gated` works with it: a fused one of PyTorch's own, no subclass."""
    return type(optimizer) in FUSED and all(group["fused"] for group in optimizer.param_groups)


@contextmanager
def gated(optimizer: torch.optim.Optimizer, skip: Tensor) -> Iterator[None]:
    """Inside, a step of a fused optimizer changes nothing where ``skip``, a bool scalar, is true.

    The host never learns of it: these are the attributes by which PyTorch's GradScaler does it.
    """
    optimizer.grad_scale, optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def ready_for_kernels(optimizer: torch.optim.Optimizer) -> None:
    """Make what a checkpoint brought what the next step reads, fused or not.

    Step counts of a fused optimizer are beside the parameters, of any other in the host's memory.
    A fused SGD takes momenta of all parameters of a group or of none: where some lack theirs, which
    the others start at their first step, they start from 0. Fused kernels go through the memory of
    a parameter and its averages side by side, so all must have one order: that of a checkpoint may
    be another (``trainer.channels_last``).
    """
    for group in optimizer.param_groups:
        momenta = [optimizer.state.get(p, {}).get("momentum_buffer") for p in group["params"]]
        some = any(isinstance(momentum, Tensor) for momentum in momenta)
        for p, momentum in zip(group["params"], momenta, strict=True):
            if group.get("fused") and some and momentum is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
            for name, value in optimizer.state.get(p, {}).items():
                is_like = isinstance(value, Tensor) and value.shape == p.shape
                if is_like and value.stride() != p.stride():
                    ordered = torch.empty_like(p, dtype=value.dtype)
                    optimizer.state[p][name] = ordered.copy_(value)
            count = optimizer.state.get(p, {}).get("step")
            if isinstance(count, Tensor):
                beside = group.get("fused") or group.get("capturable")
                optimizer.state[p]["step"] = count.to(p.device if beside else "cpu")
