"""COCO: one JSON file for all images, with polygons and run-length encoded masks."""

from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import DataError
from segkit.files import user_path
from segkit.tools.formats.annotation import (
    Annotations,
    Item,
    Request,
    item_name,
    left_out,
    mask_size,
    number_labels,
    read_json,
)
from segkit.tools.formats.drawing import Area, Size, brief, coordinates, paint, polygon, runs

LONGEST = 60  # bits of a number in run lengths: 12 characters


def read_coco(request: Request) -> Annotations:
    """One JSON file of instances (or ``stuff``), not the panoptic format.

    Classes are numbered by their category ids, without gaps, after the background. A smaller object
    covers a larger one, since COCO says nothing of depth; crowd regions lie below all objects.
    Images without annotations are background.
    """
    path = user_path(request.source)
    content = read_json(path)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        raise DataError(f"{path}: has no lists {', '.join(keys)}; expected COCO's instances")
    for key in keys:
        if wrong := [entry for entry in content[key] if not isinstance(entry, dict)]:
            raise DataError(f"{path}: {key} holds {brief(wrong[0])}; expected mappings")
    return _read(request, path, content)


def _read(request: Request, path: Path, content: dict[str, Any]) -> Annotations:
    if any("segments_info" in annotation for annotation in content["annotations"][:1]):
        raise DataError(
            f"{path}: is in COCO's panoptic format, whose masks are PNG files; expected instances"
        )
    _check_entries(path, content)
    names = {
        category["id"]: category["name"]
        for category in sorted(content["categories"], key=lambda c: c["id"])
    }
    classes, numbers = number_labels(names.values(), request)
    shapes = defaultdict(list)
    dropped: Counter[str] = Counter()
    for annotation in content["annotations"]:
        if annotation["category_id"] not in names:
            raise DataError(
                f"{path}: annotation {brief(annotation.get('id'))} has the category "
                f"{brief(annotation['category_id'])}, which is not among categories"
            )
        if annotation.get("segmentation"):
            shapes[annotation["image_id"]].append(annotation)
        else:
            dropped["annotations without segmentation"] += 1
    known = {image["id"] for image in content["images"]}
    if lost := [image for image in shapes if image not in known]:
        raise DataError(f"{path}: annotations of {len(lost)} images that are not among images")

    folders = path.parent, path.parent / "images"
    overlap = request.overlap_or("area")
    unseen: list[str] = []
    items, missing = [], []
    for image in content["images"]:
        file = request.find_image(image["file_name"], *folders)
        if file is None:
            missing.append(image["file_name"])
            continue
        size = mask_size(image.get("height"), image.get("width"), f"{path}: {image['file_name']}")
        layers = [(numbers[names[a["category_id"]]], a) for a in shapes[image["id"]]]
        draw = partial(_draw, path, layers, size, overlap, unseen)
        items.append(Item(item_name(image["file_name"]), file, path, draw))
    if missing:
        raise request.missing_images(missing, *folders)
    return Annotations(classes, items, notes=left_out(dropped), unseen=unseen)


KEYS: dict[str, dict[str, Any]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int | str, "file_name": str},
    "annotations": {"category_id": int, "image_id": int | str},
}


def _check_entries(path: Path, content: dict[str, Any]) -> None:
    """Raise a DataError unless entries have what all that follows relies on.

    Ids must be unique: of two categories with one id, all objects would be of the last.
    """
    for where, keys in KEYS.items():
        for place, entry in enumerate(content[where]):
            for key, kind in keys.items():
                value = entry.get(key)
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise DataError(
                        f"{path}: an entry is not as in COCO's format: {where}[{place}], {key} is "
                        f"{brief(value)}, no {'text' if kind is str else 'id'}"
                    )
        counts = Counter(entry["id"] for entry in content[where] if where != "annotations")
        if twice := [number for number, count in counts.items() if count > 1]:
            raise DataError(f"{path}: several {where} have the id {brief(twice[0])}")


def _draw(
    path: Path,
    annotations: list[tuple[int, dict[str, Any]]],
    size: Size,
    overlap: str,
    unseen: list[str],
) -> NDArray[np.uint8]:
    crowds: list[tuple[int, Area]] = []
    objects: list[tuple[int, Area]] = []
    for number, annotation in annotations:
        name, crowd = f"{path}: annotation {brief(annotation.get('id'))}", annotation.get("iscrowd")
        try:
            if crowd not in (0, 1, None):
                raise ValueError(f"iscrowd is {brief(crowd)}; expected 0 or 1")
            area = segmentation_area(annotation["segmentation"], size)
        except ValueError as error:
            raise DataError(f"{name} cannot be drawn: {error}") from None
        if not area.any():
            unseen.append(name)
        (crowds if crowd else objects).append((number, area))
    mask = paint(crowds, size, overlap)
    over = paint(objects, size, overlap)
    covered = np.logical_or.reduce([area for _, area in objects], initial=False)
    return np.where(covered, over, mask)


def segmentation_area(segmentation: Any, size: Size) -> Area:
    """Pixels of a ``segmentation``: polygons ``[[x, y, x, y, ...]]``, or runs down columns.

    Raises:
        ValueError: It cannot be drawn.
    """
    if isinstance(segmentation, list):
        area = np.zeros(size, bool)
        for flat in segmentation:
            if not isinstance(flat, list):
                raise ValueError(f"a polygon is {brief(flat)}; expected [x, y, x, y, ...]")
            if len(flat) % 2 or len(flat) < 6:
                raise ValueError(f"a polygon of {len(flat)} numbers; expected 3 or more pairs")
            area |= polygon(coordinates(flat, "corners").reshape(-1, 2), size)
        return area
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(f"its segmentation is {brief(segmentation)}; expected polygons or runs")
    if segmentation["size"] != list(size):
        raise ValueError(f"its size is {brief(segmentation['size'])}, its image's {list(size)}")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = decode_counts(counts)
    return runs(counts, (size[1], size[0])).T


def decode_counts(text: str) -> list[int]:
    """Run lengths out of COCO's compressed text.

    Each character holds 5 bits, low ones first, and a bit that says whether more follow; the last
    bit is the sign. From the fourth run on, the difference to the run two places before is stored.

    Raises:
        ValueError: Another character, an early end, or a run longer than any image. (Numbers
            without an end make the work grow with the square of their length.)
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {character!r} in its counts")
        value |= (bits & 31) << shift
        shift += 5
        if shift > LONGEST:
            raise ValueError(f"its counts hold a number of more than {LONGEST} bits")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        value += counts[-2] if len(counts) > 2 else 0
        if not 0 <= value < 1 << LONGEST:
            raise ValueError(f"one of its runs is {value} pixels long")
        counts.append(value)
        value = shift = 0
    if shift:
        raise ValueError("its counts end too early")
    return counts
