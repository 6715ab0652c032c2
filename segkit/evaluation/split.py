"""The split that is scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from segkit.data.check import open_splits
from segkit.data.dataset import SegmentationDataset
from segkit.data.voc import VOCSegmentation
from segkit.inference.loading import rebuild_dataset, setting
from segkit.runs.checkpoint import Checkpoint


@dataclass(frozen=True)
class Data:
    """The split that is scored, and what must be known of its masks."""

    dataset: SegmentationDataset
    split: str
    ignore_index: int
    palette: NDArray[np.uint8]

    @property
    def classes(self) -> list[str]:
        return list(self.dataset.classes)


def saved_data(cfg: DictConfig, checkpoint: Checkpoint) -> Data:
    """The data that a checkpoint describes, or other data of the same kind."""
    about = checkpoint.about
    split = cfg.split or setting(checkpoint, "data.val_split", str)

    def make(split: str) -> SegmentationDataset:
        return rebuild_dataset(checkpoint, split, cfg.data.root, list(cfg.allow))

    dataset = _open(make, split, cfg, about.ignore_index)
    return Data(dataset, split, about.ignore_index, np.asarray(about.palette, np.uint8))


def own_data(cfg: DictConfig) -> Data:
    """The data for saved masks, which say nothing of it."""
    split = cfg.split or "val"
    given: Any = OmegaConf.to_container(cfg.data)
    keys = ("classes", "num_classes", "ignore_index", "label_map", "colormap")
    settings = {key: given[key] for key in keys if given[key] is not None}
    settings["value_range"] = given["range"]

    def make(split: str) -> VOCSegmentation:
        return VOCSegmentation(cfg.data.root, split, **settings)

    dataset: Any = _open(make, split, cfg, settings.get("ignore_index", 255))
    return Data(dataset, split, dataset.ignore_index, dataset.palette)


def _open(
    make: Callable[[str], SegmentationDataset], split: str, cfg: DictConfig, ignore_index: int
) -> SegmentationDataset:
    """The split; what is wrong with it is told together with what is wrong in its files."""
    found = open_splits(make, [split], ignore_index=ignore_index, look=cfg.data.check)
    return found[split]
