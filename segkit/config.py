"""The typed configuration, its check before a run, and what builds objects from it.

The only reader of Hydra. One rule for holes: every node is either in the schema below or a
``_target_`` node, whose schema is its constructor's signature.
"""

import difflib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Optional

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.utils import get_object, instantiate
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.errors import ConfigError, SegkitError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    above: float | None = None,
    choices: tuple[object, ...] = (),
) -> Any:
    """A field of the schema: its default, what it is for, and which values make sense."""
    metadata = {"text": text, "low": low, "above": above, "choices": choices}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


# OmegaConf reads these annotations; it knows Optional[...] in every version, `X | None` in some.
@dataclass
class DataConfig:
    dataset: Any = option(MISSING, "partial _target_ node, called with split=...")
    root: Optional[str] = option(None, "folder of the data set")  # noqa: UP045
    train_split: str = option("train", "split to train on: a file in ImageSets/Segmentation")
    val_split: str = option("val", "split to validate on after every epoch")
    classes: Any = option(None, "class names in index order; null: from labels.txt")
    num_classes: Optional[int] = option(  # noqa: UP045
        None, "number of classes where there are no names", low=1
    )
    ignore_index: int = option(255, "mask value of pixels without a label", low=0)
    label_map: Any = option(None, "ids in the masks to classes or ignore, e.g. {255: 1}")
    colormap: Any = option(None, "colours of RGB masks in class order, or voc")
    check: bool = option(True, "read every file before the first step")
    mean: list[float] = option([0.485, 0.456, 0.406], "per channel, of values in 0 to 1")
    std: list[float] = option([0.229, 0.224, 0.225], "per channel, of values in 0 to 1")


@dataclass
class AugmentConfig:
    crop_size: Any = option(None, "height and width, for the lists that crop")
    train: Any = option([], "list of transforms; validation sees whole images as they are")


@dataclass
class LoaderConfig:
    batch_size: int = option(8, "images per step", low=1)
    num_workers: Any = option("auto", "processes that load; auto: one per core but the first, <= 4")


@dataclass
class TrainerConfig:
    max_epochs: int = option(50, "passes over the training split", low=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = option("auto", "number format of the forward pass", choices=PRECISIONS)
    check_precision: bool = option(True, "try a reduced precision on one batch before step 1")
    channels_last: bool = option(True, "memory order of images and convolutions")
    compile: bool = option(False, "torch.compile the model")
    accumulate: int = option(1, "batches whose gradients make one step", low=1)
    clip_grad_norm: Optional[float] = option(  # noqa: UP045
        None, "largest norm of all gradients", above=0
    )
    backbone_lr_factor: float = option(1.0, "learning rate of the backbone over the rest's", low=0)
    decay_norm_and_bias: bool = option(False, "weight decay for norms and biases too")
    val_every: int = option(1, "epochs from one validation to the next", low=1)
    monitor: str = option("val/miou", "logged value that decides which checkpoint is best.pt")
    monitor_mode: str = option(
        "auto", "auto: min for losses, else max", choices=("auto", "max", "min")
    )
    log_every: int = option(10, "steps from one TensorBoard point to the next", low=1)
    num_pictures: int = option(4, "validation images shown in TensorBoard", low=0)


@dataclass
class TrainConfig:
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: Any = option(MISSING, "_target_ node; its backbone is a group of its own")
    loss: Any = option(MISSING, "_target_ node: a WeightedSum of named terms")
    optimizer: Any = option(MISSING, "partial _target_ node, called with the parameters")
    scheduler: Any = option(MISSING, "_target_ node: a Schedule")
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    seed: int = option(0, "of weights, order and augmentation", low=0)
    out_dir: Optional[str] = option(  # noqa: UP045
        None, "run folder; null: a new one under runs/"
    )
    init_from: Optional[str] = option(  # noqa: UP045
        None, "checkpoint or run folder whose matching tensors to start from"
    )


@dataclass
class EvaluateDataConfig:
    root: Optional[str] = option(None, "folder of the data; null: where it was")  # noqa: UP045
    check: bool = option(True, "read every file first")


@dataclass
class EvaluateConfig:
    checkpoint: str = option(MISSING, "a .pt file or a run folder")
    split: Optional[str] = option(  # noqa: UP045
        None, "split to score; null: the run's validation split"
    )
    data: EvaluateDataConfig = field(default_factory=EvaluateDataConfig)
    out_dir: Optional[str] = option(  # noqa: UP045
        None, "where the files go; null: eval/ in the run folder"
    )
    save_predictions: bool = option(False, "write predictions/<id>.png as palette PNGs")
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: Optional[str] = option(  # noqa: UP045
        None, "null: what the run used", choices=PRECISIONS
    )
    allow: list[str] = option([], "your own modules that the checkpoint may name")


SCHEMAS: dict[str, type] = {"train": TrainConfig, "evaluate": EvaluateConfig}
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)


