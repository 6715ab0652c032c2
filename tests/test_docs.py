"""The commands of README.md, run as a new user would run them, on a small folder of their own."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from segkit.data.shapes import shapes

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(section: str) -> list[str]:
    """The indented lines of a section that begin with ``python``."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^    (python .*)$", text, re.MULTILINE)
    return [command.partition("  #")[0].strip() for command in found]


def run(command: str, cwd: Path, *more: str) -> str:
    words = [sys.executable, *shlex.split(command)[1:], *more]
    if words[1].endswith(".py"):
        words[1] = str(ROOT / words[1])
    env = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd / "cache")}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_are_the_promised_ones() -> None:
    assert commands("Two commands") == [
        "python -m pip install -e . && python train.py",
        'python -m pip install -e ".[test]" && python -m pytest',
    ]


@pytest.mark.slow
def test_own_data(tmp_path: Path) -> None:
    shapes(tmp_path / "mine", "train", num_train=8, num_val=4, height=48, width=64)
    check, train, evaluate = commands("Your own data")
    assert "fine" in run(check.replace("PATH", "mine"), tmp_path)
    small = ("model/backbone=tiny", "trainer.max_epochs=1", "augment.crop_size=[48,48]")
    output = run(train.replace("PATH", "mine"), tmp_path, *small)
    (folder,) = (tmp_path / "runs").iterdir()
    # The console names the folder and the next command as they can be typed here.
    assert f"checkpoint=runs/{folder.name}" in output
    run(evaluate.replace("runs/...", f"runs/{folder.name}"), tmp_path)
    written = folder / "eval" / "val-best"
    assert (written / "metrics.json").exists()
    assert len(list((written / "predictions").iterdir())) == 4


def test_every_key_of_the_table_exists() -> None:
    from hydra import compose, initialize_config_dir

    import segkit.config  # noqa: F401  (registers the schema)

    table = README.partition("## What to change")[2].partition("\n## ")[0]
    assigned = re.findall(r"`'?([a-z_./]+=[^`' ]+)'?", table)
    assert len(assigned) >= 12
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for override in assigned:
            losses = ["loss=[ce,dice]"] if "dice" in override else []
            compose("train", overrides=[*losses, override])
