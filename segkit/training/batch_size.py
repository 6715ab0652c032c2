"""How many images fit into the device, and what would fit where a batch did not."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkit.errors import TrainingError
from segkit.runtime.memory import Memory, is_out_of_memory

# Part of the device's memory that stays free: other crops, library workspaces and fragmentation
# need a little more than the steps that were tried.
MARGIN = 0.1
# Memory of an image in fp16 or bf16 over that in fp32, a cautious guess: activations are half as
# large, the logits at full size and the loss stay float32.
REDUCED = 0.6


def largest_batch_size(try_step: Callable[[int], None], *, limit: int, memory: Memory) -> int:
    """The largest number of images for which a step leaves MARGIN of the memory free.

    Doubled from 2 until it no longer fits, then bisected.

    Args:
        try_step: Makes whole optimizer steps with so many images; two, since the optimizer's own
            state is there from the second on only. See :func:`untouched`.
        limit: Largest number to try, at least 1: the images of the training split.
        memory: Of the device.

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
            "(augment.crop_size), trainer.precision=bf16, or a smaller model/backbone"
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


@dataclass(frozen=True)
class MemoryModel:
    """Peak of a step in bytes: ``fixed + per_image * images * pixels / pixels of the crop``.

    Fixed are weights, gradients and the optimizer's state; activations grow with the images and
    with their pixels.
    """

    fixed: float
    per_image: float

    @classmethod
    def measured(cls, try_step: Callable[[int], None], memory: Memory) -> "MemoryModel | None":
        """The line through steps with one and with two images; None if these do not fit."""
        one = _peak(try_step, 1, memory)
        two = None if one is None else _peak(try_step, 2, memory)
        memory.free()
        if one is None or two is None:
            return None
        return cls(fixed=max(0.0, 2 * one - two), per_image=max(0.0, two - one))

    def images_in(self, capacity: float) -> float:
        """How many images of the crop fit with MARGIN to spare; need not be whole, at least 0."""
        free = max(0.0, (1 - MARGIN) * capacity - self.fixed)
        return free / self.per_image if self.per_image else math.inf


def out_of_memory_advice(
    batch_size: int,
    crop: tuple[int, int] | None,
    precision: str,
    capacity: float,
    model: MemoryModel | None,
    key: str = "loader.batch_size",
) -> str:
    """What to say where a training step ran out of memory: each of the settings that would fit.

    Args:
        batch_size: Images per step and process.
        crop: Height and width in pixels; None where images come in their own sizes.
        precision: fp32, bf16 or fp16.
        capacity: Bytes that the process can have.
        model: Measured; None guesses that the step needs twice the capacity, all for activations.
        key: The setting that the batch size comes from.
    """
    size = "" if crop is None else f" of {crop[0]}x{crop[1]} pixels"
    text = (
        f"out of memory: a step with {key}={batch_size}, images{size} and "
        f"trainer.precision={precision} does not fit into {_gib(capacity)}. "
    )
    if model is None:
        model = MemoryModel(0.0, 2 * capacity / batch_size)
        text += "Not measured, a guess at what may fit: "
    else:
        text += (
            f"Measured: {_gib(model.fixed)} and {_gib(model.per_image)} per image. What fits with "
            f"{MARGIN:.0%} to spare: "
        )
    options = []
    # The batch did not fit, whatever the line says: other processes or fragments took the rest.
    images = min(model.images_in(capacity), (1 - MARGIN) * batch_size)
    if images >= 1:
        options.append(f"{key}={int(images)} (trainer.accumulate makes up for it)")
    if crop is not None:
        shrink = math.sqrt(images / batch_size)
        height, width = (int(side * shrink) // 32 * 32 for side in crop)
        if min(height, width) > 0:
            options.append(f"'augment.crop_size=[{height},{width}]'")
    if precision == "fp32":
        images = min(images / REDUCED, batch_size)
        if images >= 1:
            smaller = f" {key}={int(images)}" * (images < batch_size)
            options.append(f"trainer.precision=bf16{smaller} (an estimate)")
    if not options:
        return text + "nothing but a smaller model/backbone, or a larger device"
    return text + " or ".join(options)


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
