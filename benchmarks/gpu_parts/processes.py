"""Two processes on one device: what a group of one cannot show of DDP, SyncBN and the loss.

segkit's ``connect`` gives each process a device of its own, so the group is made here, by gloo,
which takes tensors on CUDA too. Each of the two has half of a batch, with different numbers of
ignored pixels; the first compares with what it finds alone with both halves.
"""

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from torch import Tensor

from gpu_parts import Cases, Options, Row
from gpu_parts.process import FORK
from gpu_parts.training import TRIO, Training, compose, open_runtime, random_images
from segkit.data.loader import Batch
from segkit.runtime.distributed import DistributedContext

STEPS, TIMEOUT = 3, timedelta(seconds=20)
KINDS = {
    "DDP and the loss over all pixels": ("model.freeze_bn=true", "model.norm=gn"),
    "the same with SyncBN": ("trainer.sync_bn=true",),
}


def cases(options: Options) -> Cases:
    return {name: partial(row, options, name) for name in KINDS}


def row(options: Options, kind: str) -> Iterator[Row]:
    if "trainer.sync_bn=true" in KINDS[kind]:
        options.need_cuda()
    with tempfile.TemporaryDirectory() as folder:
        line, theirs = FORK.Pipe(duplex=False)
        both = [
            FORK.Process(target=take_part, args=(options, kind, rank, f"{folder}/store", theirs))
            for rank in (0, 1)
        ]
        for process in both:
            process.start()
        theirs.close()
        for process in both:
            process.join()
    if statuses := [process.exitcode for process in both if process.exitcode]:
        raise RuntimeError(f"a process ended with status {statuses[0]}; the log says more")
    yield line.recv()


def take_part(options: Options, kind: str, rank: int, store: str, line: Connection) -> None:
    """One of the two processes; the first sends the row."""
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2, timeout=TIMEOUT
    )
    loss, weights = trained(options, kind, DistributedContext(rank, 2))
    dist.barrier()
    dist.destroy_process_group()
    if rank > 0:
        return
    expected, right = trained(options, kind, DistributedContext())
    start = flat(prepared(options, kind, DistributedContext()))
    line.send(
        {
            "loss": loss,
            "loss differs by": abs(loss / expected - 1),
            # What the steps changed, not the weights, which hardly differ from their start.
            "change of weights differs by": float(
                (weights - right).norm() / (right - start).norm()
            ),
        }
    )


def trained(options: Options, kind: str, world: DistributedContext) -> tuple[float, Tensor]:
    """Loss of the first step, and all weights after the last."""
    training = prepared(options, kind, world)
    batch = halves(options)
    mine = [batch[world.rank]] if world.size == 2 else [joined(*batch)]
    training.on(mine)
    loss = training.values["train/loss"]
    training.on(mine * (STEPS - 1))
    return loss, flat(training)


def prepared(options: Options, kind: str, world: DistributedContext) -> Training:
    backbone = f"model/backbone={options.backbones[0]}"
    batch_size = options.batch_size // (2 if world.size == 2 else 1)
    fixed = (backbone, TRIO, "trainer.precision=fp32", "model.dropout=0")
    size = f"loader.batch_size={batch_size}"
    cfg = compose(options, *fixed, *KINDS[kind], size)
    runtime = open_runtime(cfg, world)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return Training(options, cfg, runtime)


def halves(options: Options) -> list[Batch]:
    image, target = random_images(options.batch_size, (options.size, options.size))
    half = len(image) // 2
    target[0, options.size // 2 :] = 255  # the first half knows fewer pixels
    device = torch.device(options.device)
    ids = tuple(map(str, range(half)))
    parts = [slice(0, half), slice(half, 2 * half)]
    return [Batch(image[part], target[part], ids).to(device) for part in parts]


def joined(one: Batch, other: Batch) -> Batch:
    image, target = (
        torch.cat([getattr(one, name), getattr(other, name)]) for name in ("image", "target")
    )
    return Batch(image, target, one.ids + other.ids)


def flat(training: Training) -> Tensor:
    """All parameters and running statistics, float64 on the CPU."""
    values = training.model.state_dict().values()
    return torch.cat([v.detach().double().cpu().flatten() for v in values if v.is_floating_point()])
