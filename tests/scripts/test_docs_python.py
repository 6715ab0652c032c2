"""docs/python.md, followed from top to bottom as in a notebook: one namespace, one folder."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from PIL import Image
from scripts import ROOT, call

from segkit.data.shapes import Shapes
from segkit.runs.finished import FinishedRun

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:`([\w/]+\.\w+)`:\n\n)?```(python|yaml)\n(.*?)```", re.DOTALL)
# A network and a number of epochs that take a second.
SMALL = {
    "'model.backbone.width'": 8,
    "'model.aspp_channels'": 8,
    "'model.decoder_channels'": 8,
    "'trainer.device'": "'cpu'",
    "'loader.batch_size'": 2,
    "'loader.num_workers'": 0,
    "'augment.crop_size'": "[48, 48]",
}
QUICK = ", ".join(f"{key}: {value}" for key, value in SMALL.items())
FILLED = {
    "PATH": "mine",
    '"trainer.max_epochs=20")': f'"trainer.max_epochs=2", "model/backbone=tiny", **{{{QUICK}}})',
    '"max_epochs": 20': '"max_epochs": 1',
    '"max_epochs": 30': '"max_epochs": 2',
    '    "model/backbone": "tiny",\n': f'    "model/backbone": "tiny",\n    {QUICK},\n',
    "max_epochs: 20": "max_epochs: 1",
    "cfg.data_folder}": f'cfg.data_folder, "model/backbone": "tiny", {QUICK}}}',
    'split="test")': 'split="test", device="cpu", **{"loader.num_workers": 0})',
}


def filled(text: str) -> str:
    for written, here in FILLED.items():
        text = text.replace(written, here)
    return text


def blocks() -> Iterator[tuple[str, str]]:
    """(file name or nothing, text) of each block."""
    for found in BLOCK.finditer(PAGE):
        yield found[1] or "", filled(found[3])


def test_everything_that_is_filled_in_is_there() -> None:
    for written in FILLED:
        assert written in PAGE, written


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python") / "here"
    Shapes(folder / "mine", "train", num_train=4, num_val=2, height=48, width=64)
    lists = folder / "mine/ImageSets/Segmentation"
    (lists / "test.txt").write_text((lists / "val.txt").read_text())
    Image.new("RGB", (64, 48)).save(folder / "photo.png")
    for name, text in blocks():
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    return folder


@pytest.mark.slow
def test_the_page_as_a_notebook(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(here.parent / "cache"))
    space: dict[str, Any] = {"__name__": "__main__"}
    for name, text in blocks():
        if not name:
            exec(compile(text, "docs/python.md", "exec"), space)
    run, runs = space["run"], space["runs"]
    assert isinstance(run, FinishedRun)
    assert run.folder == space["best"].folder
    assert run.score is not None
    assert len({one.folder for one in runs}) == 2
    assert space["mask"].shape == (48, 64)
    assert "data.rot: no such key; did you mean root?" in capsys.readouterr().out
    assert space["matrix"].compute()["miou"] > 0


@pytest.mark.slow
def test_the_program_that_uses_hydra(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra", hydra)
    result = call(str(here / "program.py"), "hydra.run.dir=.", "hydra.output_subdir=null", cwd=here)
    assert result.status == 0, result.err
    assert re.fullmatch(r"0\.\d+ program", result.out.splitlines()[-1])
