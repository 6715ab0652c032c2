"""Random edits of what a checkpoint holds: at any depth something is deleted, retyped or nested."""

import copy
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Place = tuple[Any, Any, str]  # container, key or index, path for people

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 7, 2**31, 2**63, 10**400, 0.5, math.nan, math.inf, -math.inf, 1e308),
    *("", "x", "../../x", "/x", "a\nb", "\ud800", "\x00", "${oc.env:HOME}", "${data.root}", "???"),
    *("${", "x" * 1000, [], {}, [None], [[]], {"_target_": "os.system"}, {"": 0}, {1: 2}, (1, 2)),
    *(torch.zeros(2), torch.tensor(math.nan), torch.zeros(2, 2, dtype=torch.int64)),
)


def places(content: Any, path: str = "") -> Iterator[Place]:
    """Every entry of nested dicts and lists."""
    if isinstance(content, dict):
        pairs = list(content.items())
    elif isinstance(content, list):
        pairs = list(enumerate(content))
    else:
        return
    for key, value in pairs:
        below = f"{path}.{key}"
        yield content, key, below
        yield from places(value, below)


def edited(content: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy with one edit, and what that was. Every depth has the same chance."""
    content = copy.deepcopy(content)
    by_depth: dict[int, list[Place]] = {}
    for place in places(content):
        by_depth.setdefault(place[2].count("."), []).append(place)
    holder, key, path = rng.choice(by_depth[rng.choice(sorted(by_depth))])
    value = holder[key]
    kind = rng.choice(
        ["delete", "odd", "odd", "odd", "nest", "rename", "shorten", "double", "text"]
    )
    if kind == "delete":
        del holder[key]
    elif kind == "odd":
        holder[key] = copy.deepcopy(rng.choice(ODD))
        kind = f"odd {holder[key]!r:.40}"
    elif kind == "nest":
        holder[key] = rng.choice([[value], {"x": value}])
    elif kind == "rename" and isinstance(holder, dict):
        holder[rng.choice([f"{key}x", 5, "", "_target_"])] = holder.pop(key)
    elif kind == "shorten" and isinstance(value, str | list | Tensor) and len_of(value):
        holder[key] = value[:-1]
    elif kind == "double" and isinstance(value, str | list):
        holder[key] = value + value
    elif kind == "text" and not isinstance(value, Tensor):
        holder[key] = str(value)
    else:
        holder[key] = rng.choice([0, "x", []])
        kind = f"odd {holder[key]!r}"
    return content, f"{kind} at {path}"


def len_of(value: Any) -> int:
    return len(value) if not isinstance(value, Tensor) or value.ndim else 0


# What a library says, not what a person can use
JARGON = re.compile(
    r"object is not|values to unpack|subscript|NoneType|dtype|Traceback|broadcast|"
    r"could not convert|codec|^'\w+'$|too large to convert|out of bounds|set_int_max"
)


class Payload:
    """Unpickling it would create the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def damage_text(text: str, rng: np.random.Generator) -> str:
    """Characters lost, changed, or there twice."""
    begin = int(rng.integers(len(text)))
    end = begin + int(rng.integers(1, 12))
    part = text[begin:end]
    new = pick(
        rng, ["", 2 * part, part[::-1], "0", "-", '"', "[", "}", "<", "&a;", "\x00", "9" * 30]
    )
    return text[:begin] + new + text[end:]
