"""Whether an ONNX file keeps all of its numbers inside: others may name any file of this machine.

Read off the bytes, since the package onnx need not be there where a model is only used.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

# Of onnx.proto3: where tensors can be. Kind of a message -> number of a field -> kind of that.
PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor
VARINT, LENGTH = 0, 2  # ways to write a field
SIZES = {1: 8, 5: 4}  # of the others


def has_external_data(path: Path) -> bool:
    """Whether a tensor in the file lies in another one. False where this is no ONNX file."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _is_elsewhere(content, "model", 0, len(content))
        except (ValueError, IndexError, RecursionError):  # empty, cut off, no such file at all
            return False


def _is_elsewhere(content: mmap.mmap, kind: str, start: int, end: int) -> bool:
    for number, value, stop in _fields(content, start, end):
        if kind == "tensor" and (
            number == EXTERNAL_DATA or (number == DATA_LOCATION and stop is None and value)
        ):
            return True
        part = PARTS[kind].get(number)
        if part is not None and stop is not None and _is_elsewhere(content, part, value, stop):
            return True
    return False


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """(number, value, None) of numbers; (number, start, end) of what has a length."""
    while at < end:
        tag, at = _varint(content, at)
        number, way = tag >> 3, tag & 7
        if way == VARINT:
            value, at = _varint(content, at)
            yield number, value, None
        elif way == LENGTH:
            length, at = _varint(content, at)
            if at + length > end:
                raise ValueError("cut off")
            yield number, at, at + length
            at += length
        elif way in SIZES:
            at += SIZES[way]
        else:
            raise ValueError("no ONNX file")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("no ONNX file")
