"""labelme: one JSON file per image, with polygons, rectangles, circles and masks."""

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

from segkit.data.bands import count_bands
from segkit.data.decode import load, read_labels
from segkit.data.named_files import files_below
from segkit.data.orientation import shown_size
from segkit.data.threads import attempt
from segkit.errors import DataError
from segkit.files import user_path
from segkit.text import bullet_list
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
from segkit.tools.formats.drawing import (
    Area,
    Size,
    brief,
    coordinates,
    ellipse,
    paint,
    paste,
    polygon,
    turned_box,
)

WITHOUT_AREA = ("point", "points", "line", "linestrip")
NUM_POINTS = {
    "rectangle": (2, 4),  # labelme: two opposite corners; programs that build on it: all four
    "rotation": (4,),
    "oriented_rectangle": (4,),
    "circle": (2,),
    "mask": (2,),
}


def read_labelme(request: Request) -> Annotations:
    """All JSON files in a folder and below, or one file.

    Labels are numbered by their names; ``_background_`` is class 0 and ``__ignore__`` is 255, as in
    labelme's own exports. A later shape covers an earlier one. Points and lines have no area and
    are left out. The image is the file that ``imagePath`` names, or else ``imageData``.
    """
    source = user_path(request.source)
    files = [source] if source.is_file() else files_below(source, [".json"])
    if not files:
        raise DataError(f"{source}: holds no JSON file; expected those of labelme")
    base = source if source.is_dir() else source.parent
    overlap = request.overlap_or("last")
    read = attempt(partial(_head, request, base), files, "read")
    heads = [head for head in read if not isinstance(head, DataError)]
    if len(heads) < len(files) or any(image is None for _, image, _ in heads):
        raise _problems(dict(zip(files, read, strict=True)), request, base)
    labels = sorted({label for _, _, kinds in heads for _, label in kinds})
    classes, numbers = number_labels(labels, request)
    unseen: list[str] = []
    items = [
        Item(
            item_name(path.relative_to(base).as_posix()),
            image,
            path,
            partial(_draw, path, image, numbers, overlap, unseen),
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
    return Annotations(classes, items, notes=left_out(dropped), unseen=unseen)


Head = tuple[str, Path | bytes | None, list[tuple[str, str]]]
"""The image's name, the image, and (type, label) of each shape."""


def _problems(read: dict[Path, Head | DataError], request: Request, base: Path) -> DataError:
    """All that is wrong with the files in one error, also with those that could be read so far."""
    missing, wrong, drawn = [], [], {}
    for path, head in read.items():
        if isinstance(head, DataError):
            wrong.append(str(head))
        elif head[1] is None:
            missing.append(f"{path}: {head[0]}")
        else:
            drawn[path] = head

    def draw(path: Path) -> None:
        _, image, kinds = drawn[path]
        assert image is not None
        _draw(path, image, {label: 0 for _, label in kinds}, "last", [])

    tried = attempt(draw, list(drawn), "draw")
    wrong += [str(problem) for problem in tried if problem is not None]
    texts = []
    if wrong:
        texts.append(f"{len(wrong)} of {len(read)} cannot be used:\n{bullet_list(wrong)}")
    if missing:
        texts.append(str(request.missing_images(missing, base)))
    return DataError("\n".join(texts))


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{path}: has no list of shapes; expected a JSON file of labelme")
    return content


def _head(request: Request, base: Path, path: Path) -> Head:
    content = _load(path)
    name = str(content.get("imagePath") or "imagePath is not set")
    home = path.parent.relative_to(base)
    image: Path | bytes | None = request.find_image(name, path.parent, home=home)
    if image is None and content.get("imageData"):
        try:
            image = base64.b64decode(content["imageData"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise DataError(f"{path}: imageData is damaged, and there is no {name}") from None
    kinds = []
    for shape in content["shapes"]:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise DataError(f"{path}: holds a shape without a label")
        kinds.append((str(shape.get("shape_type") or "polygon"), shape["label"]))
    return name, image, kinds


def _draw(
    path: Path, image: Path | bytes, numbers: dict[str, int], overlap: str, unseen: list[str]
) -> NDArray[np.uint8]:
    content = _load(path)
    size = _size(content, path, image)
    layers = []
    for number, shape in enumerate(content["shapes"]):
        kind, label = str(shape.get("shape_type") or "polygon"), shape["label"]
        if kind in WITHOUT_AREA:
            continue
        name = f"{path}: shape {number} ({kind} of {brief(label)})"
        try:
            area = _area(shape, kind, size)
        except ValueError as error:
            raise DataError(f"{name} cannot be drawn: {error}") from None
        if not area.any():
            unseen.append(name)
        layers.append((numbers[label], area))
    return paint(layers, size, overlap)


def _size(content: dict[str, Any], path: Path, image: Path | bytes) -> Size:
    """Height and width as labelme saw the image, or of the image itself."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if height is not None or width is not None or isinstance(image, bytes):
        return mask_size(height, width, str(path))
    return shown_size(load(image, count_bands(image)))


def _area(shape: dict[str, Any], kind: str, size: Size) -> Area:
    """Raises a ValueError if the shape cannot be drawn."""
    if kind not in NUM_POINTS and kind != "polygon":
        raise ValueError("a type that is not known here")
    given = shape.get("points")
    points = coordinates(given, "points")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points {brief(given)}; expected a list of [x, y]")
    if kind == "polygon":
        return polygon(points, size)
    if len(points) not in NUM_POINTS[kind]:
        numbers = " or ".join(map(str, NUM_POINTS[kind]))
        raise ValueError(f"{len(points)} points; expected {numbers}")
    if len(points) == 4:
        return polygon(_rectangle(points), size)
    (x0, y0), (x1, y1) = points.tolist()
    if kind == "rectangle":
        return polygon(turned_box((x0, y0, x1, y1)), size)
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(x1 - x0, y1 - y0)
        return ellipse((x0, y0), (radius, radius), 0.0, size)
    # A mask, and the first and last pixel of its box
    part = _read_mask(shape.get("mask"))
    box = int(y1) - int(y0) + 1, int(x1) - int(x0) + 1
    if part.shape != box:
        raise ValueError(
            f"its mask is {part.shape[1]} x {part.shape[0]} (width x height), its box "
            f"{box[1]} x {box[0]}"
        )
    return paste(part, int(x0), int(y0), size)


def _rectangle(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The four corners of a rectangle, upright ones in any order, turned ones one after another."""
    low, high = points.min(axis=0), points.max(axis=0)
    upright = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    tolerance = 0.01 * float((high - low).max())
    distances = np.abs(points[:, None] - upright[None]).max(axis=2)
    if sorted(distances.argmin(axis=1)) == [0, 1, 2, 3] and distances.min(axis=1).max() == 0:
        return upright
    # Diagonals of a rectangle have one length and cross in their middles.
    diagonals = points[2] - points[0], points[3] - points[1]
    middles = points[2] + points[0] - points[3] - points[1]
    lengths = [float(np.hypot(*diagonal)) for diagonal in diagonals]
    if np.abs(middles).max() > 2 * tolerance or abs(lengths[0] - lengths[1]) > 2 * tolerance:
        raise ValueError(
            f"{brief(points.tolist())} are no corners of a rectangle, one after another; a polygon "
            "may have them"
        )
    return points


def _read_mask(text: Any) -> Area:
    """An image inside the JSON file, bool (H, W)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mask.png"
        try:
            file.write_bytes(base64.b64decode(text, validate=True))
            values = read_labels(file)
        except DataError as error:
            raise ValueError(f"its mask: {str(error).removeprefix(f'{file}: ')}") from None
        except (ValueError, TypeError):
            raise ValueError(f"its mask is {brief(text)}; expected a PNG file in base 64") from None
    if values.ndim != 2:
        raise ValueError("its mask has colours; expected one of grey, 0 and above")
    return values > 0
