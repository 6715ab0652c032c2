"""What one epoch of training does. ``train.py`` tells the whole story."""

import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from segkit.data.loader import Batch, to_device
from segkit.errors import TrainingError
from segkit.runtime.determinism import explain_nondeterminism, fastest_convolutions, seed_step
from segkit.runtime.device import Precision
from segkit.runtime.memory import is_out_of_memory
from segkit.training.found import Found
from segkit.training.optimizer import gated, leaves_out_steps
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState
from segkit.training.step import TrainStep

FLOAT32_MAX = torch.finfo(torch.float32).max
# Halving the scale this often in a row takes it from 2**16 to far below 1: no overflow, a defect.
MAX_SKIPPED_IN_A_ROW = 30


def train_one_epoch(
    state: TrainState,
    batches: Iterable[Batch],
    step: TrainStep,
    plan: EpochPlan,
    *,
    on_step: Callable[[dict[str, float]], None] = lambda values: None,
    between_steps: Callable[[], None] = lambda: None,
    network: nn.Module | None = None,
) -> dict[str, float]:
    """The rest of an epoch; returns the means of all its steps' values by log name.

    With a fused optimizer no step waits for the device: that itself leaves the weights as they are
    where a value is not finite, and the values of a step are read while the next one is computed,
    or by :meth:`TrainState.settle <segkit.training.state.TrainState.settle>`.

    Args:
        state: Where the run stands; changed with every step.
        batches: Those of the epoch that are not used yet, the share of this process.
        step: From a batch to its loss, and to the update of the weights.
        plan: The epoch.
        on_step: Called once for each optimizer step with its values by log name, when they are
            known. ``state.step`` is the number of that step then.
        between_steps: Called after each optimizer step. The state can be saved there.
        network: What is called, if it is not ``state.model`` itself but wraps it.

    Raises:
        TrainingError: Loss or gradient norm is not finite. The weights are those before the step,
            which the message counts from 1, as the curves do.
    """
    network = state.model if network is None else network
    network.train()
    num_batches, skipped_in_a_row, has_stepped = 0, 0, False
    fused = leaves_out_steps(state.optimizer)
    failed = torch.zeros((), dtype=torch.bool, device=step.precision.device)
    first, started = state.images, time.perf_counter()

    def settle(found: Found, lr: float) -> None:
        nonlocal skipped_in_a_row, has_stepped
        values, grad_norm = found.read(state.model, may_overflow=state.scaler.is_enabled())
        if math.isfinite(grad_norm):
            values["train/grad_norm"], skipped_in_a_row, has_stepped = grad_norm, 0, True
        else:
            state.skipped_steps, skipped_in_a_row = state.skipped_steps + 1, skipped_in_a_row + 1
        if skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"step {found.step}: {skipped_in_a_row} steps in a row had gradients that "
                "overflow fp16 at any scale; use trainer.precision=bf16 or fp32, or a lower "
                "optimizer.lr"
            )
        state.count(values)
        state.last_values = values | {"lr": lr}
        on_step(state.last_values)

    remaining = to_device(batches, step.precision.device)
    while group := list(islice(remaining, plan.accumulate)):  # the last may be shorter
        losses = _backward(state, network, group, step)
        factor = plan.lr_factor(step.schedule, state.images)
        for params in state.optimizer.param_groups:
            params["lr"] = params["base_lr"] * factor
        lr = max(params["lr"] for params in state.optimizer.param_groups)
        # The first one is looked at before it is made: where that is left out, the fused SGD takes
        # the momentum as it finds it, uninitialised.
        gate = failed if fused and has_stepped else None
        found = _optimizer_step(state, losses, group, step, gate)
        if state.average is not None:
            state.average.update(state.model, gate)
        state.settle()  # the step before
        state.step += 1
        num_batches += len(group)
        state.images = plan.images_after(num_batches)
        state.unsettled = partial(settle, found, lr)
        if gate is None:
            state.settle()
        between_steps()
    state.settle()
    return state.means() | {
        "lr": state.last_values["lr"],
        "train/skipped_steps": float(state.skipped_steps),
        "images_per_second": (state.images - first) / (time.perf_counter() - started),
    }


