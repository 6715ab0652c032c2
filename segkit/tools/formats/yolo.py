"""YOLO: a text file per image, with a polygon of normalised corners in each line."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from segkit.data.classes import read_lines
from segkit.data.decode import load
from segkit.data.named_files import files_below, files_by_id
from segkit.data.orientation import shown_size
from segkit.data.pairs import SUFFIXES
from segkit.errors import DataError
from segkit.files import is_file, refuse_special, user_path
from segkit.tools.formats.annotation import (
    Annotations,
    Item,
    Request,
    item_name,
    left_out,
    number_labels,
)
from segkit.tools.formats.drawing import brief, paint, polygon

SPLITS = ("train", "val", "test")
FILES = ("data.yaml", "data.yml", "dataset.yaml")
SLACK = 0.01  # corners may lie so far outside of the image, as programs round them


def read_yolo(request: Request) -> Annotations:
    """A folder with ``data.yaml``, that file, or a folder of labels with ``images`` beside.

    Class k of the file is class k + 1 here, after the background. A smaller object covers a larger
    one, since YOLO says nothing of depth. An image without a file of labels is background.
    """
    source = user_path(request.source)
    file = _description(source)
    names = _names(file, request)
    classes, numbers = number_labels(names, request)
    ids = [numbers[name] for name in names]
    if file is not None and file in (source, source / file.name) and request.images is None:
        found = list(_described(file, request))
    else:
        found = list(_beside(source, request))
    overlap = request.overlap_or("area")
    unseen: list[str] = []
    items = [
        Item(name, image, labels, partial(_draw, labels, image, ids, overlap, unseen))
        for name, image, labels in found
    ]
    lost = sum(not labels.exists() for _, _, labels in found)
    if items and lost == len(items):
        raise DataError(
            f"{source}: no image has a file of labels; the first is expected as {found[0][2]}"
        )
    notes = left_out({})
    if lost:
        notes.append(f"{lost} images without a file of labels are background")
    return Annotations(classes, items, notes=notes, unseen=unseen)


def _description(source: Path) -> Path | None:
    """The YAML file that is meant, lies in the folder, or up to three above it."""
    if source.suffix.lower() in (".yaml", ".yml"):
        return source
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; expected one with data.yaml, or that file")
    home = source.absolute()
    places = [source, *(source / Path(*[".."] * up) for up in range(1, 4) if len(home.parts) > up)]
    files = (place / name for place in places for name in FILES)
    return next((file for file in files if file.is_file()), None)


def _content(file: Path) -> dict[str, Any]:
    refuse_special(file)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DataError(f"{file}: is no YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds no keys; expected names, train and val")
    return content


def _names(file: Path | None, request: Request) -> list[str]:
    """The classes in the order of their numbers.

    Raises:
        DataError: They are nowhere, or not numbered from 0 without a gap.
    """
    if file is None:
        if request.classes is None:
            raise DataError(
                f"{request.source}: has no {FILES[0]}, so the names are unknown; give source= the "
                "folder with that file, or classes=[background,NAME,NAME]"
            )
        return request.classes[1:]
    content = _content(file)
    if content.get("kpt_shape") is not None:
        raise DataError(
            f"{file}: describes key points (kpt_shape), which have no area; expected the polygons "
            "of labels for segmentation"
        )
    names = content.get("names")
    if isinstance(names, dict) and list(names) == list(range(len(names))):
        names = list(names.values())
    if not isinstance(names, list) or not names:
        raise DataError(
            f"{file}: names is {brief(names)}; expected a list, or a mapping of 0, 1, 2, ... to "
            "names"
        )
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise DataError(f"{file}: names holds {wrong[0]!r}, no text; put it in quotes")
    if len(set(names)) < len(names):
        raise DataError(f"{file}: names holds one name twice: {brief(names)}")
    return list(names)


def _described(file: Path, request: Request) -> Iterator[tuple[str, Path, Path]]:
    """Id, image and labels of the images that the file names for a split, or for all."""
    content = _content(file)
    entries = {name: content.get(name) for name in SPLITS}
    entries = {name: entry for name, entry in entries.items() if entry}
    if not entries:
        raise DataError(
            f"{file}: has no {', no '.join(SPLITS)}; expected the folders of their images, or give "
            "source= the folder of the labels"
        )
    if request.split in entries:
        entries = {request.split: entries[request.split]}
    elif request.split != "all":
        raise DataError(
            f"split={request.split}: {file} has {', '.join(entries) or 'no entry'}; expected one "
            "of them, or all"
        )
    for name, entry in entries.items():
        for one in entry if isinstance(entry, list) else [entry]:
            if not isinstance(one, str):
                raise DataError(f"{file}: {name} is {brief(one)}; expected a path")
            for image in _images(file, content.get("path"), name, one):
                labels, place = _labels_of(image)
                is_inside = place.is_relative_to(file.parent)
                inside = place.relative_to(file.parent) if is_inside else Path(place.name)
                yield item_name(inside.as_posix()), image, labels


def _images(file: Path, root: Any, key: str, entry: str) -> list[Path]:
    """The images of an entry: those in a folder, or in a list of paths.

    ``path`` of a file that was moved leads nowhere, and some programs write ``../`` in front.
    """
    home, plain = file.parent, entry.removeprefix("../")
    places = [home / str(root) / entry] if root else []
    places += [home / plain, home / entry]
    place = next((path for path in places if path.is_dir() or is_file(path)), None)
    if place is None:
        raise DataError(f"{file}: {key} is {entry}; no such folder, looked for {home / plain}")
    if place.is_dir():
        images = files_below(place, SUFFIXES)
    else:
        images = [place.parent / line for line in read_lines(place) if line]
    if not images:
        raise DataError(f"{file}: {key} is {entry}, which holds no images")
    return images


def _labels_of(image: Path) -> tuple[Path, Path]:
    """The file of labels by YOLO's rule, and the image's path without the folder ``images``."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if not places:
        return _text_file(image.with_suffix("")), image
    last = places[-1]
    labels = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix("")
    return _text_file(labels), Path(*parts[:last], *parts[last + 1 :])


