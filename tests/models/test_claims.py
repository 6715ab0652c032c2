"""Files of torch.save that claim more than they hold are refused before they are read."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segkit.errors import CheckpointError
from segkit.models.claims import LEGACY_MAGIC, Scan
from segkit.models.weights import read_tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound file."""
    torch.save({"weight": torch.arange(100.0), "half": torch.ones(3).half()}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], **settings: Any) -> None:
    """Write the archive anew with other contents; None leaves an entry out."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", **settings) as archive:
        for name, content in entries.items():
            if (new := change(name, content)) is not None:
                archive.writestr(name, new)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as info:
        read_tensors(path)
    text = str(info.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_a_compressed_entry_is_refused_before_it_is_unpacked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten(path, lambda name, content: content)
    assert read_tensors(path)["weight"].tolist() == list(range(100))
    rewritten(path, lambda name, content: content, compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", None)  # would unpack all of it
    assert "in it is compressed, which torch.save never does" in refusal(path)


def test_the_advice_for_a_compressed_one_is_right(path: Path) -> None:
    rewritten(path, lambda name, content: content, compression=zipfile.ZIP_DEFLATED)
    torch.save(torch.load(path, weights_only=True), path)
    assert read_tensors(path)["weight"].tolist() == list(range(100))


@pytest.mark.parametrize("name", ["a/data.pkl", "a/DATA.PKL"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_twice_is_refused_however_it_is_written(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"another")
    assert f"{name} is twice in it: refused" in refusal(path)


def test_entries_that_share_their_bytes_are_refused(path: Path) -> None:
    """Each name of the directory points to the same large entry."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data/0", bytes(5000))
        first = archive.infolist()[0]
        for number in range(1, 50):
            entry = zipfile.ZipInfo(f"a/data/{number}")
            for name in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(entry, name, getattr(first, name))
            archive.filelist.append(entry)
    assert "claims to hold 250000 bytes, and has" in refusal(path)


@pytest.mark.parametrize("count", [b"\x8a\x05\x00\x00\x00\x00\x10", b"J\x00\x00\x00\x10"])
def test_a_storage_larger_than_its_entry_is_refused(path: Path, count: bytes) -> None:
    def claim(name: str, content: bytes) -> bytes:
        return content.replace(b"Kdt", count + b"t", 1)  # 100 numbers, the last of the tuple

    rewritten(path, claim)
    assert "its storage 0 claims" in refusal(path)


def test_a_storage_that_is_not_there_is_refused(path: Path) -> None:
    rewritten(path, lambda name, content: None if name == "a/data/1" else content)
    assert "its storage 1 claims 6 bytes, and has 0" in refusal(path)


def test_files_of_the_old_format_are_read(path: Path) -> None:
    content = {"weight": torch.arange(100.0), "views": torch.arange(6.0).view(2, 3).t()}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    found = read_tensors(path)
    assert all(torch.equal(found[name], content[name]) for name in content)


def test_an_old_file_that_claims_more_than_it_has_is_refused(path: Path) -> None:
    torch.save({"weight": torch.arange(100.0)}, path, _use_new_zipfile_serialization=False)
    large = b"\x8a\x05\x00\x00\x00\x00\x10"
    path.write_bytes(path.read_bytes().replace(b"KdNt", large + b"Nt", 1))
    assert "claims to hold 274877906944 bytes" in refusal(path)


class Made:
    """Unpickling it calls a function."""

    def __init__(self, *made: Any) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("old", [True, False])
def test_a_number_that_becomes_memory_is_refused(path: Path, old: bool) -> None:
    content = {"weight": Made(bytearray, (2**40,))}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    assert "holds a bytearray" in refusal(path)


def test_an_old_file_runs_no_code_while_it_is_looked_at(path: Path) -> None:
    parts = [LEGACY_MAGIC, 1001, {}, {"x": Made(os.mkdir, (str(path.parent / "made"),))}, []]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    assert "holds code" in refusal(path)
    assert not (path.parent / "made").exists()


def stretched() -> torch.Tensor:
    return torch.zeros(1).expand(10_000)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (stretched(), r"of shape (10000,) claims 40000 bytes, and has 4"),
        (torch.eye(3).to_sparse(), "none of plain numbers (Tensor, torch.sparse_coo"),
        (torch.zeros(3, device="meta"), "none of plain numbers (Tensor, torch.strided, torch.floa"),
    ],
)
def test_only_plain_tensors_are_taken(path: Path, tensor: torch.Tensor, expected: str) -> None:
    torch.save({"deep": [{"x": tensor}]}, path)
    assert expected in refusal(path)


def test_parameters_and_views_are_plain(path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    torch.save({"p": nn.Parameter(whole), "row": whole[1], "turned": whole.t()}, path)
    assert read_tensors(path)["turned"].tolist() == whole.t().tolist()


def test_nests_and_circles_end(path: Path) -> None:
    nest: list[Any] = []
    for _ in range(100):
        nest = [nest]
    torch.save({"x": nest}, path)
    assert "nested more than 64 levels deep" in refusal(path)
    circle: dict[str, Any] = {}
    circle["x"] = circle
    torch.save(circle, path)
    assert read_tensors(path)["x"]  # each is looked at once
    bush: list[Any] = []
    for _ in range(60):
        bush = [bush, bush]
    torch.save({"x": bush}, path)
    assert read_tensors(path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    assert "is a pipe (FIFO), not a file" in refusal(tmp_path / "a.pt")


def test_all_storages_are_counted_alike() -> None:
    """The sizes that the scan assumes are those of PyTorch."""
    for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64):
        file = io.BytesIO()
        torch.save({"x": torch.zeros(7, dtype=dtype)}, file)
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            scan = Scan(Path(), io.BytesIO(archive.read(name)))
            scan.load()
            size = archive.getinfo(name.replace("data.pkl", "data/0")).file_size
        assert scan.storages == {"0": size}
