"""From the command line to a checked configuration, and every mistake to one readable message."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from segkit.cli.help import shown_instead
from segkit.cli.hydra_keys import composed_problems, typed_problems
from segkit.cli.jobs import differing, job_folder, job_name, leave_note, write_table
from segkit.cli.mistakes import plain_text, stumbled
from segkit.cli.quoting import is_multirun, quote_texts
from segkit.cli.report import end_in_silence, report_once
from segkit.cli.sweep import (
    CheckJobs,
    Failed,
    NoteFolder,
    ScriptFunction,
    failures,
    is_sweep,
    missing_plugin,
)
from segkit.cli.typed import are_hidden, shown_to_hydra
from segkit.commands import called_as, caller
from segkit.config.explain import dashes, explain
from segkit.config.problems import STAGES, check_components, check_start, check_values
from segkit.config.saved import absolute_paths
from segkit.config.schema import SCHEMAS
from segkit.console import say, visible
from segkit.ending import INTERRUPT, ending, exit_code
from segkit.errors import ConfigError, MainProcessError, SegkitError
from segkit.runs.finished import FinishedRun
from segkit.shipped import CONFIGS
from segkit.text import join_lines

Task = Callable[[DictConfig], object]


@dataclass(frozen=True)
class Composed:
    """What Hydra made of a command line, kept for :func:`run`.

    Attributes:
        command: Name of the script, its arguments, and where it was started.
        cfg: The configuration of its job.
        hydra: Hydra's own part of it.
    """

    command: tuple[str, ...]
    cfg: DictConfig
    hydra: Any  # of Hydra's, which types it as what it holds


_composed: Composed | None = None  # by check_command_line


def check_command_line(name: str) -> None:
    """End here, before slow imports, if a key, type or value of the command line is wrong.

    What the schema knows is refused before torch is imported, what an optimizer, schedule, loss or
    transform knows before torchvision and the training loop are.

    Also ends here, with exit status 0, where it was only asked to show something, as by ``--help``
    or ``--cfg job``. What Hydra composed is kept for :func:`run`; that of the jobs of a
    sweep, which may run in other processes, is made anew there.
    """
    _show_instead(name)
    checked, command, folders = [], _command(name), set[str]()

    def cheap_check(cfg: DictConfig) -> None:
        global _composed
        checked.append(cfg)
        own: Any = HydraConfig.instance().cfg
        if not is_sweep() and own.hydra.callbacks.keys() == {CheckJobs.NAME}:
            _composed = Composed(command, cfg, own)
        refuse_folders(name)
        place = cfg.get("out_dir") if is_sweep() else None
        if place in folders:
            raise ConfigError(
                f"out_dir={place}: several jobs of the sweep would write there; give each its own, "
                "as 'out_dir=runs/${hydra:job.num}', or leave out_dir out"
            )
        folders.update([place] if place else [])
        if are_hidden():  # only the checkpoint tells what they are about
            return
        check_cheaply(cfg, name)

    with report_once():
        _compose(name, cheap_check, only_check=True)
    if not checked:
        raise SystemExit(0)


def run(name: str, task: Task) -> None:
    """Compose ``configs/<name>.yaml`` with the command line, check it, and call ``task``.

    What a user can correct ends as one readable message and exit status 1; anything else is a
    defect and shows its full traceback. The folder where the user started is searched for modules
    last, so that ``_target_: my_losses.TopK`` finds ``my_losses.py`` beside the user's configs.

    In a sweep (``-m``) a job that fails says so, the others go on, those that failed are named at
    the end, and the exit status is 1. What ``task`` returns is what an optimizing sweeper gets.
    """
    _show_instead(name)
    function, composed = ScriptFunction(task), _take_composed(name)

    def checked_task(cfg: DictConfig) -> object:
        if not are_hidden():
            with report_once():
                if composed is None:
                    check_cheaply(cfg, name)
                if name == "train":
                    check_components(cfg, STAGES[1])
        absolute_paths(cfg, name)
        return function(cfg)

    if composed is None:
        _compose(name, checked_task)
        return
    with (
        called_as(sys.argv[0]),
        _mistakes_told(name, sys.argv),
        as_hydras_job(composed),
    ):
        _only_job(checked_task, composed.cfg, name)


def _show_instead(name: str) -> None:
    """End here if the user asks what the command is."""
    with called_as(sys.argv[0]):
        text = shown_instead(name, sys.argv[1:])
    if text is not None:
        say(text)
        raise SystemExit(0)


def refuse_folders(name: str) -> None:
    """Raise a ConfigError where a file says where Hydra is to write, which it does not here."""
    if problems := composed_problems(HydraConfig.instance().cfg, name):
        raise ConfigError(join_lines(problems))


def check_cheaply(cfg: DictConfig, name: str) -> None:
    """What can be refused before torchvision and the training loop are imported."""
    check_values(cfg, name)
    if name == "train":
        check_start(cfg)
        check_components(cfg, STAGES[0])


def _command(name: str) -> tuple[str, ...]:
    return (name, *sys.argv, str(Path.cwd()))


def _take_composed(name: str) -> Composed | None:
    """What :func:`check_command_line` kept of this very command, once."""
    global _composed
    composed, _composed = _composed, None
    return composed if composed is not None and composed.command == _command(name) else None


@contextmanager
def as_hydras_job(composed: Composed) -> Iterator[None]:
    """What Hydra sets up around a job."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = composed.hydra
    try:
        with env_override(dict(composed.hydra.hydra.job.env_set)):
            yield
    finally:
        HydraConfig.instance().cfg = before


