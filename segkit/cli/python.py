"""``segkit.train(...)`` and ``segkit.evaluate(...)``: the scripts as functions of Python.

The same configuration, checks and messages as on the command line, in this process: in a notebook,
twice, or inside a program that is itself one of Hydra's, whose state is put back. What a user can
correct is a :class:`~segkit.errors.SegkitError`.
"""

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Number
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from segkit.cli.command import check_cheaply, refuse_folders
from segkit.cli.hydra_keys import typed_problems
from segkit.cli.mistakes import plain_text, stumbled
from segkit.cli.quoting import quote_texts
from segkit.cli.sweep import load_function
from segkit.cli.typed import are_hidden, kept_apart, shown_to_hydra
from segkit.commands import MODULE, called_as
from segkit.config.explain import dashes, explain
from segkit.config.problems import STAGES, check_components
from segkit.config.saved import absolute_paths
from segkit.config.schema import SCHEMAS
from segkit.ending import INTERRUPT, ending, exit_code
from segkit.errors import ConfigError, SegkitError
from segkit.files import user_path
from segkit.runs.finished import FinishedRun
from segkit.shipped import CONFIGS, script_path
from segkit.text import join_lines

PathLike = str | os.PathLike[str]


def train(*overrides: str, config_dir: PathLike | None = None, **values: Any) -> FinishedRun:
    """Train as ``python train.py`` does.

    Args:
        overrides: As on the command line: ``"data=voc"``, ``"trainer.max_epochs=20"``.
        config_dir: Folder of your own group files.
        values: The same as Python's values: ``data="voc"``, ``trainer={"max_epochs": 20}``,
            ``**{"data.root": path}``; they come after ``overrides``.

    Returns:
        Its folder, its best checkpoint and scores.

    Raises:
        SegkitError: What ``train.py`` would end with in one message.
        KeyboardInterrupt: Ctrl-C; the run is saved, and ``resume=`` its folder goes on.
    """
    return cast(FinishedRun, _call("train", overrides, values, config_dir))


def evaluate(*overrides: str, config_dir: PathLike | None = None, **values: Any) -> dict[str, Any]:
    """Score as ``python evaluate.py`` does.

    Args:
        overrides: As on the command line: ``"checkpoint=runs/a"``, ``"split=test"``.
        config_dir: Folder of your own group files.
        values: The same as Python's values: ``checkpoint=run.folder``, ``tta={"flip": True}``.

    Returns:
        The content of ``metrics.json``.

    Raises:
        SegkitError: What ``evaluate.py`` would end with in one message.
    """
    return cast(dict[str, Any], _call("evaluate", overrides, values, config_dir))


def _call(
    name: str, overrides: Sequence[str], values: Mapping[str, Any], config_dir: PathLike | None
) -> object:
    """The script ``name`` with a configuration that is composed and checked as for itself."""
    words = [*overrides, *assignments(values)]
    with called_as(MODULE), _mistakes_raised(name):
        _check_words(words, name)
        words = quote_texts(["segkit", *words], SCHEMAS[name])
        with kept_apart(), _composed(name, shown_to_hydra(words)[1:], config_dir) as cfg:
            refuse_folders(name)
            if not are_hidden():
                check_cheaply(cfg, name)
                if name == "train":
                    check_components(cfg, STAGES[1])
            absolute_paths(cfg, name)
            return _function(name)(cfg)


def _function(name: str) -> Callable[[DictConfig], object]:
    """What the script does, whose libraries take seconds to import."""
    task = load_function(str(script_path(name)), {"train": "train", "evaluate": "score"}[name])
    from segkit.runtime.log import log_to_console

    def called(cfg: DictConfig) -> object:
        ending.received = None  # of a call before that Ctrl-C has ended
        try:
            return task(cfg)
        finally:
            log_to_console()  # which lets go of train.log

    return called


