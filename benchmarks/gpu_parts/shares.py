"""Where the device's time goes in a step of segkit, and how long it idles."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from itertools import product
from typing import Any

from torch import Tensor, nn
from torch.autograd.profiler import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from gpu_parts import Cases, Options, Row
from gpu_parts.measure import measure, milliseconds, synchronize
from gpu_parts.training import TRIO, Training, train

PHASES = ("network", "loss", "optimizer", "EMA", "other")
MARK = "phase: "
WAIT, LATE_READ = "cudaStreamSynchronize", "cudaEventSynchronize"  # of the step before
STEPS, TOP = 5, 10


def cases(options: Options) -> Cases:
    every = product(options.precisions[:2], options.backbones[:2])
    return {" ".join(case): partial(shares, options, *case) for case in every}


def shares(options: Options, precision: str, backbone: str) -> Iterator[Row]:
    choice = (f"model/backbone={backbone}", f"trainer.precision={precision}", TRIO)
    made: list[Training] = []

    def make() -> Training:
        made.append(train(options, *choice, "trainer.ema_decay=0.999"))
        return made[0]

    wall = measure(options, {"step": make})["step"].ms
    steps, cuda = 1 if options.quick else STEPS, options.device == "cuda"
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with marked(made[0]), profile(activities=kinds) as profiled:
        milliseconds(options, made[0], steps)
        synchronize(options)
    events = list(profiled.events())
    spent = of_phases(events, cuda)
    total = max(sum(spent.values()), 1e-9)  # a profiler that sees no kernel sees no time
    row: Row = {f"{phase} %": 100 * spent[phase] / total for phase in PHASES}
    if not cuda:
        yield row | {"wall ms": wall, "note": "CPU time of operations; the rest needs CUDA"}
        return
    # Ranges that have a name, as an optimizer's step, are shown on the device too.
    kernels = [e for e in events if is_on_device(e) and not e.is_user_annotation]
    busy = union([(e.time_range.start, e.time_range.end) for e in kernels]) / 1e3 / steps
    waits = Counter(e.name for e in events)
    yield row | {
        "wall ms": wall,
        "busy ms": busy,
        "idle %": 100 * (1 - busy / wall),
        "kernels": len(kernels) / steps,
        "waits": waits[WAIT] / steps,
        "late reads": waits[LATE_READ] / steps,
    }
    longest: Counter[str] = Counter()
    for kernel in kernels:
        longest[kernel.name[:100]] += kernel.time_range.elapsed_us() / 1e3 / steps
    for name, ms in longest.most_common(TOP):
        yield {"busy ms": ms, "note": name}


def is_on_device(event: Any) -> bool:
    return bool(event.device_type == DeviceType.CUDA)


def of_phases(events: list[Any], cuda: bool) -> Counter[str]:
    """Microseconds of each phase: of what was launched between its mark and the next one."""
    phase, spent = "other", Counter[str]()
    for event in sorted(events, key=lambda e: e.time_range.start):
        if is_on_device(event):
            continue
        if event.name.startswith(MARK):
            phase = event.name.removeprefix(MARK)
        elif cuda:
            spent[phase] += sum(k.duration for k in event.kernels if k.name != event.name)
        else:
            spent[phase] += event.self_cpu_time_total
    return spent


def union(spans: list[tuple[float, float]]) -> float:
    """Length of what the spans cover together."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def mark(phase: str) -> None:
    with record_function(MARK + phase):
        pass


@contextmanager
def marked(training: Training) -> Iterator[None]:
    """Inside, the phases of the training's steps are marked, forward and backward."""

    def after_forward(module: nn.Module, args: Any, logits: Tensor) -> None:
        # The gradient of the logits is there: the loss's part of the backward pass is over.
        logits.register_hook(lambda gradient: mark("network"))
        mark("loss")

    def then_other(function: Callable[..., Any], phase: str | None = None) -> Callable[..., Any]:
        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if phase is not None:
                mark(phase)
            result = function(*args, **kwargs)
            mark("other")
            return result

        return called

    optimizer, average = training.state.optimizer, training.state.average
    hooks = [
        training.model.register_forward_pre_hook(lambda module, args: mark("network")),
        training.model.register_forward_hook(after_forward),
        optimizer.register_step_pre_hook(lambda *_: mark("optimizer")),
        optimizer.register_step_post_hook(lambda *_: mark("other")),
    ]
    backward = Tensor.backward
    Tensor.backward = then_other(backward)
    if average is not None:
        average.update = then_other(average.update, "EMA")
    try:
        yield
    finally:
        Tensor.backward = backward
        if average is not None:
            del average.update
        for hook in hooks:
            hook.remove()
