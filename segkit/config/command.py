"""From the command line to a checked configuration, and every mistake to one readable message."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from segkit.config.check import STAGES, check_components, check_config, check_values
from segkit.config.explain import dashes, explain, null_choices
from segkit.config.saved import absolute_paths
from segkit.errors import ConfigError, SegkitError

CONFIGS = Path(__file__).parents[2].resolve() / "configs"
INDENT = "\n       "  # further lines stand under the first, past "error: "


def check_command_line(name: str) -> None:
    """End here, before slow imports, if a key, type or value of the command line is wrong.

    What the schema knows is refused before torch is imported, what an optimizer, schedule, loss or
    transform knows before torchvision and the training loop are.

    Also ends here, with exit status 0, where Hydra was only asked to show something, as by
    ``--help`` or ``--cfg job``.
    """
    checked = []

    def cheap_check(cfg: DictConfig) -> None:
        check_values(cfg, name)
        if name == "train":
            check_components(cfg, STAGES[0])
        checked.append(cfg)

    try:
        _compose(name, cheap_check)
    except ValueError as error:  # of Hydra itself: the task above raises nothing of the kind
        overrides = [x for x in sys.argv[1:] if "=" in x and not x.startswith("-")]
        known = list(null_choices(OverridesParser.create().parse_overrides(overrides)))
        _fail(INDENT.join(known) or str(error))
    if not checked:
        raise SystemExit(0)


def run(name: str, task: Callable[[DictConfig], object]) -> None:
    """Compose ``configs/<name>.yaml`` with the command line, check it, and call ``task``.

    What a user can put right ends as one readable message and exit status 1; anything else is a
    defect and shows its full traceback. The folder where the user started is searched for modules
    last, so that ``_target_: my_losses.TopK`` finds ``my_losses.py`` beside the user's configs.
    """

    def checked_task(cfg: DictConfig) -> None:
        check_config(cfg, name)
        absolute_paths(cfg, name)
        task(cfg)

    _compose(name, checked_task)


def _compose(name: str, task: Callable[[DictConfig], None]) -> None:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    # Hydra would print a shortened traceback itself and hide where an error came from.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def caught(cfg: DictConfig) -> None:
        # Caught inside, since Hydra prints a line of its own about what leaves its job.
        try:
            task(cfg)
        except SegkitError as error:
            _fail(str(error))
        except OmegaConfBaseException as error:
            _fail(explain(error, name))

    try:
        if problems := list(dashes(sys.argv[1:])):
            raise ConfigError(INDENT.join(problems))
        decorate = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)
        decorate(caught)()
    except SegkitError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error, name))
    except yaml.YAMLError as error:
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _fail(message: str) -> NoReturn:
    raise SystemExit(f"error: {message}") from None
