"""Divide images with masks into train, validation and test, or into folds.

python -m segkit.tools.split data.root=PATH [val=0.2] [test=0.1] [folds=5] [key=value ...]
python -m segkit.tools.split data=folders data.images=DIR data.masks=DIR lists=DIR [key=value ...]
"""

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.cli.arguments import run_tool
from segkit.config.schema import option
from segkit.console import say
from segkit.data.classes import check_lines, read_labels_file, read_lines, write_lines
from segkit.data.colors import parse_colormap
from segkit.data.counts import Counts, class_table
from segkit.data.decode import load_labels
from segkit.data.facts import used_palette
from segkit.data.folder_files import FolderFiles, labels_file
from segkit.data.groups import group_names
from segkit.data.judge import compare_palettes
from segkit.data.listed_pairs import Row, find_rows
from segkit.data.masks import to_labels
from segkit.data.named_files import files_by_id, with_several
from segkit.data.split_list import list_file, parse_pairs, parse_split
from segkit.data.threads import map_parallel
from segkit.data.voc import IMAGES, LISTS, MASKS, read_split
from segkit.errors import ConfigError, DataError
from segkit.files import user_path
from segkit.text import bullet_list
from segkit.tools.data_keys import FileKeys
from segkit.tools.stratify import divide

SUFFIX_KEYS = ("image_suffix", "mask_suffix")


@dataclass
class Request(FileKeys):
    """The keys of ``split``."""

    lists: str | None = option(
        None, "data=folders: folder for the lists, to be given as data.splits", path=True
    )
    val: float = option(0.2, "part for validation; not with folds", low=0)
    test: float = option(0.0, "part for the test, taken first", low=0)
    folds: int = option(
        0, "number of folds instead of one train and val; 0: none", low=0, high=1000
    )
    group: str | None = option(
        None, "pattern in the ids: images with the same match (or first group) stay together"
    )
    stratify: bool = option(True, "balance the pixels of each class, not only the images")
    seed: int = option(0, "of the order", low=0, high=2**63 - 1)
    of: str | None = option(None, "list of the ids to divide; null: all masks")
    prefix: str | None = option(None, "start of the names of the lists, as a_ for a_train.txt")
    colormap: Any = option(None, "for RGB masks, as data.colormap", name="data.colormap")
    ignore_index: int = option(255, "value without a label", name="data.ignore_index", high=65535)
    force: bool = option(False, "overwrite lists that are there")
    dry_run: bool = option(False, "do everything but write")


def split(request: Request) -> None:
    """Write ``train.txt``, ``val.txt`` and ``test.txt``, or ``fold_0_train.txt`` and so on.

    A test part of an earlier division stays apart where this one makes none.
    """
    ratios = part_sizes(request)
    name = f"{request.prefix or ''}test"
    if request.of == name and request.test == 0:
        raise ConfigError(
            f"of={name}: {name}.txt would go on listing images that others train on. Add test=0.2, "
            f"say, to make it anew, or rename it and give of=NAME"
        )
    place = find_place(request)
    kept, gone = earlier_test(request, place)
    test, count = list(kept), len(place.masks)
    names = [*place.masks, *(name for name in test if name not in place.masks)]
    groups = find_groups(names, request.group)
    inside = np.isin(names, test)
    apart = np.isin(groups, groups[inside])[:count]
    masks = dict(compress(place.masks.items(), ~apart))
    test_list = list_of(request, place, "test")
    if gone and not kept:
        raise DataError(
            f"{test_list}: none of its {len(gone)} images is there any more; delete it, or give "
            "test= to choose them anew"
        )
    check_lines(place.masks, place.lists)
    if not masks:
        raise DataError(
            f"{test_list}: lists all images, so none is left to divide; give test= to choose them "
            "anew, or delete it"
        )
    ids, groups = list(masks), groups[:count][~apart]
    counted = map_parallel(partial(count_pixels, request), list(masks.values()), "count pixels")
    pixels = np.array([one.pixels for one in counted])
    if request.colormap is None:
        pairs = zip(masks.values(), counted, strict=True)
        compare_palettes({str(path): one.palette for path, one in pairs})
    used = np.flatnonzero(pixels.sum(axis=0))
    labelled = used[used != request.ignore_index]
    amounts = pixels[:, labelled] if request.stratify else pixels[:, :0]
    parts = divide(amounts, groups, list(ratios.values()), request.seed)
    lists = name_lists(list(ratios), parts, request)

    files = {
        list_file(place.lists, name): [ids[i] for i in np.flatnonzero(chosen)]
        for name, chosen in lists.items()
    }
    if request.of is None and gone:
        files[test_list] = list(kept.values())
    old = other_folds(request, place, files)
    taken = [str(path) for path in [*files, *old] if path.exists()]
    if taken and not request.force:
        raise DataError(
            f"{len(taken)} lists are there already; nothing was written. Add force=true to replace "
            f"them, or prefix=NAME_ for lists with other names:\n{bullet_list(taken)}"
        )
    say(table(place.labels, labelled, pixels, list(ratios), parts, request.ignore_index))
    for number, name in enumerate(ratios):
        chosen = parts == number
        say(f"{name}: {chosen.sum()} images in {len(set(groups[chosen]))} groups")
    if test:
        say(
            f"{test_list} stays: its {len(test)} images are in no other list; give test= to "
            "choose them anew, or delete it to divide them too"
        )
        if more := apart.sum() - inside[:count].sum():
            say(f"note: {more} other images of their groups are in no list")
    if test_list in files and gone:
        say(f"{test_list}: without {len(gone)} images that are gone:\n{bullet_list(gone)}")
    if request.dry_run:
        removed = f", and remove {', '.join(map(str, old))}" if old else ""
        say(f"dry run: would write {', '.join(map(str, files))}{removed}")
        return
    for path, chosen in files.items():
        write_lines(path, chosen)
    for path in old:
        path.unlink()
    say(f"written: {', '.join(map(str, files))}")
    if old:
        say(f"removed: {', '.join(map(str, old))}")


