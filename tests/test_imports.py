"""Who may import whom, read off the source of every file."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "segkit").rglob("*.py"))

SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
# The house, floor by floor: a room may import itself and the floors below its own, none beside it
# unless that is said here. docs/architecture.md tells what each is for.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "text", "files", "console", "ending", "shipped", "commands"),
    ("data", "models", "losses", "metrics", "schedules"),
    ("runtime", "config"),
    ("runs", "report"),
    ("inference",),
    ("training", "evaluation", "export", "predict"),
    ("cli",),
    ("tools",),
    ("__main__",),
)
BESIDE = {"files": {"errors"}}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Looking up, when it is asked for: the check of a folder is a command too; what segkit offers.
ABOVE = {"segkit/data/check.py": {"tools"}, "segkit/__init__.py": {"cli", "ending", "inference"}}
# Library -> the only files that may import it. Their end says which; "/" means the whole folder.
HOMES = {
    "torchvision": ("segkit/models/backbones/",),
    "albumentations": ("segkit/data/augment.py",),
    "cv2": (
        *("segkit/data/augment.py", "segkit/data/scale_rotate_crop.py"),
        "segkit/data/copy_paste.py",
        "segkit/predict/video.py",
    ),
    "tensorboard": ("segkit/runs/metrics_log.py",),
    "torch.utils.tensorboard": ("segkit/runs/metrics_log.py",),
    **{name: (f"segkit/training/loggers/{name}.py",) for name in ("wandb", "mlflow", "trackio")},
    "torch.distributed": ("segkit/runtime/distributed.py", "segkit/losses/processes.py"),
    "signal": ("segkit/ending.py", "segkit/runtime/signals.py", "segkit/data/workers.py"),
    "matplotlib": ("segkit/report/html/plots.py",),
    "jinja2": ("segkit/report/html/page.py",),
    "onnx": ("segkit/export/writer.py", "segkit/export/quantize.py"),
    "onnxruntime": (
        "segkit/export/writer.py",
        "segkit/inference/onnx_network.py",
        "segkit/export/quantize.py",
    ),
    "scipy": ("segkit/report/", "segkit/tools/", "segkit/metrics/"),
    "hydra": ("segkit/cli/", "segkit/config/", "segkit/training/resume.py"),
    "omegaconf": (
        *("segkit/cli/", "segkit/config/", "segkit/training/", "segkit/evaluation/"),
        *("segkit/inference/loading.py", "segkit/inference/model.py", "segkit/tools/browse.py"),
    ),
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, also inside functions."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    for module in imports(path):
        assert module.partition(".")[0] not in SCRIPTS
        segkit, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if segkit == "segkit" and other in FLOOR.keys() - {room}:
            below = FLOOR[other] < FLOOR.get(room, 0) or other in BESIDE.get(room, ())
            above = other in ABOVE.get(name(path), ())
            assert below or above, f"{name(path)} imports {module}"


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "segkit").parts[0].removesuffix(".py")


def test_every_room_has_its_floor() -> None:
    assert {room_of(path) for path in FILES} == {"__init__", *FLOOR}


def test_there_is_no_circle() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    graph = {
        module.removesuffix(".__init__"): {
            other
            for node in parsed(path).body  # what runs when it is imported
            if isinstance(node, ast.ImportFrom)
            for other in (str(node.module), *(f"{node.module}.{a.name}" for a in node.names))
            if other in modules
        }
        for module, path in modules.items()
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_library_has_one_home(path: Path) -> None:
    for module in imports(path):
        for library, homes in HOMES.items():
            if module == library or module.startswith(f"{library}."):
                assert name(path).startswith(homes), f"{name(path)} imports {module}"


def test_files_are_decoded_in_one_place() -> None:
    opening = [
        name(path)
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Image.open", "PIL.Image.open")
    ]
    assert set(opening) == {"segkit/data/decode.py"}


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_importing_segkit_is_silent_and_light() -> None:
    heavy = ("torch", "numpy", "hydra", "albumentations", "PIL")
    done = python(f"import sys, segkit; print([m for m in {heavy} if m in sys.modules])")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_configuration_is_read_without_torch() -> None:
    done = python("import sys, segkit.cli, segkit.config; print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


SCORING = """
import sys
import segkit.data.check, segkit.data.loader, segkit.data.workers
import segkit.inference.model, segkit.inference.predictions
import segkit.evaluation.measures, segkit.metrics
import segkit.report.html.findings, segkit.report.html.page
import segkit.evaluation.evaluation, segkit.predict.work, segkit.predict.outputs
print([m for m in ("albumentations", "cv2", "matplotlib", "jinja2") if m in sys.modules])
"""


@pytest.mark.slow
def test_what_is_only_scored_is_not_augmented() -> None:
    done = python(SCORING)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_python_3_14_gets_a_clear_message() -> None:
    done = python("import sys; sys.version_info = (3, 14, 0, 'final', 0); import segkit")
    assert done.returncode == 1
    assert "3.10 to 3.13 needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_test_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        if re.search(r"^\s*(from|import) test_", path.read_text(), re.MULTILINE):  # or in a text
            for module in imports(path):
                assert not module.startswith("test_"), f"{name(path)} imports {module}"
