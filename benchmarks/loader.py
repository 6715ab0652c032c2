"""What a sample costs the CPU in segkit's loader, beside the usual one.

    python benchmarks/loader.py ROOT

ROOT is a data set in VOC layout, such as CamVid; its train split is also made four times as large
for crops of 512 x 512. The usual loader is that of the examples of segmentation_models.pytorch:
cv2.imread, one albumentations.Compose, default_collate. It has the same transforms (those that
augment=standard replaces by one, and the rest of that list), and once those of the example itself.

Everything runs in one process on one thread, batch by batch in turn (A B C A B C ...), and CPU
seconds are counted: loader processes would divide them by their number. Batches end as uint8 in the
memory that a network takes them from. Caches are full before the first batch counts.
"""

import segkit  # isort: skip  # noqa: F401

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import PIL
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import default_collate

from segkit.data import VOCSegmentation
from segkit.data.augment import Augment, one_thread
from segkit.data.cached import cached
from segkit.data.decode import read_image
from segkit.data.loader import Collate, Samples
from segkit.data.masks import read_mask
from segkit.data.sampler import EpochBatchSampler

STANDARD = Path(__file__).parents[1] / "configs" / "augment" / "standard.yaml"
FILL = (124, 116, 104)
SIZES = (((360, 480), (288, 352)), ((960, 1280), (512, 512)))
NAMES = ("usual, same transforms", "usual, its example's transforms", "segkit")
CACHES = ("ram", "disk")


class Usual:
    """The data set of the example: files by OpenCV, transforms, channels first."""

    def __init__(self, root: Path, transform: A.Compose) -> None:
        self.ids = (root / "ImageSets/Segmentation/train.txt").read_text().split()
        self.root, self.transform = root, transform

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        name = self.ids[index]
        image = cv2.imread(str(self.root / "JPEGImages" / f"{name}.jpg"))
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(self.root / "SegmentationClass" / f"{name}.png"), 0)
        sample = self.transform(image=image, mask=mask)
        return sample["image"].transpose(2, 0, 1), sample["mask"]


def same_transforms(crop: tuple[int, int]) -> A.Compose:
    """What ``augment=standard`` does, by albumentations alone."""
    holes = {"fill": FILL, "fill_mask": 255}
    rest = OmegaConf.load(STANDARD).train[1:]
    return A.Compose(
        [
            A.RandomScale((-0.5, 1.0), p=1.0),
            A.Rotate((-10, 10), border_mode=cv2.BORDER_CONSTANT, **holes, p=0.3),
            A.RandomCrop(*crop, pad_if_needed=True, **holes, p=1.0),
            *(instantiate(one, _convert_="all") for one in rest),
        ],
        seed=0,
    )


def example_transforms(crop: tuple[int, int]) -> A.Compose:
    """Those of the CamVid example of segmentation_models.pytorch."""
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.ShiftScaleRotate(
                scale_limit=0.5, rotate_limit=0, shift_limit=0.1, p=1, border_mode=0
            ),
            A.PadIfNeeded(*crop),
            A.RandomCrop(*crop),
            A.GaussNoise(p=0.2),
            A.Perspective(p=0.5),
            A.OneOf([A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.9),
            A.OneOf(
                [A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)], p=0.9
            ),
            A.OneOf([A.RandomBrightnessContrast(p=1), A.HueSaturationValue(p=1)], p=0.9),
        ],
        seed=0,
    )


def usual_batches(root: Path, transform: A.Compose, size: int) -> Iterator[Any]:
    dataset = Usual(root, transform)
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(dataset.ids)).tolist()
        for first in range(0, len(order) - size + 1, size):
            yield default_collate([dataset[index] for index in order[first : first + size]])


def our_batches(root: Path, crop: tuple[int, int], size: int, kind: str | None) -> Iterator[Any]:
    node = OmegaConf.create({"augment": OmegaConf.load(STANDARD)})
    node.augment.crop_size = list(crop)
    steps = [instantiate(one, _convert_="all") for one in node.augment.train]
    with tempfile.TemporaryDirectory() as folder:
        dataset = cached({"train": VOCSegmentation(root, "train")}, kind, folder)["train"]
        for _ in range(2 if kind else 0):  # filled, and its sums compared
            for index in range(len(dataset)):
                dataset.read(index)
        samples = Samples(dataset, Augment(steps, fill=FILL), seed=0)
        collate, order = Collate(FILL, 255), EpochBatchSampler(len(dataset), size, seed=0)
        while True:
            order.epoch += 1
            for keys in order:
                if len(keys) == size:
                    yield collate([samples[key] for key in keys])


def prepare(source: Path, target: Path, size: tuple[int, int], limit: int) -> None:
    """Some images at a size, as JPEG, with grey masks, which both loaders read as class ids."""
    ids = (source / "ImageSets/Segmentation/train.txt").read_text().split()[:limit]
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (target / folder).mkdir(parents=True)
    (target / "ImageSets/Segmentation/train.txt").write_text("\n".join(ids) + "\n")
    (target / "labels.txt").write_text((source / "labels.txt").read_text())
    dataset = VOCSegmentation(source, "train")
    files = {name: dataset.files(index) for index, name in enumerate(dataset.ids)}
    for name in ids:
        image, mask = read_image(files[name][0]), read_mask(files[name][1])
        Image.fromarray(image).resize(size[::-1]).save(
            target / "JPEGImages" / f"{name}.jpg", quality=95
        )
        grey = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
        grey.save(target / "SegmentationClass" / f"{name}.png")


def measure(root: Path, crop: tuple[int, int], batch: int, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each image of each batch, by loader."""
    loaders: dict[str, Callable[[], Iterator[Any]]] = {
        NAMES[0]: lambda: usual_batches(root, same_transforms(crop), batch),
        NAMES[1]: lambda: usual_batches(root, example_transforms(crop), batch),
        NAMES[2]: lambda: our_batches(root, crop, batch, None),
    }
    for kind in CACHES:
        loaders[f"segkit, loader.cache={kind}"] = lambda kind=kind: our_batches(  # type: ignore[misc]
            root, crop, batch, kind
        )
    running = {name: make() for name, make in loaders.items()}
    taken: dict[str, list[float]] = {name: [] for name in running}
    for number in range(rounds + 2):
        for name, batches in running.items():
            begun = time.thread_time()
            next(batches)
            if number >= 2:  # the first ones warm up
                taken[name].append(1e3 * (time.thread_time() - begun) / batch)
    return taken


def table(taken: dict[str, list[float]], title: str) -> Iterator[str]:
    """Markdown: medians with the middle half of the batches, and ratios of the medians."""
    yield f"| {title} | CPU ms an image (middle half) | usual / this one |"
    yield "| --- | --- | --- |"
    usual = statistics.median(taken[NAMES[0]])
    for name, values in taken.items():
        low, middle, high = statistics.quantiles(values, n=4)
        yield f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | {usual / middle:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="data set in VOC layout with JPEG images")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40, help="batches of each loader")
    parser.add_argument("--images", type=int, default=120, help="at most so many of the split")
    args = parser.parse_args()
    torch.set_num_threads(1)
    one_thread()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, OpenCV"
    print(f"{versions} {cv2.__version__}, albumentations {A.__version__}, Pillow {PIL.__version__}")
    for size, crop in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            prepare(args.root, root, size, args.images)
            title = f"{size[1]} x {size[0]}, crops of {crop[1]} x {crop[0]}"
            print("\n" + "\n".join(table(measure(root, crop, args.batch, args.rounds), title)))


if __name__ == "__main__":
    main()
