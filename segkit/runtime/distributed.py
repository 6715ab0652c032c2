"""Several processes that train one model: ``torchrun --nproc-per-node=N train.py ...``.

Gradients and sums travel by NCCL where they are on CUDA, everything else by gloo.
"""

import inspect
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from segkit.errors import ConfigError, MainProcessError, SegkitError
from segkit.metrics import ConfusionMatrix

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)
"""How long the others wait for the first process, which checks the data and writes the files."""


@dataclass(frozen=True)
class DistributedContext:
    """The processes of this run, and which of them this is; alone by default.

    Every process has to call the same methods in the same order. Alone they cost nothing.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        local_rank: Number of this process on its machine; names its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in process 0, the only one to call it. It must be picklable.

        Raises:
            MainProcessError: In the other processes, if ``make`` raised, anything at all, in
                process 0. There its own error goes on.
        """
        if self.size == 1:
            return make()
        answer: list[tuple[T | None, str | None]] = [(None, None)]
        if not self.is_main:
            dist.broadcast_object_list(answer)
            value, failure = answer[0]
            if failure is not None:
                raise MainProcessError(failure)
            return value  # type: ignore[return-value]
        try:
            made = make()
        except BaseException as error:
            dist.broadcast_object_list([(None, f"{type(error).__name__}: {error}")])
            raise
        dist.broadcast_object_list([(made, None)])
        return made

    def gather(self, value: T) -> list[T]:
        """Every process's value, which must be picklable, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_interleaved(self, values: list[T]) -> list[T]:
        """The values of all images, given those of the images of this process's ``eval_loader``.

        They come in the order of the data set, so that a mean of them is that of one process.
        """
        shares = self.gather(values)
        return [shares[i % self.size][i // self.size] for i in range(sum(map(len, shares)))]

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any of the processes."""
        if self.size == 1:
            return flags
        counts = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(counts)
        return tuple(bool(count) for count in counts.tolist())

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor, of one shape, dtype and kind of device."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def sum_matrix(self, matrix: ConfusionMatrix) -> ConfusionMatrix:
        """The counts of all processes, those that had no image included."""
        total = ConfusionMatrix(matrix.num_classes, matrix.ignore_index)
        # On the CPU: the matrix of a process without images was never moved to the device.
        total.matrix = self.all_reduce_sum(matrix.matrix.cpu())
        total.outside = self.all_reduce_sum(matrix.outside.cpu())
        return total

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers (BatchNorm's statistics) of process 0."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


_calls = count()  # of `connect` in this process; all processes make the same


@contextmanager
def connect() -> Iterator[DistributedContext]:
    """The world that torchrun describes in the environment, connected; alone without torchrun.

    Raises:
        ConfigError: There are more processes on this machine than CUDA devices.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        yield DistributedContext()
        return
    rank, size, local_rank = (int(os.environ[n]) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    world = DistributedContext(rank, size, local_rank)
    if torch.cuda.is_available():
        check_device_for_each(int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1)))
        torch.cuda.set_device(local_rank)
    if size == 1:
        yield world
        return
    server, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    # A store of its own for each attempt, and each call in a program: one that torchrun starts
    # again after a failure would find the addresses of the dead processes in it, and a second call
    # those of the first.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt_{attempt}_{next(_calls)}", server)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=TIMEOUT,
    )
    # A thread of gloo's lets go of the last collective a little later, and aborts a process that
    # exits in that moment: so the processes take leave of each other, or wait.
    try:
        yield world
        dist.barrier()
    except BaseException as error:
        time.sleep(0.3)  # no barrier: the others may be gone
        reported = isinstance(error, MainProcessError) or not isinstance(error, SegkitError)
        if not reported and reported_by_main(store, rank, str(error)):
            raise MainProcessError(str(error)) from error
        raise
    finally:
        dist.destroy_process_group()


def reported_by_main(store: PrefixStore, rank: int, message: str) -> bool:
    """Whether process 0 ends with the same message: what all find wrong is reported once.

    The others wait some seconds for it, still connected, so that it is not lost before.
    """
    if rank == 0:
        store.set("error", message)
        return False
    with suppress(dist.DistError):  # nothing came: it is the error of this process alone
        store.wait(["error"], timedelta(seconds=3))
        return bool(store.get("error").decode() == message)
    return False


def check_device_for_each(num_processes: int) -> None:
    """Raise a ConfigError if the processes of this machine outnumber its CUDA devices."""
    num_devices = torch.cuda.device_count()
    if num_processes > num_devices:
        raise ConfigError(
            f"torchrun started {num_processes} processes here, but there are {num_devices} CUDA "
            f"devices and each process needs its own; use --nproc-per-node={num_devices}, or set "
            "the environment variable CUDA_VISIBLE_DEVICES to nothing to train on the CPU"
        )


def check_same_start(state: Mapping[str, Any] | None, world: DistributedContext) -> None:
    """Make sure that all processes found the same checkpoint; each looked for it by itself.

    Args:
        state: What this process goes on from; None from the beginning.
        world: The processes.

    Raises:
        ConfigError: In all of them, if one goes on from somewhere else than the others.
    """
    mine = "the beginning, without a checkpoint"
    if state is not None:
        mine = ", ".join(f"{name} {state[name]}" for name in ("epoch", "images", "step"))
    starts = world.gather(mine)
    for rank, start in enumerate(starts):
        if start != starts[0]:
            raise ConfigError(
                f"resume: process 0 goes on from {starts[0]}, but process {rank} from {start}. "
                "Each reads it by itself: resume and out_dir must name a folder on a disk that all "
                "machines share (one that shows new files late may agree if you start again)"
            )


def peer_failure(error: BaseException) -> str | None:
    """One line for an error that only says that another process is gone or hangs, else None."""
    signs = r"gloo/transport|connectFullMesh|pair closure|connection (closed|reset) by peer"
    of_gloo = isinstance(error, RuntimeError) and re.search(signs, str(error), re.IGNORECASE)
    if not of_gloo and not isinstance(error, dist.DistError):  # the latter is raised for NCCL
        return None
    reason = str(error).partition("\n")[0]
    return (
        f"process {os.environ.get('RANK', '0')} lost another process of this run, which says why "
        f"in a message of its own, above or in its log ({reason})"
    )


def wrap(model: nn.Module, world: DistributedContext, device: torch.device) -> nn.Module:
    """The module to train: ``model`` itself, or with several processes one around it.

    That one averages the gradients of the parameters that are trainable now. After parameters were
    frozen or unfrozen make a new one and drop this. Buffers stay those of each process, see
    :meth:`DistributedContext.broadcast_buffers`.
    """
    if world.size == 1:
        return model
    device_ids = [device] if device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel).parameters
    no_sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    settings: dict[str, Any] = {no_sync: False}
    return DistributedDataParallel(
        model, device_ids=device_ids, gradient_as_bucket_view=True, **settings
    )


def sync_batch_norm(model: nn.Module, world: DistributedContext, device: torch.device) -> nn.Module:
    """The model with BatchNorm over the images of all processes, changed in place.

    Parameters and keys stay. Alone there is nothing to change. The layers it makes also take one
    value per channel in each process, as :class:`segkit.models.layers.BatchNorm` does: there are at
    least two in all then.

    Raises:
        ConfigError: On another device than CUDA, where PyTorch has no such layer.
    """
    if world.size == 1:
        return model
    if device.type != "cuda":
        raise ConfigError(
            f"trainer.sync_bn=true needs CUDA, and this run is on {device}: PyTorch synchronises "
            "BatchNorm only there; use trainer.sync_bn=false, where batches are small with "
            "model.norm=gn model.freeze_bn=true"
        )
    # A backbone whose layers do more than normalise brings its own function.
    owner: Any = getattr(model, "backbone", None)
    if not hasattr(owner, "convert_sync_batchnorm"):
        owner = nn.SyncBatchNorm
    return owner.convert_sync_batchnorm(model)  # type: ignore[no-any-return]
