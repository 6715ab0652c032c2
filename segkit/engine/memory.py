"""How the C library hands out memory during training on the CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


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
