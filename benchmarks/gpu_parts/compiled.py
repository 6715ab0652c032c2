"""trainer.compile: how long it takes, what it saves, and whether it computes the same."""

from collections.abc import Iterator
from functools import partial

import torch
from torch._dynamo.utils import counters

from gpu_parts import Cases, Options, Row
from gpu_parts.measure import measure
from gpu_parts.training import TRIO, Training, train


def cases(options: Options) -> Cases:
    if options.quick:  # Inductor compiles for half a minute
        torch.compile = partial(torch.compile, backend="eager")
    every = [
        (backbone, precision)
        for backbone in options.backbones[:2]
        for precision in options.precisions[:1]
    ]
    return {" ".join(case): partial(row, options, *case) for case in every}


def row(options: Options, backbone: str, precision: str) -> Iterator[Row]:
    fixed = (f"model/backbone={backbone}", f"trainer.precision={precision}", TRIO)
    made: dict[str, Training] = {}
    losses: dict[str, float] = {}

    def make(compiled: str) -> Training:
        made[compiled] = train(options, *fixed, f"trainer.compile={compiled}", "model.dropout=0")
        made[compiled](1)
        losses[compiled] = made[compiled].values["train/loss"]
        return made[compiled]

    counters.clear()
    found = measure(options, {name: partial(make, name) for name in ("false", "true")})
    yield {
        "eager ms": found["false"].ms,
        "compiled ms": found["true"].ms,
        "eager / compiled": found["false"].ms / found["true"].ms,
        "eager MiB": found["false"].mib,
        "compiled MiB": found["true"].mib,
        "first steps s": found["true"].first,
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": sum(counters["graph_break"].values()),
        "loss differs by": abs(losses["true"] / losses["false"] - 1),
    }