def _compose(name: str, task: Task, *, only_check: bool = False) -> None:
    """Have Hydra call ``task`` with the configuration of each job; mistakes end here."""
    given, program = sys.argv, caller(sys.argv[0])
    # Hydra would print a shortened traceback itself and hide where an error came from.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    composed: list[DictConfig] = []

    def job(cfg: DictConfig) -> object:
        composed.append(cfg)
        os.chdir(HydraConfig.get().runtime.cwd)  # hydra.job.chdir=true would move all paths
        if str(Path.cwd()) not in sys.path:  # here: a job of a sweep may be far from its command
            sys.path.append(str(Path.cwd()))
        if is_sweep() and os.environ.get("WORLD_SIZE", "1") != "1":
            _fail("-m: the jobs of a sweep have one process each; start it without torchrun")
        with called_as(program):  # another process does not know it
            if is_sweep() and not only_check:
                return _job_of_sweep(task, cfg, name, shown)
            return _only_job(task, cfg, name)

    with _mistakes_told(name, given, composed, goes_on=only_check):
        if problems := [*dashes(sys.argv[1:]), *typed_problems(sys.argv[1:], name)]:
            raise ConfigError(join_lines(problems))
        shown = shown_to_hydra(quote_texts(given, SCHEMAS[name]))
        decorate = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)
        if only_check:
            CheckJobs.script = name
            with TemporaryDirectory() as CheckJobs.folder:
                sys.argv = CheckJobs.on_the_command_line(shown)
                decorate(job)()
        elif not is_multirun(shown):
            sys.argv = shown
            decorate(job)()
        else:
            sys.argv = NoteFolder.on_the_command_line(shown)
            with _table_at_the_end():
                decorate(job)()
    if failures:
        lines = [join_lines([failed, f"    {why}"]) for failed, why in failures.items()]
        _fail(join_lines([f"{len(lines)} of the sweep's jobs failed, the others ran:", *lines]))


@contextmanager
def _table_at_the_end() -> Iterator[None]:
    """Around a sweep: however it ends, what its jobs have left becomes a table."""
    NoteFolder.folder = None
    try:
        yield
    finally:
        if NoteFolder.folder is not None:
            write_table(NoteFolder.folder)


@contextmanager
def _mistakes_told(
    name: str,
    given: list[str],
    composed: Sequence[DictConfig] | None = None,
    *,
    goes_on: bool = False,
) -> Iterator[None]:
    """Around a command: what its user can correct ends in one message, and signals end it.

    Args:
        name: The script's, as ``train``.
        given: The command line, which is put back at the end.
        composed: The configurations that Hydra has composed; None: it is not at work.
        goes_on: Whether the command comes after it.
    """
    failures.clear()
    ending.begin()
    succeeded = False
    try:
        yield
        succeeded = True
    except SegkitError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(missing_plugin(error) or explain(error, name))
    except yaml.YAMLError as error:
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        raise SystemExit(exit_code(ending.received or INTERRUPT)) from None
    except Exception as error:
        sweep = is_multirun(given)  # whose jobs may run in other processes
        if composed is not None and not composed and not sweep:
            _fail(stumbled(error, given[1:]))  # it is Hydra that stumbles over an override
        if not failures or not isinstance(error, ValueError):
            raise  # else of a sweeper that has no best job, since all failed
    finally:
        sys.argv = given
        if not (goes_on and succeeded):
            ending.finish()


def _only_job(task: Task, cfg: DictConfig, name: str) -> object:
    # Caught inside, since Hydra prints a line of its own about what leaves its job.
    try:
        return task(cfg)
    except Exception as error:
        if ending.received is not None:  # what an end in a hurry left open, say in other processes
            raise SystemExit(exit_code(ending.received)) from None
        if isinstance(error, MainProcessError):
            end_in_silence()
        if text := plain_text(error, name):
            _fail(text)
        raise


def _job_of_sweep(task: Task, cfg: DictConfig, name: str, argv: Sequence[str]) -> object:
    """One that fails says so and lets the others go on."""
    differs = differing(argv)
    job = job_name(differs)
    print(visible(job), flush=True)
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        # joblib's way to start a process, which the loader's cannot take; back to the usual.
        multiprocessing.set_start_method(None, force=True)
    if name == "train" and cfg.out_dir is None and cfg.resume is None:
        cfg.out_dir = str(job_folder(differs))
    try:
        result = task(cfg)
    except Exception as error:
        text = plain_text(error, name)
        if text is None:
            traceback.print_exc()
        failed = Failed(job, text or f"{type(error).__name__}: {error}")
        print(visible(join_lines([f"failed: {job}", failed.why])), file=sys.stderr, flush=True)
        leave_note(differs, None, failed.why)
        return failed
    leave_note(differs, result)
    return result.score if isinstance(result, FinishedRun) else result


def _fail(message: str) -> NoReturn:
    rank = os.environ.get("RANK")
    who = f" in process {rank}" if rank is not None and os.environ.get("WORLD_SIZE") != "1" else ""
    raise SystemExit(visible(f"error{who}: {message}")) from None
