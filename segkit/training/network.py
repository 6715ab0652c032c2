"""The network of a run: built, filled with the weights that it starts from, made ready to train."""

import torch
from omegaconf import OmegaConf
from torch import nn

from segkit.config import build, without_effects
from segkit.config.build import targets
from segkit.config.schema import TrainConfig
from segkit.config.slots import SLOT_OF
from segkit.errors import ConfigError
from segkit.models.normalize import memory_order
from segkit.models.outline import outlined
from segkit.models.weights import LoadReport, match_tensors
from segkit.runs.checkpoint import Checkpoint
from segkit.runtime.context import Runtime
from segkit.runtime.distributed import sync_batch_norm, wrap
from segkit.runtime.finite import refuse_weights
from segkit.runtime.log import log
from segkit.training.plan import EpochPlan
from segkit.training.warm_start import Start, read_start


def build_model(
    settings: TrainConfig, checkpoint: Checkpoint | None, runtime: Runtime
) -> tuple[nn.Module, LoadReport | None]:
    """The network that a configuration describes, with the weights that the run starts from.

    Args:
        settings: The configuration.
        checkpoint: What the run goes on from: its weights come later, and nothing else is read.
        runtime: The device.

    Returns:
        The network on its device, and what it took from ``init_from``.

    Raises:
        CheckpointError: The weights to start from cannot be read, or are not finite.
        ConfigError: It cannot be built.
    """
    node, taken = OmegaConf.create(settings.model), None
    model: nn.Module
    if checkpoint is not None:
        model = build(without_effects(node), "model")
    else:
        weights, start = OmegaConf.select(node, "backbone.weights"), None
        if settings.init_from is not None:
            start = read_start(settings.init_from, settings.init_parts)
        if weights is not None and start is not None and _has_backbone(start, settings):
            log.info("model.backbone.weights=%s: not read, init_from has its own", weights)
            node, weights = without_effects(node), None
        model = build(node, "model")
        if weights is not None:
            refuse_weights(model, f"model.backbone.weights={weights}")
        if start is not None:
            taken = start.into(model)
            log.info("init_from=%s: %s", settings.init_from, taken)
            refuse_weights(model, f"init_from={settings.init_from}")
            if weights is None:
                _refuse_random_backbone(settings, model, taken)
    if settings.trainer.freeze_epochs and not hasattr(model, "set_frozen_backbone"):
        raise ConfigError(
            f"trainer.freeze_epochs={settings.trainer.freeze_epochs}: {type(model).__name__} has "
            "no method set_frozen_backbone(freeze: bool | str), which is called where they begin "
            "and end; write it, or leave the key out"
        )
    order = memory_order(settings.trainer.channels_last)
    return model.to(runtime.device).to(memory_format=order), taken


def _has_backbone(start: Start, settings: TrainConfig) -> bool:
    """Whether ``init_from`` has all weights of the backbone: none have to be downloaded then."""
    if not {*targets(settings.model)} <= SLOT_OF.keys():
        return False
    with outlined():
        outline: nn.Module = build(without_effects(OmegaConf.create(settings.model)), "model")
    taken = match_tensors(outline, start.tensors).taken
    return {name for name in outline.state_dict() if name.startswith("backbone.")} <= {*taken}


def _refuse_random_backbone(settings: TrainConfig, model: nn.Module, taken: LoadReport) -> None:
    """Raise a ConfigError if a backbone that starts at random is treated as a trained one."""
    parts, trainer = settings.init_parts or ["backbone"], settings.trainer
    backbone = getattr(model, "backbone", nn.Module()).named_parameters(prefix="backbone")
    kernels = {name for name, parameter in backbone if parameter.ndim > 1}
    if "backbone" not in parts or 2 * len(kernels & {*taken.taken}) >= len(kernels):
        return
    frozen = settings.model.get("freeze_backbone") is True
    problems = {
        "trainer.backbone_lr_factor=1 lets it learn": trainer.backbone_lr_factor is None,
        "trainer.freeze_epochs=0 leaves it free": trainer.freeze_epochs > 0,
        "model.freeze_backbone=false leaves it free": frozen,
    }
    if ways := [way for way, needed in problems.items() if needed]:
        raise ConfigError(
            f"init_from={settings.init_from}: {taken}. So the backbone would start at random, and "
            f"be kept near that as if it were trained: {', '.join(ways)}"
        )


def share_batch_norm(model: nn.Module, settings: TrainConfig, runtime: Runtime) -> None:
    """``trainer.sync_bn``; from here on no process makes a step alone."""
    if settings.trainer.sync_bn:
        sync_batch_norm(model, runtime.world, runtime.device)


def trainable(
    model: nn.Module, plan: EpochPlan, settings: TrainConfig, runtime: Runtime
) -> nn.Module:
    """What is called in the steps of an epoch: frozen as it says, with DDP and torch.compile.

    Args:
        model: The network itself.
        plan: The epoch; a new call is needed for the first one that trains the backbone.
        settings: The configuration.
        runtime: The processes and the device.
    """
    if settings.trainer.freeze_epochs:
        always = settings.model.get("freeze_backbone", False)
        model.set_frozen_backbone(plan.frozen or always)  # type: ignore[operator]
    network = wrap(model, runtime.world, runtime.device)
    if settings.trainer.compile:  # alone too: a step of several batches is no one graph
        network = torch.compile(network)  # type: ignore[assignment]
    return network
