"""Steps on made-up images, in the memory that real ones take: which batch size fits, which did not.

The answers are for one process: the steps of a trial wait for no other.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from segkit.data.loader import Batch
from segkit.engine.batch_size import (
    CudaMemory,
    MemoryModel,
    is_out_of_memory,
    largest_batch_size,
    out_of_memory_advice,
    untouched,
)
from segkit.engine.forward import ALONE, Forward
from segkit.engine.loop import StepSettings, train_one_epoch
from segkit.engine.state import TrainState
from segkit.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class Trial:
    """What a training step is made of.

    Attributes:
        state: Of the run.
        forward: From a batch to its loss.
        settings: How one step is made.
        size: Height and width of the images.
        in_channels: Their channels.
    """

    state: TrainState
    forward: Forward
    settings: StepSettings
    size: tuple[int, int]
    in_channels: int = 3

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
    def out_of_memory(self, batch_size: int) -> Iterator[None]:
        """Around steps of ``batch_size`` images: where memory runs out, say what would fit.

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
            # Synchronised layers would wait for processes whose memory may have sufficed.
            if not any(isinstance(m, nn.SyncBatchNorm) for m in self.state.model.modules()):
                with untouched(self.state.model, self.state.optimizer, device):
                    model = MemoryModel.measured(self.steps, memory)
        else:
            capacity = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        name = self.forward.precision.name
        raise TrainingError(out_of_memory_advice(batch_size, self.size, name, capacity, model))

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
