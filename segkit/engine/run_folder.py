"""The one folder that a training run writes."""

from datetime import datetime
from pathlib import Path

from segkit.errors import ConfigError


def refuse_used(out_dir: str | None) -> None:
    """Raise a ConfigError if ``out_dir`` holds a run: two runs in one folder would be lost."""
    used = ("metrics.jsonl", "checkpoints")
    if out_dir is not None and any((Path(out_dir) / name).exists() for name in used):
        raise ConfigError(
            f"out_dir={out_dir}: holds a run already; give another folder, or none for a new one"
        )


def new_run_folder(out_dir: str | None, name: str) -> Path:
    """Make the folder of a run, with ``checkpoints`` in it.

    Args:
        out_dir: The folder; None makes a new one under ``runs/``, named by the time and ``name``.
            Two runs started in one second get two.
        name: What the run is about.

    Raises:
        ConfigError: ``out_dir`` holds a run already, or cannot be written.
    """
    refuse_used(out_dir)
    try:
        folder = _unique(name) if out_dir is None else Path(out_dir).absolute()
        (folder / "checkpoints").mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"out_dir={out_dir}: cannot be written ({error.strerror})") from error
    return folder


def _unique(name: str) -> Path:
    stem = Path("runs", f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}").absolute()
    folder, number = stem, 0
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = stem.with_name(f"{stem.name}-{number}")
