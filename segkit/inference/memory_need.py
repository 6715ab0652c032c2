"""How much memory of the CPU an image needs, before the system kills who asks for too much."""

import ctypes
import math
import os

from segkit.data import free_memory as machine


def free_memory() -> int | None:
    """Bytes that this process can still have without being killed; None where nothing tells.

    Memory that caches of files take is free, and so is what the C library keeps after it was freed.
    Processes of one machine that were started together share it.
    """
    free = machine.free_memory()
    if math.isinf(free):
        return None
    return int(free + _kept_by_malloc()) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        ]
    ]


def _kept_by_malloc() -> int:
    """Freed bytes that glibc has not given back to the system."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError, TypeError):
        return 0
    mallinfo.restype = _MallInfo
    return int(mallinfo().fordblks)
