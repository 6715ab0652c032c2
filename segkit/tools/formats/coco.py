"""COCO: one JSON file for all pictures, with polygons and run-length encoded masks."""

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
    find_picture,
    item_name,
    left_out,
    mask_size,
    missing_pictures,
    number_labels,
    read_json,
)
from segkit.tools.formats.drawing import Area, Size, paint, polygon, runs


def read_coco(request: Request) -> Annotations:
    """One JSON file of instances (or ``stuff``), not the panoptic format.

    Classes are numbered by their category ids, without gaps, after the background. A smaller object
    covers a larger one, since COCO says nothing of depth; crowd regions lie below all objects.
    Pictures without annotations are background.
    """
    path = user_path(request.source)
    content = read_json(path)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        raise DataError(f"{path}: has no lists {', '.join(keys)}; expected COCO's instances")
    try:
        return _read(request, path, content)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: an entry is not as in COCO's format ({error!r})") from error


def _read(request: Request, path: Path, content: dict[str, Any]) -> Annotations:
    if any("segments_info" in annotation for annotation in content["annotations"][:1]):
        raise DataError(
            f"{path}: is in COCO's panoptic format, whose masks are PNG files; expected instances"
        )
    names = {
        category["id"]: _text(category, "name")
        for category in sorted(content["categories"], key=lambda c: c["id"])
    }
    classes, numbers = number_labels(names.values(), request)
    shapes = defaultdict(list)
    dropped: Counter[str] = Counter()
    for annotation in content["annotations"]:
        if annotation["category_id"] not in names:
            raise DataError(
                f"{path}: annotation {annotation.get('id')} has the category "
                f"{annotation['category_id']}, which is not among categories"
            )
        if annotation.get("segmentation"):
            shapes[annotation["image_id"]].append(annotation)
        else:
            dropped["annotations without segmentation"] += 1
    known = {image["id"] for image in content["images"]}
    if lost := [image for image in shapes if image not in known]:
        raise DataError(f"{path}: annotations of {len(lost)} pictures that are not among images")

    folders = request.image_folders(path.parent, path.parent / "images")
    overlap = request.overlap_or("area")
    items, missing = [], []
    for image in content["images"]:
        file = find_picture(_text(image, "file_name"), folders)
        if file is None:
            missing.append(image["file_name"])
            continue
        size = mask_size(image["height"], image["width"], f"{path}: {image['file_name']}")
        layers = [(numbers[names[a["category_id"]]], a) for a in shapes[image["id"]]]
        draw = partial(_draw, path, layers, size, overlap)
        items.append(Item(item_name(image["file_name"]), file, path, draw))
    if missing:
        raise missing_pictures(missing, folders)
    return Annotations(classes, items, notes=left_out(dropped))


def _text(entry: dict[str, Any], key: str) -> str:
    if not isinstance(entry[key], str):
        raise TypeError(f"{key} is {entry[key]!r}, no text")
    return str(entry[key])


def _draw(
    path: Path, annotations: list[tuple[int, dict[str, Any]]], size: Size, overlap: str
) -> NDArray[np.uint8]:
    crowds: list[tuple[int, Area]] = []
    objects: list[tuple[int, Area]] = []
    for number, annotation in annotations:
        try:
            area = segmentation_area(annotation["segmentation"], size)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}: annotation {annotation.get('id')} cannot be drawn: {error}"
            ) from None
        (crowds if annotation.get("iscrowd") else objects).append((number, area))
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
            if len(flat) % 2 or len(flat) < 6:
                raise ValueError(f"a polygon of {len(flat)} numbers; expected 3 or more pairs")
            area |= polygon(np.reshape(flat, (-1, 2)), size)
        return area
    if list(segmentation["size"]) != list(size):
        raise ValueError(f"its size is {segmentation['size']}, its picture's {list(size)}")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = decode_counts(counts)
    return runs(counts, (size[1], size[0])).T


def decode_counts(text: str) -> list[int]:
    """Run lengths out of COCO's compressed text.

    Each character holds 5 bits, low ones first, and a bit that says whether more follow; the last
    bit is the sign. From the fourth run on, the difference to the run two places before is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {character!r} in its counts")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its counts end too early")
    return counts
