"""A sweep, ``-m``: the jobs of one command, run here, in other processes or on a cluster."""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from segkit.cli.hydra_keys import composed_problems
from segkit.cli.jobs import take_notes
from segkit.config.schema import less_is_better
from segkit.text import join_lines

LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
# Beginnings of what Hydra does not find without a plugin, and the package that brings it.
PLUGINS = {
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/submitit": "hydra-submitit-launcher",
    "hydra/sweeper/optuna": "hydra-optuna-sweeper",
}

failures: dict[str, str] = {}
"""The jobs of this sweep that failed, and why."""


class Failed:
    """What a job that failed returns: an exception would end the search of some sweepers.

    A job may run in another process or on another machine. What it returns is pickled there and
    made anew here, so it is noted wherever it is made.
    """

    def __init__(self, job: str, why: str) -> None:
        self.job, self.why = job, why
        failures[job] = why

    def __reduce__(self) -> tuple[type["Failed"], tuple[str, str]]:
        return Failed, (self.job, self.why)


def is_sweep() -> bool:
    """Whether the job that runs now is one of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def missing_plugin(error: Exception) -> str | None:
    """One line for a launcher or sweeper that is not installed; None for any other error."""
    missing = isinstance(error, MissingConfigException) and error.missing_cfg_file
    for beginning, package in PLUGINS.items():
        if missing and missing.startswith(beginning):
            return f"{missing} is a plugin of Hydra's: python -m pip install {package}"
    return None


class OnStart(Callback):
    """What is called when a sweep starts, by Hydra."""

    NAME: str

    @classmethod
    def on_the_command_line(cls, argv: list[str]) -> list[str]:
        """The same command line with this callback: beside the overrides, as argparse wants it."""
        callback = f"+hydra.callbacks.{cls.NAME}._target_={__name__}.{cls.__name__}"
        is_override = [not word.startswith("-") and "=" in word for word in argv]
        at = is_override.index(True, 1) if True in is_override[1:] else len(argv)
        return [*argv[:at], callback, *argv[at:]]


class CheckJobs(OnStart):
    """Has Hydra check the jobs of a sweep in this process, whoever is to run them later.

    Of a sweeper that chooses values as it goes only the fixed ones are checked; every job checks
    its own again. What Hydra writes of it goes into :attr:`folder`.

    Attributes:
        script: The script's name, as ``train``.
        folder: A temporary one.
    """

    NAME = "check"
    script = "train"
    folder = "."

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _refuse_folders(config, self.script)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _refuse_folders(config, self.script)
        node = config.hydra
        with read_write(node), open_dict(node):
            node.launcher = {"_target_": LAUNCHER}
            node.sweep.dir = self.folder
            node.overrides.hydra.append(f"hydra.sweep.dir='{self.folder}'")  # of the jobs
            if node.sweeper._target_ == SWEEPER:
                return
            check_direction(config)
            node.sweeper = {"_target_": SWEEPER, "max_batch_size": None}
            overrides = OverridesParser.create().parse_overrides(list(node.overrides.task))
            fixed = [o.input_line for o in overrides if not o.is_sweep_override()]
            node.overrides.task = fixed


class NoteFolder(OnStart):
    """Keeps the folder of a sweep, for the table at its end; the jobs may run elsewhere."""

    NAME = "folder"
    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        NoteFolder.folder = Path(config.hydra.sweep.dir).absolute()
        take_notes(NoteFolder.folder)  # of a sweep that was killed there


def _refuse_folders(config: DictConfig, name: str) -> None:
    """End here, before Hydra makes a folder that nothing would be written to."""
    if problems := composed_problems(config, name):
        raise SystemExit(f"error: {join_lines(problems)}")


def check_direction(config: DictConfig) -> None:
    """End here if a search would look for the worst run: Optuna minimises unless told otherwise.

    Hydra swallows any other exception of a callback.
    """
    direction = config.hydra.sweeper.get("direction")
    monitor, mode = (
        OmegaConf.select(config, f"trainer.{key}") for key in ("monitor", "monitor_mode")
    )
    larger_is_better = mode == "max" or (mode == "auto" and not less_is_better(monitor))
    if getattr(direction, "name", direction) == "minimize" and larger_is_better:
        raise SystemExit(
            f"error: the search minimises trainer.monitor={monitor}, of which more is better; use "
            "hydra/sweeper=search, or add hydra.sweeper.direction=maximize"
        )


class ScriptFunction:
    """A function of a script, found by the script's path in the other processes of a sweep.

    They have another ``__main__``, and with all that it refers to it cannot be pickled.
    """

    def __init__(self, function: Callable[[DictConfig], object]) -> None:
        self.function = function

    def __call__(self, cfg: DictConfig) -> object:
        return self.function(cfg)

    def __reduce__(self) -> tuple[Callable[[str, str], "ScriptFunction"], tuple[str, str]]:
        path = Path(inspect.getfile(self.function)).absolute()
        return load_function, (str(path), self.function.__name__)


def load_function(path: str, name: str) -> ScriptFunction:
    """The function ``name`` of the script at ``path``."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return ScriptFunction(getattr(script, name))
