"""The reference of all configuration keys, docs/config.md: ``python -m segkit.config.reference``.

Made of the schema, the files in ``configs/`` and the constructors of components, so that it cannot
say anything else than they.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from itertools import takewhile
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, get_type_hints

import yaml
from omegaconf import MISSING

from segkit.config.schema import SCHEMAS
from segkit.config.slots import SLOTS
from segkit.shipped import CONFIGS

HEAD = """# Configuration

<!-- Written by `python -m segkit.config.reference docs/config.md`; do not edit. -->

Every key can be given on the command line as `key=value`. A misspelt key, a wrong type or an
impossible value is refused before anything is read. Defaults below hold where no file of a group
sets the key; `data=shapes` (the default), `experiment=...`, `augment=...` and others set some.
`python train.py --cfg job data=voc data.root=PATH` prints what holds for a run.
"""


def reference() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for name, schema in SCHEMAS.items():
        parts += [
            f"## {name}.py",
            "",
            "| key | type | default | meaning |",
            "| --- | --- | --- | --- |",
        ]
        parts += [*rows(schema), ""]
    parts += ["## Files of the groups", ""]
    parts += [
        "A group is chosen by `group=file`; its keys are changed by `group.key=value`.",
        "",
    ]
    for folder in sorted({path.parent for path in CONFIGS.rglob("*.yaml")} - {CONFIGS}):
        group = folder.relative_to(CONFIGS).as_posix()
        parts += [f"### {group}", "", *table("file", "keys", "about")]
        parts += [*(group_row(path) for path in sorted(folder.glob("*.yaml"))), ""]
    parts += ["## Arguments of segkit's components", ""]
    parts += [
        "Below a `_target_` the keys are the arguments of what it names. Those of `torch.optim` "
        "and `albumentations` stand in their documentation.",
        "",
    ]
    for target in sorted({name for slot in SLOTS.values() for name in slot.names}):
        if target.startswith("segkit."):
            parts += [*component(target), ""]
    return "\n".join(parts).rstrip() + "\n"


def component(target: str) -> Iterator[str]:
    """What a component is, and one row per argument, out of its signature and docstring."""
    made = resolve_name(target)
    text = inspect.getdoc(made) or ""
    meanings: dict[str, str] = {}
    for base in reversed(made.__mro__[:-1]):  # an argument may be explained where it is inherited
        meanings |= argument_texts(inspect.getdoc(base) or "")
    yield f"### {target}"
    yield ""
    yield plain(text.partition("\n\n")[0])
    yield ""
    yield from table("key", "type", "default", "meaning")
    for name, parameter in inspect.signature(made).parameters.items():
        kind = signature_text(parameter.annotation)
        value = MISSING if parameter.default is parameter.empty else parameter.default
        default = value_text(list(value) if isinstance(value, tuple) else value)
        yield row(f"`{name}`", kind, default, meanings[name])


def signature_text(annotation: Any) -> str:
    """The type of an argument as it is written in a file: no tensor stands in one."""
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=\w)", "", inspect.formatannotation(annotation))
    text = re.sub(r"ndarray\[.*?uint8\]\]", "Tensor", text)
    text = (
        text.replace(" | Tensor", "").replace("PathLike[str]", "path").replace("Sequence", "list")
    )
    return re.sub(r" \| None$", " or null", text)


def argument_texts(docstring: str) -> dict[str, str]:
    """The meaning of each argument in a docstring of Google's style."""
    lines = docstring.partition("\nArgs:\n")[2].split("\n")
    texts: dict[str, str] = {}
    name = ""
    for line in takewhile(lambda line: not line or line.startswith(" "), lines):
        if found := re.match(r"    (\w+): (.*)", line):
            name = found[1]
            texts[name] = found[2]
        elif name:
            texts[name] += f" {line.strip()}"
    return {name: plain(text) for name, text in texts.items()}


def plain(text: str) -> str:
    """A docstring's text as Markdown."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`")


def rows(schema: Any, prefix: str = "") -> Iterator[str]:
    """One row per key of a schema and below it."""
    kinds = get_type_hints(schema)
    for f in fields(schema):
        if is_dataclass(f.default_factory):
            yield from rows(f.default_factory, f"{prefix}{f.name}.")
            continue
        default = f.default if f.default_factory is NO_DEFAULT else f.default_factory()
        limits = "".join(f"; {text}" for text in limits_of(f.metadata))
        cells = [f"`{prefix}{f.name}`", kind_text(kinds[f.name]), value_text(default)]
        yield row(*cells, f"{f.metadata.get('text', '')}{limits}")


def limits_of(metadata: Any) -> Iterator[str]:
    if metadata.get("low") is not None:
        yield f"at least {metadata['low']}"
    if metadata.get("above") is not None:
        yield f"above {metadata['above']}"
    if metadata.get("high") is not None:
        yield f"at most {metadata['high']}"
    if metadata.get("below") is not None:
        yield f"below {metadata['below']}"
    if metadata.get("length") is not None:
        yield f"{metadata['length']} {'rising ' * metadata['rising']}values"
    if metadata.get("choices"):
        yield "one of " + ", ".join(f"`{choice}`" for choice in metadata["choices"])


def kind_text(kind: Any) -> str:
    """``Optional[list[int]]`` -> ``list[int] or null``."""
    text = re.sub(r"<class '(\w+)'>", r"\1", str(kind)).replace("typing.", "")
    if found := re.fullmatch(r"Optional\[(.*)\]", text):
        return f"{found[1]} or null"
    if found := re.fullmatch(r"(.*) \| None", text):
        return f"{found[1]} or null"
    return text


def value_text(value: Any) -> str:
    if value == MISSING:
        return "required"
    return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


def group_row(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    keys = ", ".join(
        key_text(key, value)
        for key, value in content.items()
        if not str(key).startswith(("_", "defaults"))
    )
    first = takewhile(lambda line: line.startswith("#"), text.splitlines())
    about = [line.lstrip("# ") for line in first if "@package" not in line]
    return row(f"`{path.stem}`", keys, " ".join(about))


def key_text(key: str, value: Any) -> str:
    """A key of a file, with its value where that is short and stands there."""
    text = value_text(value).strip("`")
    is_short = not isinstance(value, dict) and len(text) <= 20 and "${" not in text
    return f"`{key}={text}`" if is_short else f"`{key}`"


def table(*heads: str) -> list[str]:
    return [row(*heads), row(*["---"] * len(heads))]


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
