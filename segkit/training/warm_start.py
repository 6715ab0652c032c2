"""Weights of an earlier checkpoint, or of other people's, to start from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from segkit.errors import CheckpointError
from segkit.models.foreign import (
    Translation,
    known_sources,
    numpy_scalars,
    plain_weights,
    translate,
)
from segkit.models.weights import LoadReport, load_matching, read_tensors
from segkit.runs.checkpoint import ENTRIES, check_format, find_checkpoint, model_weights
from segkit.runs.description import CheckpointMetadata, described
from segkit.runs.saved_state import check_weights


@dataclass(frozen=True)
class Start:
    """Weights that were read to start from.

    Attributes:
        path: Their file.
        tensors: By segkit's names.
        foreign: What the file of other people was translated to.
        about: What the file says of itself, if it is one of segkit's.
    """

    path: Path
    tensors: dict[str, Any]
    foreign: Translation | None
    about: CheckpointMetadata | None

    def into(self, model: nn.Module) -> LoadReport:
        """Copy the tensors that match by name and shape into ``model``.

        Raises:
            CheckpointError: Nothing matches.
        """
        try:
            report = load_matching(model, self.tensors)
        except CheckpointError as error:
            raise CheckpointError(
                f"init_from={self.path}: {error}. Layouts that are known: segkit's own, "
                f"{known_sources()}; weights of a backbone alone go to model.backbone.weights"
            ) from error
        source: dict[str, Any] | None = None
        if self.foreign:
            report = self.foreign.report(report)
            source = {"atrous_rates": None}  # the known layouts come with the usual rates
        elif self.about is not None:
            about = self.about
            report = replace(report, trained_on=[*about.trained_on, *about.pretrained_on])
            source = about.config.get("model")
        has_view = any(name.startswith("aspp.") for name in report.taken)
        return replace(report, source=source if has_view else None)


def read_start(path: Path | str, parts: Sequence[str] | None = None) -> Start:
    """The weights of an earlier checkpoint, to be copied into a model.

    Takes checkpoints of segkit (other classes or head allowed), plain state dicts, and those of
    other people's DeepLab that :mod:`segkit.models.foreign` knows. If the run kept an average of
    the weights, that is what is taken.

    Args:
        path: A file, or a run folder.
        parts: First words of the names to take, as ``aspp``; None takes all.

    Raises:
        CheckpointError: Unreadable.
    """
    path = find_checkpoint(path)
    with numpy_scalars():
        content = read_tensors(path)
    foreign = about = None
    if content.keys() >= ENTRIES:
        check_format(path, content)
        check_weights(path, content["state"])
        weights, about = model_weights(content["state"]), described(path, content["about"])
    else:
        weights = plain_weights(content)
        if foreign := translate(weights):
            weights = dict(foreign.tensors)
    if parts is not None:
        weights = {name: w for name, w in weights.items() if name.partition(".")[0] in parts}
    return Start(path, weights, foreign, about)