def _backward(
    state: TrainState, network: nn.Module, group: list[Batch], step: TrainStep
) -> dict[str, Tensor]:
    """Add the gradients of the loss of all batches; returns it and its terms by log name.

    They are on the device, one number for each batch.
    """
    found: list[dict[str, Tensor]] = []
    reseed = partial(seed_step, step.seed, state.step, step.world.rank)
    reseed()
    parts = step.parts(state.model, group)
    reseed()  # in case that drew the same numbers as the step will
    for i, (batch, part) in enumerate(zip(group, parts, strict=True), 1):
        # Gradients are exchanged once per step, with those of the last batch.
        no_sync = getattr(network, "no_sync", nullcontext)
        with no_sync() if i < len(group) else nullcontext():
            loss = step.loss(network, batch, part)
            terms = getattr(step.loss_fn, "last_terms", {})
            found.append(
                {"train/loss": loss.detach()} | {f"train/loss/{n}": v for n, v in terms.items()}
            )
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return {name: torch.stack([terms[name] for terms in found]) for name in found[0]}


def _optimizer_step(
    state: TrainState,
    losses: dict[str, Tensor],
    group: list[Batch],
    step: TrainStep,
    failed: Tensor | None,
) -> Found:
    """Clip and step; never on a value that is not finite.

    Args:
        state: With the gradients of the step.
        losses: What :func:`_backward` returned.
        group: The batches of the step.
        step: What a training step does.
        failed: On the device, whether a step of this epoch had to be refused; no step is made from
            then on. None: the host looks, which waits for the device.

    Raises:
        TrainingError: The host looked, and a value is not finite.
    """
    optimizer, scaler = state.optimizer, state.scaler
    scaler.unscale_(optimizer)
    params = [p for settings in optimizer.param_groups for p in settings["params"]]
    params = [p for p in params if p.grad is not None]
    norms = torch._foreach_norm([p.grad for p in params]) if params else []
    each = torch.stack([*norms]) if params else torch.zeros(0, device=step.precision.device)
    norm = torch.linalg.vector_norm(each)
    found = Found(
        step=state.step + 1,
        names=list(losses),
        losses=torch.stack(list(losses.values()), 1),
        norms=each,
        norm=norm,
        params=params,
        ids=[batch.ids for batch in group],
        precision=step.precision.name,
    )
    if failed is None:
        _, grad_norm = found.read(state.model, may_overflow=scaler.is_enabled())
        makes_step = math.isfinite(grad_norm)
    else:
        makes_step, overflows = True, ~norm.isfinite()
        failed |= ~found.losses.isfinite().all()
        if not scaler.is_enabled():
            failed |= overflows
    if makes_step:
        if step.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(params, step.clip_grad_norm, norm)
        refuse_overflow(optimizer, found.step)
        if failed is None:
            scaler.step(optimizer)
        else:
            with gated(optimizer, failed | overflows):
                optimizer.step()
    scaler.update()  # to a smaller scale, if a gradient overflowed
    optimizer.zero_grad(set_to_none=True)
    return found


def refuse_overflow(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Raise a TrainingError for a setting, such as lr=1e39, that is infinite in float32.

    Args:
        optimizer: Before it makes a step.
        step: Its number.
    """
    for group in optimizer.param_groups:
        for name, value in group.items():
            if name != "base_lr" and isinstance(value, float) and abs(value) > FLOAT32_MAX:
                raise TrainingError(
                    f"step {step}: {name}={value:g} of the optimizer overflows float32. Try a "
                    f"lower optimizer.{name}"
                )


@contextmanager
def around_steps(plan: EpochPlan, precision: Precision) -> Iterator[None]:
    """What surrounds the steps of an epoch: the fastest kernels, and errors in words.

    Args:
        plan: The epoch.
        precision: Number format of the forward pass.
    """
    with (
        fastest_convolutions(plan.crop_size_key is not None),
        explain_nondeterminism(),
        out_of_memory_explained(plan, precision),
    ):
        yield


@contextmanager
def out_of_memory_explained(plan: EpochPlan, precision: Precision) -> Iterator[None]:
    """Around the steps of an epoch: where memory runs out, say which settings take less.

    Args:
        plan: The epoch.
        precision: Number format of the forward pass.

    Raises:
        TrainingError: It ran out.
    """
    try:
        yield
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0]
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
    ways = []
    if plan.batch_size > 1:
        ways.append(f"a smaller {plan.batch_size_key} (trainer.accumulate makes up for it)")
    if plan.crop_size_key is not None:
        ways.append(f"a smaller {plan.crop_size_key}")
    if not precision.reduced:
        ways.append("trainer.precision=bf16")
    raise TrainingError(
        f"out of memory: a step with {plan.batch_size_key}={plan.batch_size} and "
        f"trainer.precision={precision.name} does not fit; use {', '.join([*ways, ''])}"
        f"{'or ' * bool(ways)}a smaller model/backbone ({said})"
    )
