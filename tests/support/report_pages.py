"""A small evaluation for the tests of the report: images, a network's answers, and their scores."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segkit.data.masks import voc_palette
from segkit.metrics import Calibration, ConfusionMatrix
from segkit.report.html.findings import Findings
from segkit.report.html.page import ReportData
from segkit.report.image_result import ImageResult

NAMES = [
    "background",
    "<script>alert(1)</script>",
    "a & \"b\" 'c' $x^$",
    "\u732b",
    "never",
    "nowhere",
]
CONFIG = "data:\n  root: </pre><script>alert(2)</script>\n"


def answers(
    target: NDArray[np.uint8], num_classes: int, rng: np.random.Generator, wrong: float = 0.1
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """What a decent network says of a mask without ignored pixels.

    Returns:
        Class ids, their probability, and the probability of the target's class, (H, W) each. In
        blocks of 4 pixels, a share of which is wrong and not sure of it.
    """
    height, width = target.shape
    blocks = rng.random((-(-height // 4), -(-width // 4))) < wrong
    flip = np.kron(blocks, np.ones((4, 4), bool))[:height, :width]
    pred = np.where(flip, (target + 1) % num_classes, target).astype(np.uint8)
    sure = np.where(flip, rng.uniform(0.4, 0.6, target.shape), rng.uniform(0.85, 1, target.shape))
    own = np.where(flip, (1 - sure) / 2, sure)
    return pred, sure.astype(np.float32), own.astype(np.float32)


def squares(rng: np.random.Generator, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """A mask with three squares of the classes 1 to 3 on background, at least 12 pixels wide."""
    mask = np.zeros((height, width), np.uint8)
    for class_id in (1, 2, 3):
        side = int(rng.integers(12, 32))
        top = int(rng.integers(0, height - side))
        left = int(rng.integers(0, width - side))
        mask[top : top + side, left : left + side] = class_id
    return mask


def report_data(count: int = 6, max_images: int = 24, size: tuple[int, int] = (96, 128)) -> Any:
    """Of a few images with squares; ``never`` is predicted alone, ``nowhere`` not at all."""
    rng = np.random.default_rng(0)
    num_classes, palette = len(NAMES), voc_palette()
    findings = Findings(num_classes, 255, palette, max_images)
    matrix, calibration = ConfusionMatrix(num_classes), Calibration()
    for number in range(count):
        target = squares(rng, *size)
        pred, confidence, own = answers(target, num_classes, rng, wrong=0.02 + 0.04 * number)
        target[:, :5] = 255
        if number == 1:
            part = slice(40, 60), slice(40, 70)
            target[part] = (pred[part][0, 0] + 1) % 3  # a label that the network knows better
            own[part], confidence[part] = 0.01, 0.97
            pred[part] = pred[part][0, 0]
        image = (palette[target] // 2 + rng.integers(0, 60, (*size, 3))).astype(np.uint8)
        findings.update(ImageResult(f"dir/image <{number}>", image, target, pred, confidence, own))
        tensors = [torch.from_numpy(array)[None] for array in (pred, confidence, target)]
        matrix.update(tensors[0], tensors[2])
        calibration.update(tensors[0], tensors[1], tensors[2])
    result = {
        "checkpoint": "runs/one/checkpoints/best.pt",
        "epoch": 3,
        "split": "val",
        "images": count,
        "classes": NAMES,
        **matrix.compute(),
        "calibration": calibration.compute(),
        "bootstrap": {
            "level": 0.95,
            "images": 4,
            "trust": "a rough idea",
            "miou": (0.5, 0.6),
            "iou": [(0.4, 0.6)] * 4 + [None] * 2,
        },
    }
    history = [
        {"epoch": e, "train/loss": 2 / e, "train/loss/_<b>$": 1 / e, "lr": 0.1 / e, "val/miou": 0.2}
        for e in range(1, 6)
    ]
    return ReportData(result, matrix.matrix.tolist(), palette, findings, history, CONFIG)
