"""The data sets of a run, checked, and what the configuration has to know of them."""

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from segkit.config import (
    build,
    build_augment,
    check_class_values,
    needs_class_counts,
    without_effects,
)
from segkit.config.palette import painted, read_palette
from segkit.data.augment import Augment
from segkit.data.balance import image_weights
from segkit.data.cached import cached
from segkit.data.check import check_splits, open_splits
from segkit.data.copy_paste import CopyPaste
from segkit.data.counts import Counts
from segkit.data.dataset import SegmentationDataset
from segkit.data.leaks import image_sums, remembered
from segkit.data.loader import Samples
from segkit.data.masks import voc_palette
from segkit.errors import ConfigError
from segkit.inference.loading import brings_its_own
from segkit.runs.checkpoint import Checkpoint
from segkit.runs.description import CHECKS
from segkit.runtime.context import Runtime
from segkit.runtime.log import log
from segkit.text import join_lines
from segkit.training.field_of_view import seen_sizes
from segkit.training.resume import SETTINGS_TOO


@dataclass(frozen=True)
class Data:
    """Both splits, and what is known of them.

    Attributes:
        train: To train on.
        val: To validate on.
        augment: The transforms of training.
        image_size: Height and width in pixels that training sees before the late epochs.
        late_size: What those see; the same where there are none.
        largest_size: Of the images in the batches that take the most memory.
        classes: Names in index order.
        palette: RGB of each mask value, uint8 (256, 3).
        paste: Pastes objects of other images; None: nothing does.
        weights: How often each training image comes, beside the others, (N,); None: once an epoch.
        pixels: Pixels of each class in the training split; None: not counted.
        val_pixels: The same in the validation split.
        table: The same of both splits, as text.
    """

    train: SegmentationDataset
    val: SegmentationDataset
    augment: Augment
    paste: CopyPaste | None
    weights: NDArray[np.float64] | None
    image_size: tuple[int, int]
    late_size: tuple[int, int]
    largest_size: tuple[int, int]
    classes: list[str]
    palette: NDArray[np.uint8]
    pixels: list[int] | None
    val_pixels: list[int] | None
    table: str


def load_data(cfg: DictConfig, checkpoint: Checkpoint | None, runtime: Runtime) -> Data:
    """Open the splits, and check every file unless ``data.check`` says not to.

    Args:
        cfg: As composed; not changed.
        checkpoint: What the run goes on from.
        runtime: The processes.

    Raises:
        DataError: Something is wrong with the files.
        ConfigError: With the classes, or what is set for each of them.
    """
    with brings_its_own(checkpoint.path) if checkpoint else nullcontext():
        train, val = _open_splits(cfg, checkpoint, runtime)
    classes = list(train.classes)
    palette = np.asarray(getattr(train, "palette", voc_palette()))
    for name, value in (("classes", classes), ("palette", palette.tolist())):
        CHECKS[name](Path("data.dataset"), name, value)  # what no checkpoint may hold
    if checkpoint is not None:
        _check_same_data(checkpoint, train, val)
        _tell_other_images(checkpoint, train, val)
    cfg = with_classes(cfg, classes)
    painted(palette, classes, cfg.palette)  # or a ConfigError
    check_agreement(cfg)
    check_class_values(cfg.loss, classes)
    pixels, val_pixels, table = None, None, "not counted (data.check=false)"
    paste, weights = None, None
    counts_classes = cfg.augment.rare_crop or cfg.augment.copy_paste or cfg.loader.balance
    if cfg.data.check or needs_class_counts(cfg.loss) or counts_classes:
        sets = {"train": train, "val": val}
        report = runtime.only_main(partial(check_splits, sets, ignore_index=cfg.data.ignore_index))
        pixels, val_pixels = (report.counts[name].pixels.tolist() for name in ("train", "val"))
        paste = build_paste(cfg, train, report.counts["train"])
        if cfg.loader.balance:
            weights = image_weights(_shows(report.counts["train"]), cfg.loader.balance)
        table = report.table()
        log.info("%s", table)
        for warning in report.warnings:
            log.warning("warning: %s", warning)
    augment = build_augment(cfg, pixels)
    samples = Samples(train, augment, cfg.seed, cfg.data.ignore_index)
    is_auto = cfg.loader.batch_size == "auto"  # which has to make room for the largest
    size, largest = seen_sizes(samples, 1, look_for_large=is_auto)
    late_size = size
    if cfg.augment.late_epochs:
        last = cfg.trainer.max_epochs
        late_size, late_largest = seen_sizes(samples, last, look_for_large=is_auto)
        largest = max(largest, late_largest, key=math.prod)
    return Data(
        train=train,
        val=val,
        augment=augment,
        paste=paste,
        weights=weights,
        image_size=size,
        late_size=late_size,
        largest_size=largest,
        classes=classes,
        palette=palette,
        pixels=pixels,
        val_pixels=val_pixels,
        table=table,
    )


