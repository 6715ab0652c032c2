"""``loader.cache``: the same bits, decoded once, shared, and never trusted where it should not."""

import errno
import hashlib
import multiprocessing
import os
import resource
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import numpy as np
import PIL
import pytest
import torch
from cached_items import read_all, sum_of
from composed import config
from PIL import Image
from processes import result_of
from voc_folder import make_pair, make_voc

from segkit.data import RandomScaleRotateCrop, VOCSegmentation, cached, free_memory
from segkit.data.augment import Augment
from segkit.data.cached import CachedDataset
from segkit.data.check import check_splits
from segkit.data.dataset import FileDataset, SegmentationDataset, can_examine
from segkit.data.loader import Collate, EvalBatches, Samples, TrainBatches
from segkit.data.pairs import ImageMaskPairs
from segkit.data.sampler import SampleKey
from segkit.errors import ConfigError, DataError
from segkit.runtime.context import Runtime
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.signals import StopSignals
from segkit.training.data import load_data
from segkit.training.plan import EpochPlan

IDS = ["a", "b", "c", "d", "e"]
CPU = torch.device("cpu")
COLLATE = Collate((1, 2, 3), 255)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder of a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "segkit"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "voc", {"train": IDS, "val": ["f"]})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image was decoded by this process."""
    counts: Counter[str] = Counter()
    examine = ImageMaskPairs.examine

    def count(self: ImageMaskPairs, index: int) -> Any:
        counts[self.ids[index]] += 1
        return examine(self, index)

    monkeypatch.setattr(ImageMaskPairs, "examine", count)
    return counts


def opened(root: Path, kind: str | None, folder: Path | None = None, **settings: Any) -> Any:
    """The train split as a run has it."""
    splits = {"train": VOCSegmentation(root, "train", **settings)}
    return cached.cached(splits, kind, None if folder is None else str(folder))["train"]


def items(dataset: Any) -> list[tuple[Any, ...]]:
    return [sum_of(*dataset.read(index)) for index in range(len(dataset))]


def the_file(home: Path) -> Path:
    (path,) = home.glob("decoded-*.bin")
    return path


# Same bits


def epochs(dataset: SegmentationDataset, num_workers: int) -> Iterator[str]:
    """Sums of the batches of two epochs, and of a validation."""
    augment = Augment([RandomScaleRotateCrop(9, 11, (0.5, 2.0), (-20, 20)), A.HorizontalFlip()])
    shared = {"collate": COLLATE, "batch_size": 2, "num_workers": num_workers, "device": CPU}
    train = TrainBatches(dataset, augment, seed=3, **shared)  # type: ignore[arg-type]
    val = EvalBatches(dataset, **shared)  # type: ignore[arg-type]
    plans = [EpochPlan(epoch, 2, len(dataset), batch_size=2) for epoch in (1, 2)]
    with train, val:
        for found in (*map(train.of, plans), val):
            total = hashlib.sha256()
            for batch in found:
                total.update(" ".join(batch.ids).encode())
                total.update(batch.image.numpy().tobytes() + batch.target.numpy().tobytes())
            yield total.hexdigest()


@pytest.mark.quick("ram-0", "disk-2")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_batches_have_the_bits_of_a_run_without(root: Path, kind: str, num_workers: int) -> None:
    expected = list(epochs(opened(root, None), 0))
    assert len(set(expected)) == 3
    dataset = opened(root, kind)
    assert list(epochs(dataset, num_workers)) == expected
    # What loader processes have read is there for all.
    assert None not in [dataset.store.get(index) for index in range(len(IDS))]
    assert list(epochs(opened(root, kind), num_workers)) == expected


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_the_check_fills_it_and_nothing_is_decoded_again(
    root: Path, kind: str, decoded: Counter[str]
) -> None:
    splits = {name: VOCSegmentation(root, name) for name in ("train", "val")}
    plain = items(splits["train"])
    decoded.clear()
    both = cached.cached(splits, kind)
    found = check_splits(both, progress=False)
    assert found.counts["train"].pixels.tolist() == [160, 120, 160]  # 5 masks of 4, 3, 4 columns
    assert decoded == dict.fromkeys([*IDS, "f"], 1)
    for _ in range(3):
        assert items(both["train"]) == plain
    assert decoded == dict.fromkeys([*IDS, "f"], 1)


@pytest.mark.quick("[]", "disk")
@pytest.mark.parametrize("arguments", ["", "loader.cache=ram", "loader.cache=disk"])
def test_a_run_opens_its_data_with_it(root: Path, arguments: str, decoded: Counter[str]) -> None:
    cfg = config("train", "data=voc", f"data.root={root}", *arguments.split())
    assert not isinstance(cfg, str)
    data = load_data(cfg, None, Runtime(DistributedContext(), StopSignals(), ExitStack()))
    if arguments:
        assert decoded == dict.fromkeys([*IDS, "f"], 1)
    for dataset in (data.train, data.val):
        assert isinstance(dataset, CachedDataset if arguments else VOCSegmentation)
        items(dataset)
    # Without it five are decoded for the check, for the size that training sees, and here.
    assert sum(decoded.values()) == (6 if arguments else 17)


def test_the_next_run_finds_it_on_disk(root: Path, home: Path, decoded: Counter[str]) -> None:
    plain = items(opened(root, "disk"))
    decoded.clear()
    before = the_file(home).stat().st_ino
    assert items(opened(root, "disk")) == plain
    assert not decoded
    assert the_file(home).stat().st_ino == before
    assert items(opened(root, "ram")) == plain  # which is another cache
    assert sum(decoded.values()) == len(IDS)


@pytest.mark.quick("ram")
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_process_that_was_not_forked_shares_it(root: Path, kind: str, home: Path) -> None:
    dataset = opened(root, kind)
    plain = items(dataset)
    if kind == "disk":
        the_file(home).unlink()  # the open file is what is shared, not its name
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=read_all, args=(dataset, theirs))
    process.start()
    theirs.close()
    assert ours.poll(60)
    assert ours.recv() == plain
    process.join()


def test_a_forked_process_fills_it_for_its_parent(root: Path) -> None:
    dataset = opened(root, "ram")
    assert dataset.store.get(0) is None
    assert result_of(lambda: items(dataset)) == [sum_of(*dataset.store.get(i)) for i in range(5)]


def test_it_is_a_data_set_as_the_one_in_it(root: Path) -> None:
    plain, dataset = VOCSegmentation(root, "train", label_map={2: "ignore"}, num_classes=2), None
    dataset = cached.cached({"train": plain}, "ram")["train"]
    assert isinstance(dataset, SegmentationDataset)
    assert isinstance(dataset, FileDataset)
    assert can_examine(dataset)
    for name in ("ids", "classes", "fingerprint", "label_map", "value_range", "indices_count"):
        assert getattr(dataset, name) == getattr(plain, name)
    assert np.array_equal(dataset.palette, plain.palette)  # type: ignore[attr-defined]
    assert dataset.files(1) == plain.files(1)
    assert len(dataset) == 5
    with pytest.raises(AttributeError, match="nothing"):
        _ = dataset.nothing  # type: ignore[attr-defined]
    assert cached.cached({"train": plain}, None)["train"] is plain


def test_a_transform_that_writes_to_its_arguments_harms_nothing(root: Path) -> None:
    def darker(*, image: Any, mask: Any) -> dict[str, Any]:
        image //= 2
        mask[:2] = 0
        return {"image": image, "mask": mask}

    dataset = opened(root, "ram")
    plain = items(dataset)
    assert not dataset.read(0)[0].flags.writeable
    without, with_cache = (
        Samples(source, Augment([darker, darker]), 0)[SampleKey(1, 0)]
        for source in (VOCSegmentation(root, "train"), dataset)
    )
    assert sum_of(with_cache.image, with_cache.mask) == sum_of(without.image, without.mask)  # type: ignore[union-attr]
    assert items(dataset) == plain


def test_open_files_are_closed_with_it(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    dataset = opened(root, "ram")
    items(dataset)
    assert len(os.listdir("/proc/self/fd")) > before  # noqa: PTH208
    del dataset
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# Stale and damaged


def test_a_changed_image_is_seen_by_the_next_run(
    root: Path, home: Path, decoded: Counter[str]
) -> None:
    items(opened(root, "disk"))
    before = the_file(home)
    Image.new("RGB", (12, 8), (9, 8, 7)).save(root / "JPEGImages/b.png")
    decoded.clear()
    image, _ = opened(root, "disk").read(1)
    assert (image == (9, 8, 7)).all()
    assert decoded == {"b": 1}
    assert the_file(home) == before  # in its place: no old file is left


def test_a_mask_of_another_time_is_read_anew(root: Path, decoded: Counter[str]) -> None:
    items(opened(root, "disk"))
    os.utime(root / "SegmentationClass/a.png", ns=(1, 1))
    decoded.clear()
    items(opened(root, "disk"))
    assert set(decoded) == set(IDS)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_what_changes_during_a_run_is_not_kept(root: Path, kind: str) -> None:
    dataset = opened(root, kind)
    Image.new("RGB", (12, 8), (9, 8, 7)).save(root / "JPEGImages/b.png")
    assert (dataset.read(1)[0] == (9, 8, 7)).all()
    assert dataset.store.get(1) is None
    make_pair(root, "c")  # of the same bytes, but later
    os.utime(root / "JPEGImages/c.png", ns=(5, 5))
    dataset.read(2)
    assert dataset.store.get(2) is None


def test_other_settings_have_a_cache_of_their_own(root: Path, home: Path) -> None:
    plain = items(opened(root, "disk"))
    other = items(opened(root, "disk", label_map={1: 1, 2: 1}, num_classes=2))
    assert plain != other
    assert len(list(home.glob("decoded-*.bin"))) == 2
    assert items(opened(root, "disk")) == plain
    with pytest.MonkeyPatch.context() as patch:  # another decoder may give other pixels
        patch.setattr(PIL, "__version__", "0.0")
        dataset = opened(root, "disk")
    assert dataset.store.get(0) is None


def test_every_damaged_byte_is_noticed(root: Path, home: Path) -> None:
    plain = items(opened(root, "disk"))
    path = the_file(home)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    first = opened(root, "disk").store._entries_at
    places = [*rng.integers(0, first + 5 * 16, 30), *rng.integers(4096, len(content), 30)]
    for place in places:
        broken = bytearray(content)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        assert items(opened(root, "disk")) == plain, place
    for length in (0, 50, 100, 200, 4096, len(content) - 1, len(content) + 1):
        path.write_bytes((content + b"?")[:length])
        assert items(opened(root, "disk")) == plain
        assert path.stat().st_size == len(content)


def test_nothing_is_half_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write of an item is the last one: all of it is there, or nothing."""
    plain = items(opened(root, None))
    for writes in range(4):
        dataset = opened(root, "disk", root.parent / str(writes))
        with monkeypatch.context() as patch:
            stop_after(patch, writes, KeyboardInterrupt())
            if writes < 3:
                with pytest.raises(KeyboardInterrupt):
                    dataset.read(0)
            else:
                dataset.read(0)
        later = opened(root, "disk", root.parent / str(writes))
        assert (later.store.get(0) is None) == (writes < 3)
        assert items(later) == plain


