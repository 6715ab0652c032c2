"""The run folder and all that a run writes into it."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf

from segkit.config import plain_config
from segkit.errors import ConfigError
from segkit.runs.checkpoint import Checkpoint, newest_checkpoint
from segkit.runs.description import CheckpointMetadata
from segkit.runs.folder import forget, locked, make_run_folder, refuse_used, renew
from segkit.runs.metrics_log import RunLog
from segkit.runtime.device import Precision
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.log import log, log_to_console, log_to_file
from segkit.runtime.signals import Stopped, StopSignals
from segkit.text import display_path
from segkit.training.data import Data
from segkit.training.resume import choices
from segkit.training.saver import Saver
from segkit.training.state import TrainState
from segkit.training.summary import minutes, results_of, settings_of

T = TypeVar("T")


def claim(cfg: DictConfig, saved: Checkpoint | None, stack: ExitStack) -> None:
    """Make sure, early, that the run folder is free, or goes on where it stopped."""
    if saved is None and cfg.resume is None:
        refuse_used(cfg.out_dir)
    if saved is None or not Path(cfg.out_dir).is_dir():
        return
    stack.enter_context(locked(Path(cfg.out_dir)))
    if saved.path.stat().st_mtime_ns != saved.written_at:
        raise ConfigError(f"{saved.path}: written by another run a moment ago; start again")
    if saved.path.parent != Path(cfg.out_dir) / "checkpoints":
        refuse_used(cfg.out_dir)


def open_folder(
    cfg: DictConfig, saved: Checkpoint | None, stack: ExitStack, signals: StopSignals
) -> Path:
    """The run folder, made if it is not there, and held until ``stack`` is closed.

    A signal before the first step leaves none behind.

    Raises:
        ConfigError: It cannot be written, or another run has used it since :func:`claim`.
    """
    there = saved is not None and Path(cfg.out_dir).is_dir()
    was_there = cfg.out_dir is not None and Path(cfg.out_dir).is_dir()
    folder = make_run_folder(cfg.out_dir, Path(cfg.data.root or "run").name)
    if not there:
        stack.push(partial(_forget_if_unbegun, folder, was_there, signals))
        stack.enter_context(locked(folder))
        if any((folder / "checkpoints").glob("*.pt")):
            raise ConfigError(
                f"out_dir={folder}: another run has written checkpoints there meanwhile; add "
                "resume=auto to go on with it, or give another folder"
            )
    return folder


def _forget_if_unbegun(
    folder: Path, was_there: bool, signals: StopSignals, kind: type[BaseException] | None, *_: Any
) -> None:
    """At the end of a run: delete what it wrote if a signal ended it before there was a step."""
    if kind in (KeyboardInterrupt, SystemExit) and not signals.begun:
        log_to_console()  # which lets go of train.log
        forget(folder, was_there)


class Output:
    """Configuration, log, curves and checkpoints of a run.

    All processes call the same methods; only the first one writes.

    Args:
        cfg: Of the run; ``out_dir`` is the folder, which :func:`open_folder` made.
        about: What the checkpoints say of themselves.
        state: Of the run.
        saved: Where it goes on from.
        world: The processes.
        signals: What may ask the run to stop.
        stack: Holds the folder.
        started: When this process began, by ``time.perf_counter``.
    """

    def __init__(
        self,
        cfg: DictConfig,
        about: CheckpointMetadata,
        state: TrainState,
        saved: Checkpoint | None,
        *,
        world: DistributedContext,
        signals: StopSignals,
        stack: ExitStack,
        started: float,
    ) -> None:
        self.cfg, self.about, self.state = cfg, about, state
        self.world, self.signals, self.stack = world, signals, stack
        self.folder = Path(cfg.out_dir)
        self.started = started - state.seconds
        if world.is_main:
            log_to_file(self.folder / "train.log")
            write_config(self.folder, about, saved)
        # What a stopped run drew after its state was saved is drawn again.
        purge_step = state.step + (state.images == 0)
        self.run_log = RunLog(self.folder if world.is_main else None, state.epoch, purge_step)
        self.saver = Saver(
            self.folder / "checkpoints" if world.is_main else None,
            about,
            state.best,
            every_steps=cfg.trainer.save_every_steps,
            every_minutes=cfg.trainer.save_every_minutes,
            keep_best=cfg.trainer.keep_best,
            stop_on_error=cfg.trainer.on_save_error == "stop",
        )
        if state.images:
            self._step_scalars(state.last_values)  # purged above
        if cfg.trainer.histograms:
            state.optimizer.register_step_pre_hook(partial(_log_gradients, self))

    def from_first(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches of an epoch. With the first one the run has something to finish and save."""
        for batch in batches:
            if not self.signals.begun:
                self.world.gather(None)  # all together: none waits for one that has ended at once
                self.signals.begin()
            yield batch

    def on_step(self, values: dict[str, float]) -> None:
        """After an optimizer step: curves, and a save if one is due.

        Raises:
            Stopped: A signal asked any of the processes to stop; the state is saved.
        """
        self._step_scalars(values)
        asked = self.signals.received is not None
        stop, due = self.world.any_rank(asked, self.saver.due(self.state.step))
        if stop or due:
            self.save({}, stop=stop)

    def on_epoch(self, line: str, values: dict[str, float | None], scores: dict[str, Any]) -> None:
        """After an epoch and its validation: a line everywhere, and a save.

        Raises:
            Stopped: As :meth:`on_step`.
        """
        state, seconds = self.state, time.perf_counter() - self.started
        values |= {"seconds": seconds}
        self._keep_folder()
        self.run_log.epoch({"epoch": state.epoch, "step": state.step, **values})
        self.run_log.scalars(values, state.step)
        log.info(
            "%s  lr %.2e  %.1f images/s  %s%s",
            line,
            values["lr"],
            values["images_per_second"],
            minutes(seconds),
            "  best" if state.best.epoch == state.epoch else "",
        )
        self.save(scores, stop=any(self.world.any_rank(self.signals.received is not None)))

    def save(self, scores: dict[str, Any], *, stop: bool = False) -> None:
        """Write the state; with ``stop`` the run ends then."""
        self.state.seconds = time.perf_counter() - self.started
        self._keep_folder()
        self.run_log.flush()
        self.saver.save(self.state, scores, stop=stop)
        if self._keep_folder():  # deleted while that was written
            self.saver.save(self.state, scores, stop=stop)
        if stop:
            number = max(self.world.gather(self.signals.received or 0))
            log.warning("stopped by signal %d; %s", number, self._way_on())
            raise Stopped(number)

    def _way_on(self) -> str:
        """What a resume of the run finds, which is no more than reached the disk."""
        place = display_path(self.folder)
        if self.saver.failure is None:
            return f"resume={place} goes on"
        saved = newest_checkpoint(self.folder)
        if saved is None:
            return f"{place} holds no checkpoint, and the run begins anew"
        return f"resume={place} goes on from step {saved.state['step']}, not {self.state.step}"

    def close(self) -> None:
        """At the end of the run.

        Raises:
            CheckpointError: The last state could not be written.
        """
        best, step = self.state.best, self.state.step
        self.run_log.hparams(settings_of(self.cfg), results_of(best), step)
        self.run_log.close()
        self.saver.close()

    def _step_scalars(self, values: dict[str, float]) -> None:
        if self.state.step % self.cfg.trainer.log_every == 0:
            named = {f"step/{name}": value for name, value in values.items()}
            self.run_log.scalars(named, self.state.step)

    def _keep_folder(self) -> bool:
        """Go on in a new folder if somebody deleted the one that this run writes."""
        if not self.world.is_main or not renew(self.folder, self.stack):
            return False
        log_to_file(self.folder / "train.log")
        log.warning(
            "warning: %s was deleted; made anew, it holds what comes from here on", self.folder
        )
        write_config(self.folder, self.about, None)
        deleted, self.run_log = self.run_log, RunLog(self.folder, self.state.epoch)
        deleted.close()
        return True


