"""What a checkpoint says of itself, and the check of it: one for .pt files and exported ones."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segkit.config.palette import painted
from segkit.config.slots import with_new_keys, with_new_names
from segkit.data.split_list import is_split_name
from segkit.errors import CheckpointError, ConfigError
from segkit.runs.plain import (
    check_plain,
    expect,
    expect_entries,
    in_short,
    is_count,
    is_dict,
    is_listing,
    is_number,
    is_text,
)

# All that is left unresolved in a saved configuration: what the environment says.
ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")
MOST_CHANNELS = 1024
CHECK_SUM = re.compile("[0-9a-f]{16}")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint says of itself, so that nothing else is needed to use it.

    Attributes:
        config: The run's resolved configuration as builtins.
        recipe: ``config`` as composed, with its interpolations, and ``choices``, the group files
            that it was composed of: what a resume starts from.
        classes: Names in index order.
        palette: RGB of each mask value, 256 triples.
        ignore_index: Mask value without a label.
        mean: Mean of each channel that is subtracted, for values in [0, 1].
        std: Standard deviation of each channel, for values in [0, 1].
        precision: fp32, bf16 or fp16: what the scores were computed with.
        trained_on: A check sum for each image that was trained on, if they are files.
        pretrained_on: The same of the checkpoint whose weights it started from.
        validated_on: The same for each image of the validation split.
    """

    config: dict[str, Any]
    classes: list[str]
    palette: list[list[int]]
    ignore_index: int
    mean: list[float]
    std: list[float]
    precision: str
    threads: int = field(default_factory=torch.get_num_threads)
    device: str = "cpu"
    world_size: int = 1
    recipe: dict[str, Any] = field(default_factory=dict)
    trained_on: list[str] = field(default_factory=list)
    pretrained_on: list[str] = field(default_factory=list)
    validated_on: list[str] = field(default_factory=list)

    @property
    def colors(self) -> NDArray[np.uint8]:
        """``palette`` as the run draws it, with the user's own colours, uint8 (256, 3)."""
        palette = np.asarray(self.palette, np.uint8)
        return painted(palette, self.classes, self.config.get("palette"))

    @property
    def window(self) -> dict[str, list[int] | None]:
        """``size`` and ``stride`` of the windows that the run validated in; None: whole images."""
        found = self.config.get("val", {}).get("window", {})
        return {name: found.get(name) for name in ("size", "stride")}


def described(path: Path, entries: Any) -> CheckpointMetadata:
    """The description in a file, which may be edited, damaged, or made by a stranger.

    Args:
        path: The file, for messages.
        entries: As read.

    Raises:
        CheckpointError: An entry is missing, unknown, or not what it should be.
    """
    known = {f.name: f for f in fields(CheckpointMetadata)}
    needed = [
        name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING
    ]
    expect(path, "its description", entries, is_dict, "named entries")
    if missing := [name for name in needed if name not in entries]:
        raise CheckpointError(
            f"{path}: its description does not fit (it lacks {', '.join(missing)}); was it edited?"
        )
    if unknown := [str(name) for name in entries if name not in known]:
        raise CheckpointError(
            f"{path}: its description does not fit (it has {', '.join(unknown)[:80]}); a newer "
            "segkit may have written it"
        )
    for name, value in entries.items():
        CHECKS[name](path, name, value)
    metadata = CheckpointMetadata(**_of_today(entries))
    _check_agreement(path, metadata)
    _check_colors(path, metadata)
    expect(path, "std", metadata.std, lambda std: len(std) == len(metadata.mean), "as many as mean")
    return metadata


def _of_today(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries with today's names of components and keys."""
    renamed: dict[str, Any] = with_new_names(entries)
    renamed["config"] = with_new_keys(renamed["config"])
    if recipe := renamed.get("recipe"):
        renamed["recipe"] = {**recipe, "config": with_new_keys(recipe["config"])}
    return renamed


def _check_agreement(path: Path, metadata: CheckpointMetadata) -> None:
    """Raise a CheckpointError if the configuration says something else of the data."""
    data, model = (metadata.config.get(name, {}) for name in ("data", "model"))
    channels = model.get("in_channels", len(metadata.mean))
    expect(path, "mean", metadata.mean, lambda mean: channels == len(mean), f"{channels} numbers")
    said = {"num_classes": len(metadata.classes), "ignore_index": metadata.ignore_index}
    for name, value in said.items():
        found = data.get(name)
        if not (found is None or found == value or str(found).startswith("${")):
            raise CheckpointError(
                f"{path}: config.data.{name} in it is {in_short(found)}, and {name} is "
                f"{in_short(value)}; expected the same. Was it edited?"
            )


def _check_colors(path: Path, metadata: CheckpointMetadata) -> None:
    """Raise a CheckpointError for a ``palette`` that is none; a text would name a file."""
    if (palette := metadata.config.get("palette")) is not None:
        expect(path, "config.palette", palette, is_dict, "names of classes with their colours")
        try:
            metadata.colors  # noqa: B018
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}; was it edited?") from error


