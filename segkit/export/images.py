"""Images that a network and its exported file are compared on."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.config.schema import ExportConfig
from segkit.errors import DataError
from segkit.inference.loading import rebuild_dataset, setting
from segkit.runs.checkpoint import Checkpoint
from segkit.runtime.finite import all_finite, refuse_logits
from segkit.runtime.log import progress


@torch.no_grad()
def finite_images(
    model: nn.Module, images: Iterator[tuple[str, Tensor]], source: str
) -> Iterator[Tensor]:
    """The images without their names, each with finite logits.

    Raises:
        CheckpointError: Those of an image hold NaN or infinity, of which no range can be taken.
    """
    for name, image in images:
        refuse_logits([all_finite(model(image))], name, source, "fp32")
        yield image


def made_up_images(channels: int = 3, bits: int = 8) -> Iterator[tuple[str, Tensor]]:
    """A few images with names, uint8 or uint16 (1, C, H, W), that are smooth as photographs are."""
    rough = torch.rand(4, channels, 12, 16, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(rough, (192, 256), mode="bicubic").clamp(0, 1)
    for image in ((2**bits - 1) * smooth).to(torch.uint8 if bits == 8 else torch.uint16):
        yield "a made-up image", image[None]


def read_images(settings: ExportConfig, checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Images from all over the data of the run with their ids, bytes (1, C, H, W), one by one.

    Raises:
        DataError: The data is not there, or cannot be read.
    """
    split = settings.calibration.split or setting(checkpoint, "data.train_split", str)
    try:
        dataset = rebuild_dataset(checkpoint, split, settings.calibration.root, settings.allow)
    except DataError as error:
        way = "calibration.root=PATH, a folder in VOC layout"
        if settings.calibration.root is not None:
            way = f"one in VOC layout, or calibration.split=NAME for a list of it besides {split}"
        raise DataError(
            f"{error}. {settings.precision} needs images such as the run's: give {way}"
        ) from error
    count = min(settings.calibration.images, len(dataset))
    # Far apart and in no order, so that the first few are a sample too.
    chosen = np.random.default_rng(0).permutation(len(dataset))[:count].tolist()
    for i in progress(chosen, "calibration", count, "images"):
        pixels = np.ascontiguousarray(dataset.read(i)[0].transpose(2, 0, 1))
        yield str(dataset.ids[i]), torch.from_numpy(pixels)[None]
