"""What is saved of a configuration: resolved, with absolute paths, without the environment."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from segkit.config.schema import SCHEMAS
from segkit.files import user_path


def absolute_paths(cfg: DictConfig, name: str) -> None:
    """Make relative paths absolute, in place: they mean "from where the user started".

    A path that is made of an environment variable stays as it is written.
    """
    keys = list(path_keys(SCHEMAS[name]))
    weights = OmegaConf.select(cfg, "model.backbone.weights") if name == "train" else None
    if isinstance(weights, str) and user_path(weights).is_file():
        keys.append("model.backbone.weights")
    raw = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    for key in keys:
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(raw, parent) if parent else raw
        path = OmegaConf.select(cfg, key)
        if path is None or OmegaConf.is_dict(path):
            continue
        if not OmegaConf.is_interpolation(node, last):
            found = [str(user_path(one).absolute()) for one in as_list(path)]
            OmegaConf.update(cfg, key, found[0] if isinstance(path, str) else found)


def as_list(value: Any) -> list[Any]:
    """What may be one or several, as several."""
    return [value] if isinstance(value, str) else list(value)


def path_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """The keys of the schema that name files or folders."""
    for f in fields(schema):
        if is_dataclass(f.default_factory):
            yield from path_keys(f.default_factory, f"{prefix}{f.name}.")
        elif f.metadata.get("path"):
            yield f"{prefix}{f.name}"


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as builtins; environment variables stay ``${oc.env:...}``.

    A saved file must not spell out a secret that was given through the environment.
    """
    copy = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))

    def unresolved(*names: object) -> str:  # a default may be a number, or null
        words = ["null" if name is None else str(name) for name in names]
        return "${oc.env:" + ",".join(words) + "}"

    OmegaConf.register_new_resolver("oc.env", unresolved, replace=True)
    try:
        plain = OmegaConf.to_container(copy, resolve=True)
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
