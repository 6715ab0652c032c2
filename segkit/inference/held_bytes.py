"""How many bytes of tensors exist at once, on any device: those that operators return.

The one file of this folder that uses private names of torch.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class HeldBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operators make while it is entered.

    Attributes:
        now: Bytes that are still there.
        peak: Most bytes that were there at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What goes in was there before.
        known = [_address(x) for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and _address(tensor) not in {*known, *self._known}:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)

        def forget() -> None:
            self._known.discard(address)
            self.now -= size

        weakref.finalize(storage, forget)


def _address(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