def run(name: str, task: Callable[[DictConfig], object]) -> None:
    """Compose ``configs/<name>.yaml`` with the command line, check it, and call ``task``.

    What a user can put right ends as one readable message and exit status 1; anything else is a
    defect and shows its full traceback.
    """
    # Hydra would print a shortened traceback itself and hide where an error came from.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def checked(cfg: DictConfig) -> object:
        check_config(cfg, SCHEMAS[name])
        return task(cfg)

    try:
        refuse_dashes(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(checked)()
    except (HydraException, OmegaConfBaseException, MissingConfigException) as error:
        raise SystemExit(f"error: {explain(error, name)}") from None
    except SegkitError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def refuse_dashes(arguments: list[str]) -> None:
    """``--trainer.lr=1`` would end in argparse's usage text."""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key.startswith("--") and equals and ("." in key or key[2:] in known_keys()):
            raise ConfigError(f"{argument}: drop the dashes: {key[2:]}={value}")


def known_keys() -> set[str]:
    return {f.name for schema in SCHEMAS.values() for f in fields(schema)}


def explain(error: Exception, name: str) -> str:
    """One line on what Hydra or OmegaConf found wrong, with a suggestion where one is near."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = error.options or []
        return f"{group}={choice}: no such choice{did_you_mean(choice, options)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    first_line = str(cause).partition("\n")[0]
    key = getattr(cause, "full_key", None)
    place = str(error).partition(":")[0] + ": " if str(error).startswith("In '") else ""
    if not key:
        found = next((line for line in str(error).splitlines() if "full_key: " in line), "")
        key = found.partition("full_key: ")[2]
    if "not in" in first_line or (place and "not in" in str(error)):
        _, _, last = str(key).rpartition(".")
        return f"{place}{key}: no such key{did_you_mean(last, siblings(cause, str(key), name))}"
    if place:
        first_line = next((x for x in str(error).splitlines()[1:] if x.strip()), first_line)
    return f"{place}{key + ': ' if key and cause is not error else ''}{first_line}"


def siblings(cause: BaseException, key: str, name: str) -> list[str]:
    """The keys that stand beside ``key``, as far as they are known."""
    node = getattr(cause, "parent_node", None)
    if isinstance(node, DictConfig) and not node._is_none():
        return [str(k) for k in node]
    schema: Any = SCHEMAS[name]
    for part in key.split(".")[:-1]:
        found = [f.default_factory for f in fields(schema) if f.name == part]
        if not found or not is_dataclass(found[0]):
            return []
        schema = found[0]
    return [f.name for f in fields(schema)]


def did_you_mean(word: str, options: list[str]) -> str:
    """`` (did you mean x? there are a, b, c)``, or nothing without options."""
    if not options:
        return ""
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    listed = f"there are {', '.join(sorted(options))}"
    return f"; did you mean {near[0]}? ({listed})" if near else f"; {listed}"


def check_config(cfg: DictConfig, schema: type) -> None:
    """Refuse unknown keys, wrong types and impossible values before anything is read or written.

    Raises:
        ConfigError: Everything that is wrong, one line each.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError("\n       ".join(f"{key} is not set: {hint(key)}" for key in missing))
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        # `+key=value` gets past the schema while composing, not past this.
        OmegaConf.merge(OmegaConf.structured(schema), plain)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, {v: k for k, v in SCHEMAS.items()}[schema])) from error
    assert isinstance(plain, dict)
    problems = list(value_problems(schema, plain)) or list(target_problems(plain))
    if schema is TrainConfig and not problems:
        problems = list(trial_problems(cfg))
    if problems:
        raise ConfigError("\n       ".join(problems))


