"""A run that goes on: its configuration out of the checkpoint, with today's overrides on top.

Every override is applied and shown, or refused with the way out; none is ignored.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.config.build import resolved, targets
from segkit.config.explain import explain
from segkit.config.growth import grows
from segkit.config.problems import check_config
from segkit.config.saved import absolute_paths, plain_config
from segkit.config.schema import SCHEMAS, SWAPPED, schema_node
from segkit.config.slots import HYDRA_KEYS, SLOT_OF, check_trusted, is_within
from segkit.config.weightings import named_weightings
from segkit.errors import CheckpointError, ConfigError
from segkit.files import path_problem, user_path
from segkit.text import join_lines

if TYPE_CHECKING:
    from segkit.runs.checkpoint import Checkpoint

FIXED = ("data", "model", "model/backbone", "experiment")
# Keys that change what the weights mean.
REFUSED = (
    "model",
    "val.window",  # what the best score so far was measured by, as the next one
    "data.val_split",
    "optimizer._target_",
    "data.classes",
    "data.num_classes",
    "data.label_map",
    "data.colormap",
    "data.range",
    "data.bits",
    "data.ignore_index",
    "data.mean",
    "data.std",
    "seed",
    "init_from",
    "init_parts",
)
ALLOWED = ("model.dropout",)
# Keys that cannot change what is learned, or say how long.
UNLEARNED = (
    "out_dir",
    "resume",
    "allow",
    "palette",
    "data.root",
    "data.images",
    "data.masks",
    "data.dataset.root",
    "data.dataset.images",
    "data.dataset.masks",
    "data.check",
    "loader.num_workers",
    "loader.cache",
    "loader.cache_dir",
    "trainer.max_epochs",
    "trainer.patience",
    "trainer.device",
    "trainer.check_precision",
    "trainer.channels_last",
    "trainer.compile",
    "trainer.keep_best",
    "trainer.save_every_steps",
    "trainer.save_every_minutes",
    "trainer.on_save_error",
    "trainer.log_every",
    "trainer.num_images",
    "trainer.num_pr_curves",
    "trainer.histograms",
    "trainer.loggers",
)
SETTINGS_TOO = "with another out_dir, and that run's data and model, as its config.yaml has them"
# What is written of these is what it says, whatever becomes of the data later.
PLAIN = re.compile(r"\$\{(oc\.env:[^${}]*|(oc\.select:)?[\w.\[\]-]+)\}")


def resumed(cfg: DictConfig, typed: Sequence[str]) -> tuple[DictConfig, "Checkpoint | None"]:
    """The configuration to train with, and the checkpoint to go on from if there is one.

    Args:
        cfg: As composed from the command line.
        typed: The overrides that the user wrote.

    Raises:
        CheckpointError: It cannot be read.
        ConfigError: An override that a resume cannot apply.
    """
    if cfg.resume is None:
        return cfg, None
    from segkit.runs.checkpoint import newest_checkpoint, read_checkpoint

    auto = cfg.resume == "auto"
    place = cfg.out_dir if auto else cfg.resume
    if place is None:
        raise ConfigError("resume=auto looks into the run folder: give out_dir=FOLDER too")
    if problem := path_problem(place):
        raise ConfigError(f"resume={place}: {problem}")
    try:
        place = user_path(place).absolute()
        is_folder = place.is_dir()
    except (OSError, ValueError) as error:  # too long
        raise ConfigError(f"resume={place}: no path ({error})") from None
    if is_folder and not auto and place.name == "checkpoints":
        place = place.parent  # the run that these are of
    if is_folder or auto:
        saved = newest_checkpoint(place)
    elif place.exists():
        saved = read_checkpoint(place)
    else:
        raise ConfigError(
            f"resume={place}: no such file or folder; give a run folder, or "
            "resume=auto with out_dir=FOLDER"
        )
    if saved is None and auto:
        return cfg, None
    if saved is None:
        raise CheckpointError(f"resume={place}: no checkpoints in this folder")
    return _on_top(cfg, typed, saved), saved


def _on_top(cfg: DictConfig, typed: Sequence[str], saved: "Checkpoint") -> DictConfig:
    from segkit.runtime.log import log

    recipe = saved.metadata.recipe
    if not recipe:
        raise CheckpointError(
            f"{saved.path}: holds weights and nothing to go on with; use init_from instead"
        )
    from segkit.runs.saved_state import check_resumable

    check_resumable(saved.path, saved.state)
    if grows(recipe["config"]):
        raise CheckpointError(
            f"{saved.path}: its interpolations name each other, or make it far larger: refused"
        )
    try:
        before = _composed(recipe)
        was = plain_config(before)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{saved.path}: its configuration does not fit ({text})") from error
    new = copy.deepcopy(before)
    try:
        overrides = OverridesParser.create().parse_overrides(list(typed))
        problems = list(_apply(new, overrides, cfg, recipe))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, "train")) from error
    new.resume, new.allow = None, cfg.allow
    if cfg.resume == "auto":
        new.out_dir = cfg.out_dir
    elif not any(o.key_or_group == "out_dir" for o in overrides):
        new.out_dir = str(_run_folder(saved.path))
    # What the user's own configuration names; of ours each has its place.
    own = set(targets(OmegaConf.to_container(cfg))) - SLOT_OF.keys()
    check_trusted(saved.metadata.config, "run", [*cfg.allow, *own], saved.path, "")
    _refuse_code(new, [*cfg.allow, *own], saved.path)
    if problems:
        raise ConfigError(join_lines(problems))
    trial = copy.deepcopy(new)
    trial.init_from = None  # only the start needed that file, which may be gone
    check_config(trial, "train")
    absolute_paths(new, "train")
    lines = []
    changes = list(differences(was, plain_config(new)))
    names = recipe.get("weightings")
    for key, old, value in changes:
        if key in ("resume", "allow", "out_dir"):
            continue
        if is_within(key, REFUSED) and key not in ALLOWED:
            problems.append(_refusal(f"{key}={value}", f"it is {old} in {saved.path}", saved.path))
        if is_within(key, ("loss",)) and not _is_same_weighting(key, old, value, names):
            problems += [
                f"{key}={value}: trainer.{name}={monitor} would compare the values of two losses; "
                f"add trainer.{name}=val/miou, or begin another run by init_from={saved.path}"
                for name, monitor in _monitored_losses(new)
            ]
        lines.append(f"{key} {old} -> {value}")
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if not problems and in_sweep and (changed := _learned(changes, names)):
        # Its score would be told, and searched by, as that of these values.
        problems.append(
            f"out_dir={new.out_dir}: holds a run with other values than {', '.join(changed)}; give "
            "an out_dir that no other sweep has used"
        )
    if problems:
        raise ConfigError(join_lines(problems))
    log.info("resume: %s, after %s", saved.path, _position(saved.state))
    for line in lines:
        log.info("resume: %s", line)
    return new


def _composed(recipe: Mapping[str, Any]) -> DictConfig:
    """The configuration that a checkpoint was composed of."""
    return DictConfig(OmegaConf.merge(schema_node(SCHEMAS["train"]), recipe["config"]))


def relearned(cfg: DictConfig, saved: "Checkpoint") -> list[str]:
    """What of a run that goes on would be learned in another way from here on, as ``key=value``."""
    recipe = saved.metadata.recipe
    before = plain_config(_composed(recipe))
    return _learned(differences(before, plain_config(cfg)), recipe.get("weightings"))


def _learned(changes: Iterable[tuple[str, Any, Any]], names: Mapping[str, str] | None) -> list[str]:
    """Those of :func:`differences` that change what is learned, as ``key=value``."""
    return [
        f"{key}={value}"
        for key, old, value in changes
        if not is_within(key, UNLEARNED)
        and not _is_same_weighting(key, old, value, names)
        and value != "auto"
    ]


def _is_same_weighting(key: str, old: Any, value: Any, names: Mapping[str, str] | None) -> bool:
    """Whether a value is the name of the class weights whose numbers the checkpoint has.

    Args:
        key: Of the setting.
        old: Its value in the checkpoint.
        value: Its value now.
        names: Those that the numbers come from, by the keys; None: an old checkpoint knows none.
    """
    if not key.endswith(".class_weights") or not isinstance(value, str):
        return False
    return isinstance(old, list) if names is None else names.get(key) == value


def weightings(cfg: DictConfig, saved: "Checkpoint | None") -> dict[str, str]:
    """The names that class weights are given by, or were when the run began, by their keys."""
    given = named_weightings(cfg.loss)
    names = {f"{path}.class_weights": str(node["class_weights"]) for path, node in given}
    recipe = {} if saved is None else saved.metadata.recipe
    if known := recipe.get("weightings"):
        changed = {
            key for key, _, _ in differences(plain_config(_composed(recipe)), plain_config(cfg))
        }
        names |= {key: name for key, name in known.items() if key not in {*names, *changed}}
    return names


def _monitored_losses(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Key and value of what decides over the run and is a value of the loss."""
    for name in ("monitor", "patience_monitor"):
        monitor = cfg.trainer.get(name)
        if isinstance(monitor, str) and "loss" in monitor.split("/"):
            yield name, monitor


