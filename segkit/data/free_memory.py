"""How much memory is left: what the machine has, and what a container lets this process take."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def free_memory() -> float:
    """Bytes that could still be taken without swapping; infinite where nothing tells."""
    try:
        text = (PROC / "meminfo").read_text(encoding="ascii")
        available = re.search(r"MemAvailable:\s*(\d+) kB", text)
        machine = 1024.0 * int(available[1]) if available else float("inf")
    except OSError:  # no Linux: half of what is built in
        try:
            machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
        except (ValueError, OSError, AttributeError):
            machine = float("inf")
    return max(0.0, min(machine, *_group_rests(), float("inf")))


def _group_rests() -> Iterator[float]:
    """What is left to each control group, of either version, that this process is in."""
    try:
        lines = (PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            top, limit, used = GROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, limit, used = GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = top / name.lstrip("/")
        # A container sees its own group as the top, though it may be called otherwise.
        for group in (folder, *folder.parents):
            try:
                allowed = int((group / limit).read_text(encoding="ascii"))  # or "max"
                taken = int((group / used).read_text(encoding="ascii"))
                stat = (group / "memory.stat").read_text(encoding="ascii")
            except (OSError, ValueError):
                allowed = -1
            if allowed >= 0:
                cached = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
                yield float(allowed - taken + (int(cached[1]) if cached else 0))
            if group == top:
                break
