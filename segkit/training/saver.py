"""When a run writes its checkpoints, under which names, and what if it cannot."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit.errors import CheckpointError
from segkit.runs.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    copy_checkpoint,
    remove_temporaries,
    save_checkpoint,
)
from segkit.runs.description import CheckpointMetadata
from segkit.runtime.log import log
from segkit.training.monitor import Best
from segkit.training.state import TrainState


class Saver:
    """Writes ``last.pt``, keeps the one before as ``previous.pt``, and the best beside them.

    Args:
        folder: The run folder's ``checkpoints``; None writes nothing, as in all processes but the
            first.
        metadata: What the files say of themselves.
        best: The best epochs so far: what ``best.pt`` is, if it is there.
        every_steps: Steps from one save to the next within an epoch; None saves none there.
        every_minutes: Minutes from one save to the next within an epoch; None saves none there.
        keep_best: How many of the best epochs keep a file: ``best.pt`` is the first, and with more
            than one all are there as ``epoch_<number>.pt``.
        best_file: What becomes ``best.pt`` with the first save, unless that is a better one: of a
            run that goes on in another folder.
        stop_on_error: Raise if a file cannot be written; else say so, and go on.
    """

    def __init__(
        self,
        folder: Path | None,
        metadata: CheckpointMetadata,
        best: Best,
        *,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep_best: int = 1,
        best_file: Path | None = None,
        stop_on_error: bool = False,
    ) -> None:
        self.folder, self.metadata, self.best = folder, metadata, replace(best)
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.keep_best, self.best_file = keep_best, best_file
        self.stop_on_error = stop_on_error
        self.saved_at = time.monotonic()
        self.failure: CheckpointError | None = None
        if folder is not None:
            remove_temporaries(folder)

    def due(self, step: int) -> bool:
        """Whether to save after optimizer step ``step``, within an epoch."""
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        passed = time.monotonic() - self.saved_at
        return self.every_minutes is not None and passed >= 60 * self.every_minutes

    def save(self, state: TrainState, scores: dict[str, Any], *, stop: bool = False) -> None:
        """Write the state between two steps, or after an epoch.

        An epoch that cannot be written is not taken for the best: ``state.monitor.best`` is again
        what it was before, as are the files.

        Args:
            state: Where the run stands.
            scores: All scores of the epoch.
            stop: Whether the run ends then in any case.

        Raises:
            CheckpointError: It could not be written, and the run is to stop then.
        """
        self.saved_at = time.monotonic()
        if self.folder is None:
            return
        best, also, dropped = state.monitor.best, [], []
        if state.images == 0 and best.epoch == state.epoch:
            also.append(self.folder / BEST)
        kept = [epoch for _, epoch in best.kept]
        if self.keep_best > 1 and state.images == 0:
            if state.epoch in kept:
                also.append(self.folder / f"epoch_{state.epoch}.pt")
            names = {f"epoch_{epoch}.pt" for epoch in kept}
            dropped = [f for f in self.folder.glob("epoch_*.pt") if f.name not in names]
        try:
            if self.best_file is not None and self.folder / BEST not in also:
                copy_checkpoint(self.best_file, self.folder / BEST)
            self.best_file = None
            last, previous = self.folder / LAST, self.folder / PREVIOUS
            save_checkpoint(last, state, self.metadata, scores, also=also, previous=previous)
            for file in dropped:
                file.unlink(missing_ok=True)
            self.failure, self.best = None, replace(best)
        except CheckpointError as error:
            self.failure, state.monitor.best = error, replace(self.best)
            if self.stop_on_error:
                raise
            text = f". Epoch {state.epoch} has no file and is not counted among the best"
            text = text if also else ""
            if not stop:
                text += ". Training goes on (trainer.on_save_error=continue)"
            log.error("error: %s%s", error, text)

    def close(self) -> None:
        """At the end of the run: raises what kept the last state from being written."""
        if self.failure is not None:
            raise self.failure
