"""Weights of an earlier checkpoint, or of other people's, to start from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from segkit.errors import CheckpointError
from segkit.models.foreign import known_sources, numpy_scalars, plain_weights, translate
from segkit.models.weights import LoadReport, load_matching, read_tensors
from segkit.runs.checkpoint import ENTRIES, check_format, find_checkpoint, model_weights
from segkit.runs.description import described
from segkit.runs.saved_state import check_weights


def init_from(model: nn.Module, path: Path | str, parts: Sequence[str] | None = None) -> LoadReport:
    """Copy the tensors of an earlier checkpoint that match by name and shape into ``model``.

    Takes checkpoints of segkit (other classes or head allowed), plain state dicts, and those of
    other people's DeepLab that :mod:`segkit.models.foreign` knows. If the run kept an average of
    the weights, that is what is taken.

    Args:
        model: Changed in place.
        path: A file, or a run folder.
        parts: First words of the names to take, as ``aspp``; None takes all.

    Raises:
        CheckpointError: Unreadable, or nothing matches.
    """
    path = find_checkpoint(path)
    with numpy_scalars():
        content = read_tensors(path)
    foreign = None
    if content.keys() >= ENTRIES:
        check_format(path, content)
        check_weights(path, content["state"])
        weights = model_weights(content["state"])
    else:
        weights = plain_weights(content)
        if foreign := translate(weights):
            weights = dict(foreign.tensors)
    if parts is not None:
        weights = {name: w for name, w in weights.items() if name.partition(".")[0] in parts}
    try:
        report = load_matching(model, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"init_from={path}: {error}. Layouts that are known: segkit's own, {known_sources()}; "
            "weights of a backbone alone go to model.backbone.weights"
        ) from error
    source: dict[str, Any] | None = None
    if foreign:
        report = foreign.report(report)
        source = {"atrous_rates": None}  # the layouts that are known come with the usual rates
    elif content.keys() >= ENTRIES:
        about = described(path, content["about"])
        report = replace(report, trained_on=[*about.trained_on, *about.pretrained_on])
        source = about.config.get("model")
    has_view = any(name.startswith("aspp.") for name in report.taken)
    return replace(report, source=source if has_view else None)
