"""The check of components: nodes with ``_target_``, by the signatures of what they name."""

import inspect
import math
import os
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.config.build import build, build_augment, targets
from segkit.config.explain import short
from segkit.config.slots import RENAMED, is_within
from segkit.config.weightings import named_weightings, unknown_weightings
from segkit.text import did_you_mean

# In these an error means that a value is wrong; in code of the user's own it may be a defect.
KNOWN = ("segkit", "torch", "torchvision", "albumentations")


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
    if isinstance(target, str) and target in RENAMED:
        yield f"{path}._target_={target}: is called {RENAMED[target]} now"
        return
    try:
        parameters = inspect.signature(pkgutil.resolve_name(target)).parameters
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        said = short(" ".join(str(error).split()))
        near = near_target(str(target))
        yield f"{path}._target_={short(target)}: cannot be imported ({said}){near}"
        return
    kinds = {p.kind for p in parameters.values()}
    for key, value in node.items():
        if str(key).startswith("_"):
            continue
        if key in parameters:
            start = f"{path}.{key}={short(value)}"
            yield from type_problem(start, value, parameters[key])
            # Code of the user's own may well take an infinite value.
            if isinstance(value, float) and not math.isfinite(value) and is_within(target, KNOWN):
                yield f"{start}: expected a finite number"
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
    kind, default = parameter.annotation, parameter.default
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    # None is looked at apart, and no tensor stands in a file.
    kinds = [k for k in members if k is not NoneType and getattr(k, "__name__", "") != "Tensor"]
    is_number = bool(kinds) and all(k in (int, float) for k in kinds)
    values = kinds[0] if len(kinds) == 1 else None
    takes_text = re.search(r"\bstr\b|Literal", str(kind))
    if value is None:
        is_needed = default is parameter.empty or (is_number and default is not None)
        if is_needed and "None" not in str(kind):
            yield f"{start.partition('=')[0]}: null is not possible here"
    elif isinstance(value, dict) and "_target_" in value:
        return
    elif kind is bool and not isinstance(value, bool):
        yield f"{start}: expected true or false"
    elif is_number and (isinstance(value, bool) or not isinstance(value, int | float)):
        yield f"{start}: expected a number"
    elif is_number and isinstance(value, float) and float not in kinds:
        yield f"{start}: expected a whole number"
    elif type(default) in (int, float) and not takes_text and isinstance(value, str):
        yield f"{start}: expected a number"
    elif kinds and all(
        k is str or k in (Path, os.PathLike) or get_origin(k) is os.PathLike for k in kinds
    ):
        if not isinstance(value, str):
            yield f"{start}: expected a text"
    elif get_origin(values) in (list, tuple, Sequence) and isinstance(value, not_lists(values)):
        yield f"{start}: expected a list, [a,b]"
    elif get_origin(values) in (dict, Mapping) and not isinstance(value, dict):
        yield f"{start}: expected a mapping, {{a: b}}"
    elif get_origin(values) is tuple and isinstance(value, list):
        parts = get_args(values)
        if len(value) != len(parts) and ... not in parts:
            yield f"{start}: expected {len(parts)} values"


def not_lists(kind: Any) -> tuple[type, ...]:
    """What stands for no list of this kind; a text may name one of numbers, as balanced does."""
    return (int, float, dict, str) if str in get_args(kind) else (int, float, dict)


def trial_problems(trial: DictConfig, names: Sequence[str]) -> Iterator[str]:
    """Build what is cheap to build: constructors know which values are impossible.

    Changes ``trial``, which is to be a copy.
    """
    if OmegaConf.select(trial, "model.backbone.weights") is not None:
        trial.model.backbone.weights = None  # reading or downloading them is not cheap
    if "loss" in names:
        yield from unknown_weightings(trial.loss)
    for _, node in named_weightings(trial.loss):
        node["class_weights"] = None
    steps: dict[str, Callable[[], object]] = {
        "optimizer": lambda: build(trial.optimizer)(_trial_groups(trial.optimizer.lr)),
        "scheduler": lambda: build(trial.scheduler),
        "loss": lambda: build(trial.loss),
        "augment": lambda: build_augment(trial),
        "model": lambda: _outline(trial.model),
    }
    for name in names:
        try:
            steps.get(name, lambda: None)()  # reading the data is not cheap
        except OmegaConfBaseException:
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            if not isinstance(error, ValueError | TypeError):
                if _is_own(error, trial[name]):
                    raise
                text = f"{type(error).__name__}: {text}"
            yield text if text.startswith(name) else f"{name}: {text}"


def _trial_groups(lr: float) -> list[dict[str, object]]:
    """Parameters as a model has them, in the groups that the training makes of them."""
    import torch

    weight, bias = (torch.nn.Parameter(torch.zeros(size)) for size in ((1, 1, 1, 1), (1,)))
    group: dict[str, object] = {"params": [weight], "lr": lr, "base_lr": lr}
    return [group, group | {"params": [bias], "weight_decay": 0.0}]


def _is_own(error: Exception, node: Any) -> bool:
    """Whether an error came through code of the user's own, whose defects are to be seen."""
    names = targets(OmegaConf.to_container(node))
    own = [name.partition(".")[0] for name in names if not is_within(name, KNOWN)]
    return any(
        is_within(frame.f_globals.get("__name__", ""), own)
        for frame, _ in walk_tb(error.__traceback__)
    )


def _outline(node: Any) -> object:
    """Built without memory and without random numbers."""
    from segkit.models.outline import outlined

    with outlined():
        return build(node)
