"""``--help``, for people: what a command does, its groups and its keys, out of the schema."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

import segkit
from segkit.commands import SCRIPTS, TOOLS, command
from segkit.config.schema import REQUIRED, SCHEMAS
from segkit.shipped import CONFIGS, script_path

FLAGS = {
    "--cfg job": "print the whole configuration, and run nothing",
    "--config-dir DIR": "your own group files; docs/extending.md",
    "-m": "a sweep: several values for a key, a,b,c, and a job for each; docs/scaling.md",
    "--version": "segkit's",
}


def shown_instead(name: str, arguments: Sequence[str]) -> str | None:
    """What a script prints in place of its work if it is asked for; else None."""
    if "--version" in arguments:
        return version()
    if {"-h", "--help"} & {*arguments}:
        return script_help(name, arguments)
    return None


def version() -> str:
    return f"segkit {segkit.__version__}"


def script_help(name: str, arguments: Sequence[str]) -> str:
    """The text of ``--help``.

    Args:
        name: The script's, as ``train``.
        arguments: The command line, which may name folders of the user's own group files.
    """
    usage = script_path(name).read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]
    head, _, about = in_the_users_words(usage).replace("``", "").strip().partition("\n")
    lines = [head, *([about] if about else [])]
    groups, other = groups_of(name), ""
    if groups:
        lines += ["", "groups, as group=file; their own keys are in docs/config.md:"]
        lines += group_lines(groups, _own_folders(arguments))
        other = ", unless a group's file has another"
    lines += ["", f"keys [default{other}]:", *key_lines(SCHEMAS[name], groups)]
    lines += ["", "flags:", *(_row(f"{flag}:", text) for flag, text in FLAGS.items())]
    return "\n".join(lines)


def in_the_users_words(text: str) -> str:
    """A text with the commands in it as the user calls them."""
    names = "|".join([*SCRIPTS, *TOOLS])
    pattern = rf"python (?:({names})\.py|-m segkit\.(?:tools|data)\.({names}))\b"
    return re.sub(pattern, lambda found: command(found[1] or found[2]), text)


def groups_of(name: str) -> dict[str, Any]:
    """Group -> the choice of ``configs/<name>.yaml``."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    entries = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    pairs = ((str(key), value) for entry in entries for key, value in entry.items())
    return {key: value for key, value in pairs if not key.startswith("override ")}


def group_lines(groups: Mapping[str, Any], own: Sequence[Path]) -> Iterator[str]:
    """A line per group: its files, and which is taken unless another is named."""
    for group, choice in groups.items():
        places = [folder / group for folder in (CONFIGS, *own)]
        files = sorted({path.stem for place in places for path in place.glob("*.yaml")})
        default = "none" if choice is None else ",".join([choice] if _is_text(choice) else choice)
        yield _row(f"{group}:", f"{', '.join(files)} [{default}]")


def key_lines(
    schema: Any, without: Sequence[str] | Mapping[str, Any] = (), prefix: str = ""
) -> Iterator[str]:
    """Every key of a schema, and below it: what it is for, its choices and its default.

    Args:
        schema: A dataclass of :func:`~segkit.config.schema.option` fields.
        without: Fields that are left out.
        prefix: In front of the names.
    """
    for f in fields(schema):
        name = f"{prefix}{f.metadata.get('name') or f.name}"
        if is_dataclass(f.default_factory):
            yield from key_lines(f.default_factory, (), f"{name}.")
        elif f.name not in without:
            yield _row(f"{name}=...", _about(f, "the group's" if prefix else "must be given"))


def _about(f: "Field[Any]", required: str) -> str:
    text = str(f.metadata["text"])
    if f.metadata["choices"]:
        text += f" ({', '.join(f.metadata['choices'])})"
    if f.default == REQUIRED:
        return f"{text} [{required}]"
    default = f.default if f.default_factory is NO_DEFAULT else f.default_factory()
    words = {"None": "null", "True": "true", "False": "false", "[]": "none"}
    return f"{text} [{words.get(str(default), str(default).strip('[]'))}]"


def _row(head: str, text: str) -> str:
    """A head and the text behind it, in lines that fit the terminal."""
    width = min(shutil.get_terminal_size().columns, 110)
    lines = textwrap.wrap(
        f"{head} {text}",
        max(width, 60),
        initial_indent="  ",
        subsequent_indent=" " * 6,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "\n".join(lines)


def _own_folders(arguments: Sequence[str]) -> list[Path]:
    """What ``--config-dir`` names, in either spelling."""
    pairs = pairwise(arguments)
    apart = [after for word, after in pairs if word in ("--config-dir", "-cd")]
    joined = [word.partition("=")[2] for word in arguments if word.startswith("--config-dir=")]
    return [Path(text) for text in (*apart, *joined) if text]


def _is_text(choice: object) -> bool:
    return isinstance(choice, str)
