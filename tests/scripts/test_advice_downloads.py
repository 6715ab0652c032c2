"""Advice on archives and downloads, followed to the letter: it must end in a right result."""

import errno
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_bytes import FILES, encrypted, tar_bytes, unknown_method, zip_bytes
from file_server import CONTENT, MD5, Server, server, url
from public_archives import small_voc

from segkit.cli.arguments import parse
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError
from segkit.tools import fetch as fetching
from segkit.tools.archive import extract
from segkit.tools.download import Request, download
from segkit.tools.fetch import fetch

__all__ = ["server", "small_voc"]  # the fixtures


def unpacked(archive: Path, out: Path) -> bool:
    """Whether all files come out as they were packed."""
    extract(archive, lambda name: name, out)
    return all((out / name).read_bytes() == content for name, content in FILES.items())


AGAIN = r"Delete it and download it again"
ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "damaged": (lambda: zip_bytes(FILES)[:-60], f"is damaged .*{AGAIN}"),
    "cut": (lambda: tar_bytes(FILES)[:9000], f"is damaged .*{AGAIN}"),
    "twice": (lambda: tar_bytes({"a/x": b"1", "A/X": b"2"}), f"twice.*{AGAIN}"),
    "a file and a folder": (lambda: tar_bytes({"a": b"1", "a/x": b"2"}), AGAIN),
    "encrypted": (lambda: encrypted(FILES), "Unpack it with another program and pack it again"),
    "method": (lambda: unknown_method(FILES), "and pack it again as a usual zip file"),
}


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_an_archive(name: str, tmp_path: Path) -> None:
    make, message = ARCHIVES[name]
    archive, sound = tmp_path / "a.zip", tmp_path / "server.zip"
    archive.write_bytes(make())
    sound.write_bytes(zip_bytes(FILES))
    with pytest.raises(DataError, match=message):
        unpacked(archive, tmp_path / "out")
    archive.unlink()
    if "download" in message:
        fetch(sound.as_uri(), archive, None)
    else:
        archive.write_bytes(zip_bytes(FILES))
    assert unpacked(archive, tmp_path / "out")


def told(message: str, address: str, path: Path) -> re.Match[str]:
    with pytest.raises(DataError) as error:
        fetch(address, path, MD5)
    found = re.search(message, str(error.value))
    assert found is not None, str(error.value)
    return found


def test_a_folder_in_the_place_of_the_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.tar"
    path.mkdir()
    told("is no file. Move it away and run the same command again", url(server), path)
    path.rename(tmp_path / "away")
    fetch(url(server), path, MD5)
    assert path.read_bytes() == CONTENT


def test_a_file_that_the_server_lacks(server: Server, tmp_path: Path) -> None:
    found = told(r"save it as (.*)$", url(server, "gone.tar"), tmp_path / "gone.tar")
    Path(found[1]).write_bytes(CONTENT)
    fetch(url(server, "gone.tar"), tmp_path / "gone.tar", MD5)


def test_a_server_that_stops(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.tar.part").write_bytes(CONTENT[:1000])
    server.broken = 5
    told(
        "1,000 bytes are there, from which the same command goes on",
        url(server),
        tmp_path / "file.tar",
    )
    fetch(url(server), tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=1000-"


def test_other_bytes_than_those_published(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.tar"
    path.with_suffix(".tar.part").write_bytes(b"x" * 5000)
    told("The file was deleted: run the same command again", url(server), path)
    fetch(url(server), path, MD5)
    path.write_bytes(b"by hand")
    told("Delete the file and run the same command again", url(server), path)
    path.unlink()
    fetch(url(server), path, MD5)
    assert path.read_bytes() == CONTENT


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(address: str, part: Path) -> None:
        part.write_bytes(CONTENT[:2000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_continue", full)
        message = "Make room and run the same command again, which goes on from there"
        told(message, url(server), tmp_path / "file.tar")
    fetch(url(server), tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar").read_bytes() == CONTENT
    assert server.ranges == ["bytes=2000-"]


def test_what_is_no_url(server: Server, tmp_path: Path) -> None:
    bare = url(server).removeprefix("http://")
    found = told(r"expected one that starts with (http://)", bare, tmp_path / "file.tar")
    fetch(found[1] + bare, tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("advice", ["force=true", "out=another"])
@pytest.mark.usefixtures("small_voc")
def test_a_folder_that_holds_a_data_set(
    advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["dataset=voc2012", "out=voc", f"mirror={(tmp_path / 'server').as_uri()}"]
    download(parse(Request, given))
    with pytest.raises(DataError, match="Add force=true to unpack over it, or give out= another"):
        download(parse(Request, given))
    capsys.readouterr()
    kept = [word for word in given if not word.startswith(advice.partition("=")[0])]
    download(parse(Request, [*kept, advice]))
    found = re.search(
        r"next: python -m segkit\.data\.check data\.root=(\S+)", capsys.readouterr().out
    )
    assert found is not None
    assert VOCSegmentation(found[1], "train").ids == ["t_1", "t_2"]