def _refuse_code(cfg: DictConfig, allow: Sequence[str], source: Path) -> None:
    """Raise a ConfigError if ``cfg`` names what a checkpoint may not, now or when it is read later.

    What is computed by an interpolation other than a key or an environment variable is replaced by
    its value, so that all that is built is what was looked at.
    """
    plain = resolved(OmegaConf.to_container(cfg, resolve=False), source, "configuration")
    check_trusted(plain, "run", allow, source, "")
    for path, key, text in _computed(OmegaConf.to_container(cfg, resolve=False)):
        value = OmegaConf.select(cfg, path)
        if key in HYDRA_KEYS or OmegaConf.is_config(value):
            raise ConfigError(f"{source}: computes {path} by {text!r}: refused")
        OmegaConf.update(cfg, path, value)


def _computed(node: Any, path: str = "", key: object = "") -> Iterator[tuple[str, object, str]]:
    """(path, key, text) of what is not plainly written."""
    if isinstance(node, dict | list):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for name, child in pairs:
            yield from _computed(child, f"{path}[{name}]" if path else str(name), name)
    elif isinstance(node, str) and "${" in node:
        rest, count = node, 1
        while count and key not in HYDRA_KEYS:
            rest, count = PLAIN.subn("", rest)
        if "${" in rest:
            yield path, key, node


