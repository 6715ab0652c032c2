"""What one epoch of training and one pass of evaluation do. ``train.py`` tells the whole story."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from segkit.data.loader import Batch
from segkit.engine.checkpoint import TrainState
from segkit.engine.precision import Normalize, Precision
from segkit.engine.schedule import Schedule
from segkit.errors import TrainingError
from segkit.metrics import ConfusionMatrix

# Halving the scale this often in a row takes it from 2**16 to far below 1: no overflow, a defect.
MAX_SKIPPED_IN_A_ROW = 30
ADVICE = (
    "The weights were not changed by this step. Try a lower optimizer.lr, "
    "trainer.clip_grad_norm=1, or trainer.precision=fp32"
)


@dataclass(frozen=True)
class StepSettings:
    """How one optimizer step is made.

    Attributes:
        schedule: Factor of the learning rate.
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of one epoch.
        accumulate: Batches whose gradients make one step.
        clip_grad_norm: Largest norm of all gradients together; None clips nothing.
    """

    schedule: Schedule
    total_steps: int
    steps_per_epoch: int
    accumulate: int = 1
    clip_grad_norm: float | None = None


def param_groups(
    model: nn.Module, backbone_lr_factor: float, decay_norm_and_bias: bool, lr: float
) -> list[dict[str, object]]:
    """Trainable parameters in up to four groups: backbone or not, weight decay or not.

    Norms and biases (all tensors with fewer than two dimensions) have no weight decay unless
    ``decay_norm_and_bias``: shrinking them regularises nothing.
    """
    backbone = {id(p) for p in getattr(model, "backbone", nn.Module()).parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            decays = decay_norm_and_bias or p.ndim > 1
            groups.setdefault((id(p) in backbone, decays), []).append(p)
    result: list[dict[str, object]] = []
    for (in_backbone, decays), params in groups.items():
        factor = backbone_lr_factor if in_backbone else 1.0
        group: dict[str, object] = {"params": params, "lr": lr * factor, "base_lr": lr * factor}
        result.append(group if decays else group | {"weight_decay": 0.0})
    return result


def train_one_epoch(
    state: TrainState,
    batches: Iterable[Batch],
    loss_fn: nn.Module,
    *,
    normalize: Normalize,
    precision: Precision,
    settings: StepSettings,
    on_step: Callable[[dict[str, float]], None],
) -> dict[str, float]:
    """One pass over the training batches; returns the mean of the steps' values by log name.

    ``on_step`` is called after each optimizer step with that step's values.

    Raises:
        TrainingError: Loss or gradient norm is not finite. The weights are those before the step.
    """
    state.model.train()
    columns: dict[str, list[float]] = {}
    num_images, skipped_in_a_row, lr, started = 0, 0, 0.0, time.perf_counter()
    remaining = iter(batches)
    while group := list(islice(remaining, settings.accumulate)):  # the last may be shorter
        ids = [name for batch in group for name in batch.ids]
        values = _backward(state, group, loss_fn, normalize, precision, ids)
        factor = settings.schedule.factor(
            state.step, settings.total_steps, settings.steps_per_epoch
        )
        for params in state.optimizer.param_groups:
            params["lr"] = params["base_lr"] * factor
        lr = max(params["lr"] for params in state.optimizer.param_groups)
        grad_norm = _optimizer_step(state, settings.clip_grad_norm, ids)
        if math.isfinite(grad_norm):
            values["train/grad_norm"], skipped_in_a_row = grad_norm, 0
        else:
            state.skipped_steps, skipped_in_a_row = state.skipped_steps + 1, skipped_in_a_row + 1
        if skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"step {state.step}: {skipped_in_a_row} steps in a row had gradients that overflow "
                "fp16 at any scale; use trainer.precision=bf16 or fp32, or a lower optimizer.lr"
            )
        state.step += 1
        state.batch += len(group)
        num_images += len(ids)
        on_step(values | {"lr": lr})
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    state.epoch, state.batch = state.epoch + 1, 0
    return {name: statistics.fmean(column) for name, column in columns.items()} | {
        "lr": lr,
        "train/skipped_steps": float(state.skipped_steps),
        "images_per_second": num_images / (time.perf_counter() - started),
    }


def _backward(
    state: TrainState,
    group: list[Batch],
    loss_fn: nn.Module,
    normalize: Normalize,
    precision: Precision,
    ids: list[str],
) -> dict[str, float]:
    """Add the gradients of the batches' mean loss; returns it and its terms by log name."""
    total: dict[str, float] = {}
    for batch in group:
        moved = batch.to(precision.device)
        with precision.autocast():
            logits = state.model(normalize(moved.image))
        loss = loss_fn(logits, moved.target.long())
        terms = {"train/loss": loss.detach()}
        for name, value in getattr(loss_fn, "last_terms", {}).items():
            terms[f"train/loss/{name}"] = value
        # One transfer for all values: each would wait for the device.
        values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        _check_loss(values, state.step, ids)
        state.scaler.scale(loss / len(group)).backward()
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + value / len(group)
    return total


