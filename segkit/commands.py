"""The commands, and how the user calls them: what is said of another one is said in that way.

Who types ``python train.py`` reads ``python evaluate.py``, and who types ``segkit train`` reads
``segkit evaluate``.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPTS = {
    "train": "train a model",
    "evaluate": "score a checkpoint, or saved masks",
    "predict": "masks of images and videos",
    "export": "write a checkpoint as ONNX, TorchScript or pt2",
}
TOOLS = ("check", "convert", "split", "stats", "browse", "tile", "download", "model")
"""Modules in ``segkit.tools``, whose first line says what each does."""

MODULE = "python -m segkit"
"""The call that works wherever segkit can be imported."""

TOOL = "python -m segkit.tools"
"""A tool by the name of its module."""

_called: str | None = None


@contextmanager
def called_as(program: str) -> Iterator[None]:
    """While a command runs: how it was called. Around another one it is what the user typed.

    Args:
        program: ``segkit``, :data:`MODULE`, the path of a script, or :data:`TOOL`.
    """
    global _called
    outer = _called
    _called = outer or program
    try:
        yield
    finally:
        _called = outer


def caller(program: str = TOOL) -> str:
    """How the command that runs was called; ``program`` unless something around it knows."""
    return _called or program


def argument(key: str, value: object) -> str:
    """``key=value``, as a shell takes it."""
    return shlex.quote(f"{key}={value}")


def command(name: str) -> str:
    """The start of a command line that calls ``name``, as ``python evaluate.py``."""
    program = caller()
    if program in ("segkit", MODULE):
        return f"{program} {name}"
    if name in TOOLS:
        return f"python -m segkit.{'data' if name == 'check' else 'tools'}.{name}"
    if Path(program).stem in SCRIPTS:
        return f"python {shlex.quote(str(Path(program).with_name(f'{name}.py')))}"
    return f"{MODULE} {name}"
