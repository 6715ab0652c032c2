"""Texts on the command line that Hydra's grammar would take for something else."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Optional, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from segkit.config.saved import path_keys

# Texts in which brackets, braces and backslashes are usual: regular expressions, {split}.
PATTERNS = ("data.images", "data.masks", "data.group")
MARKED = ("${", "[", "{", "'", '"', "\\")  # whoever writes these means what they mean to Hydra


def quote_texts(argv: Sequence[str], schema: type) -> list[str]:
    """The command line with quotes around values that the schema says are texts.

    ``out_dir=2024_01`` is the number 202401 to Hydra, and ``source=~/photos`` no value at all.

    Args:
        argv: As typed.
        schema: The schema of the script's configuration.
    """
    keys, paths = set(text_keys(schema)), {*path_keys(schema), "source"}
    is_sweep = is_multirun(argv)
    quoted = []
    for argument in argv:
        key, _, value = argument.partition("=")
        marks = MARKED if key not in PATTERNS or parses(argument) else ("${", "'", '"')
        marked = any(mark in value for mark in marks)
        # A comma means several values, each a job of a sweep; where there is none, it may be part
        # of a path. (Of other texts Hydra asks which of the two was meant.)
        is_path = key in paths and "," in value and "/" in value and not is_sweep
        is_text = key in keys and "=" in argument and not marked
        if is_text and (is_path or not stays_text(argument)):
            argument = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
        quoted.append(argument)
    return quoted


def parses(override: str) -> bool:
    """Whether it is a value in Hydra's grammar, whatever it means there."""
    try:
        OverridesParser.create().parse_overrides([override])
    except HydraException:
        return False
    return True


def is_multirun(argv: Sequence[str]) -> bool:
    """Whether a command line asks for a sweep."""
    return bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*argv})


def stays_text(override: str) -> bool:
    """Whether Hydra reads text, null, or several values of a sweep."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        return False
    return parsed.is_sweep_override() or parsed.value() is None or isinstance(parsed.value(), str)


def text_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Keys of the schema whose values are texts: all of this type, and all that name files."""
    kinds: dict[str, Any] = get_type_hints(schema)
    for f in fields(schema):
        if is_dataclass(f.default_factory):
            yield from text_keys(f.default_factory, f"{prefix}{f.name}.")
        elif kinds[f.name] in (str, Optional[str]) or f.metadata.get("path"):  # noqa: UP045
            yield f"{prefix}{f.name}"
