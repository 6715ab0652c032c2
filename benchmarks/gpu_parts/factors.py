"""A step of segkit with one thing changed: whether each of its choices pays on the device.

What each factor changes is said in :func:`pairs`, and nowhere else.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_parts import Cases, Options, Row
from gpu_parts.measure import measure
from gpu_parts.training import TRIO, Training, train
from segkit.training.ema import ModelEMA

Make = Callable[[], Training]
SGD, ADAMW, EMA = "optimizer=sgd", "optimizer=adamw", "trainer.ema_decay=0.999"
NEED_CUDA = ("cudnn.benchmark", "loss.fused")


def pairs(make: Callable[..., Training]) -> dict[str, tuple[Make, Make]]:
    """Factor -> training with it, and without it; ``make`` takes more overrides."""
    return {
        "SGD fused, else by foreach": (
            partial(make, SGD, "++optimizer.fused=true"),
            partial(make, SGD, "++optimizer.fused=false"),
        ),
        "AdamW fused, else by foreach": (
            partial(make, ADAMW, "++optimizer.fused=true"),
            partial(make, ADAMW, "++optimizer.fused=false"),
        ),
        "cudnn.benchmark": (
            partial(cudnn_benchmark, make, True),
            partial(cudnn_benchmark, make, False),
        ),
        "low-resolution logits contiguous, else channels last": (
            partial(resized_from, make, torch.contiguous_format),
            partial(resized_from, make, torch.channels_last),
        ),
        "loss.fused": (partial(make, "loss.fused=true"), partial(make, "loss.fused=false")),
        "EMA by foreach, else tensor by tensor": (partial(make, EMA), partial(slow_ema, make)),
        "EMA by foreach, else none": (partial(make, EMA), make),
        "channels_last": (make, partial(make, "trainer.channels_last=false")),
    }


def cases(options: Options) -> Cases:
    names = pairs(partial(train, options))
    every = product(options.backbones[:2], names)
    return {
        f"{backbone}: {name}": partial(row, options, backbone, name) for backbone, name in every
    }


def row(options: Options, backbone: str, name: str) -> Iterator[Row]:
    fixed = (f"model/backbone={backbone}", f"trainer.precision={options.precisions[0]}", TRIO)
    with_it, without = pairs(partial(train, options, *fixed))[name]
    if name in NEED_CUDA:
        options.need_cuda()
    found = measure(options, {"with": with_it, "without": without})
    yield {
        "with ms": found["with"].ms,
        "without ms": found["without"].ms,
        "without / with": found["without"].ms / found["with"].ms,
        "with MiB": found["with"].mib,
        "without MiB": found["without"].mib,
    }


def cudnn_benchmark(make: Make, wanted: bool) -> Training:
    training = make()
    training.cudnn_benchmark = wanted
    return training


class Resized(nn.Module):
    """A network whose low-resolution logits lie in another order when they are resized."""

    def __init__(self, network: nn.Module, order: torch.memory_format) -> None:
        super().__init__()
        self.network, self.order = network, order

    def forward(self, image: Tensor) -> Tensor:
        low = self.network(image, resize=False).contiguous(memory_format=self.order)
        return F.interpolate(low, image.shape[2:], mode="bilinear", align_corners=False)


def resized_from(make: Make, order: torch.memory_format) -> Training:
    training = make()
    training.network = Resized(training.network, order)
    return training


def slow_ema(make: Callable[..., Training]) -> Training:
    """The average with a kernel for every tensor."""

    @torch.no_grad()
    def update(self: ModelEMA, model: nn.Module, failed: Tensor | None = None) -> None:
        for mine, theirs in zip(
            self.model.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - self.decay)
            else:
                mine.copy_(theirs)

    training = make(EMA)
    training.state.average.update = MethodType(update, training.state.average)
    return training
