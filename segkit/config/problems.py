"""The check before a run: unknown keys, wrong types and impossible values, all of them at once."""

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.commands import command
from segkit.config.components import target_problems, trial_problems
from segkit.config.explain import explain, short
from segkit.config.palette import palette_problems
from segkit.config.schema import (
    COMPONENTS,
    FOLDER_KEYS,
    LARGEST,
    LOGGERS,
    SCHEMAS,
    Settings,
    schema_node,
    to_settings,
)
from segkit.config.unused import unused_in_evaluation, unused_in_export, unused_in_training
from segkit.errors import ConfigError, DataError
from segkit.files import path_problem, special_kind, user_path
from segkit.text import did_you_mean, join_lines

FOLDERS = "segkit.data.FolderSegmentation"
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
        name: The script's, as ``train``.

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
    trial = copy.deepcopy(cfg)
    # The data set will say how many classes there are; any number shows whether the rest fits.
    trial.data.num_classes = trial.data.num_classes or len(trial.data.classes or "ab")
    if not trial.augment.late_epochs:
        trial.augment.late = []  # of no use, it need not fit the data, nor have a size
    plain: Any = OmegaConf.to_container(trial, resolve=True)
    problems = [problem for name in names for problem in target_problems(plain[name], name)]
    if problems := problems or list(trial_problems(trial, names)):
        raise ConfigError(join_lines(problems))


def check_values(cfg: DictConfig, name: str) -> None:
    """The part of :func:`check_config` that imports no component."""
    if missing := list(missing_keys(OmegaConf.to_container(cfg))):
        hints = (f"{key} is not set: give {HINTS.get(key, f'{key}=...')}" for key in missing)
        raise ConfigError(join_lines(hints))
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        # `+key=value` gets past the schema while composing, not past this.
        OmegaConf.merge(schema_node(SCHEMAS[name]), plain)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, name)) from error
    assert isinstance(plain, dict)
    problems = list(value_problems(SCHEMAS[name], plain))
    deleted = {one.name for one in fields(SCHEMAS[name])} - plain.keys()  # said by value_problems
    if name == "train" and not deleted:
        problems += component_problems(plain)
        node = plain["data"]["dataset"]
        if isinstance(node, dict):
            is_folders = node.get("_target_") == FOLDERS
            problems += layout_problems(plain["data"], node, is_folders)
        problems += window_problems(plain["val"]["window"], "val.window")
        problems += unused_in_training(cfg, plain)
        problems += channel_problems(plain["data"])
        problems += ignored_problems(plain)
        problems += logger_problems(plain["trainer"]["loggers"])
    if name == "evaluate" and not deleted:
        problems += subject_problems(plain)
        problems += unused_in_evaluation(plain)
    if name == "export" and not deleted:
        problems += unused_in_export(plain)
    problems = problems or palette_problems(plain.get("palette"))
    if problems:
        raise ConfigError(join_lines(problems))


def checked(schema: type[Settings], given: Mapping[str, Any]) -> Settings:
    """An object of a schema out of its fields' values.

    Raises:
        ConfigError: Everything that is out of range, or the first value of another type.
    """
    try:
        settings = to_settings(schema, DictConfig(given))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, "predict")) from error
    if problems := list(value_problems(schema, vars(settings))):
        raise ConfigError(join_lines(problems))
    return settings


def window_problems(window: Mapping[Any, Any], key: str) -> Iterator[str]:
    """What is wrong with a size and a stride that are each well formed."""
    size, stride = window["size"], window["stride"]
    if not stride:  # an empty one is wrong by itself
        return
    if size is None:
        yield f"{key}.stride={stride}: {key}.size is not set; give both or neither"
    elif any(s > w for s, w in zip(stride, size, strict=False)):
        yield (
            f"{key}.stride={stride}: expected at most {key}.size={size}; with a larger one pixels "
            "between windows would be left out"
        )


