"""Data sets that decode each item once (``loader.cache``) and give the same bits as without."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from segkit.data.arrays import Pixels
from segkit.data.cache import cache_folder, class_name, stamp
from segkit.data.dataset import Examined, FileDataset, SegmentationDataset, can_examine
from segkit.data.decode import head_size
from segkit.data.decoded import DecodedFile, file_bytes
from segkit.data.free_memory import free_memory
from segkit.data.levels import Range
from segkit.data.threads import attempt
from segkit.errors import ConfigError, DataError
from segkit.files import refuse_special, user_path

VERSION = 2  # raise it with any change of what files are decoded to
SPARE = 2  # times what a cache needs must be free: a full memory ends the run, or another one


class CachedDataset:
    """A data set that keeps what it has read; all else, as ``palette``, is the data set's own.

    What :meth:`read` returns may be memory that all processes share, which cannot be written to.
    An item whose files have changed since ``stamps`` were taken is read, and not kept.

    Args:
        dataset: Tells its files: a :class:`~segkit.data.FileDataset`.
        store: Where items are kept.
        stamps: Sizes and times of each item's files; None if one is missing.
    """

    def __init__(
        self, dataset: SegmentationDataset, store: DecodedFile, stamps: Sequence[list[int] | None]
    ) -> None:
        self.dataset: Any = dataset
        self.store, self.stamps = store, stamps

    @property
    def ids(self) -> Sequence[str]:
        names: Sequence[str] = self.dataset.ids
        return names

    @property
    def classes(self) -> Sequence[str]:
        names: Sequence[str] = self.dataset.classes
        return names

    @property
    def fingerprint(self) -> str:
        return str(self.dataset.fingerprint)

    @property
    def class_of_items(self) -> type:
        """The class that reads them."""
        return type(self.dataset)

    def files(self, index: int) -> tuple[Path, Path]:
        """The files of image and mask."""
        image, mask = self.dataset.files(index)
        return image, mask

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # while it is being copied, there is none
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def read(self, index: int) -> tuple[Pixels, NDArray[np.integer[Any]]]:
        """Image (H, W, C) and mask, integer (H, W), of the data set."""
        if (kept := self.store.get(index)) is not None:
            return kept
        image, mask = self.dataset.read(index)
        self.keep(index, image, mask)
        return image, mask

    def keep(self, index: int, image: NDArray[Any], mask: NDArray[Any]) -> None:
        """Put an item that was read into the store, unless its files have changed."""
        if stamp(self.dataset, index) == self.stamps[index]:
            with suppress(OSError):  # a full disk: what does not fit is read again in each epoch
                self.store.put(index, image, mask)


class CachedExaminedDataset(CachedDataset):
    """One whose check looks at the files themselves, and fills the cache on the way."""

    read = CachedDataset.read  # of one class with `examine`: see can_examine

    @property
    def value_range(self) -> Range | None:
        numbers: Range | None = self.dataset.value_range
        return numbers

    @property
    def indices_count(self) -> bool:
        return bool(self.dataset.indices_count)

    def examine(self, index: int) -> Examined:
        """What the item's files hold, read anew."""
        item: Examined = self.dataset.examine(index)
        self.keep(index, item.image, item.mask)
        return item


class _Plan(NamedTuple):
    """A split to be cached: its data set, the stamps of its files, what they are in a file."""

    dataset: FileDataset
    stamps: list[list[int] | None]
    key: bytes
    path: Path  # on disk
    channels: int
    bits: int


def cached(
    splits: Mapping[str, SegmentationDataset], kind: str | None, folder: str | None = None
) -> dict[str, SegmentationDataset]:
    """The splits, so that each item is decoded once.

    Items are kept when they are first read, by the check of the data or by a loader process.

    Args:
        splits: By name.
        kind: ``ram``: shared by this process and those that it starts. ``disk``: shared by all,
            and there in the next run. None: the splits as they are.
        folder: Where the files on disk lie; None is segkit's own in the user's cache folder.

    Raises:
        ConfigError: A data set does not tell its files, this system has no such cache, or there is
            too little room.
    """
    if kind is None:
        return dict(splits)
    start = f"loader.cache={kind}"
    if not hasattr(os, "pwrite"):
        raise ConfigError(f"{start}: needs Linux or macOS; leave it out")
    place = Path() if kind == "ram" else _folder(folder)
    plans: dict[str, _Plan] = {}
    stores: dict[str, DecodedFile | list[int]] = {}  # one that is there, or the sizes of one
    for name, dataset in splits.items():
        plan = plans[name] = _plan(dataset, name, start, place)
        found = _open(plan) if kind == "disk" else None
        stores[name] = found or _sizes(dataset, name, start)
    _check_room(start, place, stores, plans)
    made: dict[str, SegmentationDataset] = {}
    for name, dataset in splits.items():
        plan, store = plans[name], stores[name]
        if not isinstance(store, DecodedFile):
            store = _in_memory(plan, store) if kind == "ram" else _on_disk(plan, store)
        wrapper = CachedExaminedDataset if can_examine(dataset) else CachedDataset
        made[name] = wrapper(dataset, store, plan.stamps)
    return made


