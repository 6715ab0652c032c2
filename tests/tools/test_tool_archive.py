"""Archives from anywhere: what cannot be unpacked is said, and then nothing is there."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archive_bytes import FILES, Files, encrypted, tar_bytes, unknown_method, zip_bytes

from segkit.errors import DataError
from segkit.tools import archive as tool
from segkit.tools.archive import content, extract, members
from segkit.tools.datasets import read_sbd_mask
from segkit.tools.fetch import fetch


def special(kind: bytes, name: str = "a/special") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def huge_header() -> bytes:
    """A header for 90 GB of further headers, which Python's own reader takes into memory."""
    info = special(tarfile.XHDTYPE)
    info.size = 90 << 30
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def broken_header() -> bytes:
    data = bytearray(tar_bytes(FILES))
    data[512 + 3072 + 2] ^= 1  # in the second header, whose check sum is wrong then
    return bytes(data)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "encrypted": (lambda: encrypted(FILES), "is encrypted; expected an archive without a password"),
    "method": (lambda: unknown_method(FILES), "in a way that is not known here"),
    "bomb.zip": (lambda: zip_bytes({"a": bytes(3 << 20)}), r"unpack to 3,145,728 or more"),
    "bomb.gz": (lambda: gzip.compress(tar_bytes({"a": bytes(3 << 20)})), "or more; no archive"),
    "bomb.bz2": (lambda: bz2.compress(tar_bytes({"a": bytes(3 << 20)}), 1), "or more; no archive"),
    "bomb.xz": (
        lambda: lzma.compress(tar_bytes({"a": bytes(3 << 20)}), preset=0),
        "or more; no archive",
    ),
    "header": (huge_header, r"is damaged \(a header of 96,636,764,"),
    "twice": (lambda: tar_bytes({"a/x": b"1"})[:1024] + tar_bytes({"a/x": b"2"}), "'a/x' twice"),
    "capitals": (lambda: tar_bytes({"a/x": b"1", "A/X": b"2"}), "differs in capitals only"),
    "capitals.zip": (lambda: zip_bytes({"a/x": b"1", "a/X": b"2"}), "differs in capitals only"),
    "accents": (lambda: zip_bytes({"\u00e9": b"1", "e\u0301": b"2"}), "differs in capitals only"),
    "folder": (lambda: tar_bytes({"a": b"1", "a/x": b"2"}), "name of a file and of a folder"),
    "folder.zip": (lambda: zip_bytes({"a/x": b"1", "a": b"2"}), "name of a file and of a folder"),
    "absolute": (lambda: tar_bytes({"ok": b"", "/x": b""}), "points out of its folder"),
    "above": (lambda: zip_bytes({"ok": b"", "a/../../x": b""}), "points out of its folder"),
    "no end": (lambda: tar_bytes(FILES, end=False), "its end is missing"),
    "broken header": (broken_header, "a part in its middle is not read"),
    "cut": (lambda: tar_bytes(FILES)[:9000], "is damaged"),
    "cut.zip": (lambda: zip_bytes(FILES)[:-60], "is damaged"),
    "cut.gz": (lambda: gzip.compress(tar_bytes(FILES))[:-4], "is damaged"),
    "sum.gz": (lambda: gzip.compress(tar_bytes(FILES))[:-8] + bytes(8), "is damaged"),
    "cut.bz2": (lambda: bz2.compress(tar_bytes(FILES))[:5000], "is damaged"),
    "cut.xz": (lambda: lzma.compress(tar_bytes(FILES))[:5000], "is damaged"),
    "text": (lambda: b"<html>404</html>", "is damaged"),
    "empty": (lambda: b"", "is damaged"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_unpacked_is_said_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "ROOM", 1 << 20)
    make, message = REFUSED[case]
    path = tmp_path / "archive"
    path.write_bytes(make())
    (tmp_path / "there").mkdir()
    (tmp_path / "there/old").write_text("old")
    for out in ("new", "there"):
        with pytest.raises(DataError, match=message) as error:
            extract(path, lambda name: name, tmp_path / out)
        assert str(error.value).startswith(str(path))
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        *("archive", "there", "there/old"),
    ]


