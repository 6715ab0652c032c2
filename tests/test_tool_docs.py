"""Every command of docs/data.md, run on small sources of its own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data.decode import read_labels

ROOT = Path(__file__).resolve().parent.parent
DOCS = (ROOT / "docs/data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (python .*)$", DOCS, re.MULTILINE)
SMALL = (
    "model/backbone=tiny",
    "optimizer=adamw",
    "augment=light",
    "trainer.max_epochs=1",
    "loader.num_workers=0",
    "loader.batch_size=2",
)
NAMES = [f"video{i // 4}_{i}" for i in range(8)]
CVAT = """<annotations>
<meta><labels><label><name>cat</name><color>#fa0000</color></label></labels></meta>
{}</annotations>"""


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def make_sources(root: Path) -> None:
    """What the commands name: 8 pictures of 64 x 48 with a square, labelled in every format."""
    square = np.zeros((48, 64), np.uint8)
    square[8:40, 10:50] = 255
    corners = [[10, 8], [50, 8], [50, 40], [10, 40]]
    picture = np.repeat(square[..., None] // 2 + 60, 3, axis=2)
    shape = {"label": "cat", "points": corners, "shape_type": "polygon"}
    images, annotations, xml = [], [], ""
    for number, name in enumerate(NAMES):
        for folder in ("labels", "pictures", "coco/pictures", "cvat/images"):
            save(root / folder / f"{name}.png", picture)
        size = {"imageHeight": 48, "imageWidth": 64, "imageData": None}
        content = {"imagePath": f"{name}.png", "shapes": [shape], **size}
        (root / f"labels/{name}.json").write_text(json.dumps(content))
        images.append({"id": number, "file_name": f"{name}.png", "height": 48, "width": 64})
        flat = [float(value) for corner in corners for value in corner]
        annotations.append({"image_id": number, "category_id": 1, "segmentation": [flat]})
        points = ";".join(f"{x},{y}" for x, y in corners)
        xml += f'<image name="{name}.png" width="64" height="48">'
        xml += f'<polygon label="cat" points="{points}" z_order="0"/></image>\n'
        save(root / f"rgb/{name}.png", np.where(square[..., None], [128, 64, 128], 0))
        save(root / f"binary/{name}.png", square)
        save(root / f"folders/cat/{name}.png", square)
    categories = [{"id": 1, "name": "cat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco/instances.json").write_text(json.dumps(content))
    (root / "cvat/annotations.xml").write_text(CVAT.format(xml))


def run(command: str, cwd: Path) -> str:
    words = [sys.executable, *shlex.split(command)[1:]]
    if words[1].endswith(".py"):
        words[1] = str(ROOT / words[1])
        words += SMALL
    if "segkit.tools.download" in words:
        words.append("dry_run=true")  # there may be no network
    env = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd / "cache")}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def test_every_tool_is_shown() -> None:
    tools = {
        path.stem for path in (ROOT / "segkit/tools").glob("*.py") if "__main__" in path.read_text()
    }
    shown = {
        match for command in COMMANDS for match in re.findall(r"segkit\.tools\.(\w+)", command)
    }
    assert shown == tools == {"browse", "convert", "download", "split", "stats"}


def test_every_key_that_is_named_exists() -> None:
    from segkit.tools import browse, convert, download, split, stats
    from segkit.tools.arguments import parse

    modules = {m.__name__: m for m in (convert, split, stats, download)}
    for command in COMMANDS:
        words = shlex.split(command)
        if words[2] in modules:
            parse(modules[words[2]].Request, words[3:])
        elif words[2] == browse.__name__:
            own = [w for w in words[3:] if w.partition("=")[0] in ("pictures", "epochs", "out")]
            parse(browse.Request, own)


@pytest.mark.slow
def test_the_commands_in_their_order(tmp_path: Path) -> None:
    make_sources(tmp_path)
    for command in COMMANDS:
        run(command, tmp_path)
    masks = tmp_path / "data"
    first = {
        name: read_labels(masks / name / "SegmentationClass" / f"{NAMES[0]}.png").tolist()
        for name in ("mine", "coco", "cvat", "binary", "folders")
    }
    assert all(mask == first["mine"] for mask in first.values())
    assert (tmp_path / "sheet.png").exists() and (tmp_path / "stats.json").exists()
