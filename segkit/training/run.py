"""A run as a whole: its configuration, the checkpoint that it goes on from, its folder."""

import copy
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from segkit.config import fill_class_weights, plain_config, rare_class_hint
from segkit.config.schema import TrainConfig, to_settings
from segkit.data.leaks import image_sums
from segkit.errors import ConfigError
from segkit.models.weights import LoadReport
from segkit.runs.checkpoint import BEST, LAST, Checkpoint, best_file, is_after
from segkit.runs.description import CheckpointMetadata
from segkit.runs.finished import FinishedRun
from segkit.runs.folder import LOCK, forget, locked, make_run_folder, refuse_used
from segkit.runtime.context import Runtime
from segkit.runtime.distributed import check_same_start
from segkit.runtime.log import log, log_to_console
from segkit.training.data import Data, with_classes
from segkit.training.field_of_view import complete_model
from segkit.training.monitor import Best, Monitor
from segkit.training.resume import choices, relearned, resumed, weightings
from segkit.training.summary import write_summary


class Run:
    """What is trained, and where it is written; see :func:`open_run`.

    Args:
        cfg: As composed, or out of the checkpoint; :meth:`complete` adds what the data says.
        checkpoint: What the run goes on from; None for one that begins.
        runtime: The processes.
    """

    def __init__(self, cfg: DictConfig, checkpoint: Checkpoint | None, runtime: Runtime) -> None:
        self.cfg, self.checkpoint, self.runtime = cfg, checkpoint, runtime
        self.weightings = weightings(cfg, checkpoint)

    @property
    def is_finished(self) -> bool:
        """Whether a run that goes on has nothing left to train; says so.

        Raises:
            ConfigError: It was given what could only change a training.
        """
        if self.checkpoint is None:
            return False
        settings, state = to_settings(TrainConfig, self.cfg), self.checkpoint.state
        monitor, epoch = Monitor.of(settings), state["epoch"]
        monitor.load_state_dict(state)
        if not monitor.is_over(epoch, settings.trainer.max_epochs):
            return False
        at_end = epoch >= settings.trainer.max_epochs
        way = "trainer.max_epochs" if at_end else "trainer.patience"
        path = self.checkpoint.path
        if unused := relearned(self.cfg, self.checkpoint):
            raise ConfigError(
                f"{path} has finished after epoch {epoch}, and {', '.join(unused)} would change "
                f"nothing; a larger {way} goes on with it; without resume, in another out_dir, a "
                "run of its own begins"
            )
        log.info("%s has finished after epoch %d; a larger %s goes on", path, epoch, way)
        return True

    @property
    def has_tried_precision(self) -> bool:
        """Whether the run has computed in this number format on such a device before."""
        if self.checkpoint is None:
            return False
        before, now = self.checkpoint.metadata, self.runtime
        kind = torch.device(before.device).type
        return (before.precision, kind) == (now.precision.name, now.device.type)

    def finish(self) -> FinishedRun:
        """The end of a run that :attr:`is_finished`: tells its best value, and returns all."""
        assert self.checkpoint is not None
        folder, classes = Path(self.cfg.out_dir), list(self.cfg.data.classes)
        return write_summary(folder, classes, self.checkpoint.state, self.runtime.world)

    def complete(self, data: Data) -> TrainConfig:
        """The whole configuration, typed and frozen: classes, weights of classes, atrous rates."""
        self.cfg = with_classes(self.cfg, data.classes)
        for line in fill_class_weights(self.cfg.loss, data.classes, data.pixels):
            log.info("%s", line)
        if self.checkpoint is None:
            if hint := rare_class_hint(self.cfg.loss, data.classes, data.pixels):
                log.info("hint: %s", hint)
            complete_model(self.cfg.model, data.image_size)
        return to_settings(TrainConfig, self.cfg)

    def open_folder(self, settings: TrainConfig) -> Path:
        """The run folder, made if it is not there, and held by the first process until the end.

        A signal before the first step leaves none behind.

        Args:
            settings: The configuration.

        Raises:
            ConfigError: It cannot be written, or another run has used it since the start.
        """
        return self.runtime.only_main(partial(self._make_folder, settings))

    def _make_folder(self, settings: TrainConfig) -> Path:
        out_dir = settings.out_dir
        before = None  # what is there already
        if out_dir is not None and Path(out_dir).is_dir():
            before = {path.name for path in Path(out_dir).iterdir()} - {LOCK}
        data = settings.data.root or Path(settings.data.images or "run/images").parent
        folder = make_run_folder(out_dir, Path(data).name)
        if self.checkpoint is None or before is None:
            self.runtime.stack.push(partial(_forget_if_unbegun, folder, before, self.runtime))
            self.runtime.open(locked(folder))
            if any((folder / "checkpoints").glob("*.pt")):
                raise ConfigError(
                    f"out_dir={folder}: another run has written checkpoints there meanwhile; add "
                    "resume=auto to go on with it, or give another folder"
                )
        return folder

    def carried_best(self, folder: Path, best: Best) -> Path | None:
        """The file of the best epoch so far, if the run goes on in another folder than that."""
        if self.checkpoint is None or self.checkpoint.path.parent == folder / "checkpoints":
            return None
        is_same = best.epoch == self.checkpoint.state["best"]["epoch"] > 0  # else another monitor
        return best_file(self.checkpoint) if is_same else None

    def describe(
        self, folder: Path, data: Data, batch_size: int, taken: LoadReport | None
    ) -> CheckpointMetadata:
        """What the checkpoints of the run say of it, so that nothing else is needed to go on.

        Args:
            folder: The run folder.
            data: Both splits.
            batch_size: ``loader.batch_size``, also where that is auto.
            taken: What the network took from ``init_from``.
        """
        cfg, checkpoint = copy.deepcopy(self.cfg), self.checkpoint
        cfg.out_dir, cfg.loader.batch_size = str(folder), batch_size
        before = None if checkpoint is None else checkpoint.metadata
        pretrained_on = taken.trained_on if taken else []
        return CheckpointMetadata(
            config=plain_config(cfg),
            classes=data.classes,
            palette=data.palette.tolist(),
            ignore_index=cfg.data.ignore_index,
            mean=list(cfg.data.mean),
            std=list(cfg.data.std),
            precision=self.runtime.precision.name,
            device=str(self.runtime.device),
            world_size=self.runtime.world.size,
            recipe={
                "config": OmegaConf.to_container(cfg, resolve=False),
                "choices": choices(before.recipe["choices"] if before else None),
                "weightings": self.weightings,
            },
            trained_on=sorted({*(before.trained_on if before else ()), *image_sums(data.train)}),
            validated_on=image_sums(data.val),
            pretrained_on=sorted({*(before.pretrained_on if before else pretrained_on)}),
        )


