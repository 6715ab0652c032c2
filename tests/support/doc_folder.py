"""The folder in which the documents' commands are run: a clone, a data set, two runs, labels."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from band_files import make_bands
from doc_commands import CROP, SHORT, TINY
from PIL import Image
from recipe_files import make_recipes
from scripts import ROOT, call
from torchvision.models import mobilenet_v2

from segkit.data.shapes import Shapes

SCRIPTS = ("train.py", "evaluate.py", "predict.py", "export.py")
NAMES = [f"video{i // 4}_{i}" for i in range(8)]
CVAT = """<annotations>
<meta><labels><label><name>cat</name><color>#fa0000</color></label></labels></meta>
{}</annotations>"""


def make_folder(folder: Path) -> None:
    """What the documents take for granted, in the empty folder that a reader would stand in."""
    for script in SCRIPTS:
        shutil.copy(ROOT / script, folder)
    for part in ("benchmarks", "docs", "examples"):
        shutil.copytree(ROOT / part, folder / part)
    Shapes(folder / "mine", "train", num_train=8, num_val=4, height=48, width=64)
    lists = folder / "mine/ImageSets/Segmentation"
    shutil.copy(lists / "val.txt", lists / "test.txt")
    shutil.copytree(folder / "mine/SegmentationClass", folder / "unsplit/SegmentationClass")
    shutil.copytree(folder / "mine/JPEGImages", folder / "photos")
    torch.manual_seed(0)
    torch.save(mobilenet_v2(weights=None).state_dict(), folder / "mobilenet_v2.pth")
    settings = ("data=voc", "data.root=mine", *SHORT, *TINY, CROP)
    result = call("train.py", *settings, "out_dir=runs/other", cwd=folder)
    assert result.status == 0, result.err
    time.sleep(0.01)  # so that the copy is the newest run
    shutil.copytree(folder / "runs/other", folder / "runs/first", copy_function=shutil.copyfile)
    make_labels(folder)
    make_bands(folder / "data/bands")
    make_recipes(folder)
    for part, name in (("JPEGImages", "images"), ("SegmentationClass", "masks")):
        shutil.copytree(folder / "mine" / part, folder / "two" / name)
    shutil.copy(folder / "mine/labels.txt", folder / "two/masks")


def write_shown_files(document: Path, folder: Path) -> None:
    """The files that a document shows in full, each below its name."""
    text = document.read_text(encoding="utf-8")
    for name, content in re.findall(r"`([\w/]+\.\w+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def newest_run(folder: Path) -> str:
    """As a command names it."""
    found = max(folder.glob("runs/*/checkpoints/best.pt"), key=lambda path: path.stat().st_mtime_ns)
    return found.parents[1].relative_to(folder).as_posix()


def make_labels(folder: Path) -> None:
    """8 images of 64 x 48 with a square, which is labelled in every format that is converted."""
    square = np.zeros((48, 64), np.uint8)
    square[8:40, 10:50] = 255
    corners = [[10, 8], [50, 8], [50, 40], [10, 40]]
    image = np.repeat(square[..., None] // 2 + 60, 3, axis=2)
    shape = {"label": "cat", "points": corners, "shape_type": "polygon"}
    images, annotations, xml = [], [], ""
    for number, name in enumerate(NAMES):
        for part in ("labels", "images", "coco/images", "cvat/images"):
            save(folder / part / f"{name}.png", image)
        size = {"imageHeight": 48, "imageWidth": 64, "imageData": None}
        content = {"imagePath": f"{name}.png", "shapes": [shape], **size}
        (folder / f"labels/{name}.json").write_text(json.dumps(content))
        images.append({"id": number, "file_name": f"{name}.png", "height": 48, "width": 64})
        flat = [float(value) for corner in corners for value in corner]
        annotations.append({"image_id": number, "category_id": 1, "segmentation": [flat]})
        points = ";".join(f"{x},{y}" for x, y in corners)
        xml += f'<image name="{name}.png" width="64" height="48">'
        xml += f'<polygon label="cat" points="{points}" z_order="0"/></image>\n'
        save(folder / f"rgb/{name}.png", np.where(square[..., None], [128, 64, 128], 0))
        save(folder / f"binary/{name}.png", square)
        save(folder / f"ids/{name}_id.png", np.where(square, 3, 7))
        save(folder / f"polygons/images/{name}.png", image)
        relative = " ".join(f"{x / 64} {y / 48}" for x, y in corners)
        (folder / "polygons/labels").mkdir(exist_ok=True)
        (folder / f"polygons/labels/{name}.txt").write_text(f"0 {relative}\n")
        save(folder / f"folders/cat/{name}.png", square)
    (folder / "polygons/data.yaml").write_text("train: images\nnames: [cat]\n")
    categories = [{"id": 1, "name": "cat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco/instances.json").write_text(json.dumps(content))
    (folder / "cvat/annotations.xml").write_text(CVAT.format(xml))


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
