"""Memory of a run: how much it took, and how the C library hands it out on the CPU."""

import ctypes
import gc
import math
import re
import sys
from pathlib import Path
from typing import Protocol

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def peak_memory_mib(device: torch.device) -> float:
    """Most memory used so far: on the CUDA device, elsewhere by this process, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return math.nan  # nothing in the standard library tells
    if sys.platform.startswith("linux"):
        # Not getrusage: what that counts begins with the memory of the program that started this.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if found := re.search(r"VmHWM:\s*(\d+) kB", status):
            return int(found[1]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, else KiB


def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks instead of returning them to the system; True if it does.

    A training step on the CPU frees and asks again for the same blocks of many megabytes. By
    default each becomes a new mapping whose pages the kernel must clear one by one: that took up
    to half of a step (benchmarks/README.md). Other systems and C libraries stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


OUT_OF_MEMORY = (
    "out of memory",
    "ALLOC_FAILED",
    "can't allocate memory",
    # cuDNN, when no algorithm's workspace fits any more: pytorch/pytorch#108645
    "unable to find an engine to execute this computation",
)


class Memory(Protocol):
    """A device's memory as the search sees it.

    Attributes:
        capacity: Bytes that this process can have at most.
    """

    capacity: float

    def free(self) -> None:
        """Hand back what is not in use, and forget the peak."""

    def peak(self) -> float:
        """Most bytes taken since the last :meth:`free`."""


class CudaMemory:
    """Memory of a CUDA device, less what other processes hold there now, and what is reserved."""

    def __init__(self, device: torch.device, reserved: int = 0) -> None:
        self.device = device
        self.free()
        unused, total = torch.cuda.mem_get_info(device)
        allowed = torch.cuda.get_per_process_memory_fraction(device) * total
        self.capacity = min(allowed, unused + torch.cuda.memory_reserved(device)) - reserved

    def free(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float:
        return torch.cuda.max_memory_reserved(self.device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; cuBLAS, cuDNN, MPS and the CPU say so in words of their own."""
    return isinstance(error, torch.OutOfMemoryError) or any(x in str(error) for x in OUT_OF_MEMORY)
