"""Data sets in the folder layout of PASCAL VOC.

::

    root/JPEGImages/<id>.jpg                          or .jpeg .png .bmp .tif .tiff .webp .gif
    root/SegmentationClass/<id>.png                   class ids, 255 where ignored
    root/ImageSets/Segmentation/{train,val,test}.txt  one id per line
    root/labels.txt                                   one class name per line, in index order
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.data.arrays import Pixels
from segkit.data.bands import count_bands
from segkit.data.classes import find_classes, parse_label_map, read_lines
from segkit.data.colors import ColorMap, fill_palette, parse_colormap
from segkit.data.dataset import Examined, IncompleteSplit, check_pair
from segkit.data.decode import load, load_labels, read_palette
from segkit.data.label_list import LabelList
from segkit.data.labels import apply_label_map
from segkit.data.levels import parse_range
from segkit.data.masks import to_labels
from segkit.data.orientation import to_image
from segkit.data.split_list import hint, is_split_name, parse_split
from segkit.errors import DataError
from segkit.files import PathLike, user_path
from segkit.text import bullet_list

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")


class VOCSegmentation:
    """One split of a data set in VOC layout. Files are found at once and read one by one.

    Args:
        root: Folder that holds ``JPEGImages``, ``SegmentationClass`` and ``ImageSets``.
        split: Name of a file in ``ImageSets/Segmentation``, without ``.txt``.
        classes: Class names in index order. Without it ``labels.txt`` in ``root`` has them.
        num_classes: Enough where there are no names.
        ignore_index: Value of the pixels without a label, 0 to 255.
        label_map: Ids in the masks to class ids or ``"ignore"``; see
            :func:`~segkit.data.labels.apply_label_map`. Classes are those after the renumbering.
        colormap: For RGB and palette masks: their colours in class order, or ``"voc"``. With
            ``"indices"`` those of palette masks count, whatever their colours.
        value_range: ``data.range``: the numbers in images that become 0 and 255. None is the full
            range of each file's type.
        channels: Of the images, as many as ``data.mean`` has numbers; 3 makes RGB of any image.
            None: as many as the first image has bands, but RGB of a grey one.
        bits: 8 or 16, of each channel.

    Attributes:
        ids: One name per item, in the order of the split file.
        classes: One name per class.
        palette: Colours of the classes, uint8 (256, 3).

    Raises:
        DataError: Something is missing or contradicts itself; all missing files at once.
    """

    def __init__(
        self,
        root: PathLike,
        split: str,
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
        self.root, self.split = user_path(root), split
        self.ignore_index = ignore_index
        _check_layout(self.root)
        problems: list[str] = []
        labels = LabelList([f"class_{index}" for index in range(256)])  # if the file says nothing
        try:
            labels = find_classes(
                self.root / "labels.txt", classes, num_classes, renumbered=bool(label_map)
            )
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
            lines = _numbered_ids(self.root, split)
            pairs, missing = _find_pairs(self.root, split, lines)
            problems += missing
            self.ids, self._files = list(pairs), list(pairs.values())
        except DataError as error:
            problems.append(str(error))
        if channels is None:
            channels = count_bands(self._files[0][0]) if self._files else 3
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
        colors = fill_palette(stored)
        renumbered = colors.copy()
        for old, new in reversed(self.label_map.items()):  # of merged classes the first one wins
            if old <= 255 and new != self.ignore_index:
                renumbered[new] = colors[old]
        used = renumbered[: self.num_classes]
        ramp = np.arange(self.num_classes)[:, None]  # of Pillow, for a palette never chosen: black
        if len(np.unique(used, axis=0)) < self.num_classes or (used == ramp).all():
            return fill_palette(None)
        return renumbered


def split_file(root: Path, split: str) -> Path:
    """Where the ids of a split are listed.

    Raises:
        DataError: The name of the split leads to another folder.
    """
    if not is_split_name(split):
        raise DataError(
            f"{split!r} is no name of a split; expected the name of a file in {root / LISTS} "
            "without .txt, such as train"
        )
    return root / LISTS / f"{split}.txt"


def read_split(root: Path, split: str) -> list[str]:
    """The ids of a split, in the order of its file.

    See :func:`~segkit.data.split_list.parse_split` for the lists of other tools.

    Raises:
        DataError: No such split, no id in it, an id twice, or one that points out of the folder.
    """
    return list(_numbered_ids(root, split))


def _numbered_ids(root: Path, split: str) -> dict[str, tuple[int, str]]:
    """The ids of a split with the numbers of their lines, and the lines."""
    path = split_file(root, split)
    if not path.exists():
        found = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise DataError(f"{path}: no such file. Splits found in {path.parent}: {found}")
    lines = read_lines(path)
    folders: dict[Path, dict[str, list[Path]]] = {}
    images = root / IMAGES

    def is_there(name: str) -> bool:
        return bool(_files_of(images / name, folders))

    numbers = parse_split(lines, path, (images, root / MASKS), is_there)
    return {name: (number, lines[number - 1]) for name, number in numbers.items()}


def _check_layout(root: Path) -> None:
    """Raise a DataError that shows the way unless ``root`` looks like a VOC folder."""
    expected = f"expected a folder with {IMAGES}, {MASKS} and {LISTS}"
    if not root.is_dir():
        raise DataError(
            f"data.root={root}: no such folder; {expected}. Relative paths start at {Path.cwd()}"
        )
    parts = (IMAGES, MASKS, LISTS)
    missing = [part for part in parts if not (root / part).is_dir()]
    if missing:
        near = [root.parent, *sorted(root.glob("*")), *sorted(root.glob("*/*"))]
        better = [str(folder) for folder in near if all((folder / part).is_dir() for part in parts)]
        hint = f". Did you mean data.root={' or '.join(better[:3])}?" if better else ""
        raise DataError(f"data.root={root}: has no {', no '.join(missing)}; {expected}{hint}")


def _find_pairs(
    root: Path, split: str, ids: Mapping[str, tuple[int, str]]
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """The image and the mask of each id that has both, and a text of all others, if there are."""
    folders: dict[Path, dict[str, list[Path]]] = {}
    problems: list[str] = []

    def find(path: Path, kind: str, number: int, line: str) -> Path | None:
        files = _files_of(path, folders)
        if not files:
            what = hint(line) if kind == "image" else None
            problems.append(f"{path}: no {kind}" + (f" (line {number}: {what})" if what else ""))
        elif len(files) > 1:
            names = ", ".join(sorted(file.name for file in files))
            problems.append(f"{path}: {len(files)} files for one {kind} ({names})")
        return files[0] if len(files) == 1 else None

    pairs = {}
    for name, (number, line) in ids.items():
        image = find(root / IMAGES / name, "image", number, line)
        mask = find(root / MASKS / name, "mask", number, line)
        if image and mask:
            pairs[name] = image, mask
    if not problems:
        return pairs, []
    return pairs, [
        f"{root}: {len(problems)} files missing or ambiguous in {split}. Ids in a split have no "
        f"suffix; files end in {' '.join(SUFFIXES)}, in any letter case:\n{bullet_list(problems)}"
    ]


def _files_of(path: Path, folders: dict[Path, dict[str, list[Path]]]) -> list[Path]:
    """The files called ``path`` but for their suffix.

    ``folders`` keeps what was found: each folder is listed once, however many ids there are.
    """
    if path.parent not in folders:
        folders[path.parent] = _files_by_stem(path.parent)
    return folders[path.parent].get(path.name, [])


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    files = defaultdict(list)
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.suffix.lower() in SUFFIXES:
            files[file.stem].append(file)
    return files
