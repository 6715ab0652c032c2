"""Networks out of checkpoints. Imports torch, so it does not come with the rest of this package."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from segkit.commands import command
from segkit.config.build import rebuild
from segkit.config.schema import InferenceOptions
from segkit.config.slots import SLOTS
from segkit.data.dataset import SegmentationDataset
from segkit.data.levels import Range, parse_range
from segkit.errors import CheckpointError, ConfigError, DataError
from segkit.inference.elsewhere import elsewhere
from segkit.inference.onnx_network import ExportedCheckpoint, OnnxModel, read_onnx
from segkit.inference.predictor import Ensemble, Inference, Size, pair
from segkit.models.normalize import Normalize, memory_order
from segkit.models.outline import outlined
from segkit.models.weights import match_tensors
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


class OptionNames(NamedTuple):
    """What messages call the windows' size and stride: as whoever set them knows them."""

    window: str = "window"
    stride: str = "stride"


OWN_KEYS = ("data.classes", "data.num_classes", "data.label_map", "data.colormap", "data.range")
KEYS = OptionNames("window.size", "window.stride")
"""Those of the command line."""


def load_inference(
    checkpoints: Sequence[Checkpoint],
    options: InferenceOptions,
    device: torch.device,
    names: OptionNames,
) -> Inference:
    """A checkpoint, or several as one ensemble, ready for images.

    Args:
        checkpoints: At least one; all know the same classes.
        options: How it computes. Without a precision see :func:`usual_precision`, without a window
            :func:`usual_window`.
        device: Where it computes.
        names: What messages call the options.

    Raises:
        ConfigError: For an impossible setting, or checkpoints that are no ensemble.
    """
    first = checkpoints[0].metadata
    for other in checkpoints[1:]:
        metadata = other.metadata
        if saved_bits(metadata) != saved_bits(first):
            raise ConfigError(
                f"{other.path} is no ensemble with {checkpoints[0].path}: their data.bits is "
                f"{saved_bits(metadata)} and {saved_bits(first)}, so they see other images"
            )
        if saved_range(metadata) != saved_range(first):
            raise ConfigError(
                f"{other.path} is no ensemble with {checkpoints[0].path}: their data.range is "
                f"{saved_range(metadata)} and {saved_range(first)}, so they see other images"
            )
        if (metadata.classes, metadata.mean, metadata.std) != (
            first.classes,
            first.mean,
            first.std,
        ):
            raise ConfigError(
                f"{other.path} is no ensemble with {checkpoints[0].path}: expected the same "
                f"classes and the same mean and std, found {', '.join(metadata.classes)} "
                f"({metadata.mean}, {metadata.std}) and {', '.join(first.classes)} "
                f"({first.mean}, {first.std})"
            )
    exported = [one for one in checkpoints if isinstance(one, ExportedCheckpoint)]
    for key, usual in (("weights", "auto"), ("precision", None)):
        if exported and getattr(options, key) != usual:
            raise ConfigError(
                f"{key}={getattr(options, key)}: {exported[0].path} was exported with its choice "
                f"of weights and precision; leave {key} out, or take the checkpoint"
            )
    models = [load_network(one, options.allow, options.weights) for one in checkpoints]
    sigmoids = [asks_for_each_class(one.metadata) for one in checkpoints]
    model = models[0] if len(models) == 1 else Ensemble(models, sigmoids)
    channels_last = setting(checkpoints[0], "trainer.channels_last", bool)
    size, stride = usual_window(checkpoints, options, names)
    if fixed := [one for one in exported if one.network.size is not None]:
        check_fixed_size(fixed, size, options.scales, names)
    return Inference(
        model.to(device).to(memory_format=memory_order(channels_last)),
        Normalize(tuple(first.mean), tuple(first.std), channels_last),
        Precision.pick(options.precision or usual_precision(first, device), device),
        scales=options.scales,
        flip=options.flip,
        window=size,
        stride=stride,
        source=", ".join(str(one.path) for one in checkpoints),
        window_key=names.window,
        sigmoid=len(models) == 1 and sigmoids[0],
    )


