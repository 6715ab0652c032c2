"""What segkit uses of PyTorch's loader that is not public is still there."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, dataloader

from segkit.data import torch_private

BROKEN = f"torch {torch.__version__} has no {{}}: adapt segkit/data/torch_private.py to it"


class Numbers:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


@pytest.fixture
def loader() -> "DataLoader[Any]":
    return DataLoader(Numbers(), num_workers=1, persistent_workers=True)  # type: ignore[arg-type]


def missing(owner: object, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not hasattr(owner, name)]


def test_the_private_names_are_there(loader: "DataLoader[Any]") -> None:
    assert not missing(torch._C, ("_remove_worker_pids",)), BROKEN.format("_remove_worker_pids")
    names = ("_MultiProcessingDataLoaderIter",)
    assert not missing(dataloader, names), BROKEN.format(names[0])
    lost = missing(loader, torch_private.LOADER_NAMES)
    assert not lost, BROKEN.format(f"DataLoader.{lost}")
    iterator = iter(loader)
    lost = missing(iterator, torch_private.ITERATOR_NAMES)
    processes = torch_private.worker_processes(loader)
    assert not lost, BROKEN.format(f"_MultiProcessingDataLoaderIter.{lost}")
    assert isinstance(iterator, dataloader._MultiProcessingDataLoaderIter)
    assert len(processes) == 1, BROKEN.format("iterator in DataLoader._iterator")


def test_they_do_what_they_did(loader: "DataLoader[Any]") -> None:
    assert torch_private.worker_processes(loader) == []
    iterator = iter(loader)
    assert not torch_private.is_shut_down(iterator)
    processes = torch_private.ask_to_end(iterator)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0]
    torch_private.clean_up(iterator)
    assert torch_private.is_shut_down(iterator)
    torch_private.forget_iterator(loader)
    assert sorted(int(batch) for batch in loader) == [0, 1, 2, 3]  # by a process that is new
    (process,) = torch_private.worker_processes(loader)
    assert process not in processes
    torch_private.ask_to_end(loader._iterator)
    torch_private.clean_up(loader._iterator)
