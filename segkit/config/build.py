"""Objects out of ``_target_`` nodes: of a configuration, or of a checkpoint, which is data."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from segkit.errors import ConfigError, SegkitError


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
            # pydantic, which checks albumentations' arguments, adds the address of its manual
            text = " ".join(str(cause).partition("For further information")[0].split())
            raise ConfigError(f"{path}: {text}" if path else text) from error
        raise (cause or error) from None


def build_augment(cfg: DictConfig) -> Any:
    """The training transforms as a :class:`segkit.data.augment.Augment`."""
    from segkit.data.augment import Augment

    fill = [255.0 * value for value in cfg.data.mean]
    transforms = []
    for i, node in enumerate(cfg.augment.train):
        try:
            transforms.append(build(node))
        except ConfigError as error:
            text = str(error).removeprefix(f"augment.train{i}: ")
            raise ConfigError(f"augment.train[{i}]: {text}") from error
    return Augment(transforms, ignore_index=cfg.data.ignore_index, fill=fill)


def without_weights(model: DictConfig) -> DictConfig:
    """The node of a model whose backbone starts at random: nothing is read or downloaded."""
    plain = copy.deepcopy(model)
    if OmegaConf.select(plain, "backbone.weights") is not None:
        plain.backbone.weights = None
    return plain


def rebuild(node: Any, allow: Sequence[str]) -> Any:
    """:func:`build` for a node that came out of a file: a checkpoint is data, not code.

    Args:
        node: Builtins, as read from the checkpoint.
        allow: Modules of the user's own that may be named besides segkit's.

    Raises:
        ConfigError: It names anything else.
    """
    # Resolved first: an interpolation can make a node (`${oc.create:...}`) that no look at the
    # text would find.
    plain = OmegaConf.to_container(OmegaConf.create(node), resolve=True)
    refuse_foreign(plain, allow)
    return build(OmegaConf.create(plain))


def refuse_foreign(plain: Any, allow: Sequence[str], libraries: Sequence[str] = ()) -> None:
    """Raise a ConfigError if a resolved tree from a checkpoint names code of somebody else.

    Args:
        plain: Builtins.
        allow: Modules, or objects in them, that may be named besides segkit's.
        libraries: Modules whose classes may be named; their functions may not.
    """
    for text in _strings(plain):
        if "${" in text:
            raise ConfigError(f"the checkpoint hides a second interpolation in {text!r}: refused")
    trusted = ("segkit", *allow)
    for target in targets(plain):
        if target in allow:
            continue
        # The name first, since looking further imports it. Then where it is defined:
        # `segkit.models.weights.torch.load` begins with segkit, too.
        if is_below(target, trusted) and is_below(home_of(target), trusted):
            continue
        of_library = is_below(target, libraries) and is_below(home_of(target), libraries)
        if of_library and isinstance(get_object(target), type):
            continue
        module = target.rpartition(".")[0]
        raise ConfigError(
            f"the checkpoint names {target}, which is no part of segkit; if you know and trust "
            f"that code, add 'allow=[{module}]'"
        )


def is_below(name: str, others: Sequence[str]) -> bool:
    """Whether a dotted name is one of the others, or of something in it."""
    return any(name == other or name.startswith(f"{other}.") for other in others)


def home_of(target: str) -> str:
    """The module in which the object with this dotted name is defined."""
    try:
        return str(getattr(get_object(target), "__module__", ""))
    except (ImportError, AttributeError, ValueError, InstantiationException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"_target_={target}: cannot be imported ({reason})") from error


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