def open_run(cfg: DictConfig, typed: Sequence[str], runtime: Runtime) -> Run:
    """A run that begins, or goes on; its folder is free, or held from here on.

    Args:
        cfg: As composed from the command line.
        typed: The overrides that the user wrote.
        runtime: The processes.

    Raises:
        CheckpointError: The checkpoint to go on from cannot be read.
        ConfigError: An override that a resume cannot apply, or a folder that another run uses.
    """
    cfg, checkpoint = resumed(cfg, typed)
    check_same_start(None if checkpoint is None else checkpoint.state, runtime.world)
    runtime.only_main(partial(_claim, cfg, checkpoint, runtime))
    return Run(cfg, checkpoint, runtime)


def _claim(cfg: DictConfig, checkpoint: Checkpoint | None, runtime: Runtime) -> None:
    """Make sure, early, that the run folder is free, or goes on where it stopped."""
    if checkpoint is None and cfg.resume is None:
        refuse_used(cfg.out_dir)
    if checkpoint is None or not Path(cfg.out_dir).is_dir():
        return
    runtime.open(locked(Path(cfg.out_dir)))
    if checkpoint.path.stat().st_mtime_ns != checkpoint.written_at:
        raise ConfigError(f"{checkpoint.path}: written by another run a moment ago; start again")
    if checkpoint.path.parent != Path(cfg.out_dir) / "checkpoints":
        refuse_used(cfg.out_dir)
        return
    best = checkpoint.path.with_name(BEST)
    if checkpoint.path.name != LAST and is_after(best, checkpoint):
        raise ConfigError(
            f"{checkpoint.path}: is from before {best}, which would stay the best of this run; to "
            "go on from here give out_dir=FOLDER, a new one"
        )


def _forget_if_unbegun(
    folder: Path,
    before: Collection[str] | None,
    runtime: Runtime,
    kind: type[BaseException] | None,
    *_: Any,
) -> None:
    """At the end of a run: delete what it wrote if a signal ended it before there was a step."""
    if kind in (KeyboardInterrupt, SystemExit) and not runtime.signals.begun:
        log_to_console()  # which lets go of train.log
        forget(folder, before)
