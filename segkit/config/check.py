"""The check before a run: unknown keys, wrong types and impossible values, all of them at once."""

import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.config.build import build, build_augment
from segkit.config.explain import did_you_mean, explain
from segkit.config.schema import COMPONENTS, SCHEMAS
from segkit.config.weightings import named_weightings, unknown_weightings
from segkit.errors import ConfigError, together

# Components by what looking at them imports: torch and albumentations, or torchvision too.
STAGES = (("augment", "scheduler", "loss", "optimizer"), ("data", "model"))
HINTS = {
    "data.root": "data.root=PATH, the folder with JPEGImages, SegmentationClass and ImageSets",
    "checkpoint": "checkpoint=PATH, a .pt file or a run folder under runs/",
}


def check_config(cfg: DictConfig, name: str) -> None:
    """Refuse what is wrong before anything is read or written.

    Args:
        cfg: As composed.
        name: Of the script.

    Raises:
        ConfigError: Everything that is wrong, one line each.
    """
    check_values(cfg, name)
    if name == "train":
        for names in STAGES:
            check_components(cfg, names)


def check_components(cfg: DictConfig, names: Sequence[str]) -> None:
    """Refuse what these components of a training would not be built with.

    Raises:
        ConfigError: Everything that is wrong, one line each.
    """
    trial = DictConfig(OmegaConf.to_container(cfg))
    # The data set will say how many classes there are; any number shows whether the rest fits.
    trial.data.num_classes = trial.data.num_classes or len(trial.data.classes or "ab")
    plain: Any = OmegaConf.to_container(trial, resolve=True)
    problems = [problem for name in names for problem in target_problems(plain[name], name)]
    if problems := problems or list(trial_problems(trial, names)):
        raise ConfigError(together(problems))


def check_values(cfg: DictConfig, name: str) -> None:
    """The part of :func:`check_config` that imports no component."""
    if missing := list(missing_keys(OmegaConf.to_container(cfg))):
        hints = (f"{key} is not set: give {HINTS.get(key, f'{key}=...')}" for key in missing)
        raise ConfigError(together(hints))
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        # `+key=value` gets past the schema while composing, not past this.
        OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), plain)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, name)) from error
    assert isinstance(plain, dict)
    problems = list(value_problems(SCHEMAS[name], plain))
    if name == "train":
        problems += component_problems(plain)
    if name == "evaluate":
        problems += subject_problems(plain)
    if problems:
        raise ConfigError(together(problems))


