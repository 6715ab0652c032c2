"""Paths of users: words for what has no home, lies on the network, or is no file at all."""

import copy
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from omegaconf import OmegaConf
from scripts import call
from voc_folder import make_voc

from segkit.cli.arguments import parse
from segkit.config.problems import check_values
from segkit.config.saved import path_keys
from segkit.config.schema import SCHEMAS, schema_node
from segkit.data import cache
from segkit.data.classes import read_lines
from segkit.data.leaks import check_disjoint
from segkit.data.shapes import Shapes
from segkit.data.voc import VOCSegmentation
from segkit.errors import ConfigError, SegkitError
from segkit.files import path_problem, special_kind, user_path
from segkit.models.weights import read_tensors
from segkit.predict.sources import find_sources
from segkit.predict.video import open_video
from segkit.runs.checkpoint import newest_checkpoint, read_checkpoint
from segkit.runs.folder import locked
from segkit.tools.archive import members
from segkit.tools.check import Request as CheckRequest
from segkit.tools.formats import READERS
from segkit.tools.formats.annotation import Request as ConvertRequest
from segkit.tools.split import Request as SplitRequest
from segkit.tools.stats import Request as StatsRequest

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")


@pytest.fixture(autouse=True)
def no_wait() -> Iterator[None]:
    """A test that waits for a pipe fails after some seconds."""

    def end(number: int, frame: FrameType | None) -> None:
        raise AssertionError("waits for a pipe")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container: no HOME, and a user whom the system does not know."""
    import pwd

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


# --- the home folder -----------------------------------------------------------------------------


def test_the_home_folder_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/x") == Path("/home/me/x")
    assert user_path("~root/x").is_absolute()
    assert user_path("a/~/b") == Path("a/~/b")
    assert user_path(Path("a//b")) == Path("a/b")
    assert path_problem("C:/x") is None  # a drive of Windows


@pytest.mark.parametrize("text", ["~", "~/x"])
def test_without_a_home_folder_there_are_words(homeless: None, text: str) -> None:
    with pytest.raises(SegkitError, match=rf"{text}: there is no home folder: HOME is not set"):
        user_path(text)
    assert user_path(f"./{text}") == Path(text)  # as advised
    assert user_path("/in/full") == Path("/in/full")


def test_an_empty_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    with pytest.raises(SegkitError, match="there is no home folder"):
        user_path("~/x")


def test_an_unknown_user_has_no_home_folder() -> None:
    with pytest.raises(SegkitError, match=r"there is no user nobodyhere with a home folder here"):
        user_path("~nobodyhere/x")
    assert user_path("./~nobodyhere/x") == Path("~nobodyhere/x")


def test_a_check_without_a_home_folder(homeless: None, tmp_path: Path) -> None:
    from segkit.tools.check import main

    assert cache.cache_folder() is None
    assert main([f"data.root={make_voc(tmp_path / 'voc')}"]) == 0


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["s3://bucket/run", "gs://b", "https://host/x.pt", "file:///tmp/x", "s3:/bucket/run"]
)
def test_addresses_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SegkitError, match=r"an address \(.*:\), not a path of this machine"):
        user_path(text)
    monkeypatch.chdir(tmp_path)
    assert user_path(f"./{text}") == Path(text)  # for whoever has such a folder


def bad_path(name: str, key: str, path: str) -> str:
    """What the check of the configuration says of a path."""
    cfg = copy.deepcopy(schema_node(SCHEMAS[name]))
    needed = {"train": {"data.root": "x"}, "predict": {"source": "x"}}.get(name, {})
    for other in ("checkpoint", *needed):
        if other in needed or OmegaConf.is_missing(cfg, other):
            OmegaConf.update(cfg, other, needed.get(other, __file__))
    if name == "train":
        for node in ("model", "loss", "optimizer", "scheduler"):
            OmegaConf.update(cfg, node, {"_target_": "x"}, force_add=True)
        OmegaConf.update(cfg, "data.dataset", {"_target_": "x"}, force_add=True)
    OmegaConf.update(cfg, key, path)
    with pytest.raises(ConfigError) as caught:
        check_values(cfg, name)
    return str(caught.value)


KEYS = [(name, key) for name, schema in SCHEMAS.items() for key in path_keys(schema)]


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_every_path_of_the_scripts_is_looked_at(name: str, key: str, tmp_path: Path) -> None:
    assert f"{key}=s3://bucket: an address (s3:)" in bad_path(name, key, "s3://bucket")
    assert f"{key}=~nobodyhere/x: there is no user nobodyhere" in bad_path(
        name, key, "~nobodyhere/x"
    )
    os.mkfifo(tmp_path / "pipe")
    assert f"{key}={tmp_path / 'pipe'}: is a pipe (FIFO), neither" in bad_path(
        name, key, str(tmp_path / "pipe")
    )


@pytest.mark.parametrize("key", ["resume", "out_dir"])
def test_no_folder_is_made_of_an_address(key: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    done = call("train.py", f"{key}=s3://bucket/run", cwd=tmp_path / "here")
    assert done.status == 1
    assert f"{key}=s3://bucket/run: an address (s3:), not a path of this machine" in done.err
    assert not list((tmp_path / "here").iterdir())


TOOL_KEYS = [
    (CheckRequest, "data.root"),
    (SplitRequest, "data.root"),
    (StatsRequest, "data.root"),
    (StatsRequest, "json"),
    (ConvertRequest, "source"),
    (ConvertRequest, "out"),
    (ConvertRequest, "images"),
]


@pytest.mark.parametrize(("request_", "key"), TOOL_KEYS)
def test_every_path_of_the_tools_is_looked_at(request_: type, key: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, problem in {
        "s3://bucket": "an address",
        "~nobodyhere/x": "there is no user",
        str(tmp_path / "pipe"): r"is a pipe \(FIFO\), neither a file nor a folder",
    }.items():
        with pytest.raises(ConfigError, match=rf"{key}={path}: {problem}"):
            parse(request_, [f"{key}={path}"])


@pytest.mark.slow
def test_a_comma_in_a_path(tmp_path: Path) -> None:
    here = tmp_path / "here"
    make_voc(here / "x,y")
    done = call("train.py", "data=voc", "data.root=x,y", cwd=here)
    assert "data.root=x,y: several values are for a sweep, -m; one that holds a comma" in done.err
    assert "\"data.root='x,y'\" (a path also data.root=./x,y)" in done.err
    data = ("data=voc", "data.root=./x,y", "model/backbone=tiny")
    done = call("train.py", *data, "trainer.monitor=val/iou/no", cwd=here)
    assert "val/iou/no: no such logged value" in done.err  # for which the data were read
    data = ("data=voc", "data.root='x,y'", "model/backbone=tiny")
    done = call("train.py", *data, "trainer.monitor=val/iou/no", cwd=here)
    assert "val/iou/no: no such logged value" in done.err


# --- pipes ---------------------------------------------------------------------------------------


def convert(kind: str) -> Callable[[Path], Any]:
    return lambda pipe: READERS[kind](ConvertRequest(kind, str(pipe), "out"))


READING: list[Callable[[Path], Any]] = [
    read_lines,
    read_tensors,
    read_checkpoint,
    lambda pipe: list(members(pipe, bool)),
    lambda pipe: find_sources(str(pipe), Path("out")),
    lambda pipe: open_video(pipe).__enter__(),
    convert("coco"),
    convert("cvat"),
    convert("labelme"),
]


@pytest.mark.parametrize("read", READING)
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_only_regular_files_are_opened(
    read: Callable[[Path], Any], kind: str, tmp_path: Path
) -> None:
    path = Path(kind)
    if kind == "pipe":
        path = tmp_path / "pipe.mp4"
        os.mkfifo(path)
    with pytest.raises(SegkitError) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_what_a_pipe_gives_can_be_read_from_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SegkitError, match=r"is a pipe \(FIFO\), not a file.*into a file, and use"):
        read_lines(tmp_path / "pipe")
    (tmp_path / "file").write_text("a\nb\n")
    assert read_lines(tmp_path / "file") == ["a", "b"]
    assert special_kind(tmp_path) is None


@pytest.mark.parametrize("name", ["labels.txt", "ImageSets/Segmentation/train.txt"])
def test_pipes_for_lists(tmp_path: Path, name: str) -> None:
    root = make_voc(tmp_path / "voc")
    (root / name).unlink()
    os.mkfifo(root / name)
    with pytest.raises(SegkitError, match=rf"{name}: is a pipe"):
        VOCSegmentation(root, "train", num_classes=3)


def test_pipes_for_images_do_not_stop_the_look_for_leaks(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    for name in ("a", "c"):
        (root / "JPEGImages" / f"{name}.png").unlink()
        os.mkfifo(root / "JPEGImages" / f"{name}.png")
    assert check_disjoint(VOCSegmentation(root, "train"), VOCSegmentation(root, "val")) == []


def test_a_pipe_for_the_cache_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = VOCSegmentation(make_voc(tmp_path / "voc"), "train")
    path = cache.CheckCache(dataset).path
    assert path is not None
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert cache.CheckCache(dataset).entries == {}


def test_a_pipe_for_the_settings_of_the_shapes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shapes.json")
    with pytest.raises(SegkitError, match=r"shapes\.json: is a pipe"):
        Shapes(tmp_path, "train")


@pytest.mark.parametrize("name", ["metrics.jsonl", "train.log", "config.yaml", ".lock"])
def test_pipes_in_a_run_folder(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"{name}: is a pipe"), locked(tmp_path):
        pass


def test_a_pipe_for_a_checkpoint_in_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(SegkitError, match=r"none of its 1 checkpoints can be read"):
        newest_checkpoint(tmp_path)
    with pytest.raises(SegkitError, match=r"no checkpoints/best.pt or checkpoints/last.pt"):
        read_checkpoint(tmp_path)
