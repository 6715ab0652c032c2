"""Memory of a run: how much it took, and how the C library hands it out on the CPU."""

import ctypes
import math
import re
import sys
from pathlib import Path

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
