"""Keys of Hydra's own that name folders: segkit makes its folders itself, so they would do nothing.

Or worse: Hydra makes the folder, and the run goes elsewhere.
"""

from collections.abc import Iterator, Sequence

# Key -> values that change nothing, and what to give instead. Of a sweep, hydra.sweep.dir holds
# multirun.yaml and the logs of a cluster's jobs.
OUTPUTS = {
    "train": "out_dir={value}, the run folder",
    "evaluate": "out_dir={value}",
    "predict": "out_dir={value}",
    "export": "out={value}/NAME.onnx, the file",
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
    is_sweep = bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*arguments})
    for argument in arguments:
        key, equals, value = argument.lstrip("+~").partition("=")
        value = value.strip("'\"")
        if key not in KEYS or not equals or (key == "hydra.sweep.dir" and is_sweep):
            continue
        usual, text = KEYS[key]
        if value.lower() not in (usual, "null"):
            yield f"{key}={value}: {_filled(text, name, value)}"


def _filled(text: str, name: str, value: str) -> str:
    folder = value if "/" in value or value.lower() not in ("true", "false") else "FOLDER"
    return text.format(out=OUTPUTS[name].format(value=folder))
