"""Settings that every test shares."""

import segkit  # isort: skip  # noqa: F401  (first: sets OMP_WAIT_POLICY before torch is imported)

import gc

import torch
from hydra._internal.hydra import Hydra

# One thread: the suite shares its cores with loader workers, and the thread count changes bits.
torch.set_num_threads(1)
# The first backward starts autograd's threads, one for each device that is there. It is done here,
# since tests with made-up CUDA tensors would start some, and no fork of theirs could train then.
torch.ones(1, requires_grad=True).sum().backward()

# Hydra composes each configuration twice, the first time only to see whether hydra.mode is set. No
# test sets it (processes of their own still look), and composing is most of what many tests do.
Hydra.get_mode = lambda self, config_name, overrides: None  # type: ignore[method-assign]


def pytest_collection_finish() -> None:
    """Spare each collection of garbage the objects of the libraries, which stay until the end."""
    gc.collect()
    gc.freeze()