def assignments(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """``{"trainer": {"max_epochs": 20}}`` -> ``trainer.max_epochs=20``, in Hydra's grammar.

    A mapping stands for the keys below, unless it is a value itself, or its keys are no texts.
    """
    for name, value in ((f"{prefix}{key}", value) for key, value in values.items()):
        is_group = isinstance(value, Mapping) and all(isinstance(k, str) for k in value)
        if is_group and value and name not in MAPPINGS:
            yield from assignments(value, f"{name}.")
        else:
            yield f"{name}={_written(value, name)}"


MAPPINGS = ("palette", "data.label_map", "predictions_label_map")


def _name(name: object, key: str) -> str:
    """A name in a mapping, which Hydra takes no quotes around."""
    if not isinstance(name, str):
        return str(name)
    escaped = re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", name)
    try:
        mapping: Any = OverridesParser.create().parse_override(f"x={{{escaped}: 1}}").value()
    except HydraException:
        mapping = {}
    if [*map(str, mapping)] != [name]:
        way_out = "; put the mapping into a file, palette='FILE'" if key == "palette" else ""
        raise ConfigError(f"{key}: the name {name!r} cannot be given in a call{way_out}")
    return escaped


def _written(value: object, key: str) -> str:
    """One of Python's values as Hydra's grammar has it."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # of NumPy or PyTorch
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str | os.PathLike):
        return QuotedString(os.fspath(value), Quote.single).with_quotes()
    if isinstance(value, Mapping):
        pairs = (f"{_name(k, key)}: {_written(v, key)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_written(one, key) for one in value) + "]"
    raise ConfigError(
        f"{key}={value!r}: a {type(value).__name__}; expected a text, number, true or false, path, "
        "list, mapping or None. A class of your own is named by its _target_ (docs/extending.md)"
    )


def _check_words(words: Sequence[str], name: str) -> None:
    """Refuse what is a flag, no text, or would do nothing."""
    texts = [word for word in words if isinstance(word, str)]
    problems = [f"{word!r}: expected key=value" for word in words if word not in texts]
    for flag in (word for word in texts if word.startswith("-")):
        text = (
            f"{flag}: is for the command line; for your own group files give config_dir=..., and "
            "for a sweep call this once per job"
        )
        problems.append(next(dashes([flag]), text))
    problems += typed_problems(texts, name)
    if problems:
        raise ConfigError(join_lines(problems))


@contextmanager
def _composed(
    name: str, overrides: Sequence[str], config_dir: PathLike | None
) -> Iterator[DictConfig]:
    """The configuration, while Hydra's own state is that of this job; then it is as before."""
    if config_dir is not None:
        folder = user_path(config_dir).absolute()
        if not folder.is_dir():
            raise ConfigError(f"config_dir={config_dir}: no such folder")
        place = QuotedString(f"file://{folder}", Quote.single).with_quotes()
        overrides = [f"hydra.searchpath=[{place}]", *overrides]
    with _hydra_as_before():
        with initialize_config_dir(str(CONFIGS), job_name=name, version_base="1.3"):
            try:
                own = compose(name, list(overrides), return_hydra_config=True)
            except (HydraException, OmegaConfBaseException):
                raise
            except Exception as error:
                raise ConfigError(stumbled(error, overrides)) from error
        HydraConfig.instance().set_config(own)
        cfg = copy.deepcopy(own)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg


@contextmanager
def _hydra_as_before() -> Iterator[None]:
    """Around other uses of Hydra: its singletons are put back, also those of a program of its."""
    hydra, version = GlobalHydra.instance().hydra, VersionBase.instance().version_base
    before, job = HydraConfig.instance().cfg, JobRuntime.instance().get("name")
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra
        HydraConfig.instance().cfg = before
        VersionBase.instance().version_base = version
        JobRuntime.instance().set("name", job)


@contextmanager
def _mistakes_raised(name: str) -> Iterator[None]:
    """What the scripts end with in one message is a SegkitError here."""
    try:
        yield
    except SegkitError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, name)) from error
    except SystemExit as end:
        if end.code == exit_code(INTERRUPT):  # a run that has saved its state
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if text := plain_text(error, name):
            raise SegkitError(text) from error
        raise
