"""The check of a data set before a run: every pair is read once, every problem is told at once.

Alone: ``python -m segkit.data.check data.root=PATH``, see :mod:`segkit.tools.check`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.data.cache import CheckCache
from segkit.data.contract import (
    FileDataset,
    IncompleteSplit,
    SegmentationDataset,
    check_pair,
    first_ten,
)
from segkit.data.counts import Counts, check_foreground, class_table, unseen_classes
from segkit.data.decode import is_turned
from segkit.data.leaks import check_disjoint, linked_twice
from segkit.data.threads import attempt
from segkit.errors import DataError

# What an EXIF orientation led to.
TURNS = {
    1: "are turned or mirrored as their EXIF orientation says",
    2: "are left as they are stored, against their EXIF orientation: so their masks fit",
}


@dataclass(frozen=True)
class Report:
    """What a check found that is no error.

    Attributes:
        classes: Class names in index order.
        counts: One entry per split, in the order of the splits.
        warnings: Sentences to show to the user.
    """

    classes: Sequence[str]
    counts: Mapping[str, Counts]
    warnings: Sequence[str]

    def table(self) -> str:
        """The classes and their pixels in each split as text."""
        return class_table(self.classes, self.counts)


def check_splits(
    splits: Mapping[str, SegmentationDataset],
    *,
    ignore_index: int = 255,
    trained: bool = True,
    num_workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Check all splits in use.

    Args:
        splits: Data sets by name, such as ``{"train": ..., "val": ...}``.
        ignore_index: Mask value of pixels without a label.
        trained: Whether the first split is trained on; what is only scored may show one class.
        num_workers: Threads that read; by default one per core, at most 8. A data set without
            ``files`` may not expect threads, so it is read by one.
        progress: Show a bar if the standard error stream is a terminal.

    Raises:
        DataError: All problems of all splits, the first ten of them in words; or splits that share
            pictures; or masks whose only object would be ignored.
    """
    train_name, *other_names = splits
    train = splits[train_name]
    counts: dict[str, Counts] = {}
    problems: list[str] = []
    leaks: list[str] = []
    warnings: list[str] = []
    for name in other_names:
        if list(splits[name].classes) != list(train.classes):
            raise DataError(f"the splits {train_name} and {name} have different classes")
        try:
            warnings += check_disjoint(train, splits[name])
        except DataError as error:
            leaks.append(str(error))
    for name, dataset in splits.items():
        warnings += linked_twice(dataset, name)
        counts[name], wrong, turns = _count(dataset, name, ignore_index, num_workers, progress)
        warnings += turns
        # A split may be in use twice, its problems are told once.
        problems += [problem for problem in wrong if problem not in problems]
    if problems:
        leaks.append(f"{len(problems)} items cannot be used:\n{first_ten(problems)}")
    if leaks:
        raise DataError("\n".join(leaks))
    if trained:
        check_foreground(train.classes, counts[train_name], ignore_index)
    warnings += unseen_classes(train.classes, counts)
    return Report(train.classes, counts, warnings)


def open_splits(
    make: Callable[[str], SegmentationDataset],
    names: Sequence[str],
    *,
    ignore_index: int = 255,
    look: bool = True,
    progress: bool = True,
) -> dict[str, SegmentationDataset]:
    """The splits, each opened by ``make(name)``.

    Args:
        make: Raises :class:`~segkit.data.contract.IncompleteSplit` where something can be used.
        names: Of the splits; one may stand there twice.
        ignore_index: Mask value of pixels without a label.
        look: If any split is incomplete, also look into the files of all that are there.
        progress: Show a bar then, if the standard error stream is a terminal.

    Raises:
        DataError: All that is wrong with any of the splits, so that one round tells everything.
    """
    found: dict[str, SegmentationDataset] = {}
    problems: list[str] = []
    for name in dict.fromkeys(names):
        try:
            found[name] = make(name)
        except IncompleteSplit as error:
            problems += [text for text in error.problems if text not in problems]
            if error.rest is not None:
                found[name] = error.rest
        except DataError as error:
            problems += [str(error)] if str(error) not in problems else []
    if not problems:
        return found
    if look:
        problems += _more_problems(found, ignore_index, progress)
    raise DataError("\n".join(problems))


def _more_problems(
    splits: Mapping[str, SegmentationDataset], ignore_index: int, progress: bool
) -> Iterator[str]:
    """What is wrong with pictures and masks that are there, in splits that lack some."""
    opened = list(splits.values())
    for other in opened[1:]:
        try:
            check_disjoint(opened[0], other)
        except DataError as error:
            yield str(error)
    wrong: list[str] = []
    for name, dataset in splits.items():
        _, in_split, _ = _count(dataset, name, ignore_index, None, progress)
        wrong += [text for text in in_split if text not in wrong]
    if wrong:
        yield f"{len(wrong)} items cannot be used:\n{first_ten(wrong)}"


def _count(
    dataset: SegmentationDataset,
    split: str,
    ignore_index: int,
    num_workers: int | None,
    progress: bool,
) -> tuple[Counts, list[str], list[str]]:
    """The pixels of a split, what is wrong with its items, and what was done to its pictures."""
    if len(dataset) == 0 or len(set(dataset.ids)) != len(dataset):
        raise DataError(
            f"check {split}: {len(dataset)} items with {len(set(dataset.ids))} different ids; "
            "expected at least one item, and an id of its own for each"
        )
    cache = CheckCache(dataset) if isinstance(dataset, FileDataset) else None
    num_classes = len(dataset.classes)

    def look(index: int) -> list[int]:
        """Pixels of each class, ignored ones, and the turn: what the cache keeps of an item."""
        stored = cache.get(index) if cache else None
        if stored is not None and len(stored) == num_classes + 2:
            return stored
        image, mask = dataset.read(index)
        check_pair(image, mask, num_classes, ignore_index, name=f"{dataset.ids[index]}")
        columns = np.where(mask == ignore_index, num_classes, mask.astype(np.int64))
        pixels = np.bincount(columns.ravel(), minlength=num_classes + 1).tolist()
        counts = [*pixels, _turn_of(dataset, index, mask.shape)]
        if cache:
            cache.put(index, counts)
        return counts

    found = attempt(
        look,
        range(len(dataset)),
        f"check {split}",
        num_threads=num_workers if cache else 1,  # see check_splits
        progress=progress,
    )
    if cache:
        cache.save()
    nothing = [0] * (num_classes + 2)
    table = np.array([nothing if isinstance(row, DataError) else row for row in found], np.int64)
    *pixels, ignored = table[:, :-1].sum(axis=0)
    problems = [str(row) for row in found if isinstance(row, DataError)]
    turns = [
        f"{len(turned)} of {len(dataset)} pictures of the {split} split {what}; the first is "
        f"{dataset.ids[turned[0]]}"
        for turn, what in TURNS.items()
        if len(turned := np.flatnonzero(table[:, -1] == turn))
    ]
    return Counts(np.array(pixels), int(ignored)), problems, turns


def _turn_of(dataset: SegmentationDataset, index: int, size: tuple[int, int]) -> int:
    """A key of ``TURNS``, or 0 where nothing asks for a turn."""
    turned = is_turned(dataset.files(index)[0], size) if isinstance(dataset, FileDataset) else None
    return 0 if turned is None else (1 if turned else 2)


if __name__ == "__main__":
    from segkit.tools.check import main  # which stands above this room

    sys.exit(main(sys.argv[1:]))
