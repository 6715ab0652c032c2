"""Images of many bands, as satellites and microscopes make them."""

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.data.masks import write_mask


def tiff(path: Path, array: NDArray[np.generic], **settings: object) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "minisblack", **settings})
    return path


def make_bands(root: Path, channels: int = 5, kind: str = "u2", count: int = 4) -> Path:
    """A VOC folder of TIFFs with numbers from 0 to 4000, whose last band shows the thing."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((40, 48), np.uint8)
        mask[number : number + 20, 5:30] = 1
        pixels = np.random.default_rng(number).integers(0, 2000, (40, 48, channels))
        pixels[mask == 1, -1] += 2000
        numbers = pixels.astype(kind) if channels > 1 else pixels[..., 0].astype(kind)
        layout = {"planarconfig": "contig"} if channels > 1 else {}
        tiff(root / f"JPEGImages/{number}.tif", numbers, **layout)
        write_mask(root / f"SegmentationClass/{number}.png", mask)
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n1\n2\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("3\n")
    (root / "labels.txt").write_text("ground\nthing\n")
    return root