def _plan(dataset: SegmentationDataset, name: str, start: str, folder: Path) -> _Plan:
    if not isinstance(dataset, FileDataset):
        raise ConfigError(
            f"{start}: {type(dataset).__name__} does not tell the files of its items, by which a "
            "cache sees that one has changed. Give it files and fingerprint, see "
            "segkit.data.FileDataset, or leave loader.cache out"
        )
    indices = range(len(dataset))
    stamps = [stamp(dataset, index) for index in indices]
    files = [[str(path.absolute()) for path in dataset.files(index)] for index in indices]
    settings = [VERSION, class_name(dataset), dataset.fingerprint]
    key = _digest([*settings, PIL.__version__, files, stamps])
    # One file for each split and its settings: it is replaced if the rest of the key differs.
    parent = str(Path(files[0][1]).parent) if files else ""
    file = f"decoded-{_digest([*settings, parent, name]).hex()[:16]}.bin"
    channels, bits = getattr(dataset, "channels", 3), getattr(dataset, "bits", 8)
    return _Plan(dataset, stamps, key, folder / file, channels, bits)


def _digest(content: Any) -> bytes:
    return hashlib.sha256(json.dumps(content).encode()).digest()


def _sizes(dataset: SegmentationDataset, name: str, start: str) -> list[int]:
    """Pixels of each item; 0 of one that cannot be read, as the check or the run will tell."""
    heads_tell = can_examine(dataset)  # the files have the sizes of what is read

    def size(index: int) -> int:
        if heads_tell:
            height, width = head_size(dataset.files(index)[1]) or (0, 0)  # type: ignore[attr-defined]
            return height * width
        _, mask = dataset.read(index)
        if mask.dtype != np.uint8:
            raise ConfigError(
                f"{start}: {dataset.ids[index]} has a mask of {mask.dtype}; expected uint8, which "
                "is what a cache holds. Let the data set return that, or leave loader.cache out"
            )
        return mask.size

    found = attempt(size, range(len(dataset)), f"sizes {name}")
    return [0 if isinstance(one, DataError) else one for one in found]


def _check_room(
    start: str,
    folder: Path,
    stores: Mapping[str, DecodedFile | list[int]],
    plans: Mapping[str, _Plan],
) -> None:
    in_memory = start.endswith("=ram")
    needed = sum(
        store.missing_bytes
        if isinstance(store, DecodedFile)
        else file_bytes(store, plans[name].channels, plans[name].bits)
        for name, store in stores.items()
    )
    if in_memory:  # each process of a torchrun has its own
        processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
        needed *= processes
        free, where = free_memory(), "of memory"
        each = f" for each of {processes} processes" if processes > 1 else ""
        way_out = "Use loader.cache=disk, which processes share, or leave it out"
    else:
        free, each = float(shutil.disk_usage(folder).free), ""
        where = f"in {folder}"
        way_out = "Give loader.cache_dir a folder on a larger disk, or leave loader.cache out"
    if free < SPARE * needed:
        raise ConfigError(
            f"{start}: {' and '.join(stores)} take {_size(needed)} decoded{each}; expected {SPARE} "
            f"times that to be free, {_size(SPARE * needed)}, and {_size(free)} {where} are. "
            f"{way_out}"
        )


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def _create(handle: int, plan: _Plan, sizes: Sequence[int]) -> DecodedFile:
    return DecodedFile.create(handle, plan.key, sizes, plan.channels, plan.bits)


def _in_memory(plan: _Plan, sizes: Sequence[int]) -> DecodedFile:
    """In a file without a name, which is gone with the last process that has it open."""
    try:
        if hasattr(os, "memfd_create"):
            return _create(os.memfd_create("segkit-cache"), plan, sizes)
        with tempfile.TemporaryFile() as file:
            return _create(os.dup(file.fileno()), plan, sizes)
    except OSError as error:
        raise ConfigError(
            f"loader.cache=ram: no memory that processes share can be had ({error.strerror}); use "
            "loader.cache=disk, or leave it out"
        ) from error


def _folder(folder: str | None) -> Path:
    place = cache_folder() if folder is None else user_path(folder)
    if place is None:
        raise ConfigError(
            "loader.cache=disk: there is no home folder to keep a cache in; give "
            "loader.cache_dir=FOLDER"
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(_cannot(place, error)) from error
    return place


def _cannot(path: Path, error: OSError) -> str:
    return (
        f"loader.cache=disk: {path} cannot be written ({error.strerror}); give another folder, "
        "loader.cache_dir=FOLDER"
    )


def _open(plan: _Plan) -> DecodedFile | None:
    """The file of an earlier run; one that is damaged, or made of other files, is removed."""
    refuse_special(plan.path, ConfigError)
    try:
        handle = os.open(plan.path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(_cannot(plan.path, error)) from error
    try:
        return DecodedFile(handle, plan.key)
    except (ValueError, OSError):
        plan.path.unlink(missing_ok=True)  # another run that has it open keeps what it has
        return None


def _on_disk(plan: _Plan, sizes: Sequence[int]) -> DecodedFile:
    """A new file, which gets its name when all but the items is there."""
    try:
        handle, name = tempfile.mkstemp(dir=plan.path.parent, prefix=".decoded-")
        try:
            store = _create(handle, plan, sizes)
            Path(name).replace(plan.path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(_cannot(plan.path, error)) from error
    return store
