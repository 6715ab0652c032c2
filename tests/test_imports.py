"""Who may import whom, read off the source of every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "segkit").rglob("*.py"))

SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
SIBLINGS = {"data", "models", "losses", "metrics"}
# Room -> rooms that it may import, besides itself and segkit.errors.
ALLOWED = {
    **{room: set() for room in SIBLINGS},
    "engine": SIBLINGS,
    "report": SIBLINGS,
    "config": SIBLINGS | {"engine", "report"},
    "training": SIBLINGS | {"engine", "report", "config"},
    "tools": SIBLINGS | {"engine", "report", "config"},
    "scoring": SIBLINGS | {"engine", "report", "config"},
    "predict": SIBLINGS | {"engine", "report", "config"},
    "": {"predict"},  # segkit itself: load_model, for those who ask for it
}
# The check of a folder is a command too, and reads its arguments as the tools do.
COMMANDS = {"segkit/data/check.py": {"tools"}}
# Library -> the only files that may import it. Their end says which; "/" means the whole folder.
HOMES = {
    "torchvision": ("segkit/models/backbones/",),
    "albumentations": ("segkit/data/augment.py",),
    "cv2": ("segkit/data/augment.py", "segkit/predict/video.py"),
    "tensorboard": ("segkit/engine/run_log.py",),
    "torch.utils.tensorboard": ("segkit/engine/run_log.py",),
    "torch.distributed": ("segkit/engine/distributed.py", "segkit/losses/processes.py"),
    "signal": ("segkit/ending.py", "segkit/engine/signals.py", "segkit/data/workers.py"),
    "matplotlib": ("segkit/report/html/plots.py",),
    "jinja2": ("segkit/report/html/page.py",),
    "onnx": ("segkit/engine/export.py", "segkit/engine/quantize.py"),
    "onnxruntime": (
        "segkit/engine/export.py",
        "segkit/engine/onnx_model.py",
        "segkit/engine/quantize.py",
    ),
    "scipy": ("segkit/report/", "segkit/tools/", "segkit/metrics/uncertainty.py"),
    "hydra": ("segkit/config/", "segkit/tools/arguments.py"),
    "omegaconf": (
        "segkit/config/",
        "segkit/training/",
        "segkit/scoring/",
        "segkit/tools/browse.py",
        "segkit/predict/model.py",
    ),
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
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
    parts = path.relative_to(ROOT / "segkit").parts
    room = parts[0] if len(parts) > 1 else ""
    for module in imports(path):
        assert module.partition(".")[0] not in SCRIPTS
        segkit, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if segkit == "segkit" and other in ALLOWED.keys() - {"", room}:
            allowed = ALLOWED[room] | COMMANDS.get(name(path), set())
            assert other in allowed, f"{name(path)} imports {module}"


def test_every_room_has_its_place() -> None:
    rooms = {path.parent.name for path in (ROOT / "segkit").glob("*/__init__.py")}
    assert rooms == ALLOWED.keys() - {""}


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
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) == ("Image", "open")
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
    done = python("import sys, segkit.config; print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_python_3_14_gets_a_clear_message() -> None:
    done = python("import sys; sys.version_info = (3, 14, 0, 'final', 0); import segkit")
    assert done.returncode == 1
    assert "3.10 to 3.13 needed" in done.stderr
    assert "Traceback" not in done.stderr
