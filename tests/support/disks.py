"""Disks for tests: small ones, full ones, such as turn read-only; in a process of their own."""

import ctypes
import errno
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import result_of

NEW_NAMESPACE, RECURSIVE, PRIVATE, READ_ONLY, REMOUNT = 0x20000, 1 << 14, 1 << 18, 1, 32


def on_a_disk_of(size: int, home: Path, task: Callable[[Path], Any]) -> Any:
    """What ``task`` returns, called with a folder on a disk of ``size`` bytes.

    The disk is seen by nobody else, and gone afterwards. Skips the test where it may not be made.
    """
    place = home / "disk"
    place.mkdir(exist_ok=True)

    def apart() -> Any:
        try:
            _mount(place, f"size={size}")
        except OSError:
            return None
        return task(place)

    if sys.platform != "linux":
        pytest.skip("makes a disk as Linux does")
    found = result_of(apart, limit=120)
    if found is None:
        pytest.skip("may not mount a file system here")
    return found


def _mount(place: Path, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NAMESPACE) or libc.mount(b"", b"/", b"", RECURSIVE | PRIVATE, None):
        raise OSError(ctypes.get_errno(), "no mount namespace")
    if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "no tmpfs")


def make_read_only(place: Path) -> None:
    """Let nothing be written any more, as a system does with a disk that has errors."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"", str(place).encode(), b"", REMOUNT | READ_ONLY, None):
        raise OSError(ctypes.get_errno(), "not read-only: files are open for writing")


def fill_last_page(file: Path) -> None:
    """Leave no room in what a file has of a full disk already."""
    with file.open("ab") as opened:
        opened.write(b" " * (-opened.tell() % mmap.PAGESIZE))


def filled_up(place: Path) -> None:
    """Leave not a single byte free."""
    with (place / "filler").open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
