"""A small data set in VOC layout, written into a temporary folder for a test."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data.masks import write_mask

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data with real images")


def make_voc(root: Path, splits: dict[str, list[str]] | None = None) -> Path:
    """Write images of 12 x 8 pixels whose masks hold 0, 1, 2 and a 255 border; return root."""
    splits = splits or {"train": ["a", "b"], "val": ["c"]}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "labels.txt").write_text("background\ncat\ndog\n")
    for split, ids in splits.items():
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for name in ids:
            make_pair(root, name)
    return root


def make_pair(root: Path, name: str) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    image = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(image).save(root / "JPEGImages" / f"{name}.png")
    write_mask(root / "SegmentationClass" / f"{name}.png", example_mask())


def example_mask() -> np.ndarray:
    """Rows of 12: 4 x 0, 3 x 1, 1 x 255, 4 x 2, eight times."""
    return np.repeat(np.array([[0] * 4 + [1] * 3 + [255] + [2] * 4], dtype=np.uint8), 8, axis=0)
