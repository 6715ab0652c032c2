"""State dicts of other people's DeepLab, renamed so that they fit :class:`DeepLabV3Plus`."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit.models.layouts import LAYOUTS, Tensors
from segkit.models.weights import LoadReport, strip_prefixes

# Entries that hold the weights in a checkpoint of VainF, of mmsegmentation, of torchvision.
CONTAINERS = ("model_state", "state_dict", "model")


@dataclass(frozen=True)
class Translation:
    """A foreign state dict under the names of segkit.

    Attributes:
        source: Whose layout it was.
        tensors: What has a name here.
        unplaced: Key in the file to why it has none.
        total: Number of tensors in the file.
        notes: What was changed besides names, and how the weights are to be used.
    """

    source: str
    tensors: Tensors
    unplaced: dict[str, str]
    total: int
    notes: list[str]

    def report(self, loaded: LoadReport) -> "ForeignReport":
        """``loaded``, the report on :attr:`tensors`, with what is known beyond it."""
        return ForeignReport(loaded.taken, loaded.skipped, loaded.total, self)


@dataclass(frozen=True)
class ForeignReport(LoadReport):
    """A :class:`LoadReport` that tells about the translation too."""

    translation: Translation

    def __str__(self) -> str:
        found = self.translation
        lines = [f"read as weights of {found.source}: {super().__str__()}"]
        if found.unplaced:
            groups = [
                f"{', '.join(dict.fromkeys(map(_part, keys)))} ({reason})"
                for reason, keys in groupby(
                    sorted(found.unplaced, key=found.unplaced.__getitem__), found.unplaced.get
                )
            ]
            lines.append(
                f"{len(found.unplaced)} of the file's {found.total} tensors have no place here: "
                f"{'; '.join(groups)}"
            )
        return "\n  ".join([*lines, *found.notes])


def _part(key: str) -> str:
    """The module that a key belongs to, down to its first number."""
    return re.sub(r"\.\d.*|\.[^.]+$", ".*", key, count=1)


def plain_weights(content: dict[str, Any]) -> dict[str, Any]:
    """The tensors in a file that is no checkpoint of segkit, without their leading ``module.``."""
    for entry in CONTAINERS:
        if isinstance(content.get(entry), dict):
            content = content[entry]
            break
    return strip_prefixes(content)


def translate(weights: dict[str, Any]) -> Translation | None:
    """Rename the tensors of a known foreign layout; None for any other, segkit's own too.

    Args:
        weights: As :func:`plain_weights` returns them.
    """
    layout = next((layout for layout in LAYOUTS if layout.mark in weights), None)
    if layout is None:
        return None
    tensors: Tensors = {}
    unplaced: dict[str, str] = {}
    for key, tensor in weights.items():
        reason = next((why for start, why in layout.unplaced if re.match(start, key)), None)
        name = next(
            (re.sub(start, new, key) for start, new in layout.names if re.match(start, key)), None
        )
        if name is None or reason is not None or not isinstance(tensor, Tensor):
            unplaced[key] = reason or "unknown"
        else:
            tensors[name] = tensor
    notes = [*layout.adapt(tensors), layout.advice]
    return Translation(layout.source, tensors, unplaced, len(weights), notes)


def known_sources() -> str:
    """Whose layouts :func:`translate` knows, for people."""
    return ", ".join(dict.fromkeys(layout.source for layout in LAYOUTS))


def numpy_scalars() -> AbstractContextManager[None]:
    """Let ``torch.load`` accept numpy's numbers too, with which VainF and others save scores."""
    scalar: Any = np.float64(0).__reduce__()[0]  # lives in a private module, whose name has changed
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32)]
    allowed: list[Any] = [*((scalar, name) for name in names), np.dtype, *kinds]
    return torch.serialization.safe_globals(allowed)
