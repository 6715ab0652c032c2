"""The ``key=value`` arguments of the tools: typed, checked, and explained by ``--help``."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from segkit.cli.help import in_the_users_words, key_lines, version
from segkit.commands import TOOL, called_as
from segkit.config.explain import short
from segkit.config.problems import option_problems
from segkit.config.schema import REQUIRED
from segkit.console import say, say_error
from segkit.ending import INTERRUPT, ending, exit_code
from segkit.errors import ConfigError, SegkitError
from segkit.files import user_path
from segkit.text import join_lines

Settings = TypeVar("Settings")

RENAMED = {"pictures": "images"}
"""Keys that had other names before."""


def run_tool(
    settings: type[Settings], task: Callable[[Settings], None], arguments: Sequence[str], title: str
) -> int:
    """Call ``task`` with what the user gave; returns the exit status.

    Args:
        settings: A dataclass of :func:`~segkit.config.schema.option` fields.
        task: What the tool does.
        arguments: The command line without the program.
        title: Head of the help text.
    """
    with called_as(TOOL):
        return _run(settings, task, arguments, title)


def _run(
    settings: type[Settings], task: Callable[[Settings], None], arguments: Sequence[str], title: str
) -> int:
    if {"-h", "--help"} & {*arguments}:
        head = in_the_users_words(title).rstrip()
        say("\n".join([head, "", "keys [default]:", *key_lines(settings)]))
        return 0
    if "--version" in arguments:
        say(version())
        return 0
    ending.begin()
    try:
        task(parse(settings, arguments))
    except SegkitError as error:
        say_error(f"error: {error}")
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        say_error(f"error: {error.filename or 'the file system'}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        return exit_code(INTERRUPT)
    finally:
        ending.finish()
    return 0


def parse(settings: type[Settings], arguments: Sequence[str]) -> Settings:
    """The settings that the arguments describe.

    Texts are taken as they stand, so that paths and patterns need no quotes but the shell's; lists
    and mappings are written as for ``train.py``. ``--key=value`` is taken as well, and ``--force``
    for ``force=true``.

    Raises:
        ConfigError: An unknown or missing key, or a value of another type; all of them at once.
    """
    known = {f.metadata["name"] or f.name: f for f in _fields(settings)}
    kinds = get_type_hints(settings)
    values: dict[str, Any] = {}
    problems, given = [], set()
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if name.startswith("--"):
            name = name[2:].replace("-", "_")
        if name not in known:
            if (new := RENAMED.get(name)) in known:
                problems.append(f"{short(argument)}: {name} is called {new} now")
                continue
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            problems.append(f"unknown key {short(name)}; {hint}")
            continue
        this = known[name]
        given.add(name)
        try:
            if not equals and kinds[this.name] is not bool:
                raise ValueError("expected key=value")
            value = _value(text if equals else "true", kinds[this.name], this)
        except ValueError as error:
            problems.append(f"{short(argument)}: {error}")
            continue
        values[this.name] = value
        if value is not None:
            problems += option_problems(name, value, this.metadata)
    missing = [n for n, f in known.items() if _is_required(f) and n not in given]
    problems += [f"{n} is not set: {known[n].metadata['text']}" for n in missing]
    if problems:
        raise ConfigError(join_lines(problems))
    return settings(**values)


def output_file(name: str, text: str, force: bool) -> Path:
    """The file that the key ``name`` names; a ConfigError if it is there and must stay."""
    path = user_path(text)
    if path.exists() and not (force and path.is_file()):
        raise ConfigError(
            f"{name}={text}: is there already; nothing was written. Add force=true to replace a "
            f"file, or give {name}= another name"
        )
    return path


def _value(text: str, kind: Any, this: "Field[Any]") -> Any:
    if text == "null" and this.default is None:
        return None
    if isinstance(kind, UnionType):  # with None
        kind = get_args(kind)[0]
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError("expected true or false")
        return text == "true"
    if kind in (int, float):
        return _number(text, kind)
    if kind is str:
        if not text and not this.metadata["path"]:
            raise ValueError("the value is empty")
        return text
    try:
        value = OverridesParser.create().parse_override(f"value={text}").value()
    except HydraException as error:
        raise ValueError(f"cannot be read ({str(error).splitlines()[0]})") from None
    except ValueError:  # Python turns no text of more than 4300 digits into a number
        raise ValueError("cannot be read (a number of thousands of digits)") from None
    if value is None and this.default is not None:
        raise ValueError("null is not possible here")
    if kind == list[str] and not (
        isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    ):
        raise ValueError("expected a list of texts, [a,b]")
    if get_origin(kind) is dict and not isinstance(value, dict):
        raise ValueError("expected a mapping, {a: b}")
    return value


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"expected a {'whole ' * (kind is int)}number") from None


def _fields(settings: Any) -> "tuple[Field[Any], ...]":
    return fields(settings)


def _is_required(f: "Field[Any]") -> bool:
    return bool(f.default == REQUIRED)
