"""Keys that several tools share: where the images and masks are, and what they mean."""

from dataclasses import dataclass
from typing import Any

from segkit.config.problems import layout_problems
from segkit.config.schema import FOLDER_KEYS, folder_option, option
from segkit.data.folders import FolderSegmentation
from segkit.data.voc import VOCSegmentation
from segkit.errors import ConfigError
from segkit.text import join_lines

MASK_KEYS = ("classes", "num_classes", "ignore_index", "label_map", "colormap", "value_range")


@dataclass
class MaskKeys:
    """Those of ``train.py`` that say what images and masks mean."""

    classes: list[str] | None = option(None, "names, without labels.txt", name="data.classes")
    num_classes: int | None = option(None, "enough without names", name="data.num_classes")
    ignore_index: int = option(255, "value without a label", name="data.ignore_index", high=65535)
    label_map: dict[Any, Any] | None = option(
        None, "ids in the masks to classes", name="data.label_map"
    )
    colormap: Any = option(None, "for RGB and palette masks", name="data.colormap")
    value_range: Any = option(
        None, "[low,high]: numbers in images that become 0 and 255", name="data.range"
    )

    @property
    def meaning(self) -> dict[str, Any]:
        """What a data set is made with; images have as many channels as their files."""
        return {name: getattr(self, name) for name in MASK_KEYS} | {"channels": None}


@dataclass
class FileKeys:
    """Those that say where images and masks are, in either layout."""

    data: str = option("voc", "the layout", choices=("voc", "folders"))
    data_root: str | None = option(None, "folder in VOC layout", name="data.root", path=True)
    images: str | None = folder_option("images", "data.images")
    masks: str | None = folder_option("masks", "data.masks")
    image_suffix: str | None = folder_option("image_suffix", "data.image_suffix")
    mask_suffix: str | None = folder_option("mask_suffix", "data.mask_suffix")


@dataclass
class PlaceKeys(FileKeys):
    """And those that say which images a split has."""

    splits: str | None = folder_option("splits", "data.splits")
    val: float | None = folder_option("val", "data.val")
    split_seed: int | None = folder_option("split_seed", "data.split_seed")
    group: str | None = folder_option("group", "data.group")


@dataclass
class DataKeys(MaskKeys, PlaceKeys):
    """Both, the places first."""

    def open(self, split: str) -> VOCSegmentation | FolderSegmentation:
        """The images and masks of a split.

        Raises:
            ConfigError: Keys of the other layout are set, or those of this one are not.
            DataError: The files are not there, or wrong.
        """
        files = {key: getattr(self, key) for key in FOLDER_KEYS}
        is_folders = self.data == "folders"
        taken = FOLDER_KEYS if is_folders else ()
        if problems := list(layout_problems({"root": self.data_root, **files}, taken, is_folders)):
            raise ConfigError(join_lines(problems))
        if is_folders:
            return FolderSegmentation(split, **files, **self.meaning)
        if self.data_root is None:
            raise ConfigError("data.root is not set: folder in VOC layout")
        return VOCSegmentation(self.data_root, split, **self.meaning)
