"""Class weights in the loss node: names such as ``balanced``, and lists with one per class."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segkit.errors import ConfigError
from segkit.text import did_you_mean


def needs_class_counts(loss: DictConfig) -> bool:
    """Whether a term asks for class weights that are computed from the training split."""
    return bool(named_weightings(loss))


def named_weightings(node: Any, path: str = "loss") -> list[tuple[str, Any]]:
    """The nodes, with their paths, whose ``class_weights`` is a name such as ``balanced``."""
    return [
        (path, node) for path, node in _dicts(node, path) if type(node.get("class_weights")) is str
    ]


def unknown_weightings(loss: DictConfig) -> Iterator[str]:
    """One line for each name that means nothing."""
    from segkit.losses.class_weights import WEIGHTINGS

    for path, node in named_weightings(loss):
        if (name := node["class_weights"]) not in WEIGHTINGS:
            yield f"{path}.class_weights={name}: no such weighting{did_you_mean(name, WEIGHTINGS)}"


def check_class_values(loss: DictConfig, classes: list[str]) -> None:
    """Raise a ConfigError unless every list of class weights or alphas has one value per class."""
    for path, node in _dicts(loss, "loss"):
        for name in ("class_weights", "alpha"):
            if OmegaConf.is_list(node.get(name)) and len(node[name]) != len(classes):
                raise ConfigError(
                    f"{path}.{name} has {len(node[name])} values; expected one for each of the "
                    f"{len(classes)} classes: {', '.join(classes)}"
                )


def fill_class_weights(
    loss: DictConfig, classes: list[str], pixels: list[int] | None
) -> Iterator[str]:
    """Replace names such as ``balanced`` by one weight per class; yields a line for each.

    Args:
        loss: The loss node, changed in place.
        classes: Names in index order.
        pixels: Pixels of each class in the training split; needed if there is a name.
    """
    from segkit.losses.class_weights import WEIGHTINGS

    for path, node in named_weightings(loss):
        if pixels is None:
            raise ValueError(f"{path}.class_weights needs the pixels of each class, got None")
        name = node["class_weights"]
        node["class_weights"] = WEIGHTINGS[name](pixels)
        weights = zip(classes, node["class_weights"], strict=True)
        yield f"class weights ({name}): " + ", ".join(f"{c} {w:.3g}" for c, w in weights)


RARE = 0.01
"""Share of the training pixels below which a class is learned late, or never in a short run."""


def rare_class_hint(loss: DictConfig, classes: list[str], pixels: list[int] | None) -> str | None:
    """Which key makes rare classes count more; None where none is rare, or some key does already.

    Args:
        loss: The loss node.
        classes: Names in index order.
        pixels: Pixels of each class in the training split; None: not counted.
    """
    paths = [
        (path, node["class_weights"])
        for path, node in _dicts(loss, "loss")
        if "class_weights" in node
    ]
    if pixels is None or not paths or any(value is not None for _, value in paths):
        return None
    total = sum(pixels)
    rare = {c: n / total for c, n in zip(classes, pixels, strict=True) if 0 < n < RARE * total}
    if not rare:
        return None
    rarest = min(rare, key=lambda name: rare[name])
    others = f" ({len(rare)} classes are below {100 * RARE:.0f} %)" if len(rare) > 1 else ""
    return (
        f"{rarest} holds {100 * rare[rarest]:.2f} % of the training pixels{others}, and the loss "
        f"has no class weights: {paths[0][0]}.class_weights=enet makes rare classes count more"
    )


def _dicts(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """A node and all below it that are mappings, with their paths."""
    if OmegaConf.is_dict(node):
        yield path, node
        for key in node:
            yield from _dicts(node[key], f"{path}.{key}")
    elif OmegaConf.is_list(node):
        for i, child in enumerate(node):
            yield from _dicts(child, f"{path}[{i}]")
