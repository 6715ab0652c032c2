"""What is scored: a checkpoint, an ensemble, an exported file, or masks that were saved before."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segkit.config.schema import EvaluateConfig, inference_options
from segkit.data.loader import Batch
from segkit.errors import ConfigError
from segkit.evaluation.saved_masks import SavedMasks
from segkit.evaluation.sources import TargetSource
from segkit.evaluation.split import EvaluationSplit
from segkit.inference.loading import KEYS, load_inference, saved_bits, saved_range
from segkit.inference.onnx_network import ExportedCheckpoint
from segkit.inference.predictions import PredictedMask, predict_masks
from segkit.inference.predictor import Inference
from segkit.runs.checkpoint import Checkpoint, weights_kind
from segkit.runtime.distributed import DistributedContext


@dataclass(frozen=True)
class EvaluationTarget:
    """A model or saved masks.

    Attributes:
        predict: Batches to the predictions for their images.
        facts: What ``metrics.json`` says of it.
        inference: How it computes; None for saved masks.
    """

    predict: Callable[[Iterable[Batch]], Iterator[PredictedMask]]
    facts: dict[str, Any]
    inference: Inference | None = None

    def provenance(self, world: DistributedContext) -> dict[str, Any]:
        """How it was computed in all processes, for ``metrics.json``."""
        if self.inference is None:
            return {}
        fallbacks = [w for w in world.gather(self.inference.fallback) if w is not None]
        return {
            "number_format": self.inference.precision.name,  # precision is a score
            "tta": {"scales": list(self.inference.scales), "flip": self.inference.flip},
            "window": self.inference.window,
            "stride": self.inference.stride,
            "window_after_out_of_memory": min(fallbacks, default=None),
        }


def make_target(
    source: TargetSource, settings: EvaluateConfig, split: EvaluationSplit, device: torch.device
) -> EvaluationTarget:
    """A source, ready for the images of a split.

    Raises:
        ConfigError: A checkpoint knows other classes.
    """
    if isinstance(source, Path):
        masks = SavedMasks(
            source,
            split.dataset.ids,
            len(split.classes),
            split.ignore_index,
            colormap=settings.predictions_colormap or settings.data.colormap,
            label_map=settings.predictions_label_map,
            palette=split.own_palette,
        )
        return EvaluationTarget(masks.predict_masks, {"predictions": str(source)})
    for checkpoint in source:
        check_classes(checkpoint, split)
        check_images(checkpoint, split, settings.predictions)
    inference = load_inference(source, inference_options(settings), device, KEYS)
    facts = [facts_of(checkpoint, settings.weights) for checkpoint in source]
    return EvaluationTarget(
        partial(predict_masks, inference),
        facts[0] if len(facts) == 1 else {key: [one[key] for one in facts] for key in facts[0]},
        inference,
    )


def check_classes(checkpoint: Checkpoint, split: EvaluationSplit) -> None:
    """Raise a ConfigError if the checkpoint knows other classes than the data."""
    metadata = checkpoint.metadata
    if metadata.classes != split.classes:
        raise ConfigError(
            f"{checkpoint.path} knows the classes {', '.join(metadata.classes)}; the data has "
            f"{', '.join(split.classes)}. To train on other classes, start train.py with "
            f"init_from={checkpoint.path} and the model of its config.yaml"
        )
    if metadata.ignore_index != split.ignore_index:
        raise ConfigError(
            f"{checkpoint.path} was trained with data.ignore_index={metadata.ignore_index}; here "
            f"it is {split.ignore_index}, so the two would be scored on other pixels. Beside "
            f"predictions= give data.ignore_index={metadata.ignore_index}, or leave compare out"
        )


def check_images(
    checkpoint: Checkpoint, split: EvaluationSplit, predictions: str | None = None
) -> None:
    """Raise a ConfigError if the images are read in other numbers than the checkpoint knows.

    Args:
        checkpoint: One of those that are scored.
        split: As the first of them, or else the configuration, describes it.
        predictions: The folder of masks that comes first, if one does.
    """
    metadata, dataset = checkpoint.metadata, split.dataset
    settings: dict[str, tuple[object, object]] = {
        "channels": (len(metadata.mean), getattr(dataset, "channels", 3))
    }
    if hasattr(dataset, "value_range"):  # a data set of one's own reads as it likes
        settings["data.range"] = saved_range(metadata), dataset.value_range
        settings["data.bits"] = saved_bits(metadata), getattr(dataset, "bits", 8)
    if predictions is not None:
        way_out = (
            f"Name it first: checkpoint={checkpoint.path} compare={predictions}; then the images "
            "are read as it was trained, and of data.* only their place may be given"
        )
    else:
        way_out = (
            "Two checkpoints that differ in this are compared by masks: evaluate each with "
            "save_predictions=true, then predictions=FOLDER compare=OTHER_FOLDER"
        )
    for key, (saved, read) in settings.items():
        if saved != read:
            shown = ["null" if value is None else str(value) for value in (saved, read)]
            raise ConfigError(
                f"{checkpoint.path} was trained with {key}={shown[0]}; here the images are read "
                f"with {shown[1]}, so it would see other numbers. {way_out}"
            )


def facts_of(checkpoint: Checkpoint, weights: str) -> dict[str, Any]:
    state = checkpoint.state
    inside = None  # the precision of an ONNX file
    if isinstance(checkpoint, ExportedCheckpoint):
        inside = checkpoint.network.facts["precision"]
    return {
        "checkpoint": str(checkpoint.path),
        "weights": weights_kind(state, weights) if inside is None else None,
        "exported": inside,
        "epoch": state["epoch"],
    }
