"""Keys of Hydra's own that name folders: segkit makes its folders itself, so they would do nothing.

Or worse: Hydra makes the folder, and the run goes elsewhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.types import RunMode

from segkit.cli.quoting import is_multirun

# Key -> values that change nothing, and what to give instead. Of a sweep, hydra.sweep.dir holds
# multirun.yaml and the logs of a cluster's jobs.
OUTPUTS = {
    "train": "out_dir={value}, the run folder",
    "evaluate": "out_dir={value}",
    "predict": "out_dir={value}",
    "export": "out={value}/NAME, with the suffix of its format",
}
KEYS = {
    "hydra.run.dir": (".", "Hydra writes nothing here; give {out}"),
    "hydra.output_subdir": (
        "null",
        "the configuration is in config.yaml of the run folder; give {out}",
    ),
    "hydra.job.chdir": ("false", "relative paths always start where you do; give {out}"),
    "hydra.sweep.subdir": (
        ".",
        "the jobs of a sweep make their own folders; give out_dir=runs/${{optimizer.lr}}, say, in "
        "single quotes, with the keys that are swept",
    ),
    "hydra.sweep.dir": (
        ".",
        "it is for a sweep (-m), and holds what Hydra writes of it; give {out}",
    ),
}


def typed_problems(arguments: Sequence[str], name: str) -> Iterator[str]:
    """What is wrong with Hydra's keys on the command line; looked at before it makes a folder."""
    is_sweep = is_multirun(arguments)
    for argument in arguments:
        key, equals, value = argument.lstrip("+~").partition("=")
        value = value.strip("'\"")
        if key not in KEYS or not equals or (key == "hydra.sweep.dir" and is_sweep):
            continue
        if changes(key, value):
            yield f"{key}={value}: {_filled(KEYS[key][1], name, value)}"


def composed_problems(config: Any, name: str) -> list[str]:
    """The same keys wherever a configuration got them from: group files, or a main one (``-cn``).

    Args:
        config: As Hydra composed it, with its own part.
        name: The script's, as ``train``.
    """
    runtime = config.hydra.runtime
    folders = [source.path for source in runtime.config_sources if source.schema == "file"]
    is_sweep = config.hydra.mode == RunMode.MULTIRUN
    return list(_file_problems(runtime.choices, folders, name, is_sweep)) or [
        f"{key}={value}: {_filled(text, name, str(value))}"
        for key, (_, text) in KEYS.items()
        if key != "hydra.sweep.dir"
        and (value := _value(config, key)) is not None
        and changes(key, str(value))
    ]


def _file_problems(
    choices: Mapping[str, Any], sources: Sequence[str], name: str, is_sweep: bool
) -> Iterator[str]:
    """Those in the group files of a configuration, where the script's own come after them.

    Args:
        choices: Group -> chosen file; see ``hydra.runtime.choices``.
        sources: Folders that the files may lie in.
        name: The script's, as ``train``.
        is_sweep: Whether the command is one.
    """
    chosen = [(group, c) for group, c in choices.items() if not group.startswith("hydra/")]
    places = [
        Path(source) / group / f"{choice}.yaml" for group, choice in chosen for source in sources
    ]
    for file in filter(Path.is_file, places):
        text = file.read_text(encoding="utf-8")
        # Hydra has read them all; most say nothing of it, and need no second look.
        node = yaml.safe_load(text) if re.search(r"^hydra:", text, re.MULTILINE) else {}
        for key in KEYS:
            value = _value(node, key)
            if value is not None and changes(key, str(value)):
                text = _filled(KEYS[key][1], name, str(value))
                if key == "hydra.sweep.dir" and is_sweep:
                    text = f"give {key}={value} on the command line"
                yield f"{key}={value} in {file}: has no effect there; take it out, and {text}"


def changes(key: str, value: str) -> bool:
    """Whether the value is another one than that which changes nothing."""
    return value.lower() not in (KEYS[key][0], "null")


def _value(node: Any, key: str) -> object:
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _filled(text: str, name: str, value: str) -> str:
    folder = value if "/" in value or value.lower() not in ("true", "false") else "FOLDER"
    return text.format(out=OUTPUTS[name].format(value=folder))