@pytest.mark.parametrize(
    "pack",
    [
        tar_bytes,
        zip_bytes,
        lambda f: gzip.compress(tar_bytes(f)),
        lambda f: bz2.compress(tar_bytes(f)),
        lambda f: lzma.compress(tar_bytes(f)),
        lambda f: zip_bytes(f, zipfile.ZIP_LZMA),
    ],
)
def test_sound_archives_come_out(pack: Callable[[Files], bytes], tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(pack(FILES))
    assert extract(tmp_path / "archive", lambda name: f"b/{name}", tmp_path / "out") == 3
    out = tmp_path / "out"
    found = {p.relative_to(out / "b").as_posix(): p for p in out.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES


def test_only_files_come_out_of_a_tar(tmp_path: Path) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    more = [special(kind, f"a/{kind.decode()}") for kind in (*kinds, tarfile.DIRTYPE)]
    (tmp_path / "archive").write_bytes(tar_bytes({"./a/x": b"x"}, *more))
    assert extract(tmp_path / "archive", lambda name: name, tmp_path / "out") == 1
    assert [p.name for p in (tmp_path / "out/a").iterdir()] == ["x"]


def test_files_are_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "CHUNK", 1000)
    for data in (tar_bytes(FILES), zip_bytes(FILES)):
        (tmp_path / "archive").write_bytes(data)
        sizes = [[len(p) for p in pieces] for _, pieces in members(tmp_path / "archive", str)]
        assert sizes == 3 * [[1000, 1000, 1000]]


def test_a_small_file_that_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "SMALL", 3 << 20)
    assert content(iter([b"a", b"b"]), "x") == b"ab"
    with pytest.raises(DataError, match="x: is larger than 3 MiB"):
        content((bytes(1 << 20) for _ in range(10**9)), "x")


def test_a_process_that_was_killed_leaves_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "out/.unpacking/a").mkdir(parents=True)
    (tmp_path / "out/.unpacking/a/0.bin").write_text("half")
    (tmp_path / "archive").write_bytes(tar_bytes(FILES))
    extract(tmp_path / "archive", lambda name: name, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match=f"{path}: is (a pipe|a device|no file)"):
            list(members(path, str))
        with pytest.raises(DataError, match=f"{path}: is no file"):
            fetch("http://127.0.0.1:1/x", path, None)
        with pytest.raises(DataError, match="no such file"):
            fetch(f"file://{path}", tmp_path / "new", None)
    assert not (tmp_path / "new.part").exists()


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "data:,x", "http://a b/c", "http://[x/", "x", "", "http://a\n/b"]
)
def test_what_is_no_url(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no URL"):
        fetch(url, tmp_path / "x", None)


def test_masks_are_not_converted() -> None:
    from scipy.io import savemat

    for values in (np.array([[300]]), np.array([[0.5]]), np.zeros((1, 1, 3), np.uint8)):
        stream = io.BytesIO()
        savemat(stream, {"GTcls": {"Segmentation": values}})
        with pytest.raises(DataError, match=r"x\.mat: is no mask of SBD"):
            read_sbd_mask(stream.getvalue(), "x.mat")


@pytest.mark.parametrize(
    "part", [range(150), pytest.param(range(150, 4000), marks=pytest.mark.slow)]
)
def test_damaged_archives_are_told_or_give_what_was_in_them(part: range, tmp_path: Path) -> None:
    packed = [
        *(tar_bytes(FILES), zip_bytes(FILES), zip_bytes(FILES, zipfile.ZIP_STORED)),
        *(gzip.compress(tar_bytes(FILES)), bz2.compress(tar_bytes(FILES))),
        lzma.compress(tar_bytes(FILES)),
    ]
    path, refused = tmp_path / "archive", 0
    for number in part:
        rng = np.random.default_rng([7, number])
        data = bytearray(packed[rng.integers(len(packed))])
        if rng.random() < 0.3:
            del data[int(rng.integers(len(data))) :]
        else:
            for place in rng.integers(0, len(data), rng.integers(1, 4)):
                data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = {name: b"".join(pieces) for name, pieces in members(path, str)}
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        checked = not data.startswith(b"a/0")  # a plain tar has no check sums of contents
        assert len(found) == 3 or not checked or set(found) <= set(FILES), number
        if checked and set(found) == set(FILES):
            assert found == FILES, number
    assert refused > 0.4 * len(part)
