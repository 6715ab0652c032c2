"""Train a segmentation model: ``python train.py [key=value ...]``.

Read from top to bottom: files -> data sets -> batches -> model -> loss -> scores -> checkpoint.
"""

import segkit  # isort: skip  # noqa: F401  (first: sets what other libraries read from the environment)
from segkit.ending import ending  # isort: skip

if __name__ == "__main__":
    ending.begin()  # Ctrl-C while the libraries are imported ends in a line, too

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from segkit.cli import check_command_line, run, typed_overrides
from segkit.config import build, build_augment, without_effects
from segkit.training.resume import resumed

if __name__ == "__main__":
    check_command_line("train")  # before the imports that take seconds: a wrong key ends at once

import torch
from omegaconf import DictConfig, OmegaConf

from segkit.data.loader import Collate, Samples, eval_loader, train_loader
from segkit.data.sampler import EpochBatchSampler
from segkit.data.workers import batches, close, resolve_num_workers, shm_warning
from segkit.models.normalize import Normalize, memory_order
from segkit.runtime.determinism import explain_nondeterminism, make_deterministic
from segkit.runtime.device import Precision, pick_device, set_up
from segkit.runtime.distributed import (
    DistributedContext,
    check_same_start,
    connect,
    sync_batch_norm,
    wrap,
)
from segkit.runtime.finite import refuse_weights
from segkit.runtime.log import log, log_to_console, progress
from segkit.runtime.memory import peak_memory_mib
from segkit.runtime.signals import Stopped, StopSignals, exit_code
from segkit.training.data import load_data
from segkit.training.dry_run import DryRun
from segkit.training.field_of_view import (
    complete_model,
    likely_causes,
    typical_size,
    view_warnings,
)
from segkit.training.forward import Forward
from segkit.training.loop import StepSettings, train_one_epoch
from segkit.training.monitor import is_finished, is_over
from segkit.training.recorder import Output, claim, describe, open_folder
from segkit.training.state import make_state
from segkit.training.summary import finish, log_schedule, run_header, score_text, warnings_at_start
from segkit.training.validation import Validation
from segkit.training.warm_start import init_from


def train(cfg: DictConfig) -> float | None:
    """Run the training that ``cfg`` describes; returns the best value of what it monitors."""
    with StopSignals(begun=False) as signals, connect() as world, ExitStack() as stack:
        log_to_console(world.rank)
        try:
            return train_in(world, cfg, signals, stack)
        except Stopped as stopped:
            number = stopped.number
    raise SystemExit(exit_code(number))


