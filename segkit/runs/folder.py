"""The one folder that a training run writes, and that no second run writes at the same time."""

import os
import shutil
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from segkit.errors import ConfigError
from segkit.files import refuse_special

LOCK = ".lock"
HAS_LOCKS = find_spec("fcntl") is not None  # not on Windows


# What a run writes into its folder, and reads there when it goes on.
FILES = ("metrics.jsonl", "metrics.csv", "loggers.json", "train.log", "config.yaml", LOCK)


def refuse_used(out_dir: str | None) -> None:
    """Raise a ConfigError if ``out_dir`` holds a run: two runs in one folder would be lost."""
    used = ("metrics.jsonl", "checkpoints", "config.yaml")
    if out_dir is not None and any((Path(out_dir) / name).exists() for name in used):
        raise ConfigError(
            f"out_dir={out_dir}: holds a run already; add resume=auto to go on with it, or give "
            "another folder, or none for a new one"
        )


def run_of(file: Path) -> Path:
    """The folder of the run that wrote a checkpoint, or that a file was exported from."""
    home = file.parent
    return home.parent if home.name in ("checkpoints", "export") else home


def make_run_folder(out_dir: str | None, name: str) -> Path:
    """Make the folder of a run, with ``checkpoints`` in it.

    Args:
        out_dir: The folder; None makes a new one under ``runs/``, named by the time and ``name``.
            Two runs started in one second get two.
        name: What the run is about.

    Raises:
        ConfigError: ``out_dir`` cannot be written.
    """
    try:
        folder = _unique(name) if out_dir is None else Path(out_dir).absolute()
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        place = "runs" if out_dir is None else out_dir
        raise ConfigError(
            f"out_dir={place}: cannot be written ({error.strerror}); give out_dir=FOLDER, one that "
            "can"
        ) from error
    return folder


def forget(folder: Path, before: Collection[str] | None) -> None:
    """Delete what a run that made no step wrote into its folder, and the folder if it was new.

    Args:
        folder: Of the run.
        before: Names of what was in it when the run came, which stays; None: it was not there.
    """
    for name in {"checkpoints", "tensorboard", "plots", "wandb"} - {*(before or ())}:
        shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):  # something else is in there, or it has gone
        for name in {*FILES} - {*(before or ())}:
            (folder / name).unlink(missing_ok=True)
        if before is None:
            folder.rmdir()
            if folder.parent == Path("runs").absolute():
                folder.parent.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder; the system lets go of it when the process ends, however it ends.

    Raises:
        ConfigError: Another process holds it, or it cannot be written.
    """
    if not HAS_LOCKS:
        yield
        return
    import fcntl

    for name in FILES:
        refuse_special(folder / name, ConfigError)
    try:
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"out_dir={folder}: cannot be written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"out_dir={folder}: another run is writing there ({file.read().strip()}); wait for "
                "it, stop it, or give another out_dir"
            ) from None
        except OSError:
            pass  # a network file system without locks
        file.truncate(0)
        file.write(_owner(os.getpid()))
        file.flush()
        yield


def renew(folder: Path, stack: ExitStack) -> bool:
    """Make ``folder`` anew, and lock it, if somebody deleted it since this process locked it.

    Returns:
        Whether that was so. A folder that cannot be made is left to the next save to report.

    Raises:
        ConfigError: Another run has been started there meanwhile: the two would be mixed.
    """
    try:
        owner = (folder / LOCK).read_text(encoding="utf-8")
    except OSError:
        owner = None
    if owner and owner != _owner(os.getpid()):
        raise ConfigError(
            f"out_dir={folder}: was deleted, and another run writes there now ({owner}); this one "
            "ends, since the two would be mixed"
        )
    # All of these: what is deleted while a file is being written there is deleted in part.
    marks = ("checkpoints", "config.yaml", *([LOCK] if HAS_LOCKS else []))
    if all((folder / name).exists() for name in marks):
        return False
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    if owner is None:
        stack.enter_context(locked(folder))
    return True


@cache  # a name that the machine changes meanwhile must not make this another run
def _owner(process: int) -> str:
    return f"process {process} on {socket.gethostname()}"


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
