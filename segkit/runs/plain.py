"""Checks of entries in a file that somebody may have edited: what is there, what was expected."""

import math
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from segkit.errors import CheckpointError

Test = Callable[[Any], bool]

DEEPEST = 32  # levels of a configuration
LARGEST = 100_000  # values in it, counted as often as they are named


def expect(path: Path, entry: str, value: Any, test: Test, expected: str) -> Any:
    """The value; a CheckpointError that names file and entry unless ``test`` takes it."""
    if not test(value):
        raise CheckpointError(f"{path}: {entry} in it is {in_short(value)}; expected {expected}")
    return value


def expect_entries(path: Path, entry: str, value: Any, names: Iterable[str]) -> None:
    """Raise a CheckpointError unless the value is a dict that has all these entries."""
    expect(path, entry, value, is_dict, "named entries")
    if missing := [name for name in names if name not in value]:
        raise CheckpointError(f"{path}: {entry} lacks {', '.join(missing)}; was it edited?")


def in_short(value: Any) -> str:
    """A few characters in one line, whatever it is."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    try:
        text = reprlib.repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, nests of other types
        text = f"a {type(value).__name__}"
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())[:100]


def is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def is_text(value: Any) -> bool:
    """A text that can be shown and written: no half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_count(value: Any) -> bool:
    """A whole number of at least 0 that fits 64 bits; True is none."""
    return type(value) is int and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """Finite; True is none."""
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def expect_tensors(path: Path, entry: str, value: Any) -> None:
    """Raise a CheckpointError unless the value is a dict of tensors by name."""
    expect(path, entry, value, is_dict, "named tensors")
    for name, tensor in value.items():
        expect(path, f"a name in {entry}", name, is_text, "a text")
        if not isinstance(tensor, Tensor):
            expect(path, f"{entry}.{name}", tensor, lambda _: False, "a tensor")


def is_listing(test: Test, length: int | None = None) -> Test:
    """A test for lists of ``length`` of what ``test`` takes."""

    def listing(value: Any) -> bool:
        fits = isinstance(value, list) and length in (None, len(value))
        return fits and all(map(test, value))

    return listing


def check_plain(
    path: Path, entry: str, value: Any, text: Test = is_text, expected: str = "a plain text"
) -> None:
    """Raise a CheckpointError unless it is made of builtins, as a YAML file can hold them.

    Args:
        path: The file.
        entry: Where the value stands in it.
        value: Of any kind.
        text: Which texts may be in it.
        expected: The same in words.
    """
    level, count = [(entry, value)], 0
    for _ in range(DEEPEST):
        below: list[tuple[str, Any]] = []
        for name, node in level:
            if isinstance(node, dict):
                for key, child in node.items():
                    expect(path, f"a key of {name}", key, _is_key, "a text or a number")
                    below.append((f"{name}.{key}", child))
            elif isinstance(node, list | tuple):
                below += [(f"{name}[{i}]", child) for i, child in enumerate(node)]
            elif isinstance(node, str):
                expect(path, name, node, text, expected)
            else:
                expect(path, name, node, _is_value, "a plain value")
        level, count = below, count + len(below)
        if not level:
            return
        if count > LARGEST:
            break
    raise CheckpointError(f"{path}: {entry} in it is nested too deep or too large: refused")


def _is_key(key: Any) -> bool:
    return (is_text(key) and "\n" not in key) or (type(key) is int and abs(key) < 2**63)


def _is_value(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**63
    return value is None or type(value) in (bool, float)
