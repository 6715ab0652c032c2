"""Train a segmentation model: ``python train.py [key=value ...]``."""

# Read from top to bottom: files -> data sets -> batches -> model -> loss -> scores -> checkpoint.

import segkit  # isort: skip  # noqa: F401  (first: sets what other libraries read from the environment)
from segkit.ending import ending  # isort: skip

if __name__ == "__main__":
    ending.begin()  # Ctrl-C while the libraries are imported ends in a line, too

from typing import Any

from segkit.cli import check_command_line, run, typed_overrides

if __name__ == "__main__":
    check_command_line("train")  # before the imports that take seconds: a wrong key ends at once

import torch
from omegaconf import DictConfig

from segkit.runs.finished import FinishedRun
from segkit.runtime.context import Runtime, open_runtime
from segkit.runtime.determinism import make_deterministic
from segkit.runtime.log import log
from segkit.training.batch_size import choose_batch_size
from segkit.training.batches import open_batches
from segkit.training.data import load_data
from segkit.training.header import log_schedule, log_start
from segkit.training.loop import around_steps, train_one_epoch
from segkit.training.network import build_model, share_batch_norm, trainable
from segkit.training.plan import epoch_plan, epoch_plans
from segkit.training.precision_check import try_precision
from segkit.training.recorder import Recorder
from segkit.training.run import open_run
from segkit.training.state import TrainState
from segkit.training.step import TrainStep
from segkit.training.validation import Validation


def train(cfg: DictConfig) -> FinishedRun:
    """Run the training that ``cfg`` describes; returns where it is and how good it was."""
    with open_runtime(patient=True) as runtime:
        return train_in(runtime, cfg)


def train_in(runtime: Runtime, cfg: DictConfig) -> FinishedRun:
    """:func:`train` in one of its processes."""
    # A run that goes on brings its configuration and its state. Its folder is held from here on.
    run = open_run(cfg, typed_overrides(), runtime)
    if run.is_finished:
        return run.finish()
    trainer = run.cfg.trainer
    runtime.compute_on(trainer.device, trainer.precision)
    torch.manual_seed(run.cfg.seed)
    make_deterministic(trainer.deterministic)

    # Files -> data sets, checked before anything else. What they say completes the configuration:
    # from here on it is `settings`, typed and frozen, and nothing reads `cfg` any more.
    data = load_data(run.cfg, run.checkpoint, runtime)
    settings = run.complete(data)

    # Model -> loss -> optimizer: the state that each step changes
    model, taken = build_model(settings, run.checkpoint, runtime)
    state = TrainState.start(model, settings, runtime.precision)
    step = TrainStep.build(settings, runtime)
    if run.checkpoint is not None:
        state.load_state_dict(run.checkpoint.state)
    batch_size = choose_batch_size(settings, state, step, data, runtime)  # a number, or auto
    share_batch_norm(model, settings, runtime)

    # Data sets -> batches
    train_batches, val_batches = open_batches(data, settings, batch_size, runtime)
    plan = epoch_plan(settings, len(data.train), state, batch_size, runtime.world.size)
    if run.checkpoint is not None:
        log_schedule(run.checkpoint, state, step.schedule, plan)
    reduced = runtime.precision.reduced and not run.has_tried_precision
    if reduced and settings.trainer.check_precision:
        log.info("%s", try_precision(model, step, next(train_batches.of(plan.or_next))))

    # The run folder: from here on something is written, by the first process
    recorder = Recorder(run, settings, data, state, batch_size, taken)
    validation = Validation(settings, data, val_batches, step, recorder)
    log_start(run, settings, model, taken, data, batch_size)

    # Epochs: perhaps first with a frozen backbone, then with all
    network = None
    for plan in epoch_plans(settings, len(data.train), state, batch_size, runtime.world.size):
        if network is None or plan.unfreezes:
            network = trainable(model, plan, settings, runtime)
        batches = recorder.follow(train_batches.of(plan), plan)
        with around_steps(plan, runtime.precision):
            means = train_one_epoch(
                state,
                batches,
                step,
                plan,
                on_step=recorder.on_step,
                between_steps=recorder.between_steps,
                network=network,
            )
        values: dict[str, float | None] = {**means}
        scores: dict[str, Any] = {}
        fell = None  # what to say of a score that fell far
        if plan.validates:
            found, scores = validation.run(state)
            values |= found
            fell = state.monitor.update(values, scores, plan.epoch)
        state.finish_epoch()
        recorder.on_epoch(plan, values, scores, fell)
    return recorder.finish()


if __name__ == "__main__":
    run("train", train)
