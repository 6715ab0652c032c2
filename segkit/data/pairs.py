"""Pairs of an image file and a mask file: what every layout of folders reads in the same way."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.data.arrays import Pixels
from segkit.data.bands import count_bands
from segkit.data.classes import find_classes, parse_label_map
from segkit.data.colors import ColorMap, class_palette, parse_colormap
from segkit.data.dataset import Examined, IncompleteSplit, check_pair
from segkit.data.decode import load, load_labels, read_palette
from segkit.data.label_list import LabelList
from segkit.data.labels import apply_label_map
from segkit.data.levels import parse_range
from segkit.data.masks import to_labels
from segkit.data.orientation import to_image
from segkit.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

Pairs = dict[str, tuple[Path, Path]]


class ImageMaskPairs:
    """One split of a data set whose items are two files. They are found at once, read one by one.

    Args:
        split: Name of the split.
        labels_file: May hold the class names; need not exist.
        find: Finds the files of image and mask of each id, in order, and texts of what is wrong
            with others; or raises a DataError.
        classes: Class names in index order. Without it ``labels_file`` has them.
        num_classes: Enough where there are no names.
        ignore_index: Value of the pixels without a label, 0 to 255.
        label_map: Ids in the masks to class ids or ``"ignore"``; see
            :func:`~segkit.data.labels.apply_label_map`. Classes are those after the renumbering.
        colormap: For RGB and palette masks: their colours in class order, or ``"voc"``. With
            ``"indices"`` those of palette masks count, whatever their colours.
        value_range: ``data.range``: the numbers in images that become 0 and 255. None is the full
            range of each file's type.
        channels: Of the images, as many as ``data.mean`` has numbers; 3 makes RGB of any image.
            None: as many as all images have bands; RGB where these differ, or of grey ones.
        bits: 8 or 16, of each channel.

    Attributes:
        ids: One name per item.
        classes: One name per class.
        palette: Colours of the classes, uint8 (256, 3).

    Raises:
        DataError: Something is missing or contradicts itself; all missing files at once.
    """

    root: Path

    def __init__(
        self,
        split: str,
        labels_file: Path,
        find: Callable[[], tuple[Pairs, list[str]]],
        *,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
        ignore_index: int = 255,
        label_map: Mapping[int | str, int | str] | None = None,
        colormap: ColorMap | None = None,
        value_range: Sequence[float] | None = None,
        channels: int | None = 3,
        bits: int = 8,
    ) -> None:
        if not 0 <= ignore_index <= 255:
            raise DataError(f"data.ignore_index is {ignore_index}; expected 0 to 255")
        self.split, self.ignore_index = split, ignore_index
        problems: list[str] = []
        labels = LabelList([f"class_{index}" for index in range(256)])  # if the file says nothing
        try:
            labels = find_classes(labels_file, classes, num_classes, renumbered=bool(label_map))
        except DataError as error:
            problems.append(str(error))
        self.classes = labels.names
        self.num_classes = len(self.classes)
        self.label_map = parse_label_map(label_map or {}, self.num_classes, ignore_index)
        colormap = labels.colors if colormap is None else colormap  # those of CVAT's labelmap.txt
        self.colormap = parse_colormap(colormap)
        self.indices_count = colormap is None
        self.value_range = parse_range(value_range)
        self.bits = bits
        self.ids: list[str] = []
        self._files: list[tuple[Path, Path]] = []
        try:
            pairs, missing = find()
            problems += missing
            self.ids, self._files = list(pairs), list(pairs.values())
        except DataError as error:
            problems.append(str(error))
        if channels is None:
            counts = {count_bands(image) for image, _ in self._files}
            channels = counts.pop() if len(counts) == 1 else 3
        self.channels = channels
        if problems:
            raise IncompleteSplit(problems, self if self.ids else None)

    def __len__(self) -> int:
        return len(self.ids)

    def files(self, index: int) -> tuple[Path, Path]:
        """The files of image and mask."""
        return self._files[index]

    def read(self, index: int) -> tuple[Pixels, NDArray[np.uint8]]:
        """The image, uint8 (H, W, 3) RGB, and its mask, uint8 (H, W), renumbered and checked.

        The image has ``channels`` instead of 3, and is uint16 with ``bits=16``.

        Raises:
            DataError: An unreadable file, unequal sizes, a value that is no class.
        """
        image, mask, *_ = self.examine(index)
        return image, mask

    def examine(self, index: int) -> Examined:
        """What :meth:`read` gives, and what it was made of."""
        image_path, mask_path = self._files[index]
        name = str(mask_path)
        labels = load_labels(mask_path)
        mask = to_labels(labels, self.colormap, self.ignore_index, name)
        if self.label_map:
            mask = apply_label_map(mask, self.label_map, self.ignore_index, name=name)
        stored = load(image_path, self.channels)
        size = (mask.shape[0], mask.shape[1])
        kind = (self.value_range, self.channels, self.bits)
        image = to_image(stored, str(image_path), size, *kind)
        check_pair(
            image, mask, self.num_classes, self.ignore_index, name=name, channels=self.channels
        )
        return Examined(image, mask.astype(np.uint8, copy=False), stored, labels)

    @property
    def fingerprint(self) -> str:
        """All settings, besides the files, that :meth:`read` depends on."""
        colors = None if self.colormap is None else self.colormap.tolist()
        labels = sorted(self.label_map.items())
        settings = [self.num_classes, self.ignore_index, labels, colors]
        kind = [self.channels, self.bits]
        return json.dumps([*settings, self.value_range, self.indices_count, *kind])

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """The first mask's own colours where they tell the classes apart, else VOC's."""
        stored = self.colormap if self.colormap is not None else read_palette(self.files(0)[1])
        return class_palette(stored, self.label_map, self.num_classes, self.ignore_index)