def usual_window(
    checkpoints: Sequence[Checkpoint], options: InferenceOptions, names: OptionNames
) -> tuple[Size | None, Size | None]:
    """Size and stride of the windows: what is asked for, else what the run validated in.

    Those of a file of one fixed size have that size, unless others are asked for.

    Raises:
        ConfigError: The runs of an ensemble validated in different windows, or the stride does not
            fit the size.
    """
    size, stride = _saved_or_given(checkpoints, options, names)
    if size is None and stride is not None:
        raise ConfigError(f"{names.stride} is set and {names.window} is not: give both or neither")
    if size is not None and any(s > w for s, w in zip(stride or (), size, strict=False)):
        raise ConfigError(
            f"{names.stride}={list(stride or ())}: expected at most {names.window}={list(size)}; "
            "with a larger one pixels between windows would be left out"
        )
    return size, stride


def check_fixed_size(
    exported: Sequence[ExportedCheckpoint],
    window: Size | None,
    scales: Sequence[float],
    names: OptionNames,
) -> None:
    """Raise a ConfigError if files of one fixed size each would be given larger images."""
    for one in exported:
        size = one.network.size
        assert size is not None
        takes = f"{one.path} takes images of at most {size[0]} x {size[1]} pixels"
        wrong = None
        if window is None or any(w > s for w, s in zip(window, size, strict=True)):
            wrong = f"{names.window}={'whole' if window is None else list(window)}"
            way_out = f"leave {names.window} out, which takes windows of that size"
        elif max(scales) > 1:
            wrong, way_out = f"the scales {list(scales)}", "give none above 1"
        if wrong is not None:
            raise ConfigError(
                f"{takes}, found {wrong}: {way_out}, or export the checkpoint without size"
            )


def _saved_or_given(
    checkpoints: Sequence[Checkpoint], options: InferenceOptions, names: OptionNames
) -> tuple[Size | None, Size | None]:
    if options.window is not None:
        size = None if options.window == "whole" else pair(options.window)
        return size, pair(options.stride)
    exported = (one for one in checkpoints if isinstance(one, ExportedCheckpoint))
    if fixed := [one.network.size for one in exported if one.network.size is not None]:
        smallest = (min(size[0] for size in fixed), min(size[1] for size in fixed))
        saved = checkpoints[0].metadata.window
        same = pair(saved["size"]) == smallest
        return smallest, pair(options.stride or (saved["stride"] if same else None))
    first, *others = (one.metadata.window for one in checkpoints)
    for checkpoint, other in zip(checkpoints[1:], others, strict=True):
        if other != first:
            raise ConfigError(
                f"{checkpoint.path} was validated in other windows ({window_text(other)}) than "
                f"{checkpoints[0].path} ({window_text(first)}): give "
                f"{names.window}=[HEIGHT,WIDTH], or {names.window}=whole"
            )
    return pair(first["size"]), pair(options.stride or first["stride"])


def window_text(window: dict[str, list[int] | None]) -> str:
    """For people; see :attr:`~segkit.runs.checkpoint.CheckpointMetadata.window`."""
    if window["size"] is None:
        return "whole images"
    return f"{window['size']}" + (f", stride {window['stride']}" if window["stride"] else "")


def saved_range(metadata: CheckpointMetadata) -> Range | None:
    """The ``data.range`` that a network was trained with.

    Raises:
        DataError: It was edited to something impossible.
    """
    data = metadata.config.get("data")
    return parse_range(data.get("range") if isinstance(data, dict) else None)


def saved_bits(metadata: CheckpointMetadata) -> int:
    """The ``data.bits`` that a network was trained with; 8 before there was such a key."""
    data = metadata.config.get("data")
    return 16 if isinstance(data, dict) and data.get("bits") == 16 else 8


def asks_for_each_class(metadata: CheckpointMetadata) -> bool:
    """Whether the loss of the training was BCE alone, whose logits are those of sigmoids."""
    loss = metadata.config.get("loss")
    terms = loss.get("terms") if isinstance(loss, dict) else None
    nodes = [loss]
    if isinstance(terms, dict):
        counted = [one for one in terms.values() if isinstance(one, dict) and one.get("weight")]
        nodes = [one.get("loss") for one in counted]
    targets = [node.get("_target_") if isinstance(node, dict) else None for node in nodes]
    return bool(targets) and all(target == "segkit.losses.BCELoss" for target in targets)


