"""When a run writes its checkpoints, under which names, and what if it cannot."""

import time
from pathlib import Path
from typing import Any

from segkit.engine.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    Description,
    remove_temporaries,
    save_checkpoint,
)
from segkit.engine.log import log
from segkit.engine.state import TrainState
from segkit.errors import CheckpointError


class Saver:
    """Writes ``last.pt``, keeps the one before as ``previous.pt``, and the best beside them.

    Args:
        folder: The run folder's ``checkpoints``; None writes nothing, as in all processes but the
            first.
        about: What the files say of themselves.
        every_steps: Steps from one save to the next within an epoch; None saves none there.
        every_minutes: Likewise in minutes.
        keep_best: How many of the best epochs keep a file: ``best.pt`` is the first, and with more
            than one all are there as ``epoch_<number>.pt``.
        stop_on_error: Raise if a file cannot be written; else say so, and go on.
    """

    def __init__(
        self,
        folder: Path | None,
        about: Description,
        *,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep_best: int = 1,
        stop_on_error: bool = False,
    ) -> None:
        self.folder, self.about = folder, about
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.keep_best, self.stop_on_error = keep_best, stop_on_error
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

    def save(self, state: TrainState, scores: dict[str, Any]) -> None:
        """Write the state between two steps, or after an epoch.

        Raises:
            CheckpointError: It could not be written, and the run is to stop then.
        """
        self.saved_at = time.monotonic()
        if self.folder is None:
            return
        best, also, dropped = state.best, [], []
        if state.images == 0 and best.epoch == state.epoch:
            also.append(self.folder / BEST)
        kept = [epoch for _, epoch in best.kept]
        if self.keep_best > 1 and state.images == 0:
            if state.epoch in kept:
                also.append(self.folder / f"epoch_{state.epoch}.pt")
            names = {f"epoch_{epoch}.pt" for epoch in kept}
            dropped = [f for f in self.folder.glob("epoch_*.pt") if f.name not in names]
        try:
            last, previous = self.folder / LAST, self.folder / PREVIOUS
            save_checkpoint(last, state, self.about, scores, also=also, previous=previous)
            for file in dropped:
                file.unlink(missing_ok=True)
            self.failure = None
        except CheckpointError as error:
            self.failure = error
            if self.stop_on_error:
                raise
            log.error("error: %s. Training goes on (trainer.on_save_error=continue)", error)

    def close(self) -> None:
        """At the end of the run: raises what kept the last state from being written."""
        if self.failure is not None:
            raise self.failure
