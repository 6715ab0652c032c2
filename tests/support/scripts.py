"""train.py and evaluate.py as a user calls them: in this process (quick) or in one of their own."""

import io
import logging
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Shapes and a network that train in seconds on one core.
SMALL_DATA = [
    "data.dataset.num_train=24",
    "data.dataset.num_val=6",
    "data.dataset.height=48",
    "data.dataset.width=64",
]
SMALL_RUN = [
    "trainer.max_epochs=2",
    "trainer.device=cpu",
    "loader.batch_size=8",
    "loader.num_workers=0",
    "model.backbone.width=8",
    "model.aspp_channels=16",
    "model.decoder_channels=16",
]
SMALL = (*SMALL_DATA, *SMALL_RUN)


@dataclass
class Result:
    """What a script left behind; ``status`` is its exit code."""

    status: int
    out: str
    err: str


def call(script: str, *arguments: str, cwd: Path) -> Result:
    """Run ``script`` in this process, in the folder ``cwd``. Defects raise.

    A user's own modules in ``cwd`` are forgotten at the end, as a process of its own would: another
    folder's module of the same name is another module.
    """
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("HYDRA_FULL_ERROR", "1")
        patch.setenv("XDG_CACHE_HOME", str(cwd.parent / "cache"))
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        finally:
            for handler in logging.getLogger("segkit").handlers:
                handler.close()
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", None)).startswith(f"{cwd}{os.sep}"):
                    del sys.modules[name]
    return Result(status, out.getvalue(), err.getvalue())


def quick_call(*arguments: str, cwd: Path) -> Result:
    """``call("train.py", ...)`` without the early look at the command line, a second one there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segkit.cli.check_command_line", lambda name: None)
        return call("train.py", *arguments, cwd=cwd)


def spawn(
    script: str, *arguments: str, cwd: Path, limit: float = 120, **environment: str
) -> Result:
    """Run ``script`` in a process of its own, for ``limit`` seconds at most."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd.parent / "cache")}
        | environment,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)
