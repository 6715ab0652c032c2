"""CVAT: the XML of "CVAT for images 1.1", with polygons, boxes, ellipses and masks."""

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from segkit.data.classes import read_labels_file
from segkit.data.colors import Palette, voc_palette
from segkit.data.voc import IMAGES, MASKS
from segkit.errors import DataError
from segkit.files import refuse_special, user_path
from segkit.tools.formats.annotation import (
    BACKGROUND,
    Annotations,
    Item,
    Request,
    item_name,
    left_out,
    mask_size,
    number_labels,
)
from segkit.tools.formats.drawing import (
    Area,
    Size,
    brief,
    ellipse,
    paint,
    paste,
    polygon,
    runs,
    turned_box,
)
from segkit.tools.formats.masks import read_colors

WITH_AREA = ("polygon", "box", "ellipse", "mask")
LABELMAP = "labelmap.txt"
WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")


def read_cvat(request: Request) -> Annotations:
    """One XML file, a folder that holds ``annotations.xml``, or one of "Segmentation mask 1.1".

    Classes are numbered in the order of CVAT's own list of labels. A shape covers those of a lower
    ``z_order``, and at equal ``z_order`` those before it. Shapes without an area are left out.
    """
    path = user_path(request.source)
    if path.is_dir() and (path / LABELMAP).is_file() and not (path / "annotations.xml").exists():
        return _read_masks(request, path)
    path = path / "annotations.xml" if path.is_dir() else path
    refuse_special(path)
    try:
        parser = ElementTree.XMLParser(target=_Builder(path))
        root = ElementTree.parse(path, parser).getroot()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # unknown encodings too
        raise DataError(f"{path}: is no XML ({error})") from None
    if root.tag != "annotations" or root.find("track") is not None:
        raise DataError(
            f'{path}: expected the format "CVAT for images 1.1"; a task of a video can be exported '
            "in it, too"
        )
    images = root.findall("image")
    shapes = [shape for image in images for shape in image if shape.tag in WITH_AREA]
    listed = {label.findtext("name", ""): label for label in root.iter("label") if len(label)}
    others = sorted({shape.get("label", "") for shape in shapes} - listed.keys())
    if "" in (*listed, *others):
        raise DataError(f"{path}: holds a label or a shape without a name; expected one for each")
    classes, numbers = number_labels([*listed, *others], request)

    folders = path.parent / "images", path.parent
    overlap = request.overlap_or("last")
    unseen: list[str] = []
    items, missing = [], []
    for image in images:
        kinds = {element.tag for element in image}
        if unknown := sorted(kinds.difference(WITH_AREA, WITHOUT_AREA)):
            raise DataError(
                f"{path}: {image.get('name')}: holds {', '.join(unknown)}; known here are "
                f"{', '.join((*WITH_AREA, *WITHOUT_AREA))}"
            )
        name = image.get("name", "")
        file = request.find_image(name, *folders)
        if file is None:
            missing.append(name)
            continue
        draw = partial(_draw, path, image, numbers, overlap, unseen)
        items.append(Item(item_name(name), file, path, draw))
    if missing:
        raise request.missing_images(missing, *folders)
    dropped = Counter(
        f"shapes of type {shape.tag} (no area)"
        for image in images
        for shape in image
        if shape.tag in WITHOUT_AREA
    )
    return Annotations(classes, items, _palette(listed, numbers), left_out(dropped), unseen)


def _read_masks(request: Request, folder: Path) -> Annotations:
    """CVAT's "Segmentation mask 1.1": colours in ``SegmentationClass``, named in ``labelmap.txt``.

    The background comes first, all others as in the file. The images may be left out there.
    """
    labels = read_labels_file(folder / LABELMAP)
    if labels.colors is None:
        raise DataError(f"{folder / LABELMAP}: has labels without a colour; expected one for each")
    images = folder / IMAGES
    if request.images is None and not images.is_dir():
        raise DataError(
            f"{folder}: has no {IMAGES}, since CVAT was asked to leave the images out; give "
            "images=FOLDER, those that were uploaded"
        )
    colors = dict(zip(labels.names, labels.colors, strict=True))
    order = sorted(colors, key=lambda name: name not in BACKGROUND)  # stable
    return read_colors(
        replace(
            request,
            source=str(folder / MASKS),
            images=request.images or str(images),
            colors={name: colors[name] for name in order},
        )
    )


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type: its entities can stand for gigabytes, and CVAT writes none."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError(f"{self.path}: has a document type (<!DOCTYPE {name}>); CVAT writes none")


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


def _draw(
    path: Path, image: Element, numbers: dict[str, int], overlap: str, unseen: list[str]
) -> NDArray[np.uint8]:
    name = f"{path}: {image.get('name')}"
    size = mask_size(image.get("height"), image.get("width"), name)
    try:
        shapes = [shape for shape in image if shape.tag in WITH_AREA]
        # Stable: ties as in the file
        shapes.sort(key=lambda shape: whole_number("z_order", shape.get("z_order", "0")))
    except ValueError as error:
        raise DataError(f"{name}: z_order is no number ({error})") from None
    layers = []
    for shape in shapes:
        label = shape.get("label", "")
        what = f"{name}: a {shape.tag} of {brief(label)}"
        try:
            area = _area(shape, size)
        except ValueError as error:
            raise DataError(f"{what} cannot be drawn: {error}") from None
        if not area.any():
            unseen.append(what)
        layers.append((numbers[label], area))
    return paint(layers, size, overlap)


def _area(shape: Element, size: Size) -> Area:
    """Raises a ValueError if the shape cannot be drawn."""

    def text(key: str) -> str:
        if key not in shape.attrib:
            raise ValueError(f"it has no {key}")
        return shape.attrib[key]

    def numbers(*keys: str) -> list[float]:
        return [number(key, text(key)) for key in keys]

    turn = number("rotation", shape.get("rotation", "0"))
    if turn and shape.tag not in ("box", "ellipse"):
        raise ValueError(f"rotation={turn:g}; only a box and an ellipse are turned")
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in text("points").split(";")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"points={brief(text('points'))}; expected x,y;x,y;...")
        return polygon([[number("points", one) for one in pair] for pair in pairs], size)
    if shape.tag == "box":
        return polygon(turned_box(numbers("xtl", "ytl", "xbr", "ybr"), turn), size)
    if shape.tag == "ellipse":
        return ellipse(numbers("cx", "cy"), numbers("rx", "ry"), turn, size)
    height, width, left, top = (
        whole_number(key, text(key)) for key in ("height", "width", "left", "top")
    )
    mask_size(height, width, "its mask")
    counts = [whole_number("rle", count) for count in text("rle").split(",")]
    return paste(runs(counts, (height, width)), left, top, size)


def number(key: str, text: str) -> float:
    """A number as CVAT writes it; what it stands for is judged where it is used."""
    try:
        if "_" not in text:  # which Python takes, between digits
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"{key}={brief(text)}; expected a number")


def whole_number(key: str, text: str) -> int:
    """The same without a fraction; one of more digits than any image has pixels is none."""
    if re.fullmatch(r"\s*[+-]?[0-9]{1,18}(\.0*)?\s*", text):
        return int(text.partition(".")[0])
    raise ValueError(f"{key}={brief(text)}; expected a whole number of at most 18 digits")
