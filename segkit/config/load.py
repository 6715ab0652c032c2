"""Networks out of checkpoints. Imports torch, so it does not come with the rest of this package."""

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from segkit.config.build import rebuild
from segkit.data.levels import Range, parse_range
from segkit.engine.checkpoint import Checkpoint, Description, model_weights, read_checkpoint
from segkit.engine.inference import Ensemble, Inference
from segkit.engine.onnx_model import ExportedCheckpoint, read_onnx
from segkit.engine.precision import Normalize, Precision, memory_order
from segkit.errors import CheckpointError, ConfigError


def read_checkpoints(source: str | Sequence[str]) -> list[Checkpoint]:
    """Those of one path or of several; files that ``export.py format=onnx`` wrote count too."""
    return [
        read_onnx(path) if Path(path).suffix == ".onnx" else read_checkpoint(path)
        for path in ([source] if isinstance(source, str) else source)
    ]


def load_inference(
    checkpoints: Sequence[Checkpoint], cfg: DictConfig, device: torch.device
) -> Inference:
    """A checkpoint, or several as one ensemble, ready for images.

    Args:
        checkpoints: At least one; all know the same classes.
        cfg: With ``allow``, ``weights``, ``precision`` (null: see :func:`usual_precision`),
            ``tta.scales``, ``tta.flip``, ``window.size`` and ``window.stride``.
        device: Where it computes.

    Raises:
        ConfigError: For an impossible setting, or checkpoints that are no ensemble.
    """
    first = checkpoints[0].about
    for other in checkpoints[1:]:
        about = other.about
        if saved_range(about) != saved_range(first):
            raise ConfigError(
                f"{other.path} is no ensemble with {checkpoints[0].path}: their data.range is "
                f"{saved_range(about)} and {saved_range(first)}, so they see other pictures"
            )
        if (about.classes, about.mean, about.std) != (first.classes, first.mean, first.std):
            raise ConfigError(
                f"{other.path} is no ensemble with {checkpoints[0].path}: expected the same "
                f"classes and the same mean and std, found {', '.join(about.classes)} ({about.mean}"
                f", {about.std}) and {', '.join(first.classes)} ({first.mean}, {first.std})"
            )
    exported = [one for one in checkpoints if isinstance(one, ExportedCheckpoint)]
    for key, usual in (("weights", "auto"), ("precision", None)):
        if exported and cfg[key] != usual:
            raise ConfigError(
                f"{key}={cfg[key]}: {exported[0].path} was exported with its choice of weights and "
                f"precision; leave {key} out, or take the checkpoint"
            )
    models = [load_model(one, list(cfg.allow), cfg.weights) for one in checkpoints]
    model = models[0] if len(models) == 1 else Ensemble(models)
    channels_last = bool(OmegaConf.create(first.config).trainer.channels_last)
    size, stride = (
        None if sides is None else (sides[0], sides[1])
        for sides in (cfg.window.size, cfg.window.stride)
    )
    return Inference(
        model.to(device).to(memory_format=memory_order(channels_last)),
        Normalize(tuple(first.mean), tuple(first.std), channels_last),
        Precision.pick(cfg.precision or usual_precision(first, device), device),
        scales=list(cfg.tta.scales),
        flip=cfg.tta.flip,
        window=size,
        stride=stride,
    )


def saved_range(about: Description) -> Range | None:
    """The ``data.range`` that a network was trained with.

    Raises:
        DataError: It was edited to something impossible.
    """
    data = about.config.get("data")
    return parse_range(data.get("range") if isinstance(data, dict) else None)


def usual_precision(about: Description, device: torch.device) -> str:
    """What the run computed with: fp32 wherever it is used, fewer bits on such a device only."""
    if about.precision == "fp32" or torch.device(about.device).type == device.type:
        return about.precision
    return "auto"  # a CPU cannot compute in the fp16 of a CUDA device, and in bf16 it crawls


def load_model(
    checkpoint: Checkpoint, allow: Sequence[str] = (), weights: str = "auto"
) -> nn.Module:
    """The network of a checkpoint on the CPU; nothing is downloaded.

    Args:
        checkpoint: As read; that of an exported file gives a network that onnxruntime computes.
        allow: Modules of the user's own that it may name besides segkit's.
        weights: ``raw``, ``ema``, or ``auto``: those that the run validated.

    Raises:
        CheckpointError: Its weights do not fit the model that it describes.
        ConfigError: It names code that is not allowed.
    """
    if isinstance(checkpoint, ExportedCheckpoint):
        return checkpoint.network
    node = dict(checkpoint.about.config["model"])
    if isinstance(node.get("backbone"), dict) and "weights" in node["backbone"]:
        node["backbone"] = node["backbone"] | {"weights": None}
    model: nn.Module = rebuild(node, allow)
    try:
        model.load_state_dict(model_weights(checkpoint.state, weights))
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.path}: its weights do not fit the model that it describes "
            f"({' '.join(str(error).split())[:200]}); was it edited?"
        ) from error
    return model
