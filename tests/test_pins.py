"""The versions that CI installs are those of pyproject.toml."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def direct() -> dict[str, str]:
    """The direct dependencies, as ``name -> >=version,...``; not those of benchmarks."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[name] for name in extras if name != "bench")]
    texts = [re.match(r"([\w.-]+)(?:\[[^]]*\])?(.*)", text) for one in lists for text in one]
    return {found[1].lower(): found[2] for found in texts if found and found[1] != project["name"]}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / ".ci" / name).read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {package.lower(): version for package, version in pairs}


def numbers(version: str) -> tuple[int, ...]:
    """1.0 is 1.0.0."""
    found = [int(part) for part in version.split(".")]
    return (*found, *[0] * (4 - len(found)))


def test_every_direct_dependency_is_pinned_for_the_newest_leg() -> None:
    # hydra-submitit-launcher starts jobs on Slurm, which CI has not.
    assert pins("newest.txt").keys() == direct().keys() - {"hydra-submitit-launcher"}


def test_the_lowest_leg_has_the_lowest_versions() -> None:
    lowest, needed = pins("lowest.txt"), direct()
    floors = {name: re.match(r">=([\d.]+)", text) for name, text in needed.items()}
    for name in lowest.keys() & floors.keys():
        floor = floors[name]
        assert floor is not None
        pinned = numbers(lowest[name])
        assert pinned[: floor[1].count(".") + 1] == numbers(floor[1])[: floor[1].count(".") + 1]
    tools = {"pytest", "pytest-xdist", "hypothesis", "torchmetrics", "tifffile", "pypng"}
    tools |= {"hatchling", "imagecodecs"}  # the last decodes what tifffile reads
    tools |= {"fastapi", "httpx", "python-multipart", "uvicorn"}  # of examples/ alone
    tools |= {"wandb", "mlflow", "trackio"}  # of trainer.loggers, whose tests skip without them
    tools |= {
        "ruff",
        "mypy",
        *(name for name in needed if name.startswith("hydra-") and name != "hydra-core"),
    }
    assert needed.keys() - lowest.keys() == tools