def hint(key: str) -> str:
    return {
        "data.root": "the folder with JPEGImages, SegmentationClass and ImageSets; data.root=PATH",
        "checkpoint": "a .pt file or a run folder; checkpoint=runs/...",
    }.get(key, f"give {key}=...")


def value_problems(schema: type, values: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """What is out of range in a node of the schema and below it."""
    for f in fields(schema):
        name, value, limits = f"{prefix}{f.name}", values[f.name], f.metadata
        if is_dataclass(f.default_factory):
            yield from value_problems(f.default_factory, value, f"{name}.")  # type: ignore[arg-type]
        if not limits or value is None:
            continue
        if limits["choices"] and value not in limits["choices"]:
            near = did_you_mean(str(value), [str(c) for c in limits["choices"]])
            yield f"{name}={value}: no such value{near}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                yield f"{name}={value}: expected a finite number"
            elif limits["low"] is not None and value < limits["low"]:
                yield f"{name}={value}: expected at least {limits['low']}"
            elif limits["above"] is not None and value <= limits["above"]:
                yield f"{name}={value}: expected a number above {limits['above']}"
    workers = values.get("num_workers", "auto")
    if workers != "auto" and not (type(workers) is int and workers >= 0):
        yield f"{prefix}num_workers={workers}: expected auto or a whole number of at least 0"


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


def one_target_problem(node: dict[Any, Any], path: str) -> Iterator[str]:
    target = node["_target_"]
    try:
        function = get_object(target)
        signature = inspect.signature(function)
    except Exception as error:
        yield f"{path}._target_={target}: cannot be imported ({str(error).splitlines()[0]})"
        return
    arguments = [key for key in node if not str(key).startswith("_")]
    names = list(signature.parameters)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        names += arguments
    for key in arguments:
        if key not in names:
            yield f"{path}.{key}: {target} has no such argument{did_you_mean(key, names)}"
    required = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if not node.get("_partial_", False):
        for name in required:
            if name not in node:
                yield f"{path}.{name} is not set: {target} needs it"


def trial_problems(cfg: DictConfig) -> Iterator[str]:
    """Build everything that is cheap to build: constructors know which values are impossible."""
    import torch

    trial = OmegaConf.create(OmegaConf.to_container(cfg))
    trial.data.num_classes = trial.data.num_classes or len(trial.data.classes or "ab")
    if "backbone" in trial.model and "weights" in trial.model.backbone:
        trial.model.backbone.weights = None
    for node in named_weightings(trial.loss):
        yield from unknown_weighting(node["class_weights"])
        node["class_weights"] = None
    parameter = [torch.nn.Parameter(torch.zeros(1, 1))]
    steps: dict[str, Callable[[], object]] = {
        "optimizer": lambda: build(trial.optimizer)(parameter),
        "scheduler": lambda: build(trial.scheduler),
        "loss": lambda: build(trial.loss),
        "augment.train": lambda: build_augment(trial),
        "model": lambda: build_on_meta(trial.model),
    }
    for name, step in steps.items():
        try:
            step()
        except (ValueError, TypeError) as error:
            text = str(error)
            yield text if text.startswith(name) else f"{name}: {text}"
    if trial.trainer.monitor_mode == "auto" and not trial.trainer.monitor:
        yield "trainer.monitor is empty: name a logged value such as val/miou"


def build_on_meta(node: Any) -> object:
    import torch

    with torch.device("meta"):
        return build(node)


def build(node: Any) -> Any:
    """The object (or, with ``_partial_``, the function) that a ``_target_`` node describes.

    Raises:
        ConfigError: The constructor refused a value; names the node.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        path = str(error).partition("full_key: ")[2].strip()
        if isinstance(cause, SegkitError):
            raise cause from error
        if isinstance(cause, ValueError | TypeError):
            text = " ".join(str(cause).split())
            raise ConfigError(f"{path}: {text}" if path else text) from error
        raise (cause or error) from None


def rebuild(node: Any, allow: Sequence[str]) -> Any:
    """:func:`build` for a node that came out of a file: a checkpoint is data, not code.

    Args:
        node: Builtins, as read from the checkpoint.
        allow: Modules of the user's own that may be named besides segkit's.

    Raises:
        ConfigError: It names anything else.
    """
    trusted = ("segkit", *allow)
    for target in targets(node):
        # The name first, since looking further imports it. Then where it is defined:
        # `segkit.models.weights.torch.load` begins with segkit, too.
        if not is_below(target, trusted) or not is_below(home_of(target), trusted):
            module = target.rpartition(".")[0]
            raise ConfigError(
                f"the checkpoint names {target}, which is no part of segkit; if you know and trust "
                f"that code, add 'allow=[{module}]'"
            )
    return build(OmegaConf.create(node))


def is_below(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def home_of(target: str) -> str:
    """The module in which the object with this dotted name is defined."""
    try:
        return str(getattr(get_object(target), "__module__", ""))
    except Exception as error:
        raise ConfigError(
            f"_target_={target}: cannot be imported ({str(error).splitlines()[0]})"
        ) from error


def targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` in a tree of builtins."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for child in node.values():
            yield from targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from targets(child)


def build_augment(cfg: DictConfig) -> Any:
    """The training transforms as a :class:`segkit.data.augment.Augment`."""
    from segkit.data.augment import Augment

    fill = [255.0 * value for value in cfg.data.mean]
    return Augment(
        [build(node) for node in cfg.augment.train],
        ignore_index=cfg.data.ignore_index,
        fill=fill,
    )


def named_weightings(node: Any) -> list[Any]:
    """The nodes below ``node`` whose ``class_weights`` is a name such as ``balanced``."""
    found = []
    if OmegaConf.is_dict(node):
        if isinstance(node.get("class_weights"), str):
            found.append(node)
        children = [node[key] for key in node]
    elif OmegaConf.is_list(node):
        children = list(node)
    else:
        return []
    return found + [weighting for child in children for weighting in named_weightings(child)]


def unknown_weighting(name: str) -> Iterator[str]:
    from segkit.losses.class_weights import WEIGHTINGS

    if name not in WEIGHTINGS:
        yield f"class_weights={name}: no such weighting{did_you_mean(name, list(WEIGHTINGS))}"


def needs_class_counts(loss: DictConfig) -> bool:
    """Whether a term asks for class weights that are computed from the training split."""
    return bool(named_weightings(loss))


def fill_class_weights(
    loss: DictConfig, classes: list[str], pixels: list[int] | None
) -> Iterator[str]:
    """Replace names such as ``balanced`` by one weight per class; yields a line for each.

    Args:
        loss: The loss node, changed in place.
        classes: Names in index order.
        pixels: Pixels of each class in the training split; needed if there is a name.

    Raises:
        ConfigError: A list of weights has not one per class.
    """
    from segkit.losses.class_weights import WEIGHTINGS

    for node in named_weightings(loss):
        name = node["class_weights"]
        node["class_weights"] = WEIGHTINGS[name](pixels)
        weights = zip(classes, node["class_weights"], strict=True)
        yield f"class weights ({name}): " + ", ".join(f"{c} {w:.3g}" for c, w in weights)
    for path, weights in weight_lists(loss, "loss"):
        if len(weights) != len(classes):
            raise ConfigError(
                f"{path} has {len(weights)} values; expected one for each of the "
                f"{len(classes)} classes: {', '.join(classes)}"
            )


def weight_lists(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if OmegaConf.is_dict(node):
        for key in node:
            if key == "class_weights" and OmegaConf.is_list(node[key]):
                yield f"{path}.{key}", node[key]
            yield from weight_lists(node[key], f"{path}.{key}")


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as builtins; environment variables stay ``${oc.env:...}``.

    A saved file must not spell out a secret that was given through the environment.
    """
    original = OmegaConf.to_container(cfg, resolve=False)
    copy = OmegaConf.create(original)
    real = {"oc.env"}
    from omegaconf.resolvers import oc

    try:
        for name in real:
            OmegaConf.register_new_resolver(
                name, lambda *args: "${oc.env:" + ",".join(map(str, args)) + "}", replace=True
            )
        plain = OmegaConf.to_container(copy, resolve=True)
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
