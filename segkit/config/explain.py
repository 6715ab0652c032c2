"""What Hydra and OmegaConf find wrong, said in one line, with a suggestion where one is near."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from segkit.config.schema import SCHEMAS
from segkit.config.slots import RENAMED_KEYS
from segkit.text import did_you_mean

# OmegaConf's words -> ours, which stand behind the key.
WORDS = (
    (
        r"Value '(.*)' of type '\w+' could not be converted to Integer",
        "=%s: expected a whole number",
    ),
    (r"Value '(.*)' of type '\w+' could not be converted to Float", "=%s: expected a number"),
    (r"Value '(.*)' is not a valid bool", "=%s: expected true or false"),
    (r"field '.*' is not Optional()", "%s: null is not possible here"),
    (r"Invalid value assigned: (\w+) is not a ListConfig", ": expected a list, [a,b], got %s"),
    (r"is not a subclass of \w+\. value: (.*)", "=%s: holds other keys and takes no value"),
    (r"\w+ raised while resolving interpolation: (.*)", ": %s"),
)


def explain(error: Exception, name: str) -> str:
    """One line on an error of Hydra or OmegaConf while ``configs/<name>.yaml`` was composed."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_choice(error, error.missing_cfg_file)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: expected key=value ({str(error).splitlines()[0]}); a value with "
            "special characters needs quotes, inner and outer: 'key=\"a=b\"'"
        )
    if found := re.match(r"Ambiguous value for argument '(([^=]*)=(.*))'", str(error)):
        return (
            f"{found[1]}: several values are for a sweep, -m; one that holds a comma is written "
            f"\"{found[2]}='{found[3]}'\" (a path also {found[2]}=./{found[3]}), and a list "
            f"{found[2]}=[{found[3]}]"
        )
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(error) if cause is error else f"{error}\n{cause}"
    place = re.match(r"In '.+?': ", text)
    start = place[0] if place else ""
    key = _full_key(cause, text)
    missing = re.search(r"(?:Key '.*' (?:is )?not in|Could not override)", text)
    if key and (missing or type(cause) in (ConfigKeyError, ConfigAttributeError)):
        if key in RENAMED_KEYS:
            return f"{start}{key}: is called {RENAMED_KEYS[key]} now"
        options = did_you_mean(key.rpartition(".")[2], siblings(cause, key, name))
        return f"{start}{key}: no such key{options}"
    for pattern, words in WORDS:
        if found := re.search(pattern, text):
            return f"{start}{key}{words % found[1]}"
    lines = [line.strip() for line in str(cause).removeprefix(start).splitlines() if line.strip()]
    # The first line of an error in a file only says that there is one.
    said = lines[1] if start and len(lines) > 1 else lines[0]
    return f"{start}{key + ': ' if key else ''}{said}"


def short(value: Any) -> str:
    """A value as an error shows it: a long one by its beginning."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:100]}... ({len(text)} characters)"


def _full_key(cause: BaseException, text: str) -> str:
    """The key that the error is about, as far as it says so."""
    found = re.search(r"full_key: (\S+)", text)
    return str(getattr(cause, "full_key", None) or (found[1] if found else ""))


def _no_such_choice(error: MissingConfigException, missing: str) -> str:
    group, _, choice = missing.rpartition("/")
    # Of a list of choices Hydra does not say what there is, only where it looked.
    folders = [Path(path) / group for path in re.findall(r"path=file://(.*)", str(error))]
    found = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    return f"{group}={choice}: no such choice{did_you_mean(choice, error.options or found)}"


def siblings(cause: BaseException, key: str, name: str) -> list[str]:
    """The keys that stand beside ``key``, as far as they are known."""
    node = getattr(cause, "parent_node", None)
    if isinstance(node, DictConfig) and not node._is_none():
        return [str(k) for k in node]
    schema: Any = SCHEMAS[name]
    for part in key.split(".")[:-1]:
        schema = next((f.default_factory for f in fields(schema) if f.name == part), None)
        if not is_dataclass(schema):
            return []
    return [f.name for f in fields(schema)]


def dashes(arguments: Iterable[str]) -> Iterator[str]:
    """Arguments such as ``--trainer.lr=1``, on which argparse would print its usage."""
    heads = {f.name for schema in SCHEMAS.values() for f in fields(schema)} | {"experiment"}
    for argument in arguments:
        bare = argument.lstrip("-")
        if bare != argument and re.split(r"[./=]", bare)[0] in heads:
            yield f"{argument}: drop the dashes: {bare if '=' in bare else bare + '=...'}"


def null_choices(overrides: Iterable[Override]) -> Iterator[str]:
    """Overrides such as ``loss=null``, which Hydra refuses without saying which one."""
    for override in overrides:
        if override.value() is None and "." not in override.key_or_group:
            yield f"{override.input_line}: null is no choice; leave it out or name one"