def list_of(request: Request, place: "Place", name: str) -> Path:
    """Where this request puts the list of a part."""
    return list_file(place.lists, f"{request.prefix or ''}{name}")


def earlier_test(request: Request, place: "Place") -> tuple[dict[str, str], list[str]]:
    """A test part that is there and stays; none if it is what is to be divided.

    Returns:
        The line in its list of each image that is there, by id, with or without a mask; and the
        lines of the others.
    """
    name = f"{request.prefix or ''}test"
    path = list_of(request, place, "test")
    if request.test > 0 or not path.exists() or request.of == name:
        return {}, []
    lines = read_lines(path)
    if not any(lines):
        return {}, []
    if request.data_root is not None:
        root = user_path(request.data_root)
        there = {*files_by_id(root / IMAGES, None), *files_by_id(root / MASKS, None)}
        ids = read_split(root, name)
        return {id_: id_ for id_ in ids if id_ in there}, [id_ for id_ in ids if id_ not in there]
    files = folder_files(request)
    kept: dict[str, str] = {}
    if rows := parse_pairs(lines):
        for number, image, mask in rows:
            pairs, _ = find_rows([Row(number, image, mask)], path, files.both, files.image_suffix)
            kept |= dict.fromkeys(pairs, lines[number - 1])
    else:
        known = files.spellings()
        numbers = parse_split(lines, path, files.both, known.__contains__)
        kept = {known[text]: lines[n - 1] for text, n in numbers.items() if text in known}
    there = {"", *kept.values()}
    return kept, [line for line in lines if line not in there]


def other_folds(request: Request, place: "Place", files: Collection[Path]) -> list[Path]:
    """Lists of an earlier division into more folds, whose images are now in those of others."""
    if not request.folds:
        return []
    first = list_of(request, place, "fold_0_val")
    start = re.escape(first.name.removesuffix("fold_0_val.txt"))
    name = re.compile(rf"{start}fold_\d+_(train|val)\.txt")
    there = first.parent.glob("*.txt")
    return sorted(file for file in there if name.fullmatch(file.name) and file not in files)


def part_sizes(request: Request) -> dict[str, float]:
    """The parts of the set with their ratios."""
    if request.folds == 1 or request.test + (0 if request.folds else request.val) >= 1:
        raise ConfigError(
            f"val={request.val} test={request.test} folds={request.folds}: expected val + test "
            "below 1, and 2 or more folds"
        )
    rest = 1 - request.test
    if request.folds:
        parts = {f"fold_{k}": rest / request.folds for k in range(request.folds)}
    else:
        parts = {"train": rest - request.val, "val": request.val}
    return {name: ratio for name, ratio in {**parts, "test": request.test}.items() if ratio > 0}


def name_lists(
    names: Sequence[str], parts: NDArray[np.int64], request: Request
) -> dict[str, NDArray[np.bool_]]:
    """The images of each list: ``fold_k_val`` has fold k, ``fold_k_train`` the others."""
    start = request.prefix or ""
    lists = {}
    test = parts == names.index("test") if "test" in names else np.zeros(len(parts), bool)
    for number, name in enumerate(names):
        inside = parts == number
        if name.startswith("fold_"):
            lists[f"{start}{name}_train"] = ~inside & ~test
            lists[f"{start}{name}_val"] = inside
        else:
            lists[f"{start}{name}"] = inside
    return lists


