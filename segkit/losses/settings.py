"""Checks of the numbers that a loss is set up with: a bad one fails before any data is read."""

import math
from collections.abc import Iterable, Sequence
from numbers import Real

import torch
from torch import Tensor


def checked_number(name: str, value: float, low: float = 0.0, high: float = math.inf) -> float:
    """The value as a float, refused unless it is a finite number in ``[low, high]``.

    Raises:
        ValueError: With the name, the range and what came.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        wanted = f"at least {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be a finite number {wanted}, got {value!r}")
    return float(value)


def checked_index(name: str, value: int) -> int:
    """The value itself, refused unless it is an int (``True`` is none)."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be an int, got {value!r}")
    return value


def class_values(name: str, values: Sequence[float] | Tensor | None) -> Tensor | None:
    """One number per class as a float (C,) tensor, to be registered as a buffer; None stays None.

    How many classes there are is only known in ``forward``, where the length is checked.

    Raises:
        ValueError: For anything but a list of finite numbers that are at least 0.
    """
    if values is None:
        return None
    if isinstance(values, str):
        raise ValueError(
            f"{name}={values!r}: a loss takes one number per class; names are resolved from the "
            "pixel counts of the training split by train.py, in Python by segkit.losses.WEIGHTINGS"
        )
    numbers = values.tolist() if isinstance(values, Tensor) else values
    if not isinstance(numbers, Iterable):
        raise ValueError(f"{name} must be a list with one number per class, got {values!r}")
    checked = [checked_number(f"{name}[{i}]", value) for i, value in enumerate(numbers)]
    return torch.tensor(checked)
