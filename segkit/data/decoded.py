"""Decoded images and masks in one flat file, in memory or on disk, that processes share.

::

    magic, key, sum of the offsets, number of items, channels of an image, bytes of each
    offsets   of each item's place, and where the last one ends
    entries   of each item that is there: its height and width, and a check sum of its bytes
    places    image (H, W, channels), uint8 or uint16, and mask (H, W), uint8, of each item

The file has its full length from the start, but only what is written takes room. An entry is
written after the bytes that it describes and says nothing else than what follows from the item's
own files, so several processes may fill one file at once, and be killed while they do.
"""

import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from segkit.data.arrays import Mask, Pixels

MAGIC = b"segkit decoded 2"
_HEAD = struct.Struct("<16s32s32sQII")
_ENTRY = np.dtype([("height", "<u4"), ("width", "<u4"), ("sum", "<u4"), ("is_there", "<u4")])
_PAGE = 4096


class DecodedFile:
    """The items of a split, by index, those that were put there so far.

    A damaged item is as one that is not there. What :meth:`get` returns cannot be written to and
    is no copy.

    Args:
        handle: Descriptor of the open file, which is closed with this object.
        key: 32 bytes that say what the file was made of.

    Raises:
        ValueError: The file is damaged, or made of something else. It is closed.
        OSError: It cannot be read or mapped. It is closed too.
    """

    def __init__(self, handle: int, key: bytes) -> None:
        self._close = finalize(self, os.close, handle)
        self._handle, self.key = handle, key
        try:
            self._offsets, self._entries_at, end, kind = _read_layout(handle, key)
            self._channels, self._dtype = kind
            self._pixel_bytes = self._channels * self._dtype.itemsize  # of an image
            self._map = mmap.mmap(handle, end, access=mmap.ACCESS_READ)
        except BaseException:
            self._close()
            raise
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._entries = np.frombuffer(self._map, _ENTRY, len(self), self._entries_at)
        self._is_checked = np.zeros(len(self), bool)  # by this process

    @classmethod
    def create(
        cls, handle: int, key: bytes, sizes: Sequence[int], channels: int = 3, bits: int = 8
    ) -> "DecodedFile":
        """An empty one in an empty file.

        Args:
            handle: Descriptor of the open file, which is closed with the object.
            key: 32 bytes that say what the file is made of.
            sizes: Pixels of each item; an item with more of them is not kept.
            channels: Of the images.
            bits: 8 or 16, of each channel.
        """
        offsets, _, end = _layout(sizes, channels * bits // 8)
        table = offsets.tobytes()
        table_sum = hashlib.sha256(table).digest()
        head = _HEAD.pack(MAGIC, key, table_sum, len(sizes), channels, bits // 8)
        try:
            os.ftruncate(handle, end)
            _write(handle, head + table, 0)
        except OSError:
            os.close(handle)
            raise
        return cls(handle, key)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that is being started: it shares the open file, whatever its name."""
        return _attached, (reduction.DupFd(self._handle), self.key)

    @property
    def missing_bytes(self) -> int:
        """What the file would take besides what it takes now, once all items are there."""
        return max(0, len(self._bytes) - 512 * os.fstat(self._handle).st_blocks)

    def get(self, index: int) -> tuple[Pixels, Mask] | None:
        """Image (H, W, channels) and mask, uint8 (H, W), of an item; None if it is not there."""
        height, width, check_sum, is_there = (int(n) for n in self._entries[index])
        first, last = self._offsets[index : index + 2].tolist()
        pixels = height * width
        middle = first + self._pixel_bytes * pixels
        if not is_there or middle + pixels > last:
            return None
        shape = (height, width, self._channels)
        image = self._bytes[first:middle].view(self._dtype).reshape(shape)
        mask = self._bytes[middle : middle + pixels].reshape(height, width)
        if not self._is_checked[index]:
            if _sum(image, mask) != check_sum:
                return None
            self._is_checked[index] = True
        return image, mask

    def put(self, index: int, image: NDArray[Any], mask: NDArray[Any]) -> None:
        """Keep an item, if it is of the kind that was said and not larger.

        Raises:
            OSError: It cannot be written, as on a full disk; the item is not there then.
        """
        first, last = self._offsets[index : index + 2].tolist()
        is_plain = image.dtype == self._dtype and mask.dtype == np.uint8
        is_plain &= image.shape == (*mask.shape, self._channels)
        if not is_plain or not 0 < (self._pixel_bytes + 1) * mask.size <= last - first:
            return
        image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
        self._is_checked[index] = False
        _write(self._handle, image, first)
        _write(self._handle, mask, first + image.nbytes)
        entry = np.array([(*mask.shape, _sum(image, mask), 1)], _ENTRY)
        _write(self._handle, entry.view(np.uint8), self._entries_at + index * _ENTRY.itemsize)


def file_bytes(sizes: Sequence[int], channels: int = 3, bits: int = 8) -> int:
    """How large the file of items with so many pixels is."""
    return _layout(sizes, channels * bits // 8)[2]


def _layout(sizes: Sequence[int], pixel_bytes: int) -> tuple[NDArray[np.uint64], int, int]:
    """Where each item's place begins, where the entries begin, and where the file ends."""
    entries_at = _HEAD.size + 8 * (len(sizes) + 1)
    first = -(-(entries_at + len(sizes) * _ENTRY.itemsize) // _PAGE) * _PAGE
    ends = np.cumsum(
        [first, *(-(-(pixel_bytes + 1) * size // 64) * 64 for size in sizes)], dtype=np.uint64
    )
    return ends, entries_at, max(int(ends[-1]), first)


def _read_layout(
    handle: int, key: bytes
) -> tuple[NDArray[np.uint64], int, int, tuple[int, np.dtype[Any]]]:
    head, length = os.pread(handle, _HEAD.size, 0), os.fstat(handle).st_size
    if len(head) < _HEAD.size:
        raise ValueError("damaged")
    magic, found, table_sum, count, channels, item_bytes = _HEAD.unpack(head)
    if (magic, found) != (MAGIC, key) or 8 * count > length or item_bytes not in (1, 2):
        raise ValueError("made of something else")
    table = os.pread(handle, 8 * (count + 1), _HEAD.size)
    offsets = np.frombuffer(table, np.uint64)
    if hashlib.sha256(table).digest() != table_sum or length != offsets[-1]:
        raise ValueError("damaged")
    return offsets, _HEAD.size + len(table), length, (channels, np.dtype(f"<u{item_bytes}"))


def _sum(image: Pixels, mask: Mask) -> int:
    shape = struct.pack("<II", *mask.shape)
    return zlib.crc32(mask.data, zlib.crc32(image.data, zlib.crc32(shape)))


def _write(handle: int, content: Any, at: int) -> None:
    """All of it: not through the map, where a full disk would end the process."""
    rest = memoryview(content).cast("B")
    while rest:
        written = os.pwrite(handle, rest, at)
        rest, at = rest[written:], at + written


def _attached(handle: Any, key: bytes) -> DecodedFile:
    return DecodedFile(handle.detach(), key)
