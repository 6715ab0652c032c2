"""labelme: one JSON file per picture, with polygons, rectangles, circles and masks."""

import base64
import binascii
import math
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.data.decode import load, read_labels
from segkit.data.orientation import shown_size
from segkit.data.threads import each
from segkit.errors import DataError
from segkit.tools.formats.annotation import (
    Annotations,
    Item,
    Request,
    files_below,
    find_picture,
    item_name,
    left_out,
    mask_size,
    missing_pictures,
    number_labels,
    read_json,
)
from segkit.tools.formats.drawing import Area, Size, ellipse, paint, paste, polygon, turned_box

WITHOUT_AREA = ("point", "points", "line", "linestrip")


def read_labelme(request: Request) -> Annotations:
    """All JSON files in a folder and below, or one file.

    Labels are numbered by their names; ``_background_`` is class 0 and ``__ignore__`` is 255, as in
    labelme's own exports. A later shape covers an earlier one. Points and lines have no area and
    are left out. The picture is the file that ``imagePath`` names, or else ``imageData``.
    """
    source = Path(request.source).expanduser()
    files = [source] if source.is_file() else files_below(source, [".json"])
    if not files:
        raise DataError(f"{source}: holds no JSON file; expected those of labelme")
    base = source if source.is_dir() else source.parent
    heads = each(partial(_head, request), files, "read")
    if missing := [
        f"{path}: {head[0]}" for path, head in zip(files, heads, strict=True) if not head[1]
    ]:
        raise missing_pictures(missing, request.image_folders(base))
    labels = sorted({label for _, _, kinds in heads for _, label in kinds})
    classes, numbers = number_labels(labels, request)
    overlap = request.overlap_or("last")
    items = [
        Item(
            item_name(path.relative_to(base).as_posix()),
            image,
            path,
            partial(_draw, path, image, numbers, overlap),
        )
        for path, (_, image, _) in zip(files, heads, strict=True)
        if image is not None
    ]
    dropped = Counter(
        f"shapes of type {kind} (no area)"
        for _, _, kinds in heads
        for kind, _ in kinds
        if kind in WITHOUT_AREA
    )
    return Annotations(classes, items, notes=left_out(dropped))


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{path}: has no list of shapes; expected a JSON file of labelme")
    return content


def _head(request: Request, path: Path) -> tuple[str, Path | bytes | None, list[tuple[str, str]]]:
    """The picture's name, the picture, and (type, label) of each shape."""
    content = _load(path)
    name = str(content.get("imagePath") or "imagePath is not set")
    image: Path | bytes | None = find_picture(name, request.image_folders(path.parent))
    if image is None and content.get("imageData"):
        try:
            image = base64.b64decode(content["imageData"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise DataError(f"{path}: imageData is damaged, and there is no {name}") from None
    kinds = []
    for shape in content["shapes"]:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise DataError(f"{path}: holds a shape without a label")
        kinds.append((shape.get("shape_type") or "polygon", shape["label"]))
    return name, image, kinds


def _draw(
    path: Path, image: Path | bytes, numbers: dict[str, int], overlap: str
) -> NDArray[np.uint8]:
    content = _load(path)
    size = _size(content, path, image)
    layers = []
    for number, shape in enumerate(content["shapes"]):
        if shape.get("shape_type") in WITHOUT_AREA:
            continue
        try:
            layers.append((numbers[shape["label"]], _area(shape, size)))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            kind = shape.get("shape_type") or "polygon"
            raise DataError(
                f"{path}: shape {number} ({kind} of {shape['label']!r}) cannot be drawn: {error}"
            ) from None
    return paint(layers, size, overlap)


def _size(content: dict[str, Any], path: Path, image: Path | bytes) -> Size:
    """Height and width as labelme saw the picture, or of the picture itself."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return mask_size(height, width, str(path))
    if isinstance(image, bytes):
        raise DataError(f"{path}: imageHeight and imageWidth are {height} and {width}")
    return shown_size(load(image))


def _area(shape: dict[str, Any], size: Size) -> Area:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "polygon":
        return polygon(points, size)
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError("a type that is not known here")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return polygon(turned_box((x0, y0, x1, y1)), size)
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(x1 - x0, y1 - y0)
        if radius == 0:
            raise ValueError("the radius is 0")
        return ellipse((x0, y0), (radius, radius), 0.0, size)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mask.png"
        file.write_bytes(base64.b64decode(shape["mask"], validate=True))
        return paste(read_labels(file) > 0, int(x0), int(y0), size)