def usual_precision(metadata: CheckpointMetadata, device: torch.device) -> str:
    """What the run computed with: fp32 wherever it is used, fewer bits on such a device only."""
    if metadata.precision == "fp32" or torch.device(metadata.device).type == device.type:
        return metadata.precision
    return "auto"  # a CPU cannot compute in the fp16 of a CUDA device, and in bf16 it crawls


def load_network(
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
    metadata, source = checkpoint.metadata, checkpoint.path
    if isinstance(checkpoint, ExportedCheckpoint):
        check_channels(checkpoint.network, metadata, source)
        return checkpoint.network
    node = metadata.config.get("model")
    tensors = model_weights(checkpoint.state, weights)
    if isinstance(node, dict) and node.get("_target_") in SLOTS["model"].names:
        # Without memory first: a hostile description may ask for more than there is.
        with outlined():
            check_fit(rebuild(source, "model", node, allow), tensors, source)
    model: nn.Module = rebuild(source, "model", node, allow)
    check_fit(model, tensors, source)
    model.load_state_dict(tensors)
    refuse_weights(model, source, metadata.precision)
    check_channels(model, metadata, source)
    return model


def check_fit(model: nn.Module, tensors: dict[str, Any], source: Path) -> None:
    """Raise a CheckpointError unless the tensors are the model's, by name, shape and kind."""
    report = match_tensors(model, tensors)
    if report.skipped:
        raise CheckpointError(
            f"{source}: its weights do not fit the model that it describes ({report.reasons()}); "
            "was it edited?"
        )


@torch.no_grad()
def check_channels(model: nn.Module, metadata: CheckpointMetadata, source: Path) -> None:
    """Raise a CheckpointError unless the logits have a channel for each of the classes.

    A small black image is computed; a model that cannot take it says so when it is used.
    """
    num_classes, channels = len(metadata.classes), len(metadata.mean)
    size = (model.size if isinstance(model, OnnxModel) else None) or (64, 64)
    modes = [(layer, layer.training) for layer in model.modules()]
    try:
        shape = tuple(model.eval()(torch.zeros(1, channels, *size)).shape)
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
            f"{(1, channels, *size)}; expected (1, {num_classes}, H, W). Was it edited?"
        )


def setting(checkpoint: Checkpoint, key: str, kind: type) -> Any:
    """A value of the configuration in a checkpoint.

    Raises:
        CheckpointError: It is not there, or of another type.
    """
    try:
        value = OmegaConf.select(OmegaConf.create(checkpoint.metadata.config), key)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        value = " ".join(str(error).split())[:200]
        kind = type(None)  # whatever it says
    if type(value) is not kind:
        raise CheckpointError(
            f"{checkpoint.path}: config.{key} in it is {value!r}; expected a {kind.__name__}"
        )
    return value


@contextmanager
def brings_its_own(source: object) -> Iterator[None]:
    """Around what reads data for a checkpoint: keys that only a new training takes are no way out.

    Args:
        source: What the checkpoint is called in messages.
    """
    try:
        yield
    except DataError as error:
        if not any(key in str(error) for key in OWN_KEYS):
            raise
        raise DataError(
            f"{error} ({source} brings its own {', '.join(OWN_KEYS)}, and images and masks must "
            f"be as those of its training: write masks anew by {command('convert')}, save images "
            f"with such numbers, or train on these: {command('train')} init_from=PATH)"
        ) from error


def rebuild_dataset(
    checkpoint: Checkpoint,
    split: str,
    root: str | None,
    allow: Sequence[str],
    files: Mapping[str, Any] | None = None,
) -> SegmentationDataset:
    """A split of the data that a checkpoint describes, or of other data of the same kind.

    Args:
        checkpoint: Of a training.
        split: Its name.
        root: Another folder, in VOC layout unless the data set is the user's own.
        allow: Modules of the user's own that the checkpoint may name.
        files: Other files: arguments of :class:`~segkit.data.FolderSegmentation`.

    Raises:
        CheckpointError: It describes none.
        ConfigError: It names code that is not allowed, or a data set that is not in folders.
        DataError: The files are not there, or wrong.
    """
    node = checkpoint.metadata.config.get("data", {}).get("dataset")
    if isinstance(node, dict):
        node = elsewhere(node, root, files or {})
    dataset: SegmentationDataset = rebuild(checkpoint.path, "dataset", node, allow, split=split)
    return dataset
