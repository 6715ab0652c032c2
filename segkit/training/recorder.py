"""All that a run writes: configuration, log, curves, pictures and checkpoints."""

import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from segkit.config.palette import painted
from segkit.config.schema import TrainConfig
from segkit.data.loader import Samples
from segkit.models.weights import LoadReport
from segkit.runs.checkpoint import Checkpoint, newest_checkpoint
from segkit.runs.description import CheckpointMetadata
from segkit.runs.finished import FinishedRun
from segkit.runs.folder import renew
from segkit.runs.metrics_log import RunLog
from segkit.runtime.log import log, log_to_file
from segkit.runtime.memory import peak_memory_mib
from segkit.runtime.signals import Stopped
from segkit.text import display_path
from segkit.training.data import Data
from segkit.training.field_of_view import likely_causes
from segkit.training.loggers import LoggedRun, Loggers
from segkit.training.pace import LONG, Pace
from segkit.training.plan import EpochPlan
from segkit.training.run import Run
from segkit.training.run_plots import RunPlots
from segkit.training.saver import Saver
from segkit.training.state import TrainState
from segkit.training.summary import (
    hyperparameters,
    minutes,
    results_of,
    score_text,
    write_summary,
)

T = TypeVar("T")


class Recorder:
    """Writes into the run folder, which is made with it: from then on a run leaves something.

    All processes call the same methods; only the first one writes.

    Args:
        run: What is trained.
        settings: The configuration.
        data: Both splits.
        state: Where the run stands.
        batch_size: Images per batch and process.
        taken: What the network took from ``init_from``.

    Attributes:
        colors: RGB of each mask value as it is drawn, uint8 (256, 3).
    """

    def __init__(
        self,
        run: Run,
        settings: TrainConfig,
        data: Data,
        state: TrainState,
        batch_size: int,
        taken: LoadReport | None,
    ) -> None:
        self.settings, self.data, self.state, self.batch_size = settings, data, state, batch_size
        self.colors = painted(data.palette, data.classes, settings.palette)
        self.runtime, self.world = run.runtime, run.runtime.world
        self.folder = run.open_folder(settings)
        self.metadata = run.describe(self.folder, data, batch_size, taken)
        self.started = self.runtime.started - state.seconds
        self.pace = Pace()
        trainer = settings.trainer
        if self.world.is_main:
            log_to_file(self.folder / "train.log")
            write_config(self.folder, self.metadata, run.checkpoint)
        # What a stopped run drew after its state was saved is drawn again.
        purge_step = state.step + (state.images == 0)
        self.run_log = RunLog(self.folder if self.world.is_main else None, state.epoch, purge_step)
        self.saver = Saver(
            self.folder / "checkpoints" if self.world.is_main else None,
            self.metadata,
            state.monitor.best,
            every_steps=trainer.save_every_steps,
            every_minutes=trainer.save_every_minutes,
            keep_best=trainer.keep_best,
            best_file=run.carried_best(self.folder, state.monitor.best),
            stop_on_error=trainer.on_save_error == "stop",
        )
        self.plots = self._open_plots()
        self.loggers = self._open_loggers(goes_on=run.checkpoint is not None)
        if state.images:
            self._step_scalars(state.last_values)  # purged above
        if trainer.histograms:
            state.optimizer.register_step_pre_hook(partial(_log_gradients, self))
        if run.checkpoint is None:
            self.run_log.text("config", OmegaConf.to_yaml(self.metadata.config))
            self.run_log.text("data", data.table)

    def follow(self, batches: Iterable[T], plan: EpochPlan) -> Iterator[T]:
        """The batches of an epoch, with a bar on a terminal."""
        return self.pace.follow(self.from_first(batches), plan)

    def from_first(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches of an epoch. With the first one the run has something to finish and save."""
        for batch in batches:
            if not self.runtime.signals.begun:
                self.world.gather(None)  # all together: none waits for one that has ended at once
                self.runtime.signals.begin()
            yield batch

    def on_step(self, values: dict[str, float]) -> None:
        """The values of an optimizer step, by log name, go to the curves."""
        self._step_scalars(values)
        self.pace.show(values["train/loss"], self.state)

    def between_steps(self) -> None:
        """After an optimizer step: a save if one is due.

        Raises:
            Stopped: A signal asked any of the processes to stop; the state is saved.
        """
        asked = self.runtime.signals.received is not None
        stop, due = self.world.any_rank(asked, self.saver.due(self.state.step))
        if stop or due:
            self.save({}, stop=stop)

    def on_epoch(
        self,
        plan: EpochPlan,
        values: dict[str, float | None],
        scores: dict[str, Any],
        fell: str | None,
    ) -> None:
        """After an epoch and its validation: a line everywhere, and a save.

        Args:
            plan: The epoch.
            values: By log name; time and memory are added.
            scores: All scores of the validation; empty without one.
            fell: What to say of a score that fell far; None mostly.

        Raises:
            Stopped: A signal asked any of the processes to stop; the state is saved.
        """
        state, seconds = self.state, time.perf_counter() - self.started
        values |= {"memory_mib": peak_memory_mib(self.runtime.device), "seconds": seconds}
        self._keep_folder()
        self.run_log.epoch({"epoch": state.epoch, "step": state.step, **values})
        self.run_log.scalars(values, state.step)
        self.plots.epoch({"epoch": state.epoch, **values}, scores)
        self.loggers.scalars({"epoch": state.epoch, **values}, state.step)
        line = f"epoch {plan.epoch}/{plan.max_epochs}  loss {values['train/loss']:.4f}"
        if scores:
            line += f"  val mIoU {score_text(scores['miou'])}"
            line += f" {fell}" if fell else ""
            line += "  (NaN or infinity)" * ("val/not_finite" in values)
        waiting = self.pace.waiting
        slow = f", waiting {waiting:.0%} for data" if waiting >= LONG else ""
        log.info(
            "%s  lr %.2e  %.1f images/s%s  %s%s",
            line,
            values["lr"],
            values["images_per_second"],
            slow,
            minutes(seconds),
            "  best" if state.monitor.best.epoch == state.epoch else "",
        )
        self.save(scores, stop=self.runtime.stop_requested())
        if fell:
            causes = likely_causes(self.settings, self.data.image_size, plan.batch_size)
            log.warning("warning: %s", causes)

    def save(self, scores: dict[str, Any], *, stop: bool = False) -> None:
        """Write the state; with ``stop`` the run ends then."""
        self.state.settle()
        self.state.seconds = time.perf_counter() - self.started
        self._keep_folder()
        self.run_log.flush()
        self.saver.save(self.state, scores, stop=stop)
        if self._keep_folder():  # deleted while that was written
            self.saver.save(self.state, scores, stop=stop)
        if stop:
            number = max(self.world.gather(self.runtime.signals.received or 0))
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

    def finish(self) -> FinishedRun:
        """The end of the run: its summary; returns what was reached.

        Raises:
            CheckpointError: The last state could not be written.
        """
        best, state = self.state.monitor.best, self.state
        settings = hyperparameters(self.settings, self.batch_size)
        self.run_log.hparams(settings, results_of(best), state.step)
        self.loggers.results = results_of(best)
        self.run_log.close()
        self.saver.close()
        return write_summary(self.folder, self.data.classes, state.state_dict(), self.world)

    def _open_plots(self) -> RunPlots:
        """With what the run is fed, before it begins."""
        settings, data = self.settings, self.data
        ignore_index = settings.data.ignore_index
        folder = self.folder if self.world.is_main else None
        plots = self.runtime.open(RunPlots(folder, data.classes, self.colors, ignore_index))
        fed = Samples(data.train, data.augment, settings.seed, ignore_index, data.paste)
        plots.training_images(fed, self.state.epoch + 1)
        return plots

    def _open_loggers(self, *, goes_on: bool) -> Loggers:
        names = self.settings.trainer.loggers if self.world.is_main else []
        settings = hyperparameters(self.settings, self.batch_size)
        told = LoggedRun(self.folder, self.metadata.config, settings)
        return self.runtime.open(Loggers(names, told, goes_on=goes_on))

    def _step_scalars(self, values: dict[str, float]) -> None:
        if self.state.step % self.settings.trainer.log_every == 0:
            named = {f"step/{name}": value for name, value in values.items()}
            self.run_log.scalars(named, self.state.step)
            self.loggers.scalars(named, self.state.step)

    def _keep_folder(self) -> bool:
        """Go on in a new folder if somebody deleted the one that this run writes."""
        if not self.world.is_main or not renew(self.folder, self.runtime.stack):
            return False
        log_to_file(self.folder / "train.log")
        log.warning(
            "warning: %s was deleted; made anew, it holds what comes from here on", self.folder
        )
        write_config(self.folder, self.metadata, None)
        deleted, self.run_log = self.run_log, RunLog(self.folder, self.state.epoch)
        deleted.close()
        return True


def write_config(folder: Path, metadata: CheckpointMetadata, checkpoint: Checkpoint | None) -> None:
    """``config.yaml``; a resume that changes something writes a second file beside it."""
    path = folder / "config.yaml"
    if checkpoint is not None and path.exists():
        if metadata.config == checkpoint.metadata.config:
            return
        path = folder / f"config-from-step-{checkpoint.state['step']}.yaml"
    path.write_text(OmegaConf.to_yaml(metadata.config), encoding="utf-8")


def _log_gradients(recorder: Recorder, *args: Any) -> None:
    """Just before an optimizer step, when they are whole."""
    step = recorder.state.step + 1
    if step % (10 * recorder.settings.trainer.log_every) == 0:
        for name, p in recorder.state.model.named_parameters():
            if p.grad is not None:
                recorder.run_log.histogram(f"gradients/{name}", p.grad, step)
