"""The wheel, as somebody gets it who has no clone: built, installed, used from an empty folder."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import ROOT, SMALL

import segkit

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = ("train", "evaluate", "predict", "export")
TOOLS = ("check", "convert", "split", "stats", "browse", "download", "model")
ENVIRONMENT = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("hatchling", "pip"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}, to build without a network")
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder)]
    pip(sys.executable, "wheel", *options, str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment with the wheel.

    What segkit needs is not installed again but borrowed from the environment of the tests, by a
    plain line of a .pth file, which reads no .pth file there (of a clone that is installed, say).
    """
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=False)
    paths = {"base": str(home), "platbase": str(home)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    programs = Path(sysconfig.get_path("scripts", vars=paths))
    pip(sys.executable, "--python", str(programs / "python"), *("install", "--no-deps"), str(wheel))
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def run(scripts: Path, tmp_path: Path) -> Run:
    """Call a program of the fresh environment from an empty folder."""

    def call(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(scripts / program), *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


def test_what_is_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    here = [path for path in (ROOT / "segkit").rglob("*") if path.suffix in (".py", ".html")]
    configs = [path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")]
    assert {path.relative_to(ROOT).as_posix() for path in here} <= set(names)
    assert {f"segkit/{name}" for name in configs} <= set(names)
    assert {f"segkit/scripts/{name}.py" for name in COMMANDS} <= set(names)
    assert "segkit/py.typed" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"segkit", f"segkit_train-{segkit.__version__}.dist-info"}


def test_every_command_is_there(run: Run, tmp_path: Path) -> None:
    done = run("segkit", "--version")
    assert (done.stdout, done.stderr) == (f"segkit {segkit.__version__}\n", "")
    assert run("python", "-m", "segkit", "--version").stdout == done.stdout
    where = run("python", "-c", "import segkit; print(segkit.__file__)").stdout
    assert "site-packages" in where
    overview = run("segkit").stdout
    for name in (*COMMANDS, *TOOLS):
        assert re.search(rf"^  {name} +\w", overview, re.MULTILINE)
        shown = run("segkit", name, "--help")
        assert (shown.returncode, shown.stderr) == (0, ""), name
        assert f"segkit {name}" in shown.stdout
        assert "python" not in shown.stdout.partition("keys")[0]
    assert list(tmp_path.iterdir()) == []


def test_train_evaluate_predict(run: Run, tmp_path: Path) -> None:
    trained = run("segkit", "train", *SMALL, "trainer.max_epochs=1", "out_dir=first")
    assert (trained.returncode, trained.stderr) == (0, "")
    # Followed as it stands.
    found = re.search(
        r"^next: (segkit evaluate checkpoint=first .*)$", trained.stdout, re.MULTILINE
    )
    assert found is not None
    assert "      segkit train data=voc" in trained.stdout
    evaluated = run(*found[1].split(), "device=cpu", "loader.num_workers=0")
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    scores = json.loads((tmp_path / "first/eval/val-best/metrics.json").read_text())
    assert scores["miou"] == json.loads((tmp_path / "first/summary.json").read_text())["best_score"]
    pictures = "source=data/shapes/JPEGImages/*"
    predicted = run("segkit", "predict", "checkpoint=first", pictures, "device=cpu", "out_dir=out")
    assert (predicted.returncode, predicted.stderr) == (0, "")
    assert any((tmp_path / "out").rglob("*.png"))


def test_a_sweep_in_the_wheel(run: Run, tmp_path: Path) -> None:
    words = ("-m", *SMALL, "trainer.max_epochs=1", "seed=0,1")
    done = run("python", "-m", "segkit", "train", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "next: python -m segkit evaluate checkpoint=runs/" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert len((folder / "sweep.csv").read_text().splitlines()) == 3


def test_tools_work(run: Run, tmp_path: Path) -> None:
    made = run("segkit", "train", *SMALL, "trainer.max_epochs=1", "out_dir=first")
    assert made.returncode == 0, made.stderr
    checked = run("segkit", "check", "data.root=data/shapes")
    assert checked.stdout.endswith("24 pairs in train, 6 pairs in val: fine\n")
    shown = run("segkit", "browse", "data=voc", "data.root=data/shapes", "images=2", "epochs=1")
    assert (shown.returncode, shown.stderr) == (0, "")
    wrong = run("segkit", "trian")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("error: trian: no such command; did you mean train?")


def test_from_python(run: Run, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import segkit\n"
        f"run = segkit.train(*{list(SMALL)}, 'trainer.max_epochs=1')\n"
        "print(segkit.load_model(run.best, device='cpu').classes[0])\n"
    )
    done = run("python", "program.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "background"
