"""What is scored: a checkpoint, an ensemble, an exported file, or masks that were saved before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from segkit.data.loader import Batch
from segkit.errors import ConfigError
from segkit.evaluation.saved_masks import SavedMasks, holds_masks
from segkit.evaluation.split import Data
from segkit.inference.loading import load_inference, read_checkpoints
from segkit.inference.onnx_network import ExportedCheckpoint
from segkit.inference.predictions import PredictedMask, predict_masks
from segkit.inference.predictor import Inference
from segkit.runs.checkpoint import Checkpoint
from segkit.runtime.distributed import DistributedContext

Source = Path | list[Checkpoint]  # a folder of masks, or the checkpoints of one model


@dataclass(frozen=True)
class EvaluationTarget:
    """A model or saved masks.

    Attributes:
        paths: Checkpoints, several of an ensemble, or the folder of the masks.
        predict: Batches to the predictions for their images.
        facts: What ``metrics.json`` says of it.
        inference: How it computes; None for saved masks.
    """

    paths: list[Path]
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


def open_source(source: str | Sequence[str]) -> Source:
    """What a value of ``compare`` means.

    Raises:
        ConfigError: It is empty.
    """
    if not source:
        raise ConfigError("compare=[]: expected a checkpoint, several, or a folder of masks")
    if isinstance(source, str) and holds_masks(Path(source)):
        return Path(source)
    return read_checkpoints(source)


def make_target(
    source: Source, cfg: DictConfig, data: Data, device: torch.device
) -> EvaluationTarget:
    """A source, ready for the images of ``data``.

    Raises:
        ConfigError: A checkpoint knows other classes.
    """
    if isinstance(source, Path):
        settings: Any = OmegaConf.to_container(cfg)
        masks = SavedMasks(
            source,
            data.dataset.ids,
            len(data.classes),
            data.ignore_index,
            colormap=settings["predictions_colormap"] or settings["data"]["colormap"],
            label_map=settings["predictions_label_map"],
        )
        return EvaluationTarget([source], masks.predict_masks, {"predictions": str(source)})
    for checkpoint in source:
        check_classes(checkpoint, data)
    inference = load_inference(source, cfg, device)
    facts = [facts_of(checkpoint, cfg.weights) for checkpoint in source]
    return EvaluationTarget(
        [one.path for one in source],
        partial(predict_masks, inference),
        facts[0] if len(facts) == 1 else {key: [one[key] for one in facts] for key in facts[0]},
        inference,
    )


def check_classes(checkpoint: Checkpoint, data: Data) -> None:
    about = checkpoint.about
    if about.classes != data.classes:
        raise ConfigError(
            f"{checkpoint.path} knows the classes {', '.join(about.classes)}; the data has "
            f"{', '.join(data.classes)}. To train on other classes, start train.py with "
            f"init_from={checkpoint.path}"
        )
    if about.ignore_index != data.ignore_index:
        raise ConfigError(
            f"{checkpoint.path} was trained with data.ignore_index={about.ignore_index}; here it "
            f"is {data.ignore_index}, so the two would be scored on other pixels. Beside "
            f"predictions= give data.ignore_index={about.ignore_index}, or leave compare out"
        )


def facts_of(checkpoint: Checkpoint, weights: str) -> dict[str, Any]:
    state = checkpoint.state
    inside = None  # the precision of an ONNX file
    if isinstance(checkpoint, ExportedCheckpoint):
        inside = checkpoint.network.facts["precision"]
    kept = "ema" if weights != "raw" and state.get("average") else "raw"
    return {
        "checkpoint": str(checkpoint.path),
        "weights": kept if inside is None else None,
        "exported": inside,
        "epoch": state["epoch"],
    }
