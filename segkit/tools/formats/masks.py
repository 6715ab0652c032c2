"""Masks that are images already: of colours, of 0 and 255, or a folder for each class."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.commands import command
from segkit.data.classes import read_lines
from segkit.data.colors import classes_of_colors, fill_palette
from segkit.data.decode import load_labels
from segkit.data.levels import image_of
from segkit.data.threads import map_parallel
from segkit.data.voc import SUFFIXES
from segkit.errors import DataError
from segkit.files import user_path
from segkit.text import bullet_list
from segkit.tools.formats.annotation import (
    Annotations,
    Item,
    Request,
    check_classes,
    files_below,
    item_name,
    left_out,
)
from segkit.tools.formats.drawing import IGNORE, paint

Draw = Callable[[Path], NDArray[np.uint8]]

GREY = (  # and how to divide them
    "The mask is grey: masks of 0 and 255 are format=binary. Grey values that are class ids need "
    "no conversion: copy the masks to OUT/SegmentationClass, the images to OUT/JPEGImages under "
    "the same names, write the names of the classes to OUT/labels.txt, one a line, and divide "
    "them: "
)


def read_colors(request: Request) -> Annotations:
    """A folder of RGB, palette or grey masks, whose colours stand for classes.

    The classes are those of ``colors``, in its order, and keep their colours. Every pixel must have
    one of them, or VOC's border colour.
    """
    source = user_path(request.source)
    masks = _mask_files(source)
    colors = _parse_colors(request, source)
    if not colors:
        raise _unknown_colors(masks)
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
        rgb = _read_rgb(path)
        try:
            found = classes_of_colors(rgb, known, len(ids), str(path), "colors")
        except DataError as error:
            if (rgb == rgb[..., :1]).all():
                raise DataError(f"{error}. {GREY}{command('split')} data.root=OUT") from None
            raise
        return np.append(ids, np.uint8(IGNORE))[found]

    items = _items(request, masks, source, draw)
    return Annotations(classes, items, fill_palette(palette), _unlabelled(request, items))


def read_binary(request: Request) -> Annotations:
    """A folder of masks in which 255 (or 1) marks the only class besides the background."""
    source = user_path(request.source)
    classes = request.classes or ["background", "object"]
    if len(classes) != 2:
        raise DataError(f"classes are {classes}; expected two, the background first")
    check_classes(classes)

    def draw(path: Path) -> NDArray[np.uint8]:
        values = _read_grey(path)
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

    items = _items(request, _mask_files(source), source, draw)
    return Annotations(classes, items, notes=_unlabelled(request, items))


def read_folders(request: Request) -> Annotations:
    """A folder per class with masks in which everything but 0 belongs to it.

    Classes are numbered by the names of their folders, after the background, and a later one covers
    an earlier one. An image without a mask in a folder does not show that class.
    """
    source = user_path(request.source)
    inside = sorted(source.iterdir()) if source.is_dir() else []
    names = [path.name for path in inside if path.is_dir() and path.name[0] != "."]
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
        for path in _mask_files(source / name):
            stem = item_name(_stem(request, path, source / name))
            parts[stem].append((numbers[name], path))
    overlap, images = request.overlap_or("last"), _images(request)
    _check_images(request, list(parts), images)
    items = [
        Item(stem, images[stem], layers[0][1], partial(_stack, layers, overlap))
        for stem, layers in sorted(parts.items())
    ]
    return Annotations(classes, items, notes=_unlabelled(request, items))


def _stack(layers: Sequence[tuple[int, Path]], overlap: str) -> NDArray[np.uint8]:
    areas = [(number, _read_grey(path) > 0) for number, path in layers]
    sizes = {area.shape for _, area in areas}
    if len(sizes) > 1:
        raise DataError(
            f"{layers[0][1]}: the masks of this image in the folders of the classes have the "
            f"sizes {sorted(sizes)} (height, width); expected one"
        )
    return paint(areas, areas[0][1].shape, overlap)


def _unlabelled(request: Request, items: Sequence[Item]) -> list[str]:
    return left_out({"images without a mask": len(_images(request)) - len(items)})


def _items(request: Request, masks: Sequence[Path], source: Path, draw: Draw) -> list[Item]:
    images = _images(request)
    names = [item_name(_stem(request, path, source)) for path in masks]
    _check_images(request, names, images)
    return [
        Item(name, images[name], path, partial(draw, path))
        for name, path in zip(names, masks, strict=True)
    ]


def _check_images(request: Request, names: Sequence[str], images: Mapping[str, Path]) -> None:
    """Raise a DataError unless there is an image of each name."""
    missing = [name for name in names if name not in images]
    if not missing:
        return
    error = request.missing_images(missing)
    starts = [name for name in images if missing[0].startswith(name)]
    if starts and request.mask_suffix is None:
        end = missing[0].removeprefix(max(starts, key=len))
        raise DataError(
            f"{error}\nAre the masks called as the images, with {end} at their end? "
            f"Then add mask_suffix={end}"
        )
    raise error


def _mask_files(folder: Path) -> list[Path]:
    masks = files_below(folder, SUFFIXES) if folder.is_dir() else []
    if not masks:
        raise DataError(f"{folder}: holds no masks; expected files {' '.join(SUFFIXES)}")
    return masks


def _stem(request: Request, path: Path, folder: Path) -> str:
    """Path of the mask below its folder, named as the image is, and without suffix."""
    stem, end = path.stem, request.mask_suffix or ""
    if not stem.endswith(end):
        raise DataError(f"{path}: does not end in mask_suffix={end}")
    return (path.parent.relative_to(folder) / stem.removesuffix(end)).as_posix()


def _images(request: Request) -> dict[str, Path]:
    if request.images is None:
        raise DataError(
            "images is not set: masks are files, so images=FOLDER must say where the images are"
        )
    (folder,) = request.image_folders()
    files = files_below(folder, SUFFIXES)
    names = [item_name(path.relative_to(folder).as_posix()) for path in files]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{folder}: several images with one name:\n{bullet_list(twice)}")
    return dict(zip(names, files, strict=True))


def _read_rgb(path: Path) -> NDArray[np.integer[Any]]:
    """The colours of a mask, (H, W, 3); grey ones are three equal values."""
    stored = load_labels(path)
    if stored.numbers.ndim == 3:
        return stored.numbers
    if stored.palette is not None:
        if stored.numbers.max(initial=0) >= len(stored.palette):
            raise DataError(
                f"{path}: holds the index {stored.numbers.max()}, but its palette has "
                f"{len(stored.palette)} colours; expected one for each. Export the mask again"
            )
        colors: NDArray[np.uint8] = stored.palette[stored.numbers]
        return colors
    if stored.white is None or stored.white > 255:
        raise DataError(
            f"{path}: is grey with more than 8 bits, so its values are no colours; expected RGB, a "
            "palette, or grey of 8 bits. Save it as one of them"
        )
    return image_of(stored, None, str(path))


def _read_grey(path: Path) -> NDArray[np.integer[Any]]:
    """Values of a mask that has one channel, or three equal ones.

    A palette of greys stands for its greys, if that tells the same pixels from 0 as the indices do.
    """
    stored = load_labels(path)
    values = stored.numbers
    if stored.palette is not None and values.max(initial=0) < len(stored.palette):
        used = np.unique(values)
        colors = stored.palette[used]
        if (colors == colors[:, :1]).all() and len(np.unique(colors[:, 0])) == len(used):
            if ((colors[:, 0] > 0) != (used > 0)).any():
                raise DataError(
                    f"{path}: its palette shows the index 0 as {tuple(stored.palette[0].tolist())} "
                    "or another as black, so which of them is the object? Say it by colour: "
                    "format=rgb 'colors={background: [0,0,0], object: [255,255,255]}'"
                )
            return stored.palette[values][..., 0]
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise DataError(f"{path}: has colours; expected black and white, or format=rgb")
        values = values[..., 0]
    return values


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
            colors = {name.strip(): [int(v) for v in rgb.split(",")] for name, rgb, *_ in lines}
        except ValueError:
            raise DataError(f"{where}: expected lines of name:red,green,blue") from None
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
        colors, numbers = np.unique(_read_rgb(path).reshape(-1, 3), axis=0, return_counts=True)
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
