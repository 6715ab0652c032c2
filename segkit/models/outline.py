"""Networks without memory and without random numbers: their shapes show whether all fits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FILL = (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_)


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills meta tensors, which hold no values: half the time of a constructor."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in FILL and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def outlined() -> Iterator[None]:
    """Tensors that are made within are meta tensors, and what is drawn for them is left out."""
    with torch.device("meta"), _Unfilled():
        yield
