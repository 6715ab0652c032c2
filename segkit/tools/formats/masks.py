"""Masks that are images already: of colours, of 0 and 255, or a folder for each class."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.data.classes import read_lines
from segkit.data.colors import classes_of_colors, fill_palette
from segkit.data.threads import map_parallel
from segkit.errors import DataError
from segkit.files import user_path
from segkit.text import bullet_list
from segkit.tools.formats.annotation import (
    Annotations,
    Item,
    Request,
    check_classes,
    check_ignored,
)
from segkit.tools.formats.drawing import IGNORE, paint
from segkit.tools.formats.mask_files import (
    check_images,
    class_folders,
    image_files,
    items_of,
    mask_files,
    read_grey,
    read_rgb,
    unused,
    within_valid,
)

GREY = (
    "The mask is grey: masks of 0 and 255 are format=binary, and grey values that are class ids "
    "are format=ids, both without colors="
)


def read_colors(request: Request) -> Annotations:
    """A folder of RGB, palette or grey masks, whose colours stand for classes.

    The classes are those of ``colors``, in its order, and keep their colours. Every pixel must have
    one of them, or VOC's border colour.
    """
    source = user_path(request.source)
    masks = mask_files(request, source)
    colors = _parse_colors(request, source)
    if not colors:
        raise _unknown_colors([*masks.values()])
    check_ignored(request, list(colors))
    names = [name for name in colors if name not in request.ignore]
    classes = request.classes or names
    if set(classes) != set(names):
        raise DataError(f"classes are {classes}, but colors has {names} besides those to ignore")
    check_classes(classes)
    palette = np.array([colors[name] for name in classes], np.uint8)
    known = np.array(
        [*palette.tolist(), *(colors[n] for n in colors if n not in classes)], np.uint8
    )
    ids = np.array([*range(len(classes)), *[IGNORE] * (len(known) - len(classes))], np.uint8)

    def draw(path: Path) -> NDArray[np.uint8]:
        # An unlisted colour is an error there; the border's, if unlisted, comes back as len(ids).
        rgb = read_rgb(path)
        try:
            found = classes_of_colors(rgb, known, len(ids), str(path), "colors")
        except DataError as error:
            if (rgb == rgb[..., :1]).all():
                raise DataError(f"{error}. {GREY}") from None
            raise
        return np.append(ids, np.uint8(IGNORE))[found]

    items = items_of(request, masks, draw)
    return Annotations(classes, items, fill_palette(palette), unused(request, [source], items))


def read_binary(request: Request) -> Annotations:
    """A folder of masks in which 255 (or 1) marks the only class besides the background."""
    source = user_path(request.source)
    classes = request.classes or ["background", "object"]
    if len(classes) != 2:
        raise DataError(f"classes are {classes}; expected two, the background first")
    check_classes(classes)

    def draw(path: Path) -> NDArray[np.uint8]:
        values = read_grey(path)
        if request.threshold:
            return (values >= request.threshold).astype(np.uint8)
        found = set(np.unique(values).tolist())
        if not (found <= {0, 255} or found <= {0, 1}):
            others = sorted(found - {0, 255})
            raise DataError(
                f"{path}: holds values besides 0 and 255: {', '.join(map(str, others[:8]))}. Was "
                "it resized? With threshold=128 all from there on belong to the object"
            )
        return (values > 0).astype(np.uint8)

    items = items_of(request, mask_files(request, source), draw)
    return Annotations(classes, items, notes=unused(request, [source], items))


def read_folders(request: Request) -> Annotations:
    """A folder per class with masks in which everything but 0 belongs to it.

    Classes are numbered by the names of their folders, after the background, and a later one covers
    an earlier one. An image without a mask in a folder does not show that class.
    """
    source = user_path(request.source)
    names = [path.name for path in class_folders(source)]
    check_ignored(request, names)
    classes = request.classes or ["background", *(n for n in names if n not in request.ignore)]
    wrong = set(names) - {*classes, *request.ignore} | {c for c in classes[1:] if c not in names}
    if wrong or not names:
        raise DataError(
            f"{source}: holds the folders {', '.join(names) or 'none'}, but classes are {classes}; "
            "expected a folder for each class but the background"
        )
    check_classes(classes)
    numbers = {name: IGNORE if name in request.ignore else classes.index(name) for name in names}
    parts: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for name in sorted(names, key=lambda name: numbers[name]):
        for stem, path in mask_files(request, source / name).items():
            parts[stem].append((numbers[name], path))
    overlap, images = request.overlap_or("last"), image_files(request)
    check_images(request, list(parts), images)
    items = []
    for stem, layers in sorted(parts.items()):
        first = layers[0][1]
        draw = within_valid(request, stem, first, partial(_stack, layers, overlap))
        items.append(Item(stem, images[stem], first, draw))
    return Annotations(classes, items, notes=unused(request, [], items))


def _stack(layers: Sequence[tuple[int, Path]], overlap: str) -> NDArray[np.uint8]:
    areas = [(number, read_grey(path) > 0) for number, path in layers]
    sizes = {area.shape for _, area in areas}
    if len(sizes) > 1:
        raise DataError(
            f"{layers[0][1]}: the masks of this image in the folders of the classes have the "
            f"sizes {sorted(sizes)} (height, width); expected one"
        )
    return paint(areas, areas[0][1].shape, overlap)


def _parse_colors(request: Request, source: Path) -> dict[str, list[int]]:
    """Names and colours from ``colors``: a mapping, or a file (CVAT's labelmap.txt by default)."""
    colors = request.colors
    if colors is None and (source / "labelmap.txt").is_file():
        colors = str(source / "labelmap.txt")
    where = "colors"
    if isinstance(colors, str):
        where = colors
        lines = [line.split(":") for line in read_lines(colors) if line and line[0] != "#"]
        try:
            rows = [(name.strip(), [int(v) for v in rgb.split(",")]) for name, rgb, *_ in lines]
        except ValueError:
            raise DataError(f"{where}: expected lines of name:red,green,blue") from None
        colors = dict(rows)
        if twice := [
            name for name, count in Counter(name for name, _ in rows).items() if count > 1
        ]:
            raise DataError(
                f"{where}: the name {twice[0]!r} has several colours. Give each line a name of "
                "its own; data.label_map can make one class of them when they are used"
            )
    if not isinstance(colors, Mapping):
        if colors is None:
            return {}
        raise DataError(f"colors is {colors!r}; expected {{name: [r,g,b], ...}} or a file")
    for name, color in colors.items():
        good = isinstance(color, list) and len(color) == 3
        if not good or not all(type(v) is int and 0 <= v <= 255 for v in color):
            raise DataError(
                f"{where}: {name!r} is {color}; expected [red, green, blue] of 0 to 255"
            )
    if len({tuple(color) for color in colors.values()}) < len(colors):
        raise DataError(f"{where}: two names have one colour")
    return {str(name): list(color) for name, color in colors.items()}


def _unknown_colors(masks: Sequence[Path]) -> DataError:
    """An error that lists the colours that there are."""
    counts: Counter[tuple[int, ...]] = Counter()

    def count(path: Path) -> Counter[tuple[int, ...]]:
        colors, numbers = np.unique(read_rgb(path).reshape(-1, 3), axis=0, return_counts=True)
        pairs = zip(colors.tolist(), numbers.tolist(), strict=True)
        return Counter({tuple(color): number for color, number in pairs})

    for found in map_parallel(count, masks, "count colours"):
        counts.update(found)
    lines = [f"{list(color)}: {number:,} pixels" for color, number in counts.most_common()]
    names = ", ".join(f"NAME{i}: {list(c)}" for i, (c, _) in enumerate(counts.most_common(30)))
    return DataError(
        f"colors is not set, so the classes are unknown. {len(counts)} colours occur:\n"
        f"{bullet_list(lines)}\nName them, in class order: 'colors={{{names}}}'".replace(
            "], [", "],["
        )
    )