def subject_problems(plain: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with what an evaluation is to score."""
    if not plain["checkpoint"] and plain["predictions"] is None:
        hint = HINTS["checkpoint"]
        yield f"checkpoint is not set: give {hint}, or predictions=FOLDER with masks to score"
    elif plain["checkpoint"] and plain["predictions"] is not None:
        yield "checkpoint and predictions are both set: give one of them, and the other as compare"
    elif plain["predictions"] is not None and plain["data"]["root"] is None:
        yield f"data.root is not set: give {HINTS['data.root']}"
    if plain["checkpoint"]:
        for key in ("classes", "num_classes", "ignore_index", "label_map", "colormap"):
            if plain["data"][key] is not None:
                yield f"data.{key} is for predictions=...: a checkpoint brings its own"
    if plain["bootstrap"]["level"] >= 1:
        yield f"bootstrap.level={plain['bootstrap']['level']}: expected a number below 1"


def missing_keys(node: Any, path: str = "") -> Iterator[str]:
    """Where ``???`` stands. OmegaConf's own function stops at interpolations of such a place."""
    if node == MISSING:
        yield path
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from missing_keys(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from missing_keys(child, f"{path}[{i}]")


def value_problems(schema: type, values: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """What is out of range in a node of the schema and below it."""
    for f in fields(schema):
        name, value = f"{prefix}{f.name}", values.get(f.name)
        if f.name not in values:
            yield f"{name} cannot be deleted; give it a value"
        elif is_dataclass(f.default_factory):
            yield from value_problems(f.default_factory, value, f"{name}.")
        elif value is not None:
            yield from option_problems(name, value, f.metadata)


def option_problems(name: str, value: Any, limits: Mapping[str, Any]) -> Iterator[str]:
    """What is out of the limits that :func:`~segkit.config.schema.option` set for a key."""
    start, items = f"{name}={value}", value if isinstance(value, list) else [value]
    for item in items:
        if limits["choices"] and isinstance(item, str) and item not in limits["choices"]:
            yield f"{start}: no such value{did_you_mean(item, limits['choices'])}"
    if not isinstance(value, limits["kind"]):
        yield f"{start}: expected {limits['text']}"
        return
    if limits["path"]:
        for item in items:
            yield from path_problems(f"{name}={item}", str(item), limits["exists"])
    if limits["length"] is not None and len(items) != limits["length"]:
        yield f"{start}: expected {limits['length']} values"
    numbers = (problem for item in items for problem in number_problems(start, item, limits))
    yield from islice(numbers, 1)


def path_problems(start: str, path: str, exists: bool) -> Iterator[str]:
    try:
        found = Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, ~nobody, a zero byte
        yield f"{start[:200]}: no path of a file or folder ({error.args[-1]})"
        return
    if exists and not found:
        yield f"{start}: no such file or folder; relative paths start at {Path.cwd()}"


def number_problems(start: str, number: Any, limits: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return
    if not math.isfinite(number):
        yield f"{start}: expected a finite number"
    elif limits["low"] is not None and number < limits["low"]:
        yield f"{start}: expected at least {limits['low']}"
    elif limits["above"] is not None and number <= limits["above"]:
        yield f"{start}: expected a number above {limits['above']}"


def component_problems(plain: Mapping[Any, Any]) -> Iterator[str]:
    """Where a component should be, and something without ``_target_`` is."""
    nodes = {name: plain[name] for name in COMPONENTS} | {"data.dataset": plain["data"]["dataset"]}
    for name, node in nodes.items():
        if not (isinstance(node, dict) and isinstance(node.get("_target_"), str)):
            yield f"{name}={node}: expected a node with _target_"


def target_problems(node: Any, path: str = "") -> Iterator[str]:
    """``_target_`` nodes that name nothing, or have arguments that their target does not take."""
    items: Any = ()
    if isinstance(node, dict):
        if "_target_" in node:
            yield from one_target_problem(node, path)
        items = [(f"{path}.{key}" if path else str(key), child) for key, child in node.items()]
    elif isinstance(node, list):
        items = [(f"{path}[{i}]", child) for i, child in enumerate(node)]
    for child_path, child in items:
        yield from target_problems(child, child_path)


def one_target_problem(node: Mapping[Any, Any], path: str) -> Iterator[str]:
    target = node["_target_"]
    try:
        parameters = inspect.signature(pkgutil.resolve_name(target)).parameters
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        yield f"{path}._target_={target}: cannot be imported ({error}){near_target(str(target))}"
        return
    kinds = {p.kind for p in parameters.values()}
    for key, value in node.items():
        if str(key).startswith("_"):
            continue
        if key in parameters:
            yield from type_problem(f"{path}.{key}={value}", value, parameters[key])
        elif inspect.Parameter.VAR_KEYWORD not in kinds:
            names = [name for name in parameters if name != "self"]
            yield f"{path}.{key}: {target} has no such argument{did_you_mean(str(key), names)}"
    if not node.get("_partial_", False):
        for p in parameters.values():
            named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            if named and p.default is p.empty and p.name not in node:
                yield f"{path}.{p.name} is not set: {target} needs it"


def near_target(target: str) -> str:
    """A suggestion out of the module that does exist."""
    module, _, name = target.rpartition(".")
    try:
        return did_you_mean(name, getattr(import_module(module), "__all__", []))
    except (ImportError, ValueError, TypeError):
        return ""


def type_problem(start: str, value: Any, parameter: inspect.Parameter) -> Iterator[str]:
    """A value of a type that the signature rules out beyond doubt."""
    kind = parameter.annotation
    takes_text = re.search(r"\bstr\b|Literal", str(kind))
    is_number = kind in (int, float) or (type(parameter.default) in (int, float) and not takes_text)
    if value is None and parameter.default is parameter.empty and "None" not in str(kind):
        yield f"{start.partition('=')[0]}: null is not possible here"
    elif kind is bool and not isinstance(value, bool):
        yield f"{start}: expected true or false"
    elif is_number and isinstance(value, str):
        yield f"{start}: expected a number"


def trial_problems(trial: DictConfig, names: Sequence[str]) -> Iterator[str]:
    """Build what is cheap to build: constructors know which values are impossible.

    Changes ``trial``, which is to be a copy.
    """
    import torch

    if OmegaConf.select(trial, "model.backbone.weights") is not None:
        trial.model.backbone.weights = None  # reading or downloading them is not cheap
    if "loss" in names:
        yield from unknown_weightings(trial.loss)
    for _, node in named_weightings(trial.loss):
        node["class_weights"] = None
    parameter = [torch.nn.Parameter(torch.zeros(1, 1))]
    steps: dict[str, Callable[[], object]] = {
        "optimizer": lambda: build(trial.optimizer)(parameter),
        "scheduler": lambda: build(trial.scheduler),
        "loss": lambda: build(trial.loss),
        "augment": lambda: build_augment(trial),
        "model": lambda: _on_meta(trial.model),
    }
    for name in names:
        try:
            steps.get(name, lambda: None)()  # reading the data is not cheap
        except (ValueError, TypeError) as error:
            text = " ".join(str(error).split())
            yield text if text.startswith(name) else f"{name}: {text}"


def _on_meta(node: Any) -> object:
    """Built without memory and without random numbers."""
    import torch

    with torch.device("meta"):
        return build(node)
