"""A checkpoint of a small network that predicts something else from pixel to pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segkit.data.colors import voc_palette
from segkit.models import DeepLabV3Plus
from segkit.models.backbones import Tiny
from segkit.runs.checkpoint import CheckpointMetadata, save_checkpoint
from segkit.training.ema import ModelEMA
from segkit.training.monitor import Best, Monitor
from segkit.training.state import TrainState

CLASSES = ["background", "disk", "square"]
MODEL = {
    "_target_": "segkit.models.DeepLabV3Plus",
    "backbone": {"_target_": "segkit.models.backbones.Tiny", "_partial_": True, "width": 8},
    "num_classes": len(CLASSES),
    "aspp_channels": 16,
    "decoder_channels": 16,
    "separable": True,
}


def save_model(
    path: Path,
    *,
    seed: int = 0,
    with_average: bool = False,
    precision: str = "fp32",
    device: str = "cpu",
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint to ``path`` as a run would; quicker than a run."""
    torch.manual_seed(seed)
    model = DeepLabV3Plus(
        Tiny(8), len(CLASSES), aspp_channels=16, decoder_channels=16, separable=True
    )
    model.classifier.weight.data.normal_()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    average = None
    if with_average:
        average = ModelEMA(model, 0.9)
        average.update(model)
        model.classifier.weight.data.neg_()
    metadata = CheckpointMetadata(
        config={"model": MODEL, "trainer": {"channels_last": True}, **(config or {})},
        classes=CLASSES,
        palette=voc_palette().tolist(),
        ignore_index=255,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        precision=precision,
        device=device,
    )
    state = TrainState(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.amp.GradScaler("cpu", enabled=False),
        Monitor(Best("val/miou", "max")),
        average=average,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, state, metadata, scores={})
    return path


def photo(height: int = 40, width: int = 56, seed: int = 0) -> NDArray[np.uint8]:
    """Coarse noise, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width].copy()
