"""The check of a data set before a run: every pair is read once, every problem is reported at once.

Alone: ``python -m segkit.data.check data.root=PATH``, see :mod:`segkit.tools.check`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from segkit.data.cache import CheckCache
from segkit.data.colors import Palette
from segkit.data.counts import Counts, check_foreground, class_table, total, unseen_classes
from segkit.data.dataset import FileDataset, IncompleteSplit, SegmentationDataset
from segkit.data.facts import Facts, look
from segkit.data.judge import compare_ignored, compare_palettes, compare_with_model, notes
from segkit.data.leaks import check_disjoint, linked_twice
from segkit.data.threads import attempt
from segkit.errors import DataError
from segkit.text import bullet_list


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
    palette: Palette | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Check all splits in use.

    Args:
        splits: Data sets by name, such as ``{"train": ..., "val": ...}``.
        ignore_index: Mask value of pixels without a label.
        trained: Whether the first split is trained on; what is only scored may show one class.
        palette: Colours that a model knows, uint8 (n, 3), to compare those of the masks with.
        num_workers: Threads that read; by default one per core, at most 8. A data set without
            ``files`` may not expect threads, so it is read by one.
        progress: Show a bar if the standard error stream is a terminal.

    Raises:
        DataError: All problems of all splits, the first ten of them listed; or splits that share
            images; or masks whose only object would be ignored.
    """
    train_name, *other_names = splits
    train = splits[train_name]
    facts: dict[str, dict[str, Facts]] = {}
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
        warnings += [w for w in getattr(dataset, "warnings", ()) if w not in warnings]
        items, wrong = _look(dataset, name, ignore_index, num_workers, progress)
        facts[name] = items
        # A split may be in use twice, its problems are reported once.
        problems += [problem for problem in wrong if problem not in problems]
    if problems:
        leaks.append(f"{len(problems)} items cannot be used:\n{bullet_list(problems)}")
    if leaks:
        raise DataError("\n".join(leaks))
    counts, found = judge(splits, facts, ignore_index=ignore_index, trained=trained)
    if palette is not None:
        palettes = {n: one.palette for n, one in facts[train_name].items() if one.palette}
        warnings += compare_with_model(palettes, palette[: len(train.classes)])
    return Report(train.classes, counts, warnings + found)


def judge(
    splits: Mapping[str, SegmentationDataset],
    facts: Mapping[str, Mapping[str, Facts]],
    *,
    ignore_index: int,
    trained: bool,
) -> tuple[dict[str, Counts], list[str]]:
    """What the items of all splits say together, where each is sound alone.

    Args:
        splits: As for :func:`check_splits`.
        facts: For each split, the facts of each item by its id.
        ignore_index: Mask value without a label.
        trained: Whether the splits are for a training; else one alone is scored.

    Returns:
        The pixels of each split, and warnings.

    Raises:
        DataError: Masks that contradict each other, or cannot be what was meant.
    """
    counts: dict[str, Counts] = {}
    compare_palettes(
        {
            name: one.palette
            for split, items in facts.items()
            for name, one in _by_mask(splits[split], items).items()
        }
    )
    warnings: list[str] = []
    train_name = next(iter(splits))
    for name, dataset in splits.items():
        classes = dataset.classes
        counts[name] = total(facts[name].values(), len(classes))
        # What the user says counts, and a class that is ignored is not mistaken for an object.
        declared = ignore_index in getattr(dataset, "label_map", {}) or ignore_index < len(classes)
        if not declared:
            warnings += compare_ignored(name, classes, facts[name], ignore_index)
        check_foreground(
            classes,
            counts[name],
            ignore_index,
            split=name,
            trained=trained and name == train_name,
            declared=declared,
        )
        warnings += notes(name, facts[name], getattr(dataset, "value_range", None))
    return counts, warnings + unseen_classes(splits[train_name].classes, counts)


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
        make: Raises :class:`~segkit.data.dataset.IncompleteSplit` where something can be used.
        names: Names of the splits; one may stand there twice.
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
    """What is wrong with images and masks that are there, in splits that lack some."""
    opened = list(splits.values())
    for other in opened[1:]:
        try:
            check_disjoint(opened[0], other)
        except DataError as error:
            yield str(error)
    wrong: list[str] = []
    for name, dataset in splits.items():
        _, in_split = _look(dataset, name, ignore_index, None, progress)
        wrong += [text for text in in_split if text not in wrong]
    if wrong:
        yield f"{len(wrong)} items cannot be used:\n{bullet_list(wrong)}"


def _look(
    dataset: SegmentationDataset,
    split: str,
    ignore_index: int,
    num_workers: int | None,
    progress: bool,
) -> tuple[dict[str, Facts], list[str]]:
    """What each sound item of a split holds, and what is wrong with the others."""
    if len(dataset) == 0 or len(set(dataset.ids)) != len(dataset):
        raise DataError(
            f"check {split}: {len(dataset)} items with {len(set(dataset.ids))} different ids; "
            "expected at least one item, and an id of its own for each"
        )
    cache = CheckCache(dataset) if isinstance(dataset, FileDataset) else None

    def known_or_look(index: int) -> Facts:
        stored = cache.get(index) if cache else None
        facts = Facts.from_json(stored, len(dataset.classes))
        if facts is None:
            facts = look(dataset, index, ignore_index)
            if cache:
                cache.put(index, facts.to_json())
        return facts

    found = attempt(
        known_or_look,
        range(len(dataset)),
        f"check {split}",
        num_threads=num_workers if cache else 1,  # see check_splits
        progress=progress,
    )
    if cache:
        cache.save()
    pairs = zip(dataset.ids, found, strict=True)
    items = {name: facts for name, facts in pairs if not isinstance(facts, DataError)}
    return items, [str(problem) for problem in found if isinstance(problem, DataError)]


def _by_mask(dataset: SegmentationDataset, items: Mapping[str, Facts]) -> dict[str, Facts]:
    """The items by the files of their masks, if there are any."""
    if not isinstance(dataset, FileDataset):
        return dict(items)
    return {
        str(dataset.files(index)[1]): items[name]
        for index, name in enumerate(dataset.ids)
        if name in items
    }


if __name__ == "__main__":
    from segkit.tools.check import main  # which stands above this room

    sys.exit(main(sys.argv[1:]))
