"""The split that is scored."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.config.palette import painted
from segkit.config.schema import FOLDER_KEYS, EvaluateConfig
from segkit.data.check import check_splits, open_splits
from segkit.data.dataset import SegmentationDataset
from segkit.data.decode import palette_of_head
from segkit.data.folders import ALL, FolderSegmentation
from segkit.data.leaks import remembered
from segkit.data.voc import VOCSegmentation
from segkit.evaluation.sources import TargetSource
from segkit.inference.loading import brings_its_own, rebuild_dataset, setting
from segkit.runs.checkpoint import Checkpoint
from segkit.runtime.context import Runtime
from segkit.runtime.log import log
from segkit.text import display_path


@dataclass(frozen=True)
class EvaluationSplit:
    """The split that is scored, and what must be known of its masks.

    Attributes:
        dataset: Its images and masks.
        name: As train.py calls it.
        ignore_index: Mask value without a label.
        palette: RGB of each mask value, uint8 (256, 3).
        colors: The same as it is drawn: with the colours of the key ``palette``.
    """

    dataset: SegmentationDataset
    name: str
    ignore_index: int
    palette: NDArray[np.uint8]
    colors: NDArray[np.uint8]

    @property
    def classes(self) -> list[str]:
        """Names in index order."""
        return list(self.dataset.classes)

    @property
    def own_palette(self) -> NDArray[np.uint8] | None:
        """Colours of the classes in palette masks, uint8 (C, 3); None for masks of other kinds."""
        files = getattr(self.dataset, "files", None)
        if files is None or not self.dataset.ids or not palette_of_head(files(0)[1]):
            return None
        return self.palette[: len(self.classes)]

    @property
    def dataset_name(self) -> str:
        """What people call the data: their folder, or else the kind of data set."""
        root = getattr(self.dataset, "root", None)
        if not isinstance(root, str | Path):
            return type(self.dataset).__name__
        parts = Path(root).absolute().parts
        # Where the root is the folder of the images, it is often called just that.
        return "/".join(parts[-2:] if isinstance(self.dataset, FolderSegmentation) else parts[-1:])


def open_split(settings: EvaluateConfig, source: TargetSource) -> EvaluationSplit:
    """The split that a checkpoint, or for saved masks the configuration, describes.

    Raises:
        DataError: It is not there, or something is wrong with its files.
        ConfigError: The checkpoint names code that is not allowed.
    """
    if isinstance(source, list):
        return _saved(settings, source[0])
    return _given(settings)


def check_split(
    settings: EvaluateConfig,
    split: EvaluationSplit,
    sources: Sequence[TargetSource],
    runtime: Runtime,
) -> None:
    """Read every file in the first process, unless ``data.check`` says not to.

    In any case a split is told that a model was trained on.

    Raises:
        DataError: Something is wrong with the files.
    """
    for checkpoint in (one for source in sources if isinstance(source, list) for one in source):
        known = [*checkpoint.metadata.trained_on, *checkpoint.metadata.pretrained_on]
        for warning in remembered(split.dataset, split.name, known):
            log.warning("warning: %s: %s", display_path(checkpoint.path), warning)
    if not settings.data.check:
        return
    check = partial(
        check_splits,
        {split.name: split.dataset},
        ignore_index=split.ignore_index,
        trained=False,
        palette=split.palette,
    )
    first = sources[0]
    with brings_its_own(display_path(first[0].path)) if isinstance(first, list) else nullcontext():
        report = runtime.only_main(check)
    for warning in report.warnings:
        log.warning("warning: %s", warning)


def _saved(settings: EvaluateConfig, checkpoint: Checkpoint) -> EvaluationSplit:
    """The data that a checkpoint describes, or other data of the same kind."""
    metadata, files = checkpoint.metadata, _files(settings)
    # Other folders are not divided as those of the training were.
    is_other = files.keys() & {"images", "masks"} and not files.keys() & {"splits", "val"}
    name = settings.split or (ALL if is_other else setting(checkpoint, "data.val_split", str))

    def make(split: str) -> SegmentationDataset:
        return rebuild_dataset(checkpoint, split, settings.data.root, settings.allow, files)

    with brings_its_own(display_path(checkpoint.path)):
        dataset = _open(make, name, settings, metadata.ignore_index)
    palette = np.asarray(metadata.palette, np.uint8)
    colors = painted(metadata.colors, metadata.classes, settings.palette)
    return EvaluationSplit(dataset, name, metadata.ignore_index, palette, colors)


def _given(settings: EvaluateConfig) -> EvaluationSplit:
    """The data for saved masks, which say nothing of it."""
    name, data = settings.split or "val", settings.data
    keys = ("classes", "num_classes", "ignore_index", "label_map", "colormap")
    given = {key: getattr(data, key) for key in keys if getattr(data, key) is not None}
    given |= {"value_range": data.range, "channels": None}  # as many as the images have

    files = _files(settings)

    def make(split: str) -> VOCSegmentation | FolderSegmentation:
        if files:
            return FolderSegmentation(split, **files, **given)
        assert data.root is not None  # which the check of the configuration sees to
        return VOCSegmentation(data.root, split, **given)

    dataset = _open(make, name, settings, given.get("ignore_index", 255))
    assert isinstance(dataset, VOCSegmentation | FolderSegmentation)
    colors = painted(dataset.palette, dataset.classes, settings.palette)
    return EvaluationSplit(dataset, name, dataset.ignore_index, dataset.palette, colors)


def _files(settings: EvaluateConfig) -> dict[str, Any]:
    """What is set of the keys of ``data=folders``."""
    files = {key: getattr(settings.data, key) for key in FOLDER_KEYS}
    return {key: value for key, value in files.items() if value is not None}


def _open(
    make: Callable[[str], SegmentationDataset],
    name: str,
    settings: EvaluateConfig,
    ignore_index: int,
) -> SegmentationDataset:
    """The split; what is wrong with it is reported together with what is wrong in its files."""
    found = open_splits(make, [name], ignore_index=ignore_index, look=settings.data.check)
    return found[name]