def write_config(folder: Path, about: CheckpointMetadata, saved: Checkpoint | None) -> None:
    """``config.yaml``; a resume that changes something writes a second file beside it."""
    path = folder / "config.yaml"
    if saved is not None and path.exists():
        if about.config == saved.about.config:
            return
        path = folder / f"config-from-step-{saved.state['step']}.yaml"
    path.write_text(OmegaConf.to_yaml(about.config), encoding="utf-8")


def _log_gradients(output: Output, *args: Any) -> None:
    """Just before an optimizer step, when they are whole."""
    step = output.state.step + 1
    if step % (10 * output.cfg.trainer.log_every) == 0:
        for name, p in output.state.model.named_parameters():
            if p.grad is not None:
                output.run_log.histogram(f"gradients/{name}", p.grad, step)


def describe(
    cfg: DictConfig,
    data: Data,
    precision: Precision,
    device: torch.device,
    world: DistributedContext,
    saved: Checkpoint | None,
) -> CheckpointMetadata:
    """What the checkpoints of a run tell about it."""
    return CheckpointMetadata(
        config=plain_config(cfg),
        classes=data.classes,
        palette=data.palette.tolist(),
        ignore_index=cfg.data.ignore_index,
        mean=list(cfg.data.mean),
        std=list(cfg.data.std),
        precision=precision.name,
        device=str(device),
        world_size=world.size,
        recipe={
            "config": OmegaConf.to_container(cfg, resolve=False),
            "choices": choices(None if saved is None else saved.about.recipe["choices"]),
        },
    )