def _apply(
    cfg: DictConfig, overrides: Sequence[Override], composed: DictConfig, recipe: Mapping[str, Any]
) -> Iterator[str]:
    """Change ``cfg`` as the overrides say: groups first, as Hydra does; yields what is refused."""
    choices = recipe["choices"]
    groups = [o for o in overrides if o.key_or_group in (*SWAPPED, *FIXED)]
    for o in groups:
        name = o.key_or_group
        if o.value() == choices.get(name):
            if name == "augment":  # what a run that was saved by an older segkit has not yet
                node: Any = OmegaConf.to_container(composed.augment)
                for key in node.keys() - recipe["config"]["augment"].keys():
                    OmegaConf.update(cfg, f"augment.{key}", node[key])
            continue
        if name in FIXED:
            yield _refusal(str(o.input_line), f"the run has {name}={choices.get(name)}", None)
        else:
            OmegaConf.set_struct(cfg, False)
            node = OmegaConf.to_container(composed[name])
            # The node of the transforms has a schema: all its keys are there, and none goes.
            OmegaConf.update(cfg, name, node, merge=name == "augment")
    for o in overrides:
        key = o.key_or_group
        if o in groups or key in ("resume", "allow") or key.startswith("hydra"):
            continue
        if o.is_sweep_override():
            yield f"{o.input_line}: several values are for a sweep, -m"
        elif o.is_delete():
            _delete(cfg, key, is_repeated=composed.resume == "auto")
        else:
            value = o.value()
            add = o.is_add() or o.is_force_add()
            OmegaConf.update(cfg, key, value, merge=isinstance(value, dict), force_add=add)


def _delete(cfg: DictConfig, key: str, *, is_repeated: bool) -> None:
    """Take a key out; of a command line that was given before, it may be out already."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if node is None or last not in node:
        if is_repeated:
            return
        raise ConfigError(f"~{key}: no such key")
    OmegaConf.set_struct(node, False)
    del node[last]


def _refusal(what: str, why: str, path: Path | None) -> str:
    place = path or "RUN"
    return (
        f"{what} cannot change in a resumed run ({why}); to start another run from its weights use "
        f"init_from={place} instead of resume, {SETTINGS_TOO}"
    )


def _run_folder(path: Path) -> Path:
    """Of a checkpoint in it; a file elsewhere needs an ``out_dir`` of its own."""
    if path.parent.name != "checkpoints":
        raise ConfigError(
            f"resume={path}: not in the checkpoints folder of a run; give out_dir=FOLDER, a new "
            "one, to write to"
        )
    return path.parent.parent


def _position(state: Mapping[str, Any]) -> str:
    rest = f" and {state['images']} images of the next" if state["images"] else ""
    return f"epoch {state['epoch']}{rest}, step {state['step']}"


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, value before, value now) of every key that differs, lists taken whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            below = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key), new.get(key), below)
    elif old != new:
        yield path, old, new


def choices(before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The group files that this job's configuration was composed of.

    Args:
        before: Those of the run that goes on, some of which this job may have exchanged.
    """
    if not HydraConfig.initialized():
        return dict(before or {})
    hydra = HydraConfig.get()
    chosen = hydra.runtime.choices if before is None else before
    found = {k: v for k, v in chosen.items() if not str(k).startswith("hydra/")}
    # A list of files, as in loss=[ce,dice], stands in no table of Hydra's.
    for o in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        if o.key_or_group in SWAPPED:
            found[o.key_or_group] = o.value()
    return found
