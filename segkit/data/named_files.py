"""Files that belong together by their names: the id of an image or mask, and ends that it lacks."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segkit.data.pairs import SUFFIXES, Pairs
from segkit.errors import DataError
from segkit.text import as_seen

ByID = dict[str, list[Path]]


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """All files with one of the suffixes, sorted; hidden files and folders are not meant.

    Links to folders are followed, unless they lead to a folder that holds them.

    Raises:
        DataError: A folder that may not be read: what it holds would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error

    found: list[Path] = []
    for home, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(home)
        folders[:] = [name for name in folders if name[0] != "." and not _leads_back(here / name)]
        files = (here / name for name in names if name[0] != ".")
        found += [path for path in files if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(found)


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def stem_of(name: str, suffix: str | None) -> str | None:
    """A file's name without its type and without ``suffix``; None if it does not end in that.

    ``suffix`` may hold the type, as ``_mask.png``, or not.
    """
    stem = Path(name).stem
    if not suffix:
        return stem
    kind = name.removeprefix(stem)
    for text in (name, stem + kind.lower(), stem):
        if text.endswith(suffix):
            return text.removesuffix(suffix) or None
    return None


def by_look(names: Iterable[str]) -> dict[str, str]:
    """Names by what they look like, in small letters."""
    return {_look(name): name for name in names}


def spelt_otherwise(name: str, there: Mapping[str, str]) -> str:
    """What to say of a missing name if one is there that looks like it; nothing if none is.

    Args:
        name: As it is written.
        there: The names that there are, :func:`by_look`.
    """
    near = there.get(_look(name), name)
    return (
        "" if near == name else f" (there is {near!a}, not {name!a}: rename the file, or the entry)"
    )


def _look(name: str) -> str:
    return as_seen(as_seen(name).casefold())


def files_by_id(
    folder: Path, suffix: str | None, *, without: str | None = None, outside: Path | None = None
) -> ByID:
    """The images or masks below a folder by their ids: paths in it without type and suffix.

    Args:
        folder: Where they lie, at any depth; ``*`` in it stands for any name, which ids begin with.
        suffix: How their names end, as ``_mask``; files that do not are others.
        without: How the names of others end that lie there as well.
        outside: A folder in it whose files are others.
    """
    found: ByID = defaultdict(list)
    for path, inside in images_below(folder):
        stem = stem_of(path.name, suffix)
        other = without and stem_of(path.name, without) is not None
        if stem and not other and (outside is None or not path.is_relative_to(outside)):
            found[inside.with_name(stem).as_posix()].append(path)
    return dict(found)


def with_several(found: ByID) -> list[str]:
    """A text for each id that several files have, of which nobody knows which one is meant."""
    return [
        f"{name}: {', '.join(map(str, files))}" for name, files in found.items() if len(files) > 1
    ]


def images_below(folder: Path) -> list[tuple[Path, Path]]:
    """All files of images, with their paths below the folder."""
    return [
        (path, start / path.relative_to(home))
        for home, start in folders_like(folder)
        for path in files_below(home, SUFFIXES)
    ]


def folders_like(folder: Path) -> list[tuple[Path, Path]]:
    """The folders that a path with ``*`` in it names, and what stands there in each.

    ``Train/*/masks`` may be ``Train/Urban/masks`` with ``Urban``, and so on.
    """
    stars = [place for place, part in enumerate(folder.parts) if "*" in part]
    if not stars:
        return [(folder, Path())] if folder.is_dir() else []
    base, rest = Path(*folder.parts[: stars[0]]), folder.parts[stars[0] :]
    return [
        (path, Path(*(path.parts[place] for place in stars)))
        for path in sorted(base.glob("/".join(rest)))
        if path.is_dir()
    ]


def match(
    images: ByID, masks: ByID, wanted: Iterable[str], expected: Mapping[str, str]
) -> tuple[Pairs, list[str]]:
    """The pairs of the ids that are wanted, and what keeps others from being one.

    Args:
        images: Files by id.
        masks: Files by id.
        wanted: Ids of images that are there.
        expected: For each of these, how its mask should be called.
    """
    pairs: Pairs = {}
    problems = []
    for name in wanted:
        image, mask = images[name], masks.get(name, [])
        for files, kind in ((image, "image"), (mask, "mask")):
            if len(files) > 1:
                problems.append(
                    f"{name}: {len(files)} files for one {kind} ({', '.join(map(str, files))})"
                )
        if not mask:
            problems.append(f"{image[0]}: has no mask; expected {expected[name]}")
        if len(image) == len(mask) == 1:
            pairs[name] = image[0], mask[0]
    return pairs, problems


def suffix_advice(images: Path, masks: Path) -> list[dict[str, str]]:
    """Ends of the names of images and masks with which each image has one mask; all that fit.

    They are found with the first image and those masks whose names begin most like it.
    """
    files, others = files_below(images, SUFFIXES), files_below(masks, SUFFIXES)
    if not files or not others or images == masks:
        return []
    first = files[0].relative_to(images).with_suffix("").as_posix()
    names = [path.relative_to(masks).with_suffix("").as_posix() for path in others]
    longest = max(len(_common_start(first, name)) for name in names)
    advice = []
    for name in names:
        start = _common_start(first, name)
        if len(start) < longest:
            continue
        if start not in (first, name):  # cat_image and cat_mask share cat, not cat_
            start = start.rstrip("_-. ")
        ends = first[len(start) :], name[len(start) :]
        found = [files_by_id(*which) for which in zip((images, masks), ends, strict=True)]
        is_whole = sum(map(len, found[0].values())) == len(files)
        if is_whole and all(len(found[1].get(one, [])) == 1 for one in found[0]):
            keys = zip(("image_suffix", "mask_suffix"), ends, strict=True)
            advice.append({key: end for key, end in keys if end})
    return advice


def _common_start(one: str, other: str) -> str:
    number = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return one[:number]