def _check_loss(values: dict[str, float], step: int, ids: list[str]) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        term = bad[-1]  # a term rather than the sum, which comes first
        raise TrainingError(
            f"step {step}: {term} is {values[term]}. Batch: {', '.join(ids)}. {ADVICE}; look at "
            "these files if it always happens with them"
        )


def _optimizer_step(state: TrainState, clip: float | None, ids: list[str]) -> float:
    """Clip and step; returns the gradient norm before clipping. Never steps on a bad gradient."""
    state.scaler.unscale_(state.optimizer)
    params = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    grad_norm = norm.item()
    if math.isfinite(grad_norm):
        if clip is not None:
            nn.utils.clip_grads_with_norm_(params, clip, norm)
        state.scaler.step(state.optimizer)
    elif not state.scaler.is_enabled():
        raise TrainingError(
            f"step {state.step}: the gradient of {_first_bad_layer(state.model)} is not finite. "
            f"Batch: {', '.join(ids)}. {ADVICE}"
        )
    state.scaler.update()  # to a smaller scale, if a gradient overflowed
    state.optimizer.zero_grad(set_to_none=True)
    return grad_norm


def _first_bad_layer(model: nn.Module) -> str:
    bad = (
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    )
    return next(bad, "all layers together")


@dataclass(frozen=True)
class Prediction:
    """One image of an evaluation, on the device.

    Attributes:
        batch: The image alone, N = 1.
        logits: float32 (1, C, H, W).
        pred: Class ids, int64 (1, H, W).
    """

    batch: Batch
    logits: Tensor
    pred: Tensor


@torch.no_grad()
def predictions(
    model: nn.Module, batches: Iterable[Batch], *, normalize: Normalize, precision: Precision
) -> Iterator[Prediction]:
    """What the model, in eval mode, makes of every image at its own size.

    Image by image: the sums of a convolution are split differently for another batch size, which
    changes the last bits of the logits, and scores must not depend on it.
    """
    model.eval()
    for batch in batches:
        moved = batch.to(precision.device)
        for i, name in enumerate(batch.ids):
            one = Batch(moved.image[i : i + 1], moved.target[i : i + 1], (name,))
            with precision.autocast():
                logits = model(normalize(one.image))
            logits = logits.float()
            # max, not argmax: the same ids, seven times faster on the CPU
            yield Prediction(one, logits, logits.max(1).indices)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    num_classes: int,
    ignore_index: int,
    normalize: Normalize,
    precision: Precision,
    loss_fn: nn.Module | None = None,
    on_image: Callable[[Prediction], None] | None = None,
) -> tuple[ConfusionMatrix, float | None]:
    """One confusion matrix over all pixels of all images, and the mean of the images' losses.

    Each image counts once in the loss, so that it does not depend on the batch size either.
    """
    matrix = ConfusionMatrix(num_classes, ignore_index)
    losses: list[Tensor] = []
    for image in predictions(model, batches, normalize=normalize, precision=precision):
        target = image.batch.target.long()
        matrix.update(image.pred, target)
        if loss_fn is not None:
            losses.append(loss_fn(image.logits, target))
        if on_image is not None:
            on_image(image)
    mean_loss = torch.stack(losses).double().mean().item() if losses else None
    return matrix, mean_loss
