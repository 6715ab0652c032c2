"""How often each number occurs, without a wait for the device; and what is looked at together."""

from collections.abc import Iterator

import torch
from torch import Tensor


def occurrences(numbers: Tensor, length: int) -> Tensor:
    """How often each of 0 to ``length - 1`` occurs: int64 (length,), on the device of ``numbers``.

    Args:
        numbers: Integer, any shape, all in [0, length).
        length: How many different ones there may be.
    """
    flat = numbers.flatten()
    if flat.device.type == "cpu":
        return torch.bincount(flat, minlength=length)
    # bincount waits for the device to learn the largest number; integers add up in any order.
    ones = torch.ones((), dtype=torch.int64, device=flat.device).expand(flat.shape)
    counts = torch.zeros(length, dtype=torch.int64, device=flat.device)
    return counts.scatter_add_(0, flat.long(), ones)


def row_strips(rows: slice, per_row: int, numbers: int) -> Iterator[slice]:
    """Rows in strips of at most ``numbers`` numbers, or of one row.

    Args:
        rows: From a first row up to another, with both ends.
        per_row: How many numbers a row has.
        numbers: So many are in memory at once.
    """
    height = max(1, numbers // max(1, per_row))
    for top in range(rows.start, rows.stop, height):
        yield slice(top, min(top + height, rows.stop))
