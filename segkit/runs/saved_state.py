"""The check of the state in a checkpoint, which may be edited, damaged, or made by a stranger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from segkit.runs.plain import (
    Test,
    check_plain,
    expect,
    expect_entries,
    expect_tensors,
    is_count,
    is_dict,
    is_listing,
    is_number,
    is_text,
)

COUNTERS = ("epoch", "images", "step", "skipped_steps", "seconds", "sums", "last_values")


RESUMED = ("model", "optimizer", "scaler", "best", "average", "patience", *COUNTERS)
SCORES_OF_CLASSES = ("iou", "precision", "recall", "f1", "support")


def check_state(path: Path, state: Any, num_classes: int) -> None:
    """Raise a CheckpointError unless ``state`` holds weights, and what else it has is sound.

    Args:
        path: The file, for messages.
        state: As read.
        num_classes: How many scores of classes belong together.
    """
    check_weights(path, state)
    expect_entries(path, "state", state, ("epoch",))
    for name, value in state.items():
        if name in SIMPLE:
            test, expected = SIMPLE[name]
            expect(path, f"state.{name}", value, test, expected)
    if "best" in state:
        _check_best(path, state["best"], num_classes)
    if state.get("patience") is not None:
        _check_parts(path, "state.patience", state["patience"], PATIENCE)
    if "fall" in state:
        _check_parts(path, "state.fall", state["fall"], FALL)
    if state.get("scaler"):
        _check_parts(path, "state.scaler", state["scaler"], SCALER)
    if "optimizer" in state:
        _check_optimizer(path, state["optimizer"])


def check_weights(path: Path, state: Any) -> None:
    """Raise a CheckpointError unless ``state`` holds weights, and their average is sound."""
    expect_entries(path, "state", state, ("model",))
    expect_tensors(path, "state.model", state["model"])
    if (average := state.get("average")) is not None:
        expect_entries(path, "state.average", average, ("model", "updates"))
        expect_tensors(path, "state.average.model", average["model"])
        expect(path, "state.average.updates", average["updates"], is_count, "a number of steps")


def check_resumable(path: Path, state: Mapping[str, Any]) -> None:
    """Raise a CheckpointError unless the state, checked before, has all that a run goes on with."""
    expect_entries(path, "state", state, RESUMED)


def check_scores(path: Path, entry: str, scores: Any, num_classes: int) -> None:
    """Raise a CheckpointError unless the scores of a validation, if there are any, are sound."""
    expect(path, entry, scores, is_dict, "named scores")
    check_plain(path, entry, scores)
    for name, value in scores.items():
        if name in SCORES_OF_CLASSES:
            test = is_listing(is_count if name == "support" else is_score, num_classes)
            expect(path, f"{entry}.{name}", value, test, f"{num_classes} numbers or null")
        elif name in SCORES:
            expect(path, f"{entry}.{name}", value, is_score, "a number or null")


def is_score(value: Any) -> bool:
    return value is None or is_number(value)


def _is_kept(value: Any) -> bool:
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and is_number(value[0]) and is_count(value[1])


def _are_sums(value: Any) -> bool:
    def one(pair: Any) -> bool:
        fits = isinstance(pair, tuple | list) and len(pair) == 2
        return fits and type(pair[0]) in (int, float) and is_count(pair[1]) and pair[1] > 0

    return isinstance(value, dict) and all(map(is_text, value)) and all(map(one, value.values()))


def _are_values(value: Any) -> bool:
    fits = isinstance(value, dict) and all(type(one) in (int, float) for one in value.values())
    return fits and all(map(is_text, value))


def _check_parts(path: Path, entry: str, value: Any, parts: Mapping[str, tuple[Test, str]]) -> None:
    expect_entries(path, entry, value, parts)
    for name, (test, expected) in parts.items():
        expect(path, f"{entry}.{name}", value[name], test, expected)
    expect(path, f"the names of {entry}", set(value), lambda found: found == set(parts), "no more")


def _check_best(path: Path, best: Any, num_classes: int) -> None:
    _check_parts(path, "state.best", best, BEST)
    check_scores(path, "state.best.scores", best["scores"], num_classes)
    if best["scores"]:  # shown as a table at the end
        expect_entries(path, "state.best.scores", best["scores"], SCORES_OF_CLASSES + SCORES)


def _check_optimizer(path: Path, optimizer: Any) -> None:
    """The form that all optimizers of PyTorch share; TrainState compares it with the run's."""
    entry = "state.optimizer"
    expect_entries(path, entry, optimizer, ("state", "param_groups"))
    groups, kept = optimizer["param_groups"], optimizer["state"]
    expect(path, f"{entry}.param_groups", groups, is_listing(_is_group), "groups of parameters")
    known = {number for group in groups for number in group["params"]}
    expect(path, f"{entry}.state", kept, is_dict, "named entries")
    for number, buffers in kept.items():
        name = f"{entry}.state[{number}]"
        expect(path, name, buffers, _is_buffers, "numbers and tensors by name")
        expect(path, name, number, known.__contains__, "a parameter of its groups")


def _is_group(value: Any) -> bool:
    texts = isinstance(value, dict) and all(map(is_text, value))
    return texts and is_listing(is_count)(value.get("params"))


def _is_buffers(value: Any) -> bool:
    def one(kept: Any) -> bool:
        return kept is None or type(kept) in (bool, int, float) or isinstance(kept, Tensor)

    return isinstance(value, dict) and all(map(is_text, value)) and all(map(one, value.values()))


SCORES = ("miou", "mean_accuracy", "pixel_accuracy", "fw_iou", "num_classes_averaged")
COUNT = (is_count, "a whole number of at least 0")
SIMPLE: dict[str, tuple[Test, str]] = {
    **dict.fromkeys(("epoch", "images", "step", "skipped_steps"), COUNT),
    "seconds": (lambda value: is_number(value) and value >= 0, "a number of seconds"),
    "sums": (_are_sums, "pairs of a sum and a number of steps by name"),
    "last_values": (_are_values, "numbers by name"),
    "scaler": (is_dict, "named entries"),
    "kept": (lambda value: is_text(value) and value in ("raw", "ema"), "raw or ema"),
}
BEST: dict[str, tuple[Test, str]] = {
    "monitor": (is_text, "the name of a logged value"),
    "mode": (lambda value: value in ("max", "min") if is_text(value) else False, "max or min"),
    "score": (is_score, "a number or null"),
    "epoch": COUNT,
    "scores": (is_dict, "named scores"),
    "kept": (is_listing(_is_kept), "pairs of a score and an epoch"),
}
PATIENCE: dict[str, tuple[Test, str]] = {
    "monitor": (is_text, "the name of a logged value"),
    "best": (is_score, "a number or null"),
    "waited": COUNT,
}
FALL: dict[str, tuple[Test, str]] = {
    "best": (is_number, "a number"),
    "loss": (is_number, "a number"),
    "epoch": COUNT,
    "told": (lambda value: type(value) is bool, "true or false"),
}
_ABOVE_0: tuple[Test, str] = (lambda value: is_number(value) and value > 0, "a number above 0")
SCALER: dict[str, tuple[Test, str]] = {
    "scale": _ABOVE_0,
    "growth_factor": _ABOVE_0,
    "backoff_factor": _ABOVE_0,
    "growth_interval": COUNT,
    "_growth_tracker": COUNT,
}
