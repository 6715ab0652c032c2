"""trainer.deterministic: the same bits, and their price."""

import hashlib
from collections.abc import Iterator
from functools import partial

from gpu_parts import Cases, Options, Row
from gpu_parts.measure import measure
from gpu_parts.training import TRIO, Training, train

STEPS = 5


def cases(options: Options) -> Cases:
    return {
        f"{precision} {backbone}": partial(row, options, precision, backbone)
        for precision in options.precisions[:2]
        for backbone in options.backbones[:2]
    }


def row(options: Options, precision: str, backbone: str) -> Iterator[Row]:
    choice = (f"model/backbone={backbone}", f"trainer.precision={precision}", TRIO)

    def make(wanted: str) -> Training:
        return train(options, *choice, f"trainer.deterministic={wanted}")

    # First, so that the environment is set before cuBLAS reads it.
    bound, free = (len({digest(make(wanted)) for _ in range(2)}) for wanted in ("true", "false"))
    found = measure(options, {wanted: partial(make, wanted) for wanted in ("true", "false")})
    yield {
        "same bits": "yes" if bound == 1 else "NO",
        "same bits without it": "yes" if free == 1 else "no",
        "ms": found["true"].ms,
        "ms without it": found["false"].ms,
        "price": found["true"].ms / found["false"].ms,
        "MiB": found["true"].mib,
        "MiB without it": found["false"].mib,
    }


def digest(training: Training) -> str:
    """Of the weights after some steps."""
    training(1 if training.options.quick else STEPS)
    weights = hashlib.sha256()
    for value in training.model.state_dict().values():
        weights.update(value.cpu().numpy().tobytes())
    return weights.hexdigest()
