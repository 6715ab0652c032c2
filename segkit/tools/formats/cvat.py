"""CVAT: the XML of "CVAT for images 1.1", with polygons, boxes, ellipses and masks."""

import re
from collections import Counter
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from segkit.data.colors import Palette, voc_palette
from segkit.errors import DataError
from segkit.files import refuse_special, user_path
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
)
from segkit.tools.formats.drawing import (
    Area,
    Size,
    ellipse,
    paint,
    paste,
    polygon,
    runs,
    turned_box,
)

WITH_AREA = ("polygon", "box", "ellipse", "mask")
WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")


def read_cvat(request: Request) -> Annotations:
    """One XML file, or a folder that holds ``annotations.xml``.

    Classes are numbered in the order of CVAT's own list of labels. A shape covers those of a lower
    ``z_order``, and at equal ``z_order`` those before it. Shapes without an area are left out.
    """
    path = user_path(request.source)
    path = path / "annotations.xml" if path.is_dir() else path
    refuse_special(path)
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # unknown encodings too
        raise DataError(f"{path}: is no XML ({error})") from None
    if root.tag != "annotations" or root.find("track") is not None:
        raise DataError(
            f'{path}: expected the format "CVAT for images 1.1"; a task of a video can be exported '
            "in it, too"
        )
    pictures = root.findall("image")
    shapes = [shape for picture in pictures for shape in picture if shape.tag in WITH_AREA]
    listed = {str(label.findtext("name")): label for label in root.iter("label") if len(label)}
    others = sorted({shape.get("label", "") for shape in shapes} - listed.keys())
    classes, numbers = number_labels([*listed, *others], request)

    folders = request.image_folders(path.parent / "images", path.parent)
    overlap = request.overlap_or("last")
    items, missing = [], []
    for picture in pictures:
        name = picture.get("name", "")
        file = find_picture(name, folders)
        if file is None:
            missing.append(name)
            continue
        items.append(
            Item(item_name(name), file, path, partial(_draw, path, picture, numbers, overlap))
        )
    if missing:
        raise missing_pictures(missing, folders)
    dropped = Counter(
        f"shapes of type {shape.tag} (no area)"
        for picture in pictures
        for shape in picture
        if shape.tag in WITHOUT_AREA
    )
    return Annotations(classes, items, _palette(listed, numbers), left_out(dropped))


def _palette(labels: dict[str, Element], numbers: dict[str, int]) -> Palette | None:
    """The labels' own colours, where they tell them apart."""
    palette = voc_palette()
    for name, label in labels.items():
        color = re.fullmatch(r"#([0-9a-fA-F]{6})", label.findtext("color") or "")
        if color is None:
            return None
        if numbers[name] != 255:
            palette[numbers[name]] = list(bytes.fromhex(color[1]))
    used = palette[: 1 + max((n for n in numbers.values() if n != 255), default=0)]
    return palette if len(np.unique(used, axis=0)) == len(used) else None


def _draw(path: Path, picture: Element, numbers: dict[str, int], overlap: str) -> NDArray[np.uint8]:
    name = f"{path}: {picture.get('name')}"
    size = mask_size(picture.get("height"), picture.get("width"), name)
    try:
        shapes = [shape for shape in picture if shape.tag in WITH_AREA]
        shapes.sort(key=lambda shape: int(shape.get("z_order", 0)))  # stable: ties as in the file
    except ValueError as error:
        raise DataError(f"{name}: z_order is no number ({error})") from None
    layers = []
    for shape in shapes:
        try:
            layers.append((numbers[shape.get("label", "")], _area(shape, size)))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{name}: a {shape.tag} of {shape.get('label')!r} cannot be drawn: {error}"
            ) from None
    return paint(layers, size, overlap)


def _area(shape: Element, size: Size) -> Area:
    def number(key: str) -> float:
        return float(shape.attrib[key])

    turn = float(shape.get("rotation", 0))
    if shape.tag == "polygon":
        corners = [pair.split(",") for pair in shape.attrib["points"].split(";")]
        return polygon([(float(x), float(y)) for x, y in corners], size)
    if shape.tag == "box":
        box = [number(key) for key in ("xtl", "ytl", "xbr", "ybr")]
        return polygon(turned_box(box, turn), size)
    if shape.tag == "ellipse":
        center, radii = (number("cx"), number("cy")), (number("rx"), number("ry"))
        return ellipse(center, radii, turn, size)
    part = int(number("height")), int(number("width"))
    counts = [int(count) for count in shape.attrib["rle"].split(",")]
    return paste(runs(counts, part), int(number("left")), int(number("top")), size)
