"""What a training leaves: where it is, how good it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended.

    Attributes:
        folder: The run folder, as ``evaluate.py`` takes it.
        monitor: The logged value that decides which epoch is the best.
        score: The best of it; None if no epoch had one.
        best_epoch: That epoch, from 1 on; None likewise.
        scores: All scores of that epoch's validation, by name; empty likewise.
        seconds: How long the training took, with what came before a resume.
    """

    folder: Path
    monitor: str
    score: float | None
    best_epoch: int | None
    scores: Mapping[str, Any]
    seconds: float

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best epoch; None if there is none."""
        path = self.folder / "checkpoints" / "best.pt"
        return path if path.is_file() else None
