"""Trainings that several test modules start from: done once per test run, for all its workers."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from scripts import ROOT, SMALL, quick_call

ARGUMENTS = {
    "plain": (),
    "short": ("trainer.max_epochs=1",),
    "average": ("trainer.ema_decay=0.5",),
    "everything": ("optimizer=sgd", "trainer.ema_decay=0.9", "trainer.patience=5"),
}
"""By the name of a run: what it has beside ``SMALL``."""


def shared_run(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder with the finished run ``name`` and its ``data``; nobody may write into it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    folder = base / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers wait for the one that trains
        if not (folder / "done").exists():
            (folder / "here").mkdir()
            given = (*SMALL, *ARGUMENTS[name], f"out_dir={name}")
            result = quick_call(*given, cwd=folder / "here")
            assert result.status == 0, result.err
            assert f"next: python {ROOT}/evaluate.py checkpoint={name}" in result.out
            (folder / "done").touch()
    return folder / "here"


def copy_of_run(factory: pytest.TempPathFactory, name: str, run: str) -> Path:
    """A folder ``here`` of one's own with a copy of the run, called ``run``, and of the data.

    The run's configuration names the data of the original.
    """
    original, folder = shared_run(factory, name), factory.mktemp(run) / "here"
    shutil.copytree(original / name, folder / run)
    shutil.copytree(original / "data", folder / "data")
    return folder
