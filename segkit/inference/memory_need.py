"""How much memory of the CPU an image needs, before the system kills who asks for too much."""

import ctypes
import os
import re
from contextlib import suppress
from pathlib import Path

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
NO_LIMIT = 2**62  # what a group without one may say


def free_memory() -> int | None:
    """Bytes that this process can still have without being killed; None where nothing tells.

    Memory that caches of files take is free, and so is what the C library keeps after it was freed.
    Processes of one machine that were started together share it.
    """
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", MEMINFO.read_text(encoding="utf-8"))
    except OSError:
        return None
    if found is None:
        return None
    free = min(int(found[1]) * 2**10, _left_in_group()) + _kept_by_malloc()
    return free // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def _left_in_group() -> int:
    """Bytes that the control group of this container leaves it."""
    for folder, limit, usage in (
        (CGROUP, "memory.max", "memory.current"),
        (CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # none, or "max"
            most, used = (int((folder / name).read_text()) for name in (limit, usage))
            stat = (folder / "memory.stat").read_text()
            cached = re.findall(r"^(?:in)?active_file (\d+)$", stat, re.MULTILINE)
            return max(0, most - used + sum(map(int, cached)))
    return NO_LIMIT


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