def build_paste(cfg: DictConfig, train: SegmentationDataset, counts: Counts) -> CopyPaste | None:
    """What ``augment.copy_paste`` asks for; None for nothing.

    Args:
        cfg: As composed.
        train: The training split.
        counts: Its pixels.
    """
    if not cfg.augment.copy_paste:
        return None
    return CopyPaste(
        train,
        _shows(counts),
        counts.pixels.tolist(),
        p=cfg.augment.copy_paste,
        ignore_index=cfg.data.ignore_index,
    )


def _shows(counts: Counts) -> NDArray[np.bool_]:
    assert counts.shows is not None  # the check looks at each image
    return counts.shows


def _open_splits(
    cfg: DictConfig, checkpoint: Checkpoint | None, runtime: Runtime
) -> list[SegmentationDataset]:
    """Training's and validation's."""
    node = cfg.data.dataset  # nothing is made because a checkpoint says so
    make_dataset = build(node if checkpoint is None else without_effects(node))
    splits = (cfg.data.train_split, cfg.data.val_split)

    def open_both() -> dict[str, SegmentationDataset]:
        opened = open_splits(
            lambda split: make_dataset(split=split),
            splits,
            ignore_index=cfg.data.ignore_index,
            look=cfg.data.check,
        )
        return cached(opened, cfg.loader.cache, cfg.loader.cache_dir)

    if runtime.world.size > 1:  # the first process makes what is made on first use
        runtime.only_main(lambda: [len(dataset) for dataset in open_both().values()])
    opened = open_both()
    return [opened[split] for split in splits]


def _check_same_data(
    checkpoint: Checkpoint, train: SegmentationDataset, val: SegmentationDataset
) -> None:
    """Raise a ConfigError if a run that goes on would go on with other data."""
    classes = list(train.classes)
    if classes != checkpoint.metadata.classes:
        raise ConfigError(
            f"{checkpoint.path} knows the classes {', '.join(checkpoint.metadata.classes)}; the "
            f"data has {', '.join(classes)}. To train on other classes use init_from instead of "
            f"resume, {SETTINGS_TOO}"
        )
    if checkpoint.state["images"] > len(train):
        raise ConfigError(
            f"{checkpoint.path} is from after {checkpoint.state['images']} images of an epoch; the "
            f"data has {len(train)}. To train on other data use init_from instead of resume, "
            f"{SETTINGS_TOO}"
        )
    before, now = {*checkpoint.metadata.validated_on}, {*image_sums(val)}
    if before and now and before != now:
        raise ConfigError(
            f"{checkpoint.path} was validated on other images ({len(before - now)} of them are "
            f"not in the validation split any more, {len(now - before)} are new), so its best "
            "score would be compared with scores of others. Give back the split that it had, or "
            f"begin another run from its weights: init_from={checkpoint.path}, {SETTINGS_TOO}"
        )


def _tell_other_images(
    checkpoint: Checkpoint, train: SegmentationDataset, val: SegmentationDataset
) -> None:
    """Say so if a run goes on with other images: the lists may have been divided anew."""
    before, now = {*checkpoint.metadata.trained_on}, {*image_sums(train)}
    if not before or not now:
        return
    if before != now:
        log.warning(
            "warning: of the images that %s was trained on %d are not in the train split any more, "
            "and %d are new",
            *(checkpoint.path, len(before - now), len(now - before)),
        )
    lost = {*checkpoint.metadata.pretrained_on} | before - now
    for warning in remembered(val, "the validation split", lost):
        log.warning("warning: %s", warning)


def with_classes(cfg: DictConfig, classes: list[str]) -> DictConfig:
    """A copy of the configuration that knows the classes of the data."""
    completed = copy.deepcopy(cfg)
    completed.data.classes, completed.data.num_classes = classes, len(classes)
    completed.palette = read_palette(cfg.palette) or None  # the file may be gone when it goes on
    return completed


def check_agreement(cfg: DictConfig) -> None:
    """Refuse a model that is set up for other data than those at hand.

    Raises:
        ConfigError: Every key that contradicts the data, one line each.
    """
    expected: dict[str, tuple[str, int]] = {
        "model.num_classes": ("data.num_classes", cfg.data.num_classes),
        "model.in_channels": ("the number of channels in data.mean", len(cfg.data.mean)),
    }
    problems = [
        f"{key}={found}: expected {value}, {what}; leave {key} out"
        for key, (what, value) in expected.items()
        if (found := OmegaConf.select(cfg, key)) not in (None, value)
    ]
    if problems:
        raise ConfigError(join_lines(problems))
