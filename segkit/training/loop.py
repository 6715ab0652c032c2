"""What one epoch of training does. ``train.py`` tells the whole story."""

import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice

import torch
from torch import nn

from segkit.config.schema import TrainConfig
from segkit.data.loader import Batch
from segkit.errors import TrainingError
from segkit.runtime.determinism import seed_step
from segkit.runtime.device import Precision
from segkit.runtime.finite import all_finite, gentler
from segkit.runtime.memory import is_out_of_memory
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState
from segkit.training.step import TrainStep

# Halving the scale this often in a row takes it from 2**16 to far below 1: no overflow, a defect.
MAX_SKIPPED_IN_A_ROW = 30


def train_one_epoch(
    state: TrainState,
    batches: Iterable[Batch],
    step: TrainStep,
    plan: EpochPlan,
    *,
    on_step: Callable[[dict[str, float]], None],
    network: nn.Module | None = None,
) -> dict[str, float]:
    """The rest of an epoch; returns the means of all its steps' values by log name.

    Args:
        state: Where the run stands; changed with every step. Between two steps, so in ``on_step``,
            it can be saved.
        batches: Those of the epoch that are not used yet, the share of this process.
        step: From a batch to its loss, and to the update of the weights.
        plan: The epoch.
        on_step: Called after each optimizer step with that step's values by log name.
        network: What is called, if it is not ``state.model`` itself but wraps it.

    Raises:
        TrainingError: Loss or gradient norm is not finite. The weights are those before the step,
            which the message counts from 1, as the curves do.
    """
    network = state.model if network is None else network
    network.train()
    num_batches, skipped_in_a_row = 0, 0
    precision = step.precision.name
    first, started = state.images, time.perf_counter()
    remaining = iter(batches)
    while group := list(islice(remaining, plan.accumulate)):  # the last may be shorter
        values = _backward(state, network, group, step)
        factor = plan.lr_factor(step.schedule, state.images)
        for params in state.optimizer.param_groups:
            params["lr"] = params["base_lr"] * factor
        lr = max(params["lr"] for params in state.optimizer.param_groups)
        grad_norm = _optimizer_step(state, group, step.clip_grad_norm, precision)
        if math.isfinite(grad_norm):
            values["train/grad_norm"], skipped_in_a_row = grad_norm, 0
        else:
            state.skipped_steps, skipped_in_a_row = state.skipped_steps + 1, skipped_in_a_row + 1
        if skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"step {state.step + 1}: {skipped_in_a_row} steps in a row had gradients that "
                "overflow fp16 at any scale; use trainer.precision=bf16 or fp32, or a lower "
                "optimizer.lr"
            )
        if state.average is not None:
            state.average.update(state.model)
        state.step += 1
        num_batches += len(group)
        state.images = plan.images_after(num_batches)
        state.count(values)
        state.last_values = values | {"lr": lr}
        on_step(state.last_values)
    return state.means() | {
        "lr": state.last_values["lr"],
        "train/skipped_steps": float(state.skipped_steps),
        "images_per_second": (state.images - first) / (time.perf_counter() - started),
    }


def _backward(
    state: TrainState, network: nn.Module, group: list[Batch], step: TrainStep
) -> dict[str, float]:
    """Add the gradients of the loss of all batches; returns it and its terms by log name."""
    total: dict[str, float] = {}
    reseed = partial(seed_step, step.seed, state.step, step.world.rank)
    reseed()
    parts = step.parts(state.model, group)
    reseed()  # in case that drew the same numbers as the step will
    for i, (batch, part) in enumerate(zip(group, parts, strict=True), 1):
        # Gradients are exchanged once per step, with those of the last batch.
        no_sync = getattr(network, "no_sync", nullcontext)
        with no_sync() if i < len(group) else nullcontext():
            loss = step.loss(network, batch, part)
            terms = {"train/loss": loss.detach()}
            for name, value in getattr(step.loss_fn, "last_terms", {}).items():
                terms[f"train/loss/{name}"] = value
            # One transfer for all values: each would wait for the device.
            values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
            _check_loss(values, state, group, step.precision.name)
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _check_loss(
    values: dict[str, float], state: TrainState, group: list[Batch], precision: str
) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        term = bad[-1]  # a term rather than the sum, which comes first
        start = f"step {state.step + 1}: {term} is {values[term]}. Batch: {_names(group)}. "
        if not all(bool(all_finite(p)) for p in state.model.parameters()):
            raise TrainingError(
                f"{start}The weights held NaN or infinity before this step: the training had "
                "diverged. Start again, or resume best.pt if there is one, with "
                f"{gentler(precision)}"
            )
        raise TrainingError(
            f"{start}{_unchanged(precision)}; look at these files if it always happens with them"
        )


def _unchanged(precision: str) -> str:
    return f"The weights were not changed by this step. Try {gentler(precision)}"


def _names(group: list[Batch]) -> str:
    return ", ".join(name for batch in group for name in batch.ids)


def _optimizer_step(
    state: TrainState, group: list[Batch], clip: float | None, precision: str
) -> float:
    """Clip and step; returns the gradient norm before clipping. Never steps on a bad gradient."""
    state.scaler.unscale_(state.optimizer)
    params = [p for settings in state.optimizer.param_groups for p in settings["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    grad_norm = norm.item()
    if math.isfinite(grad_norm):
        if clip is not None:
            nn.utils.clip_grads_with_norm_(params, clip, norm)
        try:
            state.scaler.step(state.optimizer)
        except RuntimeError as error:  # of a setting like lr=1e39, which no float32 holds
            if "without overflow" not in str(error):
                raise
            raise TrainingError(
                f"step {state.step + 1}: a number of the optimizer's overflows ({error}). Try a "
                "lower optimizer.lr"
            ) from error
    elif not state.scaler.is_enabled():
        raise TrainingError(
            f"step {state.step + 1}: the gradient of {_first_bad_layer(state.model)} is not "
            f"finite. Batch: {_names(group)}. {_unchanged(precision)}"
        )
    state.scaler.update()  # to a smaller scale, if a gradient overflowed
    state.optimizer.zero_grad(set_to_none=True)
    return grad_norm


def _first_bad_layer(model: nn.Module) -> str:
    bad = (
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    )
    return next(bad, "all layers together")


@contextmanager
def out_of_memory_explained(
    settings: TrainConfig, plan: EpochPlan, precision: Precision
) -> Iterator[None]:
    """Around the steps of an epoch: where memory runs out, say which settings take less.

    Args:
        settings: The configuration.
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
    if settings.augment.crop_size is not None:
        ways.append("a smaller augment.crop_size")
    if not precision.reduced:
        ways.append("trainer.precision=bf16")
    raise TrainingError(
        f"out of memory: a step with {plan.batch_size_key}={plan.batch_size} and "
        f"trainer.precision={precision.name} does not fit; use {', '.join([*ways, ''])}"
        f"{'or ' * bool(ways)}a smaller model/backbone ({said})"
    )
