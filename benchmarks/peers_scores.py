"""segkit's defaults beside the loop of segmentation_models.pytorch's README: what each one learns.

    python -m pip install -e ".[bench]"
    python benchmarks/peers_scores.py --data CAMVID --weights WEIGHTS --epochs 12 --out peers.md

CAMVID is a data set in VOC layout, WEIGHTS torchvision's MobileNetV2 for ImageNet. Both train a
DeepLabV3+ on it with crops and batches of one size. The peer's loop is that of its README and its
CamVid example: Dice alone, Adam with 2e-4, cosine, nothing frozen, the transforms of the example.
segkit has its defaults: first for as many epochs, then for as many as the peer's CPU seconds would
have been enough for: those of all processes of a training, which other work on the machine changes
less than the time by the clock. Whole images of each split are scored with one confusion matrix for
both. Prints a Markdown table, and writes it anew after each training.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("val", "test")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="data set in VOC layout")
    parser.add_argument("--weights", type=Path, required=True, help="torchvision's MobileNetV2")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--crop", type=int, nargs=2, default=(288, 352), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("overrides", nargs="*", help="of segkit's configuration")
    args = parser.parse_args()
    rows: list[tuple[str, int, dict[str, float]]] = []

    def add(name: str, epochs: int, found: dict[str, float]) -> None:
        rows.append((name, epochs, found))
        if args.out is not None:
            args.out.write_text(table(rows, args.seed) + "\n", encoding="utf-8")

    theirs = train_theirs(args)
    add("segmentation_models.pytorch", args.epochs, theirs)
    with tempfile.TemporaryDirectory() as folder:
        ours = train_ours(args, args.epochs, Path(folder) / "epochs")
        add("segkit, equal epochs", args.epochs, ours)
        epochs = max(1, round(args.epochs * theirs["cpu"] / ours["cpu"]))
        add("segkit, equal time", epochs, train_ours(args, epochs, Path(folder) / "time"))
    print(table(rows, args.seed))


def table(rows: Sequence[tuple[str, int, dict[str, float]]], seed: int) -> str:
    """The trainings so far: name, epochs and what was found."""
    return "\n".join(
        [
            f"{platform.machine()}, {os.cpu_count()} cores; {versions()}; seed {seed}",
            "",
            "| training | epochs | CPU seconds | by the clock | "
            + " | ".join(f"{one} mIoU" for one in SPLITS)
            + " |",
            "| --- " * (4 + len(SPLITS)) + "|",
            *(
                f"| {name} | {count} | {found['cpu']:.0f} | {found['seconds']:.0f} | "
                + " | ".join(f"{100 * found[split]:.1f}" for split in SPLITS)
                + " |"
                for name, count, found in rows
            ),
        ]
    )


class Clock:
    """Seconds since it was made: of the CPUs, in all processes together, and by the clock."""

    def __init__(self) -> None:
        self.started, self.cpu = time.perf_counter(), sum(os.times()[:4])

    def read(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self.started,
            "cpu": sum(os.times()[:4]) - self.cpu,  # processes that have ended count, too
        }


def versions() -> str:
    import segmentation_models_pytorch as smp
    import torch

    import segkit

    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, segkit "
        f"{segkit.__version__}, segmentation_models.pytorch {smp.__version__}"
    )


def train_ours(args: argparse.Namespace, epochs: int, folder: Path) -> dict[str, float]:
    """Seconds of ``train.py`` with its defaults but for the model's backbone, and its scores."""
    height, width = args.crop
    clock = Clock()
    run(
        "train.py",
        "data=voc",
        f"data.root={args.data}",
        "model/backbone=mobilenet_v2",
        f"model.backbone.weights={args.weights}",
        f"augment.crop_size=[{height},{width}]",
        f"loader.batch_size={args.batch}",
        f"trainer.max_epochs={epochs}",
        f"trainer.val_every={epochs}",
        f"seed={args.seed}",
        f"out_dir={folder}",
        *args.overrides,
    )
    found = clock.read()
    for split in SPLITS:
        out = folder / split
        run("evaluate.py", f"checkpoint={folder}", f"split={split}", f"out_dir={out}")
        scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        found[split] = scores["miou"]
    return found


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, ROOT / script, *arguments], check=True, stdout=sys.stderr)


