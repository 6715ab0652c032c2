"""The ``key=value`` that the user wrote, and what of it Hydra is shown."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig

from segkit.cli.quoting import is_multirun
from segkit.config.schema import SWAPPED

_hidden: list[str] | None = None


def typed_overrides() -> list[str]:
    """The ``key=value`` that the user wrote for this job."""
    return list(HydraConfig.get().overrides.task) if _hidden is None else _hidden


def are_hidden() -> bool:
    """Whether Hydra was not shown them: they are about the configuration in a checkpoint."""
    return _hidden is not None


def shown_to_hydra(argv: list[str]) -> list[str]:
    """The command line for Hydra; what it must not see is kept for :func:`typed_overrides`."""
    global _hidden
    shown, _hidden = hide_overrides(argv)
    return shown


@contextmanager
def kept_apart() -> Iterator[None]:
    """Around a call from Python, which may be one of a job that has typed overrides itself."""
    global _hidden
    before = _hidden
    try:
        yield
    finally:
        _hidden = before


def hide_overrides(argv: list[str]) -> tuple[list[str], list[str] | None]:
    """For ``resume=PATH``: the command line that Hydra gets, and the overrides that it must not.

    They are meant for the configuration in the checkpoint. Applied to the default one, keys that
    only that has (``optimizer.momentum`` in a run with SGD) would be refused. Group files are
    Hydra's business still, on top of ``data=voc``, which brings no recipe of its own.
    """
    is_path = re.compile(r"""resume=(?!(['"]?)(auto|null)\1$)""")
    if not any(is_path.match(text) for text in argv) or is_multirun(argv):
        return argv, None
    flags, overrides, typed = [argv[0]], ["data=voc"], []
    for text in argv[1:]:
        key = re.split(r"=", text)[0].lstrip("+~")
        if text.startswith("-") or not re.match(r"~|[^=]+=", text):
            flags.append(text)  # or what belongs to one
        elif key.startswith("hydra"):
            overrides.append(text)
        else:
            typed.append(text)
            overrides += [text] if key in (*SWAPPED, "resume", "allow") else []
    return [*flags, *overrides], typed  # all overrides together, as argparse wants it
