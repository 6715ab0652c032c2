"""``loader.batch_size=auto``: how many images fit into the device."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from segkit.config.schema import TrainConfig
from segkit.data.loader import Batch
from segkit.errors import ConfigError, TrainingError
from segkit.runtime.context import Runtime
from segkit.runtime.log import log
from segkit.runtime.memory import CudaMemory, Memory, is_out_of_memory
from segkit.training.data import Data
from segkit.training.loop import train_one_epoch
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState
from segkit.training.step import ALONE, TrainStep

# Part of the device's memory that stays free: other crops, library workspaces and fragmentation
# need a little more than the steps that were tried.
MARGIN = 0.1


def choose_batch_size(
    settings: TrainConfig, state: TrainState, step: TrainStep, data: Data, runtime: Runtime
) -> int:
    """``loader.batch_size``, the images per batch and process; of ``auto`` as many as fit.

    Of several processes the smallest answer counts: each tries its own device, alone.

    Args:
        settings: The configuration.
        state: Of weights and optimizer; put back after the trial steps.
        step: What a training step does.
        data: Both splits.
        runtime: The processes and the device.

    Raises:
        ConfigError: ``auto`` on another device than CUDA.
        TrainingError: Not even one image fits.
    """
    if settings.loader.batch_size != "auto":
        return int(settings.loader.batch_size)
    device = runtime.device
    if device.type != "cuda":
        raise ConfigError(
            f"loader.batch_size=auto needs a CUDA device, whose memory is known; this run is on "
            f"{device}: give a number, as loader.batch_size=8"
        )
    accumulate = settings.trainer.accumulate
    with untouched(state.model, state.optimizer, device):
        largest = largest_batch_size(
            lambda count: trial_steps(state, step, data.largest_size, count, accumulate),
            limit=max(1, len(data.train) // runtime.world.size),
            memory=CudaMemory(device, bucket_bytes(state.model, runtime.world.size)),
        )
    found = min(runtime.world.gather(largest))
    log.info("loader.batch_size=auto: %d", found)
    return found


def bucket_bytes(model: torch.nn.Module, world_size: int) -> int:
    """What DDP keeps beside a step of one process: its buckets, as large as all gradients."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return sum(p.numel() * p.element_size() for p in trained) if world_size > 1 else 0


def trial_steps(
    state: TrainState,
    step: TrainStep,
    image_size: tuple[int, int],
    batch_size: int,
    accumulate: int = 1,
) -> None:
    """Two optimizer steps on made-up images, in the memory that real ones take.

    Two, since the optimizer's own state is there from the second on only. They wait for no other
    process.

    Args:
        state: Changed, but for its counters.
        step: What a training step does.
        image_size: Height and width of the images in pixels.
        batch_size: Images per batch.
        accumulate: Batches per step.
    """
    device = step.precision.device
    state.model.zero_grad(set_to_none=True)  # of a trial before, which ended in between
    image = torch.randint(
        256, (batch_size, len(step.normalize.mean), *image_size), dtype=torch.uint8, device=device
    )
    target = torch.zeros(batch_size, *image_size, dtype=torch.uint8, device=device)
    count = 2 * accumulate
    plan = EpochPlan(1, 1, count * batch_size, batch_size, accumulate=accumulate)
    # Where the gradients of fp16 overflowed, no step would be made and the optimizer's state, which
    # takes memory, be missing. At this scale those of a mean do not.
    scaler = torch.amp.GradScaler(device.type, 1.0, enabled=step.precision.name == "fp16")
    train_one_epoch(
        replace(state, scaler=scaler, average=None, sums={}, images=0),
        [Batch(image, target, ("trial",) * batch_size)] * count,
        replace(step, world=ALONE),
        plan,
    )


def largest_batch_size(try_step: Callable[[int], None], *, limit: int, memory: Memory) -> int:
    """The largest number of images for which a step leaves MARGIN of the memory free.

    Doubled from 2 until it no longer fits, then bisected.

    Args:
        try_step: Makes whole optimizer steps with so many images; two, since the optimizer's own
            state is there from the second on only. See :func:`untouched`.
        limit: Largest number to try, at least 1: the images of the training split.
        memory: The device's memory.

    Raises:
        TrainingError: Not even one image fits.
    """

    largest, too_large = 0, limit + 1
    num_images = min(2, limit)
    while too_large - largest > 1:
        peak = _peak(try_step, num_images, memory)
        if peak is not None and peak <= (1 - MARGIN) * memory.capacity:
            largest = num_images
        else:
            too_large = num_images
        searching = too_large > limit  # for one that does not fit
        num_images = min(2 * num_images, limit) if searching else (largest + too_large) // 2
    memory.free()
    if largest == 0:
        raise TrainingError(
            "loader.batch_size=auto: not even one image fits into the "
            f"{_gib(memory.capacity)} there are, {MARGIN:.0%} of it to spare. Use a smaller crop "
            "(augment.crop_size, augment.late_crop_size), trainer.precision=bf16, or a smaller "
            "model/backbone"
        )
    return largest


def _peak(try_step: Callable[[int], None], num_images: int, memory: Memory) -> float | None:
    """Peak memory of ``try_step(num_images)``; None where it does not fit."""
    memory.free()  # here, since the error before held that step's tensors until it was dropped
    try:
        try_step(num_images)
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
        raise
    return memory.peak()


@contextmanager
def untouched(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Iterator[None]:
    """Around trial steps: weights, statistics, optimizer and random numbers are put back after.

    Gradients are gone then, and the copies lie in the CPU's memory meanwhile.
    """
    tensors = [*model.parameters(), *model.buffers()]
    saved = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    state = optimizer.state_dict()
    values = (value for of_one in state["state"].values() for value in of_one.values())
    on_cpu = {id(v): v.to("cpu", copy=True) for v in values if isinstance(v, Tensor)}
    optimizer_state = copy.deepcopy(state, on_cpu)  # finds the tensors copied already
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)
        model.zero_grad(set_to_none=True)
        optimizer.load_state_dict(optimizer_state)
        for module, mode in modes:
            module.training = mode


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
