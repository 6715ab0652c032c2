"""What a person means by ``checkpoint``, ``predictions`` and ``compare``."""

from collections.abc import Sequence
from pathlib import Path

from segkit.config.schema import EvaluateConfig
from segkit.errors import ConfigError
from segkit.evaluation.saved_masks import holds_masks
from segkit.inference.loading import read_checkpoints
from segkit.runs.checkpoint import Checkpoint

TargetSource = Path | list[Checkpoint]
"""A folder of masks, or the checkpoints of one model, several of an ensemble."""


def open_sources(settings: EvaluateConfig) -> list[TargetSource]:
    """What is scored, and second what it is compared with, if anything.

    Raises:
        CheckpointError: A checkpoint cannot be read.
        ConfigError: ``compare`` is empty.
    """
    if settings.predictions:
        first: TargetSource = Path(settings.predictions)
    else:
        first = read_checkpoints(settings.checkpoint)
    if settings.compare is None:
        return [first]
    return [first, _compared(settings.compare)]


def _compared(source: str | Sequence[str]) -> TargetSource:
    """What a value of ``compare`` means."""
    if not source:
        raise ConfigError("compare=[]: expected a checkpoint, several, or a folder of masks")
    if isinstance(source, str) and holds_masks(Path(source)):
        return Path(source)
    return read_checkpoints(source)


def paths_of(source: TargetSource) -> list[Path]:
    """The path of the folder, or those of the checkpoints."""
    return [source] if isinstance(source, Path) else [one.path for one in source]
