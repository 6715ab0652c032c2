"""Data sets whose images lie in one folder and masks in another, in any tree below them.

::

    images/<id><image_suffix>.jpg                     or .jpeg .png .bmp .tif .tiff .webp .gif
    masks/<id><mask_suffix>.png                       class ids, 255 where ignored
    masks/labels.txt                                  one class name per line; or beside masks

An id is the path below its folder without type and suffix. Which images a split holds is said by
lists (``train.txt``), by a table, by a part that is held out, or by folders called as the splits.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from segkit.data.classes import read_lines
from segkit.data.colors import ColorMap
from segkit.data.decode import load
from segkit.data.folder_files import SPLIT, TABLES, FolderFiles, labels_file
from segkit.data.groups import group_names, held_out
from segkit.data.listed_pairs import Row, find_rows, read_table
from segkit.data.named_files import folders_like
from segkit.data.pairs import ImageMaskPairs, Pairs
from segkit.data.split_list import is_split_name, list_file, parse_pairs, parse_split
from segkit.errors import DataError
from segkit.files import PathLike, user_path
from segkit.text import bullet_list

ALL = "all"  # the split of every image
DIVISION = (
    "data.val=0.2 to hold out a part, or data.splits=PATH: a folder with train.txt and val.txt, or "
    "a CSV file with the columns image, mask, split"
)


class FolderSegmentation(ImageMaskPairs):
    """One split of images and masks in two folders. Files are found at once and read one by one.

    Args:
        split: ``train``, ``val``, or any name that the division knows; ``all`` is every image.
        images: Folder of the images; ``{split}`` in it stands for the split, ``*`` for any name,
            as ``set/*/images``. Not needed where ``splits`` has pairs.
        masks: Folder of the masks, likewise.
        image_suffix: End of image names that ids lack, as ``_leftImg8bit``, with or without type.
            Other files in the folder are no images.
        mask_suffix: The same of masks, as ``_gtFine_labelTrainIds``.
        splits: A folder of lists, ``train.txt`` and so on, with an id, a file name or a pair of
            paths per line; or a CSV file with the columns image, mask and, unless ``val`` is
            given, split. Without it and ``val``, folders called as the splits divide.
        val: Part of the images that is the split ``val``; ``train`` is the rest.
        split_seed: Another one than 0 holds out others.
        group: With ``val``: a regular expression, see :func:`~segkit.data.groups.group_names`.
        classes: Class names in index order. Without it ``labels.txt`` has them, in the folder of
            the masks, the one above it or that of ``splits``.
        num_classes: As for :class:`~segkit.data.pairs.ImageMaskPairs`, and all below.
        ignore_index: Value of the pixels without a label, 0 to 255.
        label_map: Ids in the masks to class ids or ``"ignore"``.
        colormap: Colours of RGB and palette masks.
        value_range: The numbers in images that become 0 and 255.
        channels: Of the images.
        bits: Of each channel.

    Attributes:
        warnings: Sentences about what is there and not used.

    Raises:
        DataError: Something is missing or contradicts itself; all missing files at once.
    """

    def __init__(
        self,
        split: str,
        *,
        images: PathLike | None = None,
        masks: PathLike | None = None,
        image_suffix: str | None = None,
        mask_suffix: str | None = None,
        splits: PathLike | None = None,
        val: float | None = None,
        split_seed: int | None = None,
        group: str | None = None,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
        ignore_index: int = 255,
        label_map: Mapping[int | str, int | str] | None = None,
        colormap: ColorMap | None = None,
        value_range: Sequence[float] | None = None,
        channels: int | None = 3,
        bits: int = 8,
    ) -> None:
        if not is_split_name(split):
            raise DataError(f"{split!r} is no name of a split; expected one such as train")
        self.warnings: list[str] = []
        places = [None if folder is None else user_path(folder) for folder in (images, masks)]
        files = FolderFiles(places[0], places[1], image_suffix, mask_suffix, self.warnings)
        lists = None if splits is None else user_path(splits)
        self.root = places[0] or lists or Path()
        if val is not None and not 0 < val < 1:
            raise DataError(f"data.val={val}: expected a number between 0 and 1")

        def find() -> tuple[Pairs, list[str]]:
            if val is not None:
                return _held_out(files, lists, split, val, split_seed or 0, group)
            if group is not None:
                raise DataError("data.group is for data.val=0.2, which holds out whole groups")
            if split_seed:
                raise DataError("data.split_seed is for data.val=0.2: which images it holds out")
            if lists is None:
                return _by_folders(files, split)
            table = lists.suffix.lower() in TABLES
            return _by_table(files, lists, split) if table else _by_list(files, lists, split)

        super().__init__(
            split,
            labels_file(places[1], lists),
            find,
            classes=classes,
            num_classes=num_classes,
            ignore_index=ignore_index,
            label_map=label_map,
            colormap=colormap,
            value_range=value_range,
            channels=channels,
            bits=bits,
        )
        self._check_not_swapped()

    def _check_not_swapped(self) -> None:
        """Raise a DataError if the first mask cannot be used, and looks as images do."""
        try:
            self.examine(0)
        except DataError as error:
            image, mask = self.files(0)
            numbers = []
            with suppress(DataError):  # what is damaged is reported by the check
                stored = (load(image, self.channels), load(mask))
                numbers = [_distinct(one.numbers) for one in stored]
            if numbers and numbers[1] > 4 * numbers[0]:
                raise DataError(
                    f"{error}\nAre data.images and data.masks swapped? The image {image} has "
                    f"{numbers[0]} different colours or values, its mask {mask} {numbers[1]}"
                ) from None


def _distinct(numbers: np.typing.NDArray[np.generic]) -> int:
    """How many values or colours there are, in a sample of the pixels."""
    flat = numbers.reshape(-1, *numbers.shape[2:])
    return len(np.unique(flat[:: 1 + len(flat) // 100_000], axis=0))


def _by_folders(files: FolderFiles, split: str) -> tuple[Pairs, list[str]]:
    """Where the folders of images and masks have one for each split, or all there are."""
    images, masks = files.both
    if files.is_by_split:
        pairs, problems = files.within(split).pairs()
        return {f"{split}/{name}": pair for name, pair in pairs.items()}, problems
    if (images / split).is_dir():
        pairs, problems = files.of(images / split, masks / split).pairs()
        return {f"{split}/{name}": pair for name, pair in pairs.items()}, problems
    if split != ALL and files.found:  # which tells of folders that are empty
        names = sorted(
            path.name
            for home, _ in folders_like(images)
            for path in home.iterdir()
            if path.is_dir()
        )
        raise DataError(
            f"data.images={images}: which images are {split}? It has no folder of that name (there "
            f"are {', '.join(names[:10]) or 'none'}). Give {DIVISION}"
        )
    return files.pairs()


def _by_list(files: FolderFiles, lists: Path, split: str) -> tuple[Pairs, list[str]]:
    """The images that ``train.txt`` and so on list, as ids, file names or pairs of paths."""
    path = list_file(lists, split)
    if not path.is_file():
        if split == ALL and files.images and files.masks:
            return files.pairs()
        names = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) if lists.is_dir() else ""
        what = f"{path}: no such list. Lists found there: {names or 'none'}"
        raise DataError(
            what
            if lists.is_dir()
            else f"data.splits={lists}: expected a folder with train.txt and val.txt, or a CSV file"
        )
    lines = read_lines(path)
    rows = parse_pairs(lines)
    here = files if rows and None in (files.images, files.masks) else files.within(split)
    if rows:
        found = [Row(number, image, mask) for number, image, mask in rows]
        pairs, problems = find_rows(found, path, (here.images, here.masks), here.image_suffix)
        return pairs, [_listed(path, problems)] if problems else []
    known = here.spellings()
    numbers = parse_split(lines, path, here.both, known.__contains__)
    if lost := [f"line {number}: {name}" for name, number in numbers.items() if name not in known]:
        raise DataError(
            f"{path}: {len(lost)} lines name no image in {here.both[0]}. Expected an id, as "
            f"{next(iter(known.values()))}, the name of a file, or the paths of an image and its "
            f"mask:\n{bullet_list(lost)}"
        )
    lines_of: dict[str, list[int]] = {}
    for text, number in numbers.items():
        lines_of.setdefault(known[text], []).append(number)
    if twice := [f"{n}: lines {', '.join(map(str, k))}" for n, k in lines_of.items() if len(k) > 1]:
        raise DataError(
            f"{path}: images that are listed twice; keep each once:\n{bullet_list(twice)}"
        )
    return here.pairs(list(lines_of))


def _by_table(files: FolderFiles, path: Path, split: str) -> tuple[Pairs, list[str]]:
    rows = read_table(path)
    if any(row.split is None for row in rows) and split != ALL:
        raise DataError(
            f"{path}: has no column split, so which rows are {split}? Add it, or give data.val=0.2"
        )
    chosen = [row for row in rows if split in (ALL, row.split)]
    if not chosen:
        names = ", ".join(sorted({str(row.split) for row in rows}))
        raise DataError(f"{path}: no row has the split {split}; there are {names}")
    pairs, problems = find_rows(chosen, path, (files.images, files.masks), files.image_suffix)
    return pairs, [_listed(path, problems)] if problems else []


def _listed(path: Path, problems: Sequence[str]) -> str:
    return (
        f"{path}: {len(problems)} rows name no pair of files. Relative paths start at the list's "
        f"folder, data.images or data.masks:\n{bullet_list(problems)}"
    )


def _held_out(
    files: FolderFiles, lists: Path | None, split: str, val: float, seed: int, group: str | None
) -> tuple[Pairs, list[str]]:
    """A part of all images, or of all rows of a table that does not divide them itself."""
    if split not in ("train", "val", ALL):
        raise DataError(f"data.val={val} makes the splits train and val, and no {split}")
    if lists is None:
        if files.is_by_split:
            raise DataError(
                f"data.images={files.images}: {SPLIT} stands for the folders of splits that are "
                f"there, and data.val={val} makes others; leave out one of them"
            )
        pairs, problems = files.pairs()
    elif lists.suffix.lower() not in TABLES or any(row.split for row in read_table(lists)):
        raise DataError(
            f"data.val={val} and data.splits={lists} both divide the images; leave out one of them"
        )
    else:
        pairs, problems = _by_table(files, lists, ALL)
    if split == ALL or (problems and not pairs):
        return pairs, problems
    names = list(pairs)
    out = held_out(names, group_names(names, group, "data.group"), val, seed)
    return {n: p for n, p in pairs.items() if (n in out) == (split == "val")}, problems