def train_in(
    world: DistributedContext, cfg: DictConfig, signals: StopSignals, stack: ExitStack
) -> float | None:
    """:func:`train` in one of the processes of ``world``; ``stack`` is closed when it is done."""
    started = time.perf_counter()

    # A run that goes on brings its configuration and its state.
    cfg, saved = resumed(cfg, typed_overrides())
    check_same_start(None if saved is None else saved.state, world)
    world.broadcast_from_main(lambda: claim(cfg, saved, stack))
    if saved is not None and is_finished(cfg, saved):
        return finish(cfg, saved.state, world)
    device = pick_device(cfg.trainer.device, world.local_rank, world.size)
    precision = Precision.pick(cfg.trainer.precision, device)
    torch.manual_seed(cfg.seed)
    make_deterministic(cfg.trainer.deterministic)
    set_up(device)

    # Files -> data sets, checked before anything else. Their classes complete the configuration.
    data = load_data(cfg, saved, world)
    augment = build_augment(cfg)
    size = typical_size(Samples(data.train, augment, cfg.seed))
    if saved is None:
        complete_model(cfg.model, size)

    # Model -> loss -> optimizer: the state that each step changes
    model = build(cfg.model if saved is None else without_effects(cfg.model))
    if saved is None and (weights := OmegaConf.select(cfg, "model.backbone.weights")) is not None:
        refuse_weights(model, f"model.backbone.weights={weights}")
    source: dict[str, Any] | None = None
    if cfg.init_from is not None and saved is None:
        taken = init_from(model, cfg.init_from, cfg.init_parts)
        log.info("init_from=%s: %s", cfg.init_from, taken)
        source = taken.source
        refuse_weights(model, f"init_from={cfg.init_from}")
    model = model.to(device=device, memory_format=memory_order(cfg.trainer.channels_last))
    loss_fn = build(cfg.loss).to(device)
    state = make_state(cfg, model, precision)
    normalize = Normalize(tuple(cfg.data.mean), tuple(cfg.data.std), cfg.trainer.channels_last)
    forward = Forward(loss_fn, normalize, precision, world)
    settings = StepSettings(
        schedule=build(cfg.scheduler),
        max_epochs=cfg.trainer.max_epochs,
        images_per_epoch=len(data.train),
        accumulate=cfg.trainer.accumulate,
        clip_grad_norm=cfg.trainer.clip_grad_norm,
        seed=cfg.seed,
    )
    if saved is not None:
        state.load_state_dict(saved.state)
    trial = DryRun(state, forward, settings, size, cropped=cfg.augment.crop_size is not None)
    if cfg.loader.batch_size == "auto":
        largest = trial.batch_size(limit=max(1, len(data.train) // world.size))
        cfg.loader.batch_size = min(world.gather(largest))
        log.info("loader.batch_size=auto: %d", cfg.loader.batch_size)
    if cfg.trainer.sync_bn:  # from here on no process makes a step alone
        sync_batch_norm(model, world, device)

    # Data sets -> batches
    fill = tuple(round(255 * value) for value in cfg.data.mean)
    collate = Collate(fill, cfg.data.ignore_index)
    num_workers = resolve_num_workers(cfg.loader.num_workers)
    loading: dict[str, Any] = {
        "collate": collate,
        "batch_size": cfg.loader.batch_size,
        "num_workers": num_workers,
        "device": device,
        "rank": world.rank,
        "world_size": world.size,
    }
    train_batches = train_loader(data.train, augment, seed=cfg.seed, **loading)
    val_batches = eval_loader(data.val, **loading)
    stack.callback(close, train_batches)
    stack.callback(close, val_batches)
    plan = train_batches.batch_sampler  # which images come when
    assert isinstance(plan, EpochBatchSampler)
    if saved is not None:
        per_step = plan.global_batch_size * cfg.trainer.accumulate
        used = {"images_per_epoch": plan.images_per_epoch, "images_per_step": per_step}
        log_schedule(saved, state, replace(settings, **used))
    if full := shm_warning(4 * size[0] * size[1] * cfg.loader.batch_size, num_workers):
        log.warning("warning: %s", full)
    if precision.reduced and cfg.trainer.check_precision and saved is None:
        log.info("%s", trial.check_precision(next(batches(train_batches))))

    # The run folder: from here on something is written, by the first process
    cfg.out_dir = str(world.broadcast_from_main(lambda: open_folder(cfg, saved, stack, signals)))
    about = describe(cfg, data, precision, device, world, saved)
    output = Output(
        cfg, about, state, saved, world=world, signals=signals, stack=stack, started=started
    )
    if saved is None:
        output.run_log.text("config", OmegaConf.to_yaml(about.config))
        output.run_log.text("data", data.table)
    validation = Validation(cfg, data, val_batches, forward, output)
    log.info("%s", run_header(cfg, model, precision, world, num_workers))
    log.info("%d images to train on, %d to validate on", len(data.train), len(data.val))
    for warning in [
        *view_warnings(cfg.model, size, source, goes_on=saved is not None),
        *warnings_at_start(cfg, model, saved, world),
    ]:
        log.warning("warning: %s", warning)

    # Epochs: perhaps first with a frozen backbone, then with all
    network: torch.nn.Module | None = None
    while not is_over(cfg, state.epoch, state.patience):
        epoch = state.epoch + 1
        frozen = epoch <= cfg.trainer.freeze_epochs
        if network is None or epoch == cfg.trainer.freeze_epochs + 1:
            if cfg.trainer.freeze_epochs:
                model.set_frozen_backbone(frozen or cfg.model.get("freeze_backbone", False))
            network = wrap(model, world, device)
            if cfg.trainer.compile:
                network = torch.compile(network)  # type: ignore[assignment]
        key = "freeze_batch_size" if frozen and cfg.loader.freeze_batch_size else "batch_size"
        batch_size = cfg.loader[key]
        plan.global_batch_size = batch_size * world.size
        plan.epoch, plan.start = epoch, state.images
        per_step = plan.global_batch_size * cfg.trainer.accumulate
        with trial.out_of_memory(batch_size, f"loader.{key}"), explain_nondeterminism():
            values: dict[str, float | None] = dict(
                train_one_epoch(
                    state,
                    progress(
                        output.from_first(batches(train_batches)),
                        f"epoch {epoch}",
                        len(train_batches),
                    ),
                    forward,
                    replace(
                        settings,
                        images_per_epoch=plan.images_per_epoch,
                        images_per_step=per_step,
                    ),
                    images_after=plan.images_after,
                    on_step=output.on_step,
                    network=network,
                )
            )
        line = f"epoch {epoch}/{cfg.trainer.max_epochs}  loss {values['train/loss']:.4f}"
        scores: dict[str, Any] = {}
        fell = None
        if epoch % cfg.trainer.val_every == 0 or epoch == cfg.trainer.max_epochs:
            found, scores = validation.run(state)
            values |= found
            line += f"  val mIoU {score_text(scores['miou'])}"
            fell = state.fall.update(scores["miou"], values["train/loss"], epoch)
            line += f" {fell}" if fell else ""
            broken = "val/not_finite" in values  # whatever is monitored, train/loss too
            line += "  (NaN or infinity)" * broken
            score = None if broken else values[state.best.monitor]
            state.best.update(score, epoch, scores, cfg.trainer.keep_best)
            if state.patience is not None:
                state.patience.update(None if broken else values[state.patience.monitor])
        state.finish_epoch()
        values["memory_mib"] = peak_memory_mib(device)
        output.on_epoch(line, values, scores)
        if fell:
            log.warning("warning: %s", likely_causes(cfg, size, batch_size))
    output.close()
    return finish(cfg, state.state_dict(), world)


if __name__ == "__main__":
    run("train", train)