def _text_file(plain: Path) -> Path:
    """The file of labels, whose type may be in capitals; ``plain`` is its path without type."""
    usual, capital = (plain.with_name(f"{plain.name}{kind}") for kind in (".txt", ".TXT"))
    return capital if capital.exists() and not usual.exists() else usual


def _beside(source: Path, request: Request) -> Iterator[tuple[str, Path, Path]]:
    """The same where ``source`` is the folder of the labels."""
    if request.images is None:
        parts = list(source.absolute().parts)
        if "labels" not in parts:
            raise DataError(f"images is not set: give the folder of the images of {source}")
        place = len(parts) - 1 - parts[::-1].index("labels")
        folder = Path(*parts[:place], "images", *parts[place + 1 :])
    else:
        (folder,) = request.image_folders()
    found = files_by_id(folder, None)
    if not found:
        raise DataError(f"{folder}: holds no images; give images=FOLDER, those of {source}")
    lost = [
        path.relative_to(source).as_posix()
        for path in files_below(source, (".txt",))
        if path.relative_to(source).with_suffix("").as_posix() not in found
    ]
    if lost:
        raise request.missing_images(lost, folder)
    for name, files in found.items():
        if len(files) > 1:
            raise DataError(f"{name}: {len(files)} images ({', '.join(map(str, files))})")
        yield item_name(f"{name}.png"), files[0], _text_file(source / name)


def _draw(
    labels: Path, image: Path, ids: Sequence[int], overlap: str, unseen: list[str]
) -> NDArray[np.uint8]:
    size = shown_size(load(image))
    layers = []
    for number, line in enumerate(read_lines(labels) if labels.exists() else [], 1):
        if not line:
            continue
        name = f"{labels}, line {number}"
        try:
            label, corners = _parse(line, len(ids))
            area = polygon(corners * np.array(size[::-1]), size)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from None
        if not area.any():
            unseen.append(name)
        layers.append((ids[label], area))
    return paint(layers, size, overlap)


def _parse(line: str, num_names: int) -> tuple[int, NDArray[np.float64]]:
    """The class and the corners of a line, (n, 2) of x and y in 0 to 1.

    Raises:
        ValueError: It is no polygon.
    """
    first, *rest = line.split()
    if not first.isdecimal() or int(first) >= num_names:
        raise ValueError(f"the class is {brief(first)}; expected 0 to {num_names - 1}")
    if len(rest) == 4:
        raise ValueError(
            "holds 4 numbers, a box; expected the corners of a polygon, as labels for "
            "segmentation have"
        )
    if len(rest) < 6 or len(rest) % 2:
        raise ValueError(f"holds {len(rest)} numbers; expected 3 or more pairs x y")
    try:
        values = np.array([float(text) for text in rest if "_" not in text])
    except ValueError:
        values = np.empty(0)
    if len(values) < len(rest) or not np.isfinite(values).all():
        raise ValueError(f"{brief(' '.join(rest))} are no numbers")
    if values.min() < -SLACK or values.max() > 1 + SLACK:
        worst = values[np.abs(values - 0.5).argmax()]
        raise ValueError(
            f"holds the coordinate {worst:g}; expected parts of the width and the height, 0 to 1"
        )
    return int(first), values.reshape(-1, 2)