@dataclass(frozen=True)
class Place:
    """Masks by their ids, the folder of the lists, and the file of the class names."""

    masks: dict[str, Path]
    lists: Path
    labels: Path


def find_place(request: Request) -> Place:
    """What is divided, in either layout.

    Raises:
        ConfigError: Keys are missing, or of the other layout.
        DataError: The files are not there, or wrong.
    """
    own = {key: getattr(request, key) for key in ("images", "masks", *SUFFIX_KEYS, "lists")}
    if request.data == "voc":
        if given := [key for key, value in own.items() if value is not None]:
            key = given[0] if given[0] == "lists" else f"data.{given[0]}"
            raise ConfigError(f"{key}={own[given[0]]}: is for data=folders")
        if request.data_root is None:
            raise ConfigError("data.root is not set: folder in VOC layout")
        root = user_path(request.data_root)
        return Place(find_masks(root, request.of), root / LISTS, root / "labels.txt")
    if request.data_root is not None or request.of is not None:
        raise ConfigError("data.root and of are for data=voc; data=folders divides all images")
    if request.images is None or request.masks is None or request.lists is None:
        raise ConfigError("data=folders needs data.images=DIR, data.masks=DIR and lists=DIR")
    files = folder_files(request)
    pairs, problems = files.pairs()
    if problems:
        raise DataError("\n".join(problems))
    found = {name: mask for name, (_, mask) in pairs.items()}
    return Place(found, user_path(request.lists), labels_file(files.masks, None))


def folder_files(request: Request) -> FolderFiles:
    """The files of ``data=folders``."""
    folders = (user_path(request.images or ""), user_path(request.masks or ""))
    return FolderFiles(*folders, request.image_suffix, request.mask_suffix, [])


def find_masks(root: Path, of: str | None) -> dict[str, Path]:
    """The masks of a list, or all that there are, by their ids."""
    folder = root / MASKS
    if not folder.is_dir():
        raise DataError(f"data.root={root}: has no SegmentationClass; expected a VOC folder")
    files = files_by_id(folder, None)
    if twice := with_several(files):
        raise DataError(
            f"{folder}: {len(twice)} ids have several masks; expected one for each:\n"
            f"{bullet_list(twice)}"
        )
    masks = {name: found[0] for name, found in files.items()}
    ids = sorted(masks) if of is None else read_split(root, of)
    if not ids:
        raise DataError(f"{folder}: holds no masks")
    if lost := [name for name in ids if name not in masks]:
        raise DataError(f"{folder}: lacks the masks of {len(lost)} ids:\n{bullet_list(lost)}")
    images = root / IMAGES
    there = files_by_id(images, None)
    if images.is_dir() and (lost := [name for name in ids if name not in there]):
        raise DataError(
            f"{images}: lacks the images of {len(lost)} masks. Add them, or take the masks "
            f"out of {folder}:\n{bullet_list(lost)}"
        )
    return {name: masks[name] for name in ids}


def find_groups(ids: Sequence[str], pattern: str | None) -> NDArray[np.int64]:
    """A number for each image, equal for those that must stay together."""
    if pattern is None:
        return np.arange(len(ids))
    numbers: NDArray[np.int64] = np.unique(group_names(ids, pattern), return_inverse=True)[1]
    return numbers


class Counted(NamedTuple):
    """How many pixels of a mask have each value, (256,), and its palette as in ``Facts``."""

    pixels: NDArray[np.int64]
    palette: list[Any]


def count_pixels(request: Request, path: Path) -> Counted:
    stored, colormap = load_labels(path), parse_colormap(request.colormap)
    mask = to_labels(stored, colormap, request.ignore_index, str(path))
    if mask.size and mask.max() > 255:
        raise DataError(f"{path}: holds {mask.max()}; expected class ids up to 255")
    palette = used_palette(stored, mask != request.ignore_index)
    return Counted(np.bincount(mask.ravel(), minlength=256), palette)


def table(
    labels: Path,
    labelled: NDArray[np.int64],
    pixels: NDArray[np.int64],
    names: Sequence[str],
    parts: NDArray[np.int64],
    ignore_index: int,
) -> str:
    """The classes with their pixels in each part."""
    known = read_labels_file(labels).names if labels.exists() else []
    size = max(len(known), 1 + int(labelled.max(initial=0)))
    classes = [known[i] if i < len(known) else f"class_{i}" for i in range(size)]
    counts = {}
    for number, name in enumerate(names):
        total = pixels[parts == number].sum(axis=0)
        ignored = 0
        if 0 <= ignore_index <= 255:
            ignored, total[ignore_index] = int(total[ignore_index]), 0
        counts[name] = Counts(total[:size], ignored)
    return class_table(classes, counts)


if __name__ == "__main__":
    sys.exit(run_tool(Request, split, sys.argv[1:], str(__doc__)))
