"""What a run says at its start: what runs, on what, and what may be other than the user thinks."""

from collections.abc import Iterator
from dataclasses import replace

import torch

import segkit
from segkit.config.schema import TrainConfig
from segkit.data.leaks import remembered
from segkit.data.workers import resolve_num_workers
from segkit.inference.loading import setting
from segkit.models.weights import LoadReport
from segkit.runs.checkpoint import Checkpoint
from segkit.runtime.context import Runtime
from segkit.runtime.log import log
from segkit.schedules import Schedule
from segkit.training.data import Data
from segkit.training.field_of_view import atrous_rates, view_text, view_warnings
from segkit.training.monitor import Monitor
from segkit.training.optimizer import backbone_factor
from segkit.training.plan import EpochPlan
from segkit.training.run import Run
from segkit.training.state import TrainState
from segkit.training.summary import loss_text


def log_start(
    run: Run,
    settings: TrainConfig,
    model: torch.nn.Module,
    taken: LoadReport | None,
    data: Data,
    batch_size: int,
) -> None:
    """Say what runs, on what, and what of it may be other than the user thinks.

    Args:
        run: What is trained.
        settings: The configuration.
        model: The network.
        taken: What it took from ``init_from``.
        data: Both splits.
        batch_size: Images per batch and process.
    """
    checkpoint, runtime = run.checkpoint, run.runtime
    log.info("%s", run_header(settings, model, data, batch_size, runtime))
    log.info("%d images to train on, %d to validate on", len(data.train), len(data.val))
    goes_on = checkpoint is not None
    source, known = (taken.source, taken.trained_on) if taken else (None, [])
    for warning in [
        *view_warnings(settings.model, data.image_size, source, goes_on=goes_on),
        *(f"init_from: {text}" for text in remembered(data.val, "the validation split", known)),
        *warnings_at_start(settings, model, batch_size, checkpoint, runtime.world.size),
    ]:
        log.warning("warning: %s", warning)


def run_header(
    settings: TrainConfig, model: torch.nn.Module, data: Data, batch_size: int, runtime: Runtime
) -> str:
    """What runs, on what: the first lines of the log."""
    parameters = sum(p.numel() for p in model.parameters())
    device = str(runtime.device)
    if runtime.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(runtime.device)}, TF32 allowed)"
    else:
        device += f" ({torch.get_num_threads()} threads)"
    processes = f"{runtime.world.size} processes x " if runtime.world.size > 1 else ""
    view = f"; {view_text(settings.model)}" if atrous_rates(settings.model) else ""
    if late := settings.augment.late_epochs:
        height, width = data.late_size
        last = "epoch" if late == 1 else f"{late} epochs"
        view += f"; augment.late, {height} x {width}, in the last {last}"
    num_workers = resolve_num_workers(settings.loader.num_workers, runtime.device)
    return (
        f"segkit {segkit.__version__}, torch {torch.__version__}, {processes}{device}, "
        f"{runtime.precision.name}, {num_workers} loader processes\n"
        f"{settings.data.num_classes} classes; "
        f"{parameters / 1e6:.2f} M parameters{view}; loss: {loss_text(settings)}; "
        f"batch size {processes}{batch_size} x {settings.trainer.accumulate}; "
        f"learning rate {_lr_text(settings)}"
    )


def _lr_text(settings: TrainConfig) -> str:
    """The one of the rest, and that of the backbone, which is easily overlooked."""
    lr, factor = settings.optimizer["lr"], backbone_factor(settings)
    return f"{lr:g}" + (f", {lr * factor:g} for the backbone" if factor != 1 else "")


def warnings_at_start(
    settings: TrainConfig,
    model: torch.nn.Module,
    batch_size: int,
    checkpoint: Checkpoint | None,
    world_size: int,
) -> Iterator[str]:
    """What may be other than the user thinks."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if batch_size < 4 and any(norm.training for norm in norms):
        other = "model.norm=gn with model.freeze_bn=true, or " if checkpoint is None else ""
        yield (
            f"loader.batch_size={batch_size} is small for BatchNorm, which may make "
            f"validation much worse than training; try {other}a larger batch"
        )
    augment = settings.augment
    if augment.late_epochs >= settings.trainer.max_epochs:
        yield (
            f"augment.late_epochs={augment.late_epochs}: all {settings.trainer.max_epochs} epochs "
            "of the run are late ones, and augment.train is not used"
        )
    if not augment.late_epochs and augment.late_crop_size not in (None, augment.crop_size):
        yield f"augment.late_crop_size={augment.late_crop_size}: not used, augment.late_epochs is 0"
    warmup, epochs = settings.scheduler.get("warmup_epochs") or 0, settings.trainer.max_epochs
    if warmup >= epochs:
        yield (
            f"scheduler.warmup_epochs={warmup:g}: all {epochs} epochs of the run warm up, and the "
            "learning rate never falls"
        )
    if checkpoint is None:
        return
    if checkpoint.metadata.world_size != world_size:
        yield (
            f"{checkpoint.metadata.world_size} processes -> {world_size}: the images come in the "
            f"same order, now {world_size * batch_size} at once; loader.batch_size is that of one "
            "process"
        )
    best, saved = Monitor.of(settings).best, checkpoint.state["best"]
    if (best.monitor, best.mode) != (saved["monitor"], saved["mode"]):
        yield (
            f"trainer.monitor={best.monitor} ({best.mode}): the search for the best begins anew; "
            f"the next validation replaces best.pt and the epoch_*.pt of {saved['monitor']}"
        )


def log_schedule(
    checkpoint: Checkpoint, state: TrainState, schedule: Schedule, plan: EpochPlan
) -> None:
    """Say where the learning rate goes on if the length of the run has changed.

    Args:
        checkpoint: What the run goes on from.
        state: Where it stands.
        schedule: Factor of the learning rate.
        plan: The epoch that comes next.
    """
    before = replace(plan, max_epochs=setting(checkpoint, "trainer.max_epochs", int))
    if before != plan:
        was, now = (one.lr_factor(schedule, state.images) for one in (before, plan))
        log.info(
            "resume: the schedule ends after epoch %d now, not %d; the next step has %.4f of the "
            "learning rate, which would have been %.4f",
            plan.max_epochs,
            before.max_epochs,
            now,
            was,
        )
