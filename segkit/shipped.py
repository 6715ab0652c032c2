"""What belongs to segkit and is no module: the group files, and the scripts.

In a clone they stand beside the package, where people read and change them; a wheel carries them
inside of it (``force-include`` in pyproject.toml).
"""

from pathlib import Path

PACKAGE = Path(__file__).parent.resolve()
CONFIGS = (PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent) / "configs"
"""The folder of ``train.yaml`` and its groups."""


def script_path(name: str) -> Path:
    """The file of a script, as ``train``."""
    inside = PACKAGE / "scripts" / f"{name}.py"
    return inside if inside.is_file() else PACKAGE.parent / f"{name}.py"
