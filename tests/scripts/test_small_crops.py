"""A network that was trained on small crops is as good on whole images as in windows."""

import json
from pathlib import Path

import pytest
from scripts import spawn
from voc_folder import SHARED

CAMVID, WEIGHTS = SHARED / "camvid", SHARED.parent / "weights" / "mobilenet_v2.pth"


@pytest.mark.slow
@pytest.mark.skipif(not (CAMVID.is_dir() and WEIGHTS.is_file()), reason="no CamVid or weights")
@pytest.mark.parametrize("output_stride", [16, 8])
def test_whole_images_score_as_windows_do(output_stride: int, tmp_path: Path) -> None:
    crop, home = "[160,192]", tmp_path / "here"
    home.mkdir()
    threads = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    trained = spawn(
        "train.py",
        *("experiment=camvid", f"data.root={CAMVID}", f"model.backbone.weights={WEIGHTS}"),
        *(f"augment.crop_size={crop}", f"model.output_stride={output_stride}", "out_dir=run"),
        *("trainer.max_epochs=8", "trainer.val_every=8", "data.check=false"),
        *("model.input_scale=1", "augment.late_epochs=0"),  # the crop is what counts here
        cwd=home,
        limit=3000,
        **threads,
    )
    assert trained.status == 0, trained.err
    whole = json.loads((home / "run/summary.json").read_text())["best_score"]
    scored = spawn(
        "evaluate.py",
        *("checkpoint=run", f"window.size={crop}", "bootstrap.resamples=0", "out_dir=windows"),
        cwd=home,
        limit=900,
        **threads,
    )
    assert scored.status == 0, scored.err
    windows = json.loads((home / "windows/metrics.json").read_text())["miou"]
    assert windows > 0.3  # it has learned something
    assert whole >= 0.9 * windows
