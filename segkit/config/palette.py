"""The key ``palette``: colours that a user gives to classes by their names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from segkit.data.classes import read_labels_file
from segkit.errors import ConfigError
from segkit.files import refuse_special, user_path
from segkit.text import did_you_mean, join_lines

RGB = list[int]
EXPECTED = "expected [red, green, blue] of 0 to 255, or a text as red or '#ff0000'"


def read_palette(palette: Any) -> dict[str, RGB]:
    """The colour of each class that ``palette`` names.

    Args:
        palette: A mapping of class names to colours; or a file that holds one in YAML or JSON, or
            is a labels.txt with colours, as CVAT's; None names no class.

    Raises:
        ConfigError: It cannot be read, or holds something else.
        DataError: The labels.txt holds something else.
    """
    if palette is None:
        return {}
    name = f"palette={palette}" if isinstance(palette, str) else "palette"
    given = _file(palette) if isinstance(palette, str) else palette
    plain = OmegaConf.to_container(given) if isinstance(given, DictConfig) else given
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{name}: expected class names with colours, as 'cat: [255, 0, 0]'")
    found: dict[str, RGB] = {}
    problems = []
    for key, value in plain.items():
        color = _rgb(value)
        if color is None:
            why = "nothing (YAML takes # for a comment: write quotes)"
            why = why if value is None else repr(value)
            problems.append(f"{name}: {key!s} is {why}; {EXPECTED}")
        else:
            found[str(key)] = color
    if problems:
        raise ConfigError(join_lines(problems))
    return found


def painted(colors: NDArray[np.uint8], classes: Sequence[str], palette: Any) -> NDArray[np.uint8]:
    """The colours of the classes, uint8 (n, 3), with those that the user gives to some of them.

    Args:
        colors: RGB of each mask value, uint8 (n, 3); not changed.
        classes: Names in index order.
        palette: As for :func:`read_palette`.

    Raises:
        ConfigError: It names something that is no class, or two classes would look the same.
    """
    given = read_palette(palette)
    if wrong := [name for name in given if name not in classes]:
        raise ConfigError(
            join_lines(
                f"palette: {name} is no class{did_you_mean(name, classes)}" for name in wrong
            )
        )
    changed = colors.copy()
    for name, color in given.items():
        changed[list(classes).index(name)] = color
    owner: dict[tuple[int, ...], str] = {}
    for name, color in zip(classes, changed.tolist(), strict=False):
        other = owner.setdefault(tuple(color), name)
        if other != name and given.keys() & {name, other}:
            raise ConfigError(
                f"palette: {other} and {name} would both be {color}; give one of them another "
                "colour"
            )
    return changed


def palette_problems(palette: Any) -> list[str]:
    """What is wrong with the key, as far as that is known without the classes."""
    try:
        read_palette(palette)
    except ValueError as error:
        return [str(error)]
    return []


def _file(path: str) -> Any:
    file = user_path(path)
    refuse_special(file, ConfigError)
    if file.suffix == ".txt":
        labels = read_labels_file(file)
        if labels.colors is None:
            raise ConfigError(f"palette={path}: has no colours; write them as 'cat:255,0,0'")
        return dict(zip(labels.names, labels.colors, strict=True))
    try:
        return OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        text = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise ConfigError(f"palette={path}: cannot be read as YAML ({text})") from error


def _rgb(value: Any) -> RGB | None:
    from PIL import ImageColor

    if isinstance(value, str):
        try:
            value = list(ImageColor.getrgb(value))
        except ValueError:
            return None
    is_color = isinstance(value, list) and len(value) == 3
    return value if is_color and all(type(v) is int and 0 <= v <= 255 for v in value) else None