def stop_after(patch: pytest.MonkeyPatch, writes: int, error: BaseException) -> None:
    pwrite, count = os.pwrite, iter(range(100))

    def write(handle: int, content: Any, at: int) -> int:
        if next(count) >= writes:
            raise error
        return pwrite(handle, content, at)

    patch.setattr(os, "pwrite", write)


def test_writes_that_end_early_go_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, content, at: pwrite(handle, content[:7], at))
    dataset = opened(root, "ram")
    assert items(dataset) == items(dataset) == items(opened(root, None))
    assert dataset.store.get(4) is not None


def test_a_disk_that_is_full_later_only_means_decoding(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(root, "disk")
    with monkeypatch.context() as patch:
        stop_after(patch, 1, OSError(errno.ENOSPC, "No space left on device"))
        assert items(dataset) == items(opened(root, None))
    assert dataset.store.get(0) is None
    assert items(dataset) == items(opened(root, None))


def test_a_broken_file_is_told_by_the_check(root: Path) -> None:
    (root / "JPEGImages/b.png").write_bytes(b"no image")
    (root / "SegmentationClass/d.png").write_bytes(b"no mask")
    splits = {name: VOCSegmentation(root, name) for name in ("train", "val")}
    with pytest.raises(DataError, match=r"(?s)2 items cannot be used:.*b\.png.*d\.png"):
        check_splits(cached.cached(splits, "ram"), progress=False)


# Room


def test_too_little_memory_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five items of 12 x 8 pixels, 384 bytes each, and a page before them: 6016 bytes."""
    free = {"bytes": 0.0}
    monkeypatch.setattr(cached, "free_memory", lambda: free["bytes"])
    for number, message in (
        (2 * 6016 - 1, r"^loader\.cache=ram: train take 0\.0 MiB decoded; expected 2 times that"),
        (0, r"0\.0 MiB of memory are\. Use loader\.cache=disk, which processes share, or leave it"),
    ):
        free["bytes"] = number
        with pytest.raises(ConfigError, match=message):
            opened(root, "ram")
    free["bytes"] = 2 * 6016
    opened(root, "ram")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="for each of 2 processes"):
        opened(root, "ram")


def test_too_little_disk_is_refused(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimpleNamespace(free=2 * 6016 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    with pytest.raises(ConfigError, match=r"are\. Give loader\.cache_dir a folder on a larger d"):
        opened(root, "disk")
    assert list(home.iterdir()) == []
    disk.free = 2 * 6016
    items(opened(root, "disk"))
    disk.free = 0
    items(opened(root, "disk"))  # what is there needs no room


def test_free_memory_is_that_of_the_smallest_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(free_memory, "GROUPS", tmp_path / "groups")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\n")
    assert free_memory.free_memory() == 500 * 1024
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,memory:/job\n1:name=systemd:/x\n0::/a/b\n")
    assert free_memory.free_memory() == 500 * 1024  # no group limits anything

    def group(name: str, **files: object) -> None:
        folder = tmp_path / "groups" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (folder / file.replace("__", ".")).write_text(f"{content}\n")

    group("a/b", memory__max="max", memory__current=5, memory__stat="inactive_file 0")
    group("a", memory__max=9000, memory__current=8000, memory__stat="anon 1\ninactive_file 500")
    assert free_memory.free_memory() == 1500
    group(
        "memory/job",
        memory__limit_in_bytes=700,
        memory__usage_in_bytes=600,
        memory__stat="total_inactive_file 50\ninactive_file 1",
    )
    assert free_memory.free_memory() == 150


def test_the_memory_of_this_machine_is_known() -> None:
    assert 2**20 < free_memory.free_memory() <= os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()


# What cannot be


class Own:
    """A data set of the user's own; its masks are of ``dtype``."""

    classes = ("a", "b", "c")
    fingerprint = "1"

    def __init__(self, root: Path, dtype: Any = np.uint8) -> None:
        self.root, self.dtype, self.ids, self.num_reads = root, dtype, IDS, 0

    def __len__(self) -> int:
        return len(self.ids)

    def files(self, index: int) -> tuple[Path, Path]:
        path = self.root / "JPEGImages" / f"{self.ids[index]}.png"
        return path, path

    def read(self, index: int) -> tuple[Any, Any]:
        self.num_reads += 1
        size = (8 + index, 12)  # no file has it
        return np.full((*size, 3), index, np.uint8), np.full(size, index % 3, self.dtype)


def test_a_data_set_of_the_users_own_is_cached_if_it_tells_its_files(root: Path) -> None:
    own = Own(root)
    dataset: Any = cached.cached({"train": own}, "ram")["train"]
    assert type(dataset) is CachedDataset
    assert not can_examine(dataset)
    assert items(dataset) == items(Own(root))
    own.num_reads = 0
    assert items(dataset) == items(Own(root))
    assert own.num_reads == 0
    with pytest.raises(ConfigError, match=r"a has a mask of int64; expected uint8, which is what"):
        cached.cached({"train": Own(root, np.int64)}, "ram")


def test_a_data_set_without_files_is_refused() -> None:
    class Images:
        ids = classes = ("a", "b")

        def __len__(self) -> int:
            return 2

        def read(self, index: int) -> tuple[Any, Any]:
            raise AssertionError

    with pytest.raises(ConfigError, match="Images does not tell the files of its items"):
        cached.cached({"train": Images()}, "ram")


def test_a_place_that_cannot_be_is_refused(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/cache cannot be written \(Not a directory\); giv"):
        opened(root, "disk", root / "file" / "cache")
    opened(root, "disk")
    path = the_file(home)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"decoded-.* is a pipe"):
        opened(root, "disk")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ConfigError, match=r"no home folder .*; give loader\.cache_dir=FOLDER"):
        opened(root, "disk")
    assert items(opened(root, "disk", root / "new/place")) == items(opened(root, None))
    monkeypatch.delattr(os, "pwrite")
    with pytest.raises(ConfigError, match="needs Linux or macOS"):
        opened(root, "ram")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("loader.cache=rma", "loader.cache=rma: no such value; did you mean ram?"),
        ("loader.cache_dir=x", "is for loader.cache=disk, and loader.cache is null; add the one"),
        ("loader.cache=ram loader.cache_dir=x", "and loader.cache is ram; add the one"),
    ],
)
def test_keys_that_do_not_fit_are_refused(arguments: str, message: str) -> None:
    found = config("train", *arguments.split())
    assert isinstance(found, str)
    assert message in found
