"""The split that is scored."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from segkit.config import rebuild
from segkit.data.contract import SegmentationDataset
from segkit.data.voc import VOCSegmentation
from segkit.engine.checkpoint import Checkpoint


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
    saved = OmegaConf.create(about.config)  # may name environment variables
    split = cfg.split or saved.data.val_split
    node = dict(about.config["data"]["dataset"])
    if cfg.data.root is not None:
        node["root"] = cfg.data.root
    dataset = rebuild(node, list(cfg.allow))(split=split)
    return Data(dataset, split, about.ignore_index, np.asarray(about.palette, np.uint8))


def own_data(cfg: DictConfig) -> Data:
    """The data for saved masks, which say nothing of it."""
    split = cfg.split or "val"
    given: Any = OmegaConf.to_container(cfg.data)
    keys = ("classes", "num_classes", "ignore_index", "label_map", "colormap")
    settings = {key: given[key] for key in keys if given[key] is not None}
    dataset = VOCSegmentation(cfg.data.root, split, **settings, value_range=given["range"])
    return Data(dataset, split, dataset.ignore_index, dataset.palette)
