"""What segkit uses of PyTorch's loader that is not public: a new torch may break this file only.

``tests/data/test_torch_private.py`` names what a torch no longer has.
"""

from multiprocessing.process import BaseProcess
from traceback import walk_tb
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import dataloader as torch_dataloader

LOADER_NAMES = ("_iterator",)
"""What a loader has."""
ITERATOR_NAMES = (
    *("_workers", "_shutdown", "_worker_pids_set", "_workers_done_event", "_index_queues"),
    "_shutdown_workers",
)
"""What its iterator has that reads in processes."""


def worker_processes(loader: "DataLoader[Any]") -> list[BaseProcess]:
    """The processes of the loader's present iterator; none before the first pass."""
    return list(getattr(loader._iterator, "_workers", []))


def forget_iterator(loader: "DataLoader[Any]") -> None:
    """Let the next pass make an iterator, and processes, anew."""
    loader._iterator = None


def forget_half_made(error: BaseException) -> None:
    """Keep PyTorch from cleaning up an iterator that is half made: that would fail, aloud.

    Args:
        error: What stopped its constructor.
    """
    for frame, _ in walk_tb(error.__traceback__):
        half_made = frame.f_locals.get("self")
        if isinstance(half_made, torch_dataloader._MultiProcessingDataLoaderIter):
            half_made._shutdown = True


def is_shut_down(iterator: Any) -> bool:
    """Whether PyTorch ended the iterator's processes itself."""
    return bool(iterator._shutdown)


def ask_to_end(iterator: Any) -> list[BaseProcess]:
    """Have each process end after its sample, and PyTorch take that for no failure.

    Args:
        iterator: Of a loader with processes, not shut down.

    Returns:
        The processes.
    """
    if iterator._worker_pids_set:
        torch._C._remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False
    iterator._workers_done_event.set()
    for queue in iterator._index_queues:
        queue.put(None)
    return list(iterator._workers)


def clean_up(iterator: Any) -> None:
    """Give back the queues and threads of an iterator whose processes have ended."""
    iterator._shutdown_workers()