def _config(path: Path, name: str, config: Any) -> None:
    expect(path, name, config, is_dict, "named entries")
    check_plain(path, name, config, _is_resolved, "a text, resolved but for ${oc.env:NAME}")
    if hidden := [text for text in texts(config) if "\\$" in text]:
        raise CheckpointError(
            f"{path}: hides a second interpolation in {in_short(hidden[0])}: refused"
        )
    for key, test, expected in CONFIG:
        node: Any = config
        *parents, last = key.split(".")
        for i, parent in enumerate(parents):
            node = node.get(parent, {})
            expect(path, ".".join([name, *parents[: i + 1]]), node, is_dict, "named entries")
        if last in node:
            expect(path, f"{name}.{key}", node[last], test, expected)


def texts(node: Any) -> Iterator[str]:
    """All texts among the values of a configuration."""
    if isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            yield from texts(child)
    elif isinstance(node, str):
        yield node


def _is_resolved(text: str) -> bool:
    count = 1
    while count:
        text, count = ENVIRONMENT.subn("", text)
    return is_text(text) and text.count("${") == text.count("\\${") and text != "???"


def _is_component(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("_target_"), str)


def _is_pair(value: Any) -> bool:
    return value is None or is_listing(lambda side: is_count(side) and side > 0, 2)(value)


# What is read of a configuration besides components, whose constructors check their arguments.
CONFIG = (
    ("model", _is_component, "a node with _target_"),
    ("data.dataset", _is_component, "a node with _target_"),
    ("data.train_split", is_split_name, "the name of a split"),
    ("data.val_split", is_split_name, "the name of a split"),
    ("trainer.channels_last", lambda value: type(value) is bool, "true or false"),
    ("val.window.size", _is_pair, "a height and a width, or null"),
    ("val.window.stride", _is_pair, "a height and a width, or null"),
    ("trainer.max_epochs", lambda value: is_count(value) and value > 0, "a number of epochs"),
)


def _classes(path: Path, name: str, classes: Any) -> None:
    expected = "two or more names of classes"
    expect(path, name, classes, is_listing(_is_class), expected)
    expect(path, name, len(classes), lambda count: 2 <= count <= 2**16, expected)
    expect(path, name, classes, lambda c: len(set(c)) == len(c), "names that are unique")


def _is_class(value: Any) -> bool:
    return is_text(value) and bool(value.strip()) and value.isprintable()


def _recipe(path: Path, name: str, recipe: Any) -> None:
    expect(path, name, recipe, is_dict, "named entries")
    if recipe:
        expect_entries(path, name, recipe, ("config", "choices"))
        check_plain(path, name, recipe)
        for part in ("config", "choices"):
            expect(path, f"{name}.{part}", recipe[part], is_dict, "named entries")
        names = recipe.get("weightings", {})  # not in the oldest files
        expect(path, f"{name}.weightings", names, _is_names, "keys with the names of weights")


def _one(test: Any, expected: str) -> Any:
    def check(path: Path, name: str, value: Any) -> None:
        expect(path, name, value, test, expected)

    return check


def _is_names(value: Any) -> bool:
    return is_dict(value) and all(is_text(text) for pair in value.items() for text in pair)


def _is_device(value: Any) -> bool:
    try:
        return is_text(value) and bool(torch.device(value))
    except RuntimeError:
        return False


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_per_channel(test: Any) -> Any:
    return lambda value: is_listing(test)(value) and 1 <= len(value) <= MOST_CHANNELS


def _is_byte(value: Any) -> bool:
    return is_count(value) and value <= 255


_check_sums = _one(
    is_listing(lambda sum: isinstance(sum, str) and bool(CHECK_SUM.fullmatch(sum))),
    "check sums of 16 digits",
)
CHECKS: Mapping[str, Any] = {
    "config": _config,
    "classes": _classes,
    "palette": _one(
        is_listing(is_listing(_is_byte, 3), 256), "256 colours of three numbers from 0 to 255"
    ),
    "ignore_index": _one(is_count, "a mask value of at least 0"),
    "mean": _one(_is_per_channel(_is_share), "a number from 0 to 1 for each channel"),
    "std": _one(
        _is_per_channel(lambda value: _is_share(value) and value > 0),
        "a number above 0, to 1, for each channel",
    ),
    "precision": _one(
        lambda value: isinstance(value, str) and value in PRECISIONS,
        f"one of {', '.join(PRECISIONS)}",
    ),
    "threads": _one(lambda value: is_count(value) and value > 0, "a number of threads"),
    "device": _one(_is_device, "a device of PyTorch"),
    "world_size": _one(lambda value: is_count(value) and value > 0, "a number of processes"),
    "recipe": _recipe,
    "trained_on": _check_sums,
    "pretrained_on": _check_sums,
    "validated_on": _check_sums,
}