def train_theirs(args: argparse.Namespace) -> dict[str, float]:
    """Seconds and scores of the peer's loop."""
    import segmentation_models_pytorch as smp
    import torch
    from torch.utils.data import DataLoader

    from segkit.data.voc import VOCSegmentation

    torch.manual_seed(args.seed)
    model = smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=classes(args.data))
    weights = torch.load(args.weights, map_location="cpu", weights_only=True)
    model.encoder.load_state_dict(weights)  # it leaves out the classifier
    clock = Clock()
    pairs = Pairs(VOCSegmentation(args.data, "train"), transforms(args.crop))
    loader = DataLoader(pairs, args.batch, shuffle=True, num_workers=1, drop_last=True)
    loss_fn = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=255)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=args.epochs * len(loader), eta_min=1e-5
    )
    for epoch in range(args.epochs):
        model.train()
        for image, target in loader:
            loss = loss_fn(model(image), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        print(f"epoch {epoch + 1}/{args.epochs}, {clock.read()['cpu']:.0f} CPU s", flush=True)
    return clock.read() | {split: score(model.eval(), args.data, split) for split in SPLITS}


def classes(data: Path) -> int:
    from segkit.data.voc import VOCSegmentation

    return len(VOCSegmentation(data, "train").classes)


class Pairs:
    """Images as floats that are normalised, and masks, as the data set of its example has them."""

    def __init__(self, dataset: Any, augment: Any) -> None:
        self.dataset, self.augment = dataset, augment

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import torch

        image, mask = self.dataset.read(index)
        made = self.augment(image=image, mask=mask)
        return normalized(made["image"]), torch.from_numpy(made["mask"]).long()


def normalized(image: Any) -> Any:
    """float32 (3, H, W) of an image with bytes (H, W, 3)."""
    import numpy as np
    import torch

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(((image / 255 - mean) / std).astype("float32").transpose(2, 0, 1))


def transforms(crop: Sequence[int]) -> Any:
    """Those of its CamVid example; holes are ignored, since this CamVid has no background."""
    import albumentations as A

    height, width = crop
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.5, 1.5), translate_percent=(-0.1, 0.1), fill_mask=255, p=1),
            A.PadIfNeeded(height, width, fill_mask=255, p=1),
            A.RandomCrop(height, width, p=1),
            A.GaussNoise(p=0.2),
            A.Perspective(fill_mask=255, p=0.5),
            A.OneOf([A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.9),
            A.OneOf([A.Sharpen(p=1), A.Blur(3, p=1), A.MotionBlur(3, p=1)], p=0.9),
            A.OneOf([A.RandomBrightnessContrast(p=1), A.HueSaturationValue(p=1)], p=0.9),
        ]
    )


def score(model: Any, data: Path, split: str) -> float:
    """mIoU over whole images, padded to the multiple of 16 that the peer's model takes."""
    import torch
    from torch.nn import functional as F

    from segkit.data.voc import VOCSegmentation
    from segkit.metrics import ConfusionMatrix

    dataset = VOCSegmentation(data, split)
    matrix = ConfusionMatrix(len(dataset.classes))
    with torch.no_grad():
        for index in range(len(dataset)):
            image, mask = dataset.read(index)
            height, width = mask.shape
            padded = F.pad(normalized(image)[None], (0, -width % 16, 0, -height % 16))
            logits = model(padded)[..., :height, :width]
            matrix.update(logits.argmax(1), torch.from_numpy(mask)[None].long())
    return float(matrix.compute()["miou"])


if __name__ == "__main__":
    main()
