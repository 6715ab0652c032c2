"""Images that two splits share: under one id, as one file with two names, or as equal bytes.

Or a split and what a checkpoint was trained on: the lists may have been divided anew since then.
"""

import filecmp
import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping
from functools import cache
from pathlib import Path

from segkit.data.dataset import FileDataset, SegmentationDataset
from segkit.errors import DataError
from segkit.text import bullet_list

CHUNK = 4096  # bytes in the middle of a file by which files of equal size mostly differ


def check_disjoint(train: SegmentationDataset, other: SegmentationDataset) -> list[str]:
    """Raise a DataError if an image of ``other`` is also trained on.

    The same file counts under any name: an id spelt in two ways, a link. Two cases are taken as
    meant, and only give a warning: the same split twice, as for a test whether a model can overfit,
    and a train split called ``trainval``.

    Returns:
        Warnings: those, masks that two splits share, and files of equal content.
    """
    known = set(train.ids)
    shared = [name for name in other.ids if name in known]
    images, masks = ((_files(train, kind), _files(other, kind)) for kind in (0, 1))
    same = _same_files(*images)
    shared += [f"{name} (the file of {own})" for own, name in same if name not in known]
    if not shared:
        return [*_shared_masks(*masks), *_equal_content(*images)]
    if list(train.ids) == list(other.ids) or getattr(train, "split", None) == "trainval":
        return [
            f"{len(shared)} of {len(other.ids)} validation images are also trained on: "
            "the scores say how well they are remembered, not how well others are segmented"
        ]
    raise DataError(
        f"{len(shared)} images are in the train split and in the validation split, so the scores "
        f"would be too good. Take them out of one of them:\n{bullet_list(shared)}"
    )


def image_sums(dataset: SegmentationDataset) -> list[str]:
    """16 digits for each image, by its id and its size in bytes; none if images are no files."""
    return [
        hashlib.sha256(f"{name}\n{_size(path)}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        for name, path in _files(dataset, 0).items()
    ]


def remembered(dataset: SegmentationDataset, split: str, trained_on: Collection[str]) -> list[str]:
    """A warning if images of a split are among those with the sums ``trained_on``."""
    count = len({*image_sums(dataset)} & {*trained_on}) if trained_on else 0
    if not count:
        return []
    return [
        f"{count} of the {len(dataset)} images of {split} were trained on: the scores say how well "
        "they are remembered, not how well others are segmented"
    ]


def linked_twice(dataset: SegmentationDataset, split: str) -> list[str]:
    """A warning if a split holds one image under several ids, since it counts more then."""
    names: dict[Hashable, list[str]] = defaultdict(list)
    for name, path in _files(dataset, 0).items():
        names[_identity(path)].append(name)
    same = [", ".join(ids) for ids in names.values() if len(ids) > 1]
    if not same:
        return []
    return [
        f"{len(same)} images of the {split} split stand there under several ids (links to one "
        f"file), and count so often; the first: {same[0]}"
    ]


def _files(dataset: SegmentationDataset, kind: int) -> dict[str, Path]:
    """The images (0) or masks (1) by their ids; nothing if they are no files."""
    if not isinstance(dataset, FileDataset):
        return {}
    return {name: dataset.files(index)[kind] for index, name in enumerate(dataset.ids)}


def _same_files(train: Mapping[str, Path], other: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """The ids of both splits that stand for one file, links followed."""
    known = {_identity(path): name for name, path in train.items()}
    for name, path in other.items():
        if (own := known.get(_identity(path))) is not None:
            yield own, name


def _identity(path: Path) -> Hashable:
    try:
        status = path.stat()
    except OSError:
        return path
    # Some network disks of Windows number no files.
    return (status.st_dev, status.st_ino) if status.st_ino else path.resolve()


def _shared_masks(train: Mapping[str, Path], other: Mapping[str, Path]) -> list[str]:
    same = list(_same_files(train, other))
    if not same:
        return []
    return [
        f"{len(same)} masks of the validation split are also masks of other images that are "
        f"trained on (links to one file); the first: {same[0][1]} has that of {same[0][0]}"
    ]


def _equal_content(train: Mapping[str, Path], other: Mapping[str, Path]) -> list[str]:
    """A warning if images of both splits hold the same bytes. Only files of equal size are read.

    Of those first a piece in the middle, so that images that all have one size, as BMPs do, are
    not read again from end to end.
    """
    by_size: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for name, path in train.items():
        by_size[_size(path)].append((name, path))
    piece = cache(_piece)
    same = []
    for name, path in other.items():
        size = _size(path)
        for own_name, own_path in by_size[size] if size else ():
            if piece(path, size) == piece(own_path, size) and _equal(path, own_path):
                same.append((name, own_name))
                break
    if not same:
        return []
    return [
        f"{len(same)} validation images hold the same bytes as images that are trained on, so "
        f"the scores may be too good; the first: {same[0][0]} equals {same[0][1]}"
    ]


def _size(path: Path) -> int:
    """Of a regular file, else 0: the check of the contents tells what is wrong with it."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _piece(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(size // 2)
            return file.read(CHUNK)
    except OSError:
        return str(path).encode()  # equals no other


def _equal(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
