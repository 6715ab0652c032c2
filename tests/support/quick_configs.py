"""The same configurations for a third of the CPU time less: most tests begin with composing one.

OmegaConf copies a tree by Python's general deepcopy, twice a dozen times for each configuration,
Hydra copies the store of all schemas along, and each YAML file and interpolation is parsed anew.
What comes out is the same; processes that a test starts do without.
"""

import copy
import io
from collections import defaultdict
from functools import cache
from typing import Any

import yaml
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf, _utils, base
from omegaconf.base import Metadata

_plain_load = OmegaConf.load


def compose_quickly() -> None:
    """Replace what is slow, until the end of this process."""
    # Hydra composes each configuration twice, the first time only to see whether hydra.mode is
    # set. No test sets it (processes of their own still look).
    Hydra.get_mode = lambda self, config_name, overrides: None  # type: ignore[method-assign]
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]  # hands out copies
    Metadata.__deepcopy__ = _copied_metadata  # type: ignore[attr-defined]
    DictConfig.__deepcopy__ = _copied_container  # type: ignore[assignment,method-assign]
    ListConfig.__deepcopy__ = _copied_container  # type: ignore[assignment,method-assign]
    base.parse = cache(base.parse)  # of interpolations; what it gives is only read
    _utils.get_yaml_loader = cache(_utils.get_yaml_loader)
    OmegaConf.load = staticmethod(_load)  # type: ignore[assignment]


def _copied_metadata(self: Any, memo: dict[int, Any]) -> Any:
    new = object.__new__(type(self))
    new.__dict__.update(self.__dict__)  # types, names and switches, which nobody changes in place
    new.flags = None if self.flags is None else dict(self.flags)
    found = self.resolver_cache
    new.resolver_cache = copy.deepcopy(found, memo) if found else defaultdict(dict)
    return new


def _copied_container(self: Any, memo: dict[int, Any]) -> Any:
    new = object.__new__(type(self))
    new.__dict__["_metadata"] = _copied_metadata(self.__dict__["_metadata"], memo)
    new.__dict__["_flags_cache"] = copy.copy(self.__dict__["_flags_cache"])
    content = self.__dict__["_content"]
    if isinstance(content, dict):
        content = {key: _copied_child(child, new, memo) for key, child in content.items()}
    elif isinstance(content, list):
        content = [_copied_child(child, new, memo) for child in content]
    new.__dict__["_content"] = content
    new.__dict__["_parent"] = self.__dict__["_parent"]
    return new


def _copied_child(child: Any, parent: Any, memo: dict[int, Any]) -> Any:
    before = child.__dict__["_parent"]
    try:
        child.__dict__["_parent"] = None  # else it is copied along
        new = child.__deepcopy__(memo)
    finally:
        child.__dict__["_parent"] = before
    new.__dict__["_parent"] = parent
    return new


@cache
def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=_utils.get_yaml_loader())


def _load(file: Any) -> Any:
    if isinstance(file, io.TextIOBase):
        try:
            parsed = _parsed(file.read())
        except yaml.YAMLError:
            parsed = None
        if isinstance(parsed, dict | list):
            return OmegaConf.create(parsed)
        file.seek(0)  # the messages name the file
    return _plain_load(file)
