"""Advice of the tools on their own keys, followed to the letter: it must end in a right result."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from file_server import Server, server
from public_archives import small_voc
from trained import save_model

from segkit.cli.arguments import parse
from segkit.data.voc import VOCSegmentation
from segkit.errors import SegkitError
from segkit.runs.checkpoint import read_checkpoint
from segkit.tools import download as download_tool
from segkit.tools import model as model_tool
from segkit.tools import stats
from segkit.tools.download import Request, download

__all__ = ["server", "small_voc"]  # the fixtures


def advised(message: str, arguments: list[str], request: Any, task: Any) -> re.Match[str]:
    with pytest.raises(SegkitError) as error:
        task(parse(request, arguments))
    found = re.search(message, str(error.value), re.DOTALL)
    assert found is not None, str(error.value)
    return found


class Case(NamedTuple):
    """A mistake in the keys of ``segkit.tools.model``, what is said, and what the user does."""

    wrong: str
    message: str
    advice: str
    right: Callable[[str], bool]


def counted(said: str) -> bool:
    return "operations: " in said and "an image of 512 x 768" in said


def written(path: str) -> Callable[[str], bool]:
    """Whether the weights there are those of net.pt."""

    def right(said: str) -> bool:
        new, old = (read_checkpoint(Path(name)).state["model"] for name in (path, "net.pt"))
        return all(torch.equal(new[name], tensor) for name, tensor in old.items())

    return right


CASES = (
    Case("size=512", r"as (\[512,768\])", "size={0}", counted),
    Case("sise=[512,768]", r"did you mean (\w+)\?", "{0}=[512,768]", counted),
    Case("size", "expected key=value", "size=[512,768]", counted),
    Case("out=taken.pt", r"Add (force=true) to replace", "out=taken.pt {0}", written("taken.pt")),
    Case("out=taken.pt", r"or give (out=) another name", "{0}new.pt", written("new.pt")),
    Case("out=new.pt weights=ema", r"use (raw)", "out=new.pt weights={0}", written("new.pt")),
    Case(
        "out=new.pt weights=rwa", "did you mean (raw)", "out=new.pt weights={0}", written("new.pt")
    ),
    Case(
        "allow=mynet out=new.pt",
        r"as (\[\w)|a list of texts, (\[)a,b\]",
        "out=new.pt allow=[]",
        written("new.pt"),
    ),
)


@pytest.mark.quick("[size=512 >", "force=true", "weights=ema")
@pytest.mark.parametrize("case", CASES, ids=[f"{c.wrong} > {c.advice}" for c in CASES])
def test_the_model_tool(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "net.pt")
    shutil.copy("net.pt", "taken.pt")
    given = ["checkpoint=net.pt", *case.wrong.split()]
    found = advised(case.message, given, model_tool.Request, model_tool.model)
    followed = case.advice.format(*found.groups()).split()
    model_tool.model(parse(model_tool.Request, ["checkpoint=net.pt", *followed]))
    assert case.right(capsys.readouterr().out)


@pytest.mark.usefixtures("small_voc")
def test_another_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    right = dict(server.files)
    server.files = {name: content[::-1] for name, content in right.items()}
    given = ["dataset=voc2012", "out=voc", f"mirror=http://127.0.0.1:{server.server_port}"]
    found = advised(r"try another server with (mirror=)URL", given, Request, download)
    there = (tmp_path / "server").as_uri()
    download(parse(Request, [*given[:2], f"{found[1]}{there}"]))
    assert VOCSegmentation("voc", "train").ids == ["t_1", "t_2"]


@pytest.mark.usefixtures("small_voc")
def test_a_disk_that_is_too_small(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["dataset=voc2012", f"mirror={(tmp_path / 'server').as_uri()}"]

    (tmp_path / "large").mkdir()

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1e12 if Path(path).name == "large" else 0)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(download_tool, "room_needed", lambda data: 10**9)
    found = advised(r"Give (out=) a folder on another disk", [*given, "out=voc"], Request, download)
    download(parse(Request, [*given, f"{found[1]}large"]))
    assert VOCSegmentation("large", "train").ids == ["t_1", "t_2"]


def test_no_such_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = advised(r"did you mean (data\.root)\?", ["data.rot=voc"], stats.Request, stats.stats)
    assert parse(stats.Request, [f"{found[1]}=voc"]).data_root == "voc"
