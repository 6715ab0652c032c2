"""Networks out of checkpoints. Imports torch, so it does not come with the rest of this package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from segkit.config.build import rebuild
from segkit.config.slots import SLOTS
from segkit.data.dataset import SegmentationDataset
from segkit.data.levels import Range, parse_range
from segkit.errors import CheckpointError, ConfigError
from segkit.inference.onnx_network import ExportedCheckpoint, read_onnx
from segkit.inference.predictor import Ensemble, Inference, Size, pair
from segkit.models.normalize import Normalize, memory_order
from segkit.models.weights import compare
from segkit.runs.checkpoint import Checkpoint, model_weights, read_checkpoint
from segkit.runs.description import CheckpointMetadata
from segkit.runtime.device import Precision
from segkit.runtime.finite import refuse_weights


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
            ``tta.scales``, ``tta.flip``, ``window.size`` and ``window.stride`` (null: see
            :func:`usual_window`).
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
    channels_last = setting(checkpoints[0], "trainer.channels_last", bool)
    size, stride = usual_window(checkpoints, cfg.window)
    return Inference(
        model.to(device).to(memory_format=memory_order(channels_last)),
        Normalize(tuple(first.mean), tuple(first.std), channels_last),
        Precision.pick(cfg.precision or usual_precision(first, device), device),
        scales=list(cfg.tta.scales),
        flip=cfg.tta.flip,
        window=size,
        stride=stride,
        source=", ".join(str(one.path) for one in checkpoints),
    )


def usual_window(
    checkpoints: Sequence[Checkpoint], window: DictConfig
) -> tuple[Size | None, Size | None]:
    """Size and stride of the windows: what is asked for, else what the run validated in.

    Raises:
        ConfigError: The runs of an ensemble validated in different windows.
    """
    if window.size is not None:
        return None if window.size == "whole" else pair(window.size), pair(window.stride)
    first, *others = (one.about.window for one in checkpoints)
    for checkpoint, other in zip(checkpoints[1:], others, strict=True):
        if other != first:
            raise ConfigError(
                f"{checkpoint.path} was validated in other windows ({window_text(other)}) than "
                f"{checkpoints[0].path} ({window_text(first)}): give window.size=[HEIGHT,WIDTH], "
                "or window.size=whole"
            )
    return pair(first["size"]), pair(window.stride or first["stride"])


def window_text(window: dict[str, list[int] | None]) -> str:
    """For people; see :attr:`~segkit.runs.checkpoint.CheckpointMetadata.window`."""
    if window["size"] is None:
        return "whole images"
    return f"{window['size']}" + (f", stride {window['stride']}" if window["stride"] else "")


def saved_range(about: CheckpointMetadata) -> Range | None:
    """The ``data.range`` that a network was trained with.

    Raises:
        DataError: It was edited to something impossible.
    """
    data = about.config.get("data")
    return parse_range(data.get("range") if isinstance(data, dict) else None)


def usual_precision(about: CheckpointMetadata, device: torch.device) -> str:
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
        CheckpointError: Its weights do not fit the model that it describes, or are not finite.
        ConfigError: It names code that is not allowed.
    """
    about, source = checkpoint.about, checkpoint.path
    if isinstance(checkpoint, ExportedCheckpoint):
        check_channels(checkpoint.network, len(about.classes), source)
        return checkpoint.network
    node = about.config.get("model")
    tensors = model_weights(checkpoint.state, weights)
    if isinstance(node, dict) and node.get("_target_") in SLOTS["model"].names:
        # Without memory first: a hostile description may ask for more than there is.
        with torch.device("meta"):
            check_fit(rebuild(source, "model", node, allow), tensors, source)
    model: nn.Module = rebuild(source, "model", node, allow)
    check_fit(model, tensors, source)
    model.load_state_dict(tensors)
    refuse_weights(model, source, about.precision)
    check_channels(model, len(about.classes), source)
    return model


def check_fit(model: nn.Module, tensors: dict[str, Any], source: Path) -> None:
    """Raise a CheckpointError unless the tensors are the model's, by name, shape and kind."""
    report = compare(model, tensors)
    if report.skipped:
        raise CheckpointError(
            f"{source}: its weights do not fit the model that it describes ({report.reasons()}); "
            "was it edited?"
        )


@torch.no_grad()
def check_channels(model: nn.Module, num_classes: int, source: Path) -> None:
    """Raise a CheckpointError unless the logits have a channel for each of the classes.

    A small black image is computed; a model that cannot take it says so when it is used.
    """
    modes = [(layer, layer.training) for layer in model.modules()]
    try:
        shape = tuple(model.eval()(torch.zeros(1, 3, 64, 64)).shape)
    except CheckpointError:
        raise
    except Exception:
        return
    finally:
        for layer, training in modes:
            layer.training = training
    if len(shape) != 4 or shape[1] != num_classes:
        raise CheckpointError(
            f"{source}: names {num_classes} classes, but its model makes {shape} of an image "
            f"(1, 3, 64, 64); expected (1, {num_classes}, H, W). Was it edited?"
        )


def setting(checkpoint: Checkpoint, key: str, kind: type) -> Any:
    """A value of the configuration in a checkpoint.

    Raises:
        CheckpointError: It is not there, or of another type.
    """
    try:
        value = OmegaConf.select(OmegaConf.create(checkpoint.about.config), key)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        value = " ".join(str(error).split())[:200]
        kind = type(None)  # whatever it says
    if type(value) is not kind:
        raise CheckpointError(
            f"{checkpoint.path}: config.{key} in it is {value!r}; expected a {kind.__name__}"
        )
    return value


def rebuild_dataset(
    checkpoint: Checkpoint, split: str, root: str | None, allow: Sequence[str]
) -> SegmentationDataset:
    """A split of the data that a checkpoint describes, from another folder if ``root`` is given.

    Raises:
        CheckpointError: It describes none.
        ConfigError: It names code that is not allowed.
        DataError: The files are not there, or wrong.
    """
    node = checkpoint.about.config.get("data", {}).get("dataset")
    if isinstance(node, dict) and root is not None:
        node = node | {"root": root}
    dataset: SegmentationDataset = rebuild(checkpoint.path, "dataset", node, allow, split=split)
    return dataset