def layout_problems(
    data: Mapping[Any, Any], taken: Collection[str], is_folders: bool
) -> Iterator[str]:
    """Keys that say where the files are, and that a data set does not take.

    Args:
        data: What is set below ``data``.
        taken: What the data set takes of :data:`FOLDER_KEYS`.
        is_folders: Whether it is that of ``data=folders``.
    """
    for key in FOLDER_KEYS:
        if data[key] not in (None, 0) and key not in taken:
            other = " (a VOC folder is divided by segkit.tools.split)" if key == "val" else ""
            yield (
                f"data.{key}={data[key]}: this data set takes no {key}{other}; add data=folders, "
                f"or leave data.{key} out"
            )
    if data["root"] is not None and is_folders:
        yield (
            f"data.root={data['root']}: is for a folder in VOC layout (data=voc); data=folders has "
            "data.images=DIR and data.masks=DIR instead"
        )


def logger_problems(loggers: Sequence[str]) -> Iterator[str]:
    """Loggers whose packages are not installed."""
    for name in set(loggers).intersection(LOGGERS):
        found = find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, as wandb makes
            yield (
                f"trainer.loggers=[{','.join(loggers)}]: {name} is not installed; python -m pip "
                f"install {name}, or run with trainer.loggers=[]"
            )


def channel_problems(data: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with what is said of the images' channels."""
    mean, std, bits = len(data["mean"]), len(data["std"]), data["bits"]
    if mean == 0 or mean != std:
        yield (
            f"data.mean has {mean} number{'s' * (mean != 1)} and data.std has {std}: expected one "
            f"of each for each channel of the images; {command('stats')} data.root=PATH prints them"
        )
    if bits not in (8, 16):
        yield f"data.bits={bits}: expected 8, or 16 to keep all of images of more than 8 bits"


def ignored_problems(plain: Mapping[Any, Any]) -> Iterator[str]:
    """Which terms of the loss leave out another label than the data."""
    value = plain["data"]["ignore_index"]
    terms = plain["loss"].get("terms") if isinstance(plain["loss"], dict) else None
    for name, term in terms.items() if isinstance(terms, dict) else ():
        loss = term.get("loss") if isinstance(term, dict) else None
        found = loss.get("ignore_index") if isinstance(loss, dict) else None
        if isinstance(found, int) and found != value:
            key = f"loss.terms.{name}.loss.ignore_index"
            yield f"{key}={found}: expected {value}, data.ignore_index; leave {key} out"


def subject_problems(plain: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with what an evaluation is to score."""
    is_folders = any(plain["data"][key] not in (None, 0) for key in FOLDER_KEYS)
    if not plain["checkpoint"] and plain["predictions"] is None:
        hint = HINTS["checkpoint"]
        yield f"checkpoint is not set: give {hint}, or predictions=FOLDER with masks to score"
    elif plain["checkpoint"] and plain["predictions"] is not None:
        yield "checkpoint and predictions are both set: give one of them, and the other as compare"
    elif plain["predictions"] is not None and plain["data"]["root"] is None and not is_folders:
        yield f"data.root is not set: give {HINTS['data.root']}"
    yield from layout_problems(plain["data"], FOLDER_KEYS, is_folders)
    if plain["checkpoint"]:
        for key in ("classes", "num_classes", "ignore_index", "label_map", "colormap", "range"):
            if plain["data"][key] is not None:
                yield f"data.{key} is for predictions=...: a checkpoint brings its own"


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
        elif f.default is not None and f.metadata and f.metadata["kind"] is not object:
            yield f"{name}: null is not possible here"


def option_problems(name: str, value: Any, limits: Mapping[str, Any]) -> Iterator[str]:
    """What is out of the limits that :func:`~segkit.config.schema.option` set for a key."""
    start, items = f"{name}={short(value)}", value if isinstance(value, list) else [value]
    for item in items:
        if limits["choices"] and isinstance(item, str) and item not in limits["choices"]:
            yield f"{start}: no such value{did_you_mean(item, limits['choices'])}"
    kind = limits["kind"]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
        yield f"{start}: expected {limits['text']}"
        return
    if limits["path"]:
        for item in items if not isinstance(value, dict) else ():
            yield from path_problems(f"{name}={item}", str(item), limits["exists"])
    if isinstance(value, list):
        if limits["length"] is not None and len(value) != limits["length"]:
            yield f"{start}: expected {limits['length']} values"
        for i, item in enumerate(value):
            if limits["whole"] and type(item) is not int:
                yield f"{name}[{i}]={item}: expected a whole number"
                return
            if isinstance(item, list | dict) and (limits["low"], limits["above"]) != (None, None):
                yield f"{name}[{i}]={short(item)}: expected a number"
                return
    numbers = (problem for item in items for problem in number_problems(start, item, limits))
    if found := list(islice(numbers, 1)):
        yield from found
    elif limits["rising"] and not _rises(items):
        yield f"{start}: expected numbers that rise"


def _rises(items: Sequence[Any]) -> bool:
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in items):
        return False
    return all(a < b for a, b in pairwise(items))


def path_problems(start: str, path: str, exists: bool) -> Iterator[str]:
    if not path:
        yield f"{start}: the path is empty; is it a variable of the shell that is not set?"
        return
    if problem := path_problem(path):
        yield f"{start}: {problem}"
        return
    try:
        found = user_path(path).exists()
    except (OSError, ValueError) as error:  # too long
        yield f"{start[:200]}: no path of a file or folder ({error.args[-1]})"
        return
    if special := special_kind(user_path(path)):
        yield f"{start}: is {special}, neither a file nor a folder"
    elif exists and not found:
        several = "; several are written [a,b]" if "," in path else ""
        yield f"{start}: no such file or folder; relative paths start at {Path.cwd()}{several}"


def number_problems(start: str, number: Any, limits: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return
    if not math.isfinite(number):
        yield f"{start}: expected a finite number"
    elif limits["low"] is not None and number < limits["low"]:
        yield f"{start}: expected at least {limits['low']}"
    elif limits["above"] is not None and number <= limits["above"]:
        yield f"{start}: expected a number above {limits['above']}"
    elif limits["high"] is not None and number > limits["high"]:
        yield f"{start}: expected at most {limits['high']}"
    elif limits["high"] is None and isinstance(number, int) and number > LARGEST:
        yield f"{start}: expected at most {LARGEST}"
    elif limits["below"] is not None and number >= limits["below"]:
        yield f"{start}: expected a number below {limits['below']}"


def component_problems(plain: Mapping[Any, Any]) -> list[str]:
    """Where a component should be, and something without ``_target_`` is."""
    nodes = {name: plain[name] for name in COMPONENTS} | {"data.dataset": plain["data"]["dataset"]}
    for name in ("train", "late"):
        transforms = enumerate(plain["augment"][name])
        nodes |= {f"augment.{name}[{i}]": node for i, node in transforms}
    problems = [
        f"{name}={node}: expected a node with _target_"
        for name, node in nodes.items()
        if not (isinstance(node, dict) and isinstance(node.get("_target_"), str))
    ]
    # The constructor takes names, for short programs; a run must say which weights it starts with.
    if not problems and plain["model"]["_target_"].startswith("segkit."):
        backbone = plain["model"].get("backbone")
        if isinstance(backbone, str):
            problems.append(f"model.backbone={backbone}: write model/backbone={backbone}")
    return problems


def check_start(cfg: DictConfig) -> None:
    """Refuse what is wrong with where a new run starts from; one that goes on has its weights.

    Raises:
        ConfigError: Everything that is wrong, one line each.
    """
    from segkit.data.shapes import check_place

    problems = []
    root = cfg.data.dataset.get("root")
    if cfg.data.dataset._target_ == "segkit.data.Shapes" and isinstance(root, str):
        try:
            check_place(root)
        except DataError as error:
            problems.append(str(error))
    if cfg.init_parts is not None and cfg.init_from is None:
        problems.append(f"init_parts={cfg.init_parts}: needs init_from=PATH to take them from")
    target = OmegaConf.select(cfg, "model.backbone._target_")
    weights = OmegaConf.select(cfg, "model.backbone.weights")
    if str(target).startswith("segkit.") and weights not in (None, "imagenet"):
        found = path_problems(f"model.backbone.weights={weights}", str(weights), exists=True)
        hint = "" if path_problem(str(weights)) else "; did you mean imagenet?"
        problems += [f"{problem}{hint}" for problem in found]
    if problems:
        raise ConfigError(join_lines(problems))
