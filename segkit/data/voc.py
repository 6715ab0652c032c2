"""Data sets in the folder layout of PASCAL VOC.

::

    root/JPEGImages/<id>.jpg                          or .jpeg .png .bmp .tif .tiff .webp .gif
    root/SegmentationClass/<id>.png                   class ids, 255 where ignored
    root/ImageSets/Segmentation/{train,val,test}.txt  one id per line
    root/labels.txt                                   one class name per line, in index order
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from segkit.data.classes import read_lines
from segkit.data.colors import ColorMap
from segkit.data.named_files import by_look, spelt_otherwise
from segkit.data.pairs import SUFFIXES, ImageMaskPairs, Pairs
from segkit.data.split_list import hint, list_file, parse_split
from segkit.errors import DataError
from segkit.files import PathLike, user_path
from segkit.text import bullet_list

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"


class VOCSegmentation(ImageMaskPairs):
    """One split of a data set in VOC layout. Files are found at once and read one by one.

    Args:
        root: Folder that holds ``JPEGImages``, ``SegmentationClass`` and ``ImageSets``.
        split: Name of a file in ``ImageSets/Segmentation``, without ``.txt``.
        classes: Class names in index order. Without it ``labels.txt`` in ``root`` has them.
        num_classes: As for :class:`~segkit.data.pairs.ImageMaskPairs`, and all below.
        ignore_index: Value of the pixels without a label, 0 to 255.
        label_map: Ids in the masks to class ids or ``"ignore"``.
        colormap: Colours of RGB and palette masks.
        value_range: The numbers in images that become 0 and 255.
        channels: Of the images.
        bits: Of each channel.

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
        self.root = user_path(root)
        _check_layout(self.root)
        super().__init__(
            split,
            self.root / "labels.txt",
            partial(_find_pairs, self.root, split),
            classes=classes,
            num_classes=num_classes,
            ignore_index=ignore_index,
            label_map=label_map,
            colormap=colormap,
            value_range=value_range,
            channels=channels,
            bits=bits,
        )


def split_file(root: Path, split: str) -> Path:
    """Where the ids of a split are listed; see :func:`~segkit.data.split_list.list_file`."""
    return list_file(root / LISTS, split)


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


def _find_pairs(root: Path, split: str) -> tuple[Pairs, list[str]]:
    """The image and the mask of each id that has both, and a text of all others, if there are."""
    ids = _numbered_ids(root, split)
    folders: dict[Path, dict[str, list[Path]]] = {}
    looks: dict[Path, dict[str, str]] = {}
    problems: list[str] = []

    def find(path: Path, kind: str, number: int, line: str) -> Path | None:
        files = _files_of(path, folders)
        if not files:
            what = hint(line) if kind == "image" else None
            what = f" (line {number}: {what})" if what else ""
            if path.parent not in looks:
                looks[path.parent] = by_look(folders[path.parent])
            near = spelt_otherwise(path.name, looks[path.parent])
            problems.append(f"{path}: no {kind}{what or near}")
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
