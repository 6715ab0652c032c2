"""Objects out of ``_target_`` nodes: of a configuration, or of a checkpoint, which is data."""

import copy
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.config.schema import first_late_epoch
from segkit.config.slots import OFF, SLOT_OF, SLOTS, check_trusted
from segkit.errors import ConfigError, DataError, SegkitError


def build(node: Any, key: str = "") -> Any:
    """The object (or, with ``_partial_``, the function) that a ``_target_`` node describes.

    Args:
        node: A node of a configuration, or a mapping.
        key: Where a mapping stands in the configuration, for messages.

    Raises:
        ConfigError: The constructor refused a value; names the node.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        path = ".".join(filter(None, [key, str(error).partition("full_key: ")[2].strip()]))
        if isinstance(cause, SegkitError):
            raise cause from error
        if isinstance(cause, ValueError | TypeError):
            # pydantic, which checks albumentations' arguments, adds the address of its manual
            text = " ".join(str(cause).partition("For further information")[0].split())
            raise ConfigError(f"{path}: {text}" if path else text) from error
        raise (cause or error) from None


def build_augment(cfg: DictConfig, pixels: Sequence[int] | None = None) -> Any:
    """The transforms of all epochs as a :class:`segkit.data.augment.Augment`.

    Args:
        cfg: The configuration.
        pixels: Of each class in the training split, if they are counted.
    """
    from segkit.data.augment import Augment

    settings: dict[str, Any] = {
        "ignore_index": cfg.data.ignore_index,
        "fill": [255.0 * value for value in cfg.data.mean],
        "bits": cfg.data.bits,
        "class_pixels": pixels,
    }
    late = None
    if cfg.augment.late_epochs:  # of bands, say, those of the colours may be left in the list
        transforms = _transforms(cfg.augment.late, "augment.late")
        late = Augment(transforms, name="augment.late", **settings)
    return Augment(
        _transforms(cfg.augment.train, "augment.train"),
        late=late,
        late_from=first_late_epoch(cfg),
        **settings,
    )


def _transforms(nodes: Sequence[DictConfig], name: str) -> list[Any]:
    built = []
    for i, node in enumerate(nodes):
        try:
            built.append(build(node))
        except ConfigError as error:
            text = str(error).removeprefix(f"{name}{i}: ")
            raise ConfigError(f"{name}[{i}]: {text}") from error
    return built


def without_effects(node: DictConfig) -> DictConfig:
    """A copy of a node out of a checkpoint whose components read, download and make nothing.

    The backbone starts at random, since the checkpoint holds its weights; a data set is opened.
    """
    copied = copy.deepcopy(node)
    OmegaConf.set_struct(copied, False)
    if OmegaConf.select(copied, "backbone.weights") is not None:  # of the user's own too
        copied.backbone.weights = None
    _switch_off(copied)
    return copied


def _switch_off(node: Any) -> None:
    """Set what :data:`OFF` lists, in place and through all nodes."""
    if OmegaConf.is_dict(node):
        for name, value in OFF.get(str(node.get("_target_")), {}).items():
            node[name] = value
    if OmegaConf.is_config(node):
        for child in node.values() if OmegaConf.is_dict(node) else node:
            _switch_off(child)


def rebuild(source: Path, slot: str, node: Any, allow: Sequence[str], **late: Any) -> Any:
    """:func:`build` for a node that came out of a checkpoint, which is data, not code.

    Args:
        source: The checkpoint that it comes from.
        slot: Which component it is, see :data:`~segkit.config.slots.SLOTS`.
        node: Builtins, as read.
        allow: Modules of the user's own that may be named besides what is listed.
        late: Arguments that a component with ``_partial_`` is called with.

    Raises:
        ConfigError: It names anything else, or cannot be built.
        DataError: Files of a data set are missing or wrong.
    """
    key = {"dataset": "data.dataset"}.get(slot, slot)
    plain = resolved(node, source, key)
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise ConfigError(f"{source}: its {key} is {plain!r:.80}; expected a node with _target_")
    check_trusted(plain, slot, allow, source, key)
    try:
        built = build(without_effects(OmegaConf.create(plain)))
        if late:
            built = built(**late)
    except DataError:
        raise
    except Exception as error:
        is_ours = all(target in SLOT_OF for target in targets(plain))
        if not is_ours and not isinstance(error, SegkitError):
            raise  # code of the user's own, whose defects are to be seen
        text = " ".join(str(error).split())[:300]
        name = "" if isinstance(error, SegkitError) else f"{type(error).__name__}: "
        raise ConfigError(f"{source}: its {key} cannot be built ({name}{text})") from error
    kind = SLOTS[slot].kind
    if not isinstance(built, pkgutil.resolve_name(kind)):
        raise ConfigError(
            f"{source}: its {key}, {plain['_target_']}, made a {type(built).__name__}; expected a "
            f"{kind}"
        )
    return built


def resolved(node: Any, source: object, key: str) -> Any:
    """A tree from a checkpoint as builtins, its interpolations replaced by what they mean.

    Before anybody looks at it: an interpolation can make a node (``${oc.create:...}``) that no
    look at the text would find.

    Raises:
        ConfigError: It cannot be resolved here, or hides one interpolation in another.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.create(node), resolve=True)
    except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(f"{source}: its {key} cannot be read ({text})") from error
    for text in _strings(plain):
        if "${" in text:
            raise ConfigError(f"{source}: hides a second interpolation in {text!r}: refused")
    return plain


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


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _strings(key)
            yield from _strings(child)
    elif isinstance(node, list):
        for child in node:
            yield from _strings(child)
    elif isinstance(node, str):
        yield node
