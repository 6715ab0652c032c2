"""Labels as other tools write them, and what convert makes of them, as digits."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segkit.cli.arguments import parse
from segkit.data.check import check_splits
from segkit.data.voc import VOCSegmentation
from segkit.tools.convert import convert
from segkit.tools.formats.annotation import Request

Files = dict[str, Any]  # arrays become PNGs, mappings JSON; text and bytes stay

PHOTO = np.full((6, 8, 3), 90, np.uint8)
XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels>
  <label><name>tree</name><color>#00ff00</color></label>
  <label><name>car</name><color>#0000ff</color></label>
</labels></task></meta>
<image id="0" name="sub/a.png" width="8" height="6">
  <polygon label="car" points="0,0;3,0;3,2;0,2" z_order="1"/>
  <box label="tree" xtl="2" ytl="1" xbr="5" ybr="3" z_order="0"/>
  <mask label="tree" left="6" top="4" width="2" height="2" rle="1, 2, 1" z_order="0"/>
  <ellipse label="car" cx="4" cy="5" rx="0.8" ry="0.8"/>
  <box label="car" xtl="-0.9" ytl="3.6" xbr="2.9" ybr="5.4" rotation="90"/>
  <polyline label="car" points="0,0;1,1"/>
</image>
</annotations>"""


def png(array: np.ndarray, colors: list[int] | None = None) -> bytes:
    image, stream = Image.fromarray(array), io.BytesIO()
    if colors is not None:
        image.putpalette(colors)
    image.save(stream, "PNG")
    return stream.getvalue()


def write(files: Files) -> None:
    for name, content in files.items():
        if isinstance(content, dict):
            content = json.dumps(content)
        content = png(content) if isinstance(content, np.ndarray) else content
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def run(arguments: str) -> None:
    convert(parse(Request, ["out=out", *arguments.split()]))


def masks(split: str = "all", root: str = "out") -> dict[str, str]:
    """Those of ``root`` as training reads them, in digits and x; the data set passes the check."""
    dataset = VOCSegmentation(root, split)
    check_splits({split: dataset}, trained=False, progress=False)
    rows = (dataset.read(i)[1].tolist() for i in range(len(dataset)))
    drawn = (" ".join("".join("x" if v == 255 else str(v) for v in r) for r in m) for m in rows)
    return dict(zip(dataset.ids, drawn, strict=True))


def tree(folder: str) -> dict[str, bytes]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def as_text(array: np.ndarray) -> str:
    return base64.b64encode(png(array)).decode()


def box(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def shape(label: str, kind: str, *points: Any, **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, **more}


def labelme(*shapes: dict[str, Any], **more: Any) -> dict[str, Any]:
    size = {"imageHeight": 6, "imageWidth": 8}
    return {"imagePath": "a.png", "imageData": None, **size, "shapes": shapes, **more}


def coco(*annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 6, "width": 8}],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 18, "name": "dog"}],
        "annotations": [{"image_id": 7, "id": i, **a} for i, a in enumerate(annotations)],
    }
    return content | more


def area(category: int, *corners: float) -> dict[str, Any]:
    corners_in_turn = [number for point in box(*corners) for number in point]
    return {"category_id": category, "segmentation": [corners_in_turn]}
