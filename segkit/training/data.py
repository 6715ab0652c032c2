"""The data sets of a run, checked, and what the configuration has to know of them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from segkit.config import (
    build,
    check_class_values,
    fill_class_weights,
    needs_class_counts,
    without_effects,
)
from segkit.data.check import check_splits, open_splits
from segkit.data.dataset import SegmentationDataset
from segkit.data.masks import voc_palette
from segkit.errors import ConfigError
from segkit.runs.checkpoint import Checkpoint
from segkit.runs.description import CHECKS
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.log import log
from segkit.text import join_lines


@dataclass(frozen=True)
class Data:
    """Both splits.

    Attributes:
        train: To train on.
        val: To validate on.
        classes: Names in index order.
        palette: RGB of each mask value, uint8 (256, 3).
        table: Pixels of each class as text.
    """

    train: SegmentationDataset
    val: SegmentationDataset
    classes: list[str]
    palette: NDArray[np.uint8]
    table: str


def load_data(cfg: DictConfig, saved: Checkpoint | None, world: DistributedContext) -> Data:
    """Open the splits, check every file, and complete ``cfg``: classes, and weights of classes.

    Raises:
        DataError: Something is wrong with the files.
        ConfigError: With the classes, or what is set for each of them.
    """
    node = cfg.data.dataset  # nothing is made because a checkpoint says so
    make_dataset = build(node if saved is None else without_effects(node))
    splits = (cfg.data.train_split, cfg.data.val_split)

    def open_both() -> dict[str, SegmentationDataset]:
        return open_splits(
            lambda split: make_dataset(split=split),
            splits,
            ignore_index=cfg.data.ignore_index,
            look=cfg.data.check,
        )

    if world.size > 1:  # the first process makes what is made on first use
        world.broadcast_from_main(lambda: [len(dataset) for dataset in open_both().values()])
    opened = open_both()
    train, val = (opened[split] for split in splits)
    classes = list(train.classes)
    palette = np.asarray(getattr(train, "palette", voc_palette()))
    for name, value in (("classes", classes), ("palette", palette.tolist())):
        CHECKS[name](Path("data.dataset"), name, value)  # what no checkpoint may hold
    if saved is not None and classes != saved.about.classes:
        raise ConfigError(
            f"{saved.path} knows the classes {', '.join(saved.about.classes)}; the data has "
            f"{', '.join(classes)}. To train on other classes use init_from instead of resume"
        )
    if saved is not None and saved.state["images"] > len(train):
        raise ConfigError(
            f"{saved.path} is from after {saved.state['images']} images of an epoch; the data has "
            f"{len(train)}. To train on other data use init_from instead of resume"
        )
    cfg.data.classes, cfg.data.num_classes = classes, len(classes)
    check_agreement(cfg)
    check_class_values(cfg.loss, classes)
    pixels, table = None, "not counted (data.check=false)"
    if cfg.data.check or needs_class_counts(cfg.loss):
        sets = {"train": train, "val": val}
        report = world.broadcast_from_main(
            partial(check_splits, sets, ignore_index=cfg.data.ignore_index)
        )
        pixels, table = report.counts["train"].pixels.tolist(), report.table()
        log.info("%s", table)
        for warning in report.warnings:
            log.warning("warning: %s", warning)
    for line in fill_class_weights(cfg.loss, classes, pixels):
        log.info("%s", line)
    return Data(train, val, classes, palette, table)


def check_agreement(cfg: DictConfig) -> None:
    """Refuse a model or a loss that is set up for other data than those at hand.

    Raises:
        ConfigError: Every key that contradicts the data, one line each.
    """
    expected: dict[str, tuple[str, int]] = {
        "model.num_classes": ("data.num_classes", cfg.data.num_classes),
        "model.in_channels": ("the number of channels in data.mean", len(cfg.data.mean)),
    }
    for name in cfg.loss.get("terms") or ():
        key = f"loss.terms.{name}.loss.ignore_index"
        expected[key] = ("data.ignore_index", cfg.data.ignore_index)
    problems = [
        f"{key}={found}: expected {value}, {what}; leave {key} out"
        for key, (what, value) in expected.items()
        if (found := OmegaConf.select(cfg, key)) not in (None, value)
    ]
    if problems:
        raise ConfigError(join_lines(problems))
