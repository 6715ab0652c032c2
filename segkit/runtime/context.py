"""One process of a command: its peers, its device, and what must be closed when it ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeVar

import torch

from segkit.runtime.device import Precision, pick_device, set_up
from segkit.runtime.distributed import DistributedContext, connect
from segkit.runtime.log import log_to_console
from segkit.runtime.signals import Stopped, StopSignals, exit_code

T = TypeVar("T")


class Runtime:
    """What everything in a command runs in.

    Args:
        world: The processes of the command, and which of them this is.
        signals: What may ask it to stop.
        stack: Closed at its end.

    Attributes:
        precision: Number format and device, once :meth:`compute_on` has chosen them.
        started: When the process began, by ``time.perf_counter``.
    """

    precision: Precision

    def __init__(self, world: DistributedContext, signals: StopSignals, stack: ExitStack) -> None:
        self.world, self.signals, self.stack = world, signals, stack
        self.started = time.perf_counter()

    @property
    def device(self) -> torch.device:
        return self.precision.device

    def compute_on(self, device: str, precision: str = "fp32") -> None:
        """Choose the device, auto or by name, and the number format.

        Raises:
            ConfigError: There is no such device or format here.
        """
        found = pick_device(device, self.world.local_rank, self.world.size)
        self.precision = Precision.pick(precision, found)
        set_up(found)

    def open(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that lasts until the command ends."""
        return self.stack.enter_context(context)

    def only_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the first process, the only one to call it, in all of them."""
        return self.world.broadcast_from_main(make)

    def stop_requested(self) -> bool:
        """Whether a signal has asked any of the processes to stop; all ask together."""
        return any(self.world.any_rank(self.signals.received is not None))


@contextmanager
def open_runtime(*, patient: bool) -> Iterator[Runtime]:
    """The runtime of a command; one that a signal has stopped ends with the signal's status.

    Args:
        patient: Whether a signal waits until the step in progress is finished, from
            :meth:`StopSignals.begin <segkit.runtime.signals.StopSignals.begin>` on. Else, and
            before, it ends the command at once.
    """
    signals = StopSignals(begun=False)
    with signals if patient else nullcontext(), connect() as world, ExitStack() as stack:
        log_to_console(world.rank)
        try:
            yield Runtime(world, signals, stack)
            return
        except Stopped as stopped:
            number = stopped.number
    raise SystemExit(exit_code(number))
