"""The batches of a run: how they are loaded in this process, of both splits."""

from segkit.config.schema import TrainConfig
from segkit.data.loader import Collate, EvalBatches, TrainBatches
from segkit.data.workers import resolve_num_workers, shm_warning
from segkit.runtime.context import Runtime
from segkit.runtime.log import log
from segkit.training.data import Data


def open_batches(
    data: Data, settings: TrainConfig, batch_size: int, runtime: Runtime
) -> tuple[TrainBatches, EvalBatches]:
    """Training's and validation's, which last until the command ends.

    Args:
        data: Both splits.
        settings: The configuration.
        batch_size: Images per batch and process.
        runtime: The processes and the device.
    """
    channels, bits = len(settings.data.mean), settings.data.bits
    fill = tuple(round((2**bits - 1) * value) for value in settings.data.mean)
    num_workers = resolve_num_workers(settings.loader.num_workers, runtime.device)
    height, width = data.largest_size
    if full := shm_warning((channels * bits // 8 + 1) * height * width * batch_size, num_workers):
        log.warning("warning: %s", full)
    collate = Collate(fill, settings.data.ignore_index)
    device, rank, world_size = runtime.device, runtime.world.rank, runtime.world.size
    train = TrainBatches(
        data.train,
        data.augment,
        collate=collate,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=settings.seed,
        device=device,
        rank=rank,
        world_size=world_size,
        paste=data.paste,
        weights=data.weights,
    )
    val = EvalBatches(
        data.val,
        collate=collate,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        rank=rank,
        world_size=world_size,
    )
    return runtime.open(train), runtime.open(val)
