"""A set of five bands and 12 bits, from the statistics to masks: what a user types, in order."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from band_files import make_bands
from PIL import Image
from scripts import SMALL_RUN, call

from segkit import load_model
from segkit.cli.arguments import parse
from segkit.data.masks import read_mask
from segkit.errors import DataError
from segkit.tools.stats import Request, stats

RANGE = "data.range=[0,4095]"


@pytest.mark.slow
def test_five_bands_of_twelve_bits_go_all_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    root = make_bands(here / "data", count=12)

    stats(parse(Request, [f"data.root={root}", RANGE]))
    printed = capsys.readouterr().out
    found = re.search(r"of the 5 channels: '(data\.mean=\[.*\])' '(data\.std=\[.*\])'", printed)
    assert found
    pixels = np.stack([tifffile.imread(root / f"JPEGImages/{n}.tif") for n in range(3)]) / 4095
    mean, std = (json.loads(text.partition("=")[2]) for text in found.groups())
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), atol=0.001)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), atol=0.001)

    small = [*SMALL_RUN, "augment.crop_size=[32,32]", "loader.cache=ram", "out_dir=run"]
    typed = ["data=voc", f"data.root={root}", RANGE, *found.groups(), "data.bits=16", *small]
    typed.append("model/backbone=tiny")
    refused = call("train.py", *typed, cwd=here)
    assert refused.status == 1
    assert "ColorJitter cannot take images of 5 channels and 16 bits" in refused.err
    trained = call("train.py", *typed, "augment=bands", cwd=here)
    assert trained.status == 0, trained.err

    scored = call("evaluate.py", "checkpoint=run", "report.write=true", cwd=here)
    assert scored.status == 0, scored.err
    assert (here / "run/eval/val-best/report.html").stat().st_size > 10000

    predicted = call(
        *("predict.py", "checkpoint=run", f"source={root}/JPEGImages", "write=[index,overlay]"),
        cwd=here,
    )
    assert predicted.status == 0, predicted.err
    mask = read_mask(here / "predictions/index/3.png")
    with Image.open(here / "predictions/overlay/3.png") as overlay:
        assert overlay.mode == "RGB"

    model = load_model(here / "run")
    array = tifffile.imread(root / "JPEGImages/3.tif")
    assert (model.predict(array) == mask).all()
    assert (model.predict(array.astype(np.float64)) == mask).all()
    with pytest.raises(DataError, match=r"uint16 \(4, 4, 3\); expected uint8 \(H, W, 5\)"):
        model.predict(array[:4, :4, :3])

    settings = ["include_preprocessing=true", "latency.runs=0"]
    exported = call("export.py", "checkpoint=run", *settings, cwd=here)
    assert exported.status == 0, exported.err
    assert (load_model(here / "run/export/best.onnx").predict(array) == mask).mean() > 0.99

    resumed = call("train.py", "resume=run", "trainer.max_epochs=3", cwd=here)
    assert resumed.status == 0, resumed.err
    lines = (here / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("bits", [16])
def test_grey_files_train_a_network_of_one_channel(tmp_path: Path, bits: int) -> None:
    here = tmp_path / "here"
    here.mkdir()
    root = make_bands(here / "data", 1)
    typed = ["data=voc", f"data.root={root}", "data.mean=[0.4]", "data.std=[0.2]", RANGE]
    trained = call(
        *("train.py", *typed, f"data.bits={bits}", *SMALL_RUN, "trainer.max_epochs=1"),
        *("model/backbone=tiny", "augment=bands", "augment.crop_size=[32,32]", "out_dir=run"),
        cwd=here,
    )
    assert trained.status == 0, trained.err
    model = load_model(here / "run")
    assert model.inference.model.backbone.stem[0][0].weight.shape[1] == 1
    array = tifffile.imread(root / "JPEGImages/3.tif")
    assert array.ndim == 2
    assert (model.predict(array) == model.predict(root / "JPEGImages/3.tif")).all()
