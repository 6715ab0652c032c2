"""Steps on made-up images, in the memory that real ones take: which batch size fits, which did not.

The answers are for one process: the steps of a trial wait for no other.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from segkit.data.loader import Batch
from segkit.errors import ConfigError, TrainingError
from segkit.runtime.memory import CudaMemory, is_out_of_memory
from segkit.training.batch_size import (
    MemoryModel,
    largest_batch_size,
    out_of_memory_advice,
    untouched,
)
from segkit.training.forward import ALONE, Forward
from segkit.training.loop import StepSettings, train_one_epoch
from segkit.training.precision_check import MAX_IMAGES, check_precision
from segkit.training.state import TrainState


@dataclass(frozen=True)
class DryRun:
    """What a training step is made of.

    Attributes:
        state: Of the run.
        forward: From a batch to its loss.
        settings: How one step is made.
        size: Height and width of the images.
        cropped: Whether ``augment.crop_size`` makes them so large.
        in_channels: Channels of the images.
    """

    state: TrainState
    forward: Forward
    settings: StepSettings
    size: tuple[int, int]
    cropped: bool = True
    in_channels: int = 3

    def check_precision(self, batch: Batch) -> str:
        """Try the precision on the batch's first images; nothing of it stays on the device."""
        precision, loss_fn = self.forward.precision, self.forward.loss_fn
        device = precision.device
        image = self.forward.normalize(batch.image[:MAX_IMAGES].to(device))
        target = batch.target[:MAX_IMAGES].to(device).long()
        text = check_precision(self.state.model, loss_fn, image, target, precision)
        if device.type == "cuda":  # float32's memory is none of the run's
            torch.cuda.reset_peak_memory_stats(device)
        return text

    def batch_size(self, limit: int) -> int:
        """The largest that fits into the CUDA device, at most ``limit``.

        Raises:
            ConfigError: The device is none of CUDA's.
            TrainingError: Not even one image fits.
        """
        device = self.forward.precision.device
        if device.type != "cuda":
            raise ConfigError(
                f"loader.batch_size=auto needs a CUDA device, whose memory is known; this run is "
                f"on {device}: give a number, as loader.batch_size=8"
            )
        with untouched(self.state.model, self.state.optimizer, device):
            return largest_batch_size(self.steps, limit=limit, memory=CudaMemory(device))

    @contextmanager
    def out_of_memory(self, batch_size: int, key: str = "loader.batch_size") -> Iterator[None]:
        """Around steps of ``batch_size`` images: where memory runs out, say what would fit.

        Args:
            batch_size: Images per step and process.
            key: The setting that it comes from.

        Raises:
            TrainingError: It ran out.
        """
        try:
            yield
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
        device, model = self.forward.precision.device, None
        if device.type == "cuda":
            memory = CudaMemory(device)
            capacity = memory.capacity
            # Of several processes none can step alone: what averages their gradients is in the
            # middle of a step, and layers may wait for processes whose memory sufficed.
            if self.forward.world.size == 1:
                with untouched(self.state.model, self.state.optimizer, device):
                    model = MemoryModel.measured(self.steps, memory)
        else:
            capacity = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        crop, name = self.size if self.cropped else None, self.forward.precision.name
        raise TrainingError(out_of_memory_advice(batch_size, crop, name, capacity, model, key))

    def steps(self, num_images: int) -> None:
        """Two optimizer steps: the optimizer's own state is there from the second on only."""
        device = self.forward.precision.device
        shape = (num_images, self.in_channels, *self.size)
        image = torch.randint(256, shape, dtype=torch.uint8, device=device)
        target = torch.zeros(num_images, *self.size, dtype=torch.uint8, device=device)
        batch = Batch(image, target, ("trial",) * num_images)
        train_one_epoch(
            replace(self.state, scaler=self.forward.precision.grad_scaler(), average=None, sums={}),
            [batch] * (2 * self.settings.accumulate),
            replace(self.forward, world=ALONE),
            self.settings,
            images_after=lambda steps: steps * num_images,
            on_step=lambda values: None,
        )
