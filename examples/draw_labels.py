"""Draw photographs that do not exist, with LabelMe files: ``python examples/draw_labels.py``.

For the tutorial, where no labels of one's own are at hand. A file of LabelMe is JSON: the name of
its image, and a list of shapes, each with a label and points (x, y).
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

HEIGHT, WIDTH = 120, 160
CORNERS = {"triangle": 3, "square": 4}
COLORS = {"triangle": (200, 70, 60), "square": (70, 170, 90), "disk": (60, 90, 200)}


def draw(rng: np.random.Generator) -> tuple[Image.Image, list[dict[str, object]]]:
    """A photograph and LabelMe's list of what is on it; a later shape covers an earlier one."""
    image = Image.new("RGB", (WIDTH, HEIGHT), tuple(rng.integers(90, 190, 3).tolist()))
    pen = ImageDraw.Draw(image)
    shapes: list[dict[str, object]] = []
    for label in rng.permutation([*COLORS, *COLORS])[: rng.integers(2, 5)].tolist():
        radius = float(rng.uniform(14, 26))
        x, y = (float(rng.uniform(radius, side - radius)) for side in (WIDTH, HEIGHT))
        color = tuple(np.clip(np.add(COLORS[label], rng.integers(-30, 31, 3)), 0, 255).tolist())
        if label == "disk":
            points, kind = [(x, y), (x + radius, y)], "circle"  # its centre, and a point on it
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), color)
        else:
            start, corners = rng.uniform(0, 2 * math.pi), CORNERS[label]
            angles = [start + 2 * math.pi * i / corners for i in range(corners)]
            points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
            kind = "polygon"
            pen.polygon(points, color)
        shapes.append({"label": label, "points": points, "shape_type": kind})
    noise = rng.normal(0, 12, (HEIGHT, WIDTH, 3))
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/labelme"))
    parser.add_argument("--images", type=int, default=40)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(given.images):
        image, shapes = draw(rng)
        name = f"photo_{number:02d}"
        image.save(given.folder / f"{name}.jpg", quality=92)
        size = {"imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None}
        content = {"version": "5.5.0", "imagePath": f"{name}.jpg", "shapes": shapes, **size}
        (given.folder / f"{name}.json").write_text(json.dumps(content, indent=2))
    print(f"{given.images} photographs with labels in {given.folder}")


if __name__ == "__main__":
    main()
