"""A validation score that falls while the loss does is said once, with its likely causes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import call, quick_call

from segkit.data.masks import write_mask
from segkit.training.fall import FallWatch


@pytest.mark.parametrize(
    ("mious", "losses", "said"),
    [
        # crops that are small against the rates, as it was seen on street scenes
        ([0.12, 0.174, 0.15, 0.11, 0.094], [2.0, 1.5, 1.3, 1.2, 1.1], [4]),
        ([0.5, 0.4, 0.36, 0.6], [2.0, 1.0, 0.9, 0.8], []),  # noise
        ([0.5, 0.2], [1.0, 1.1], []),  # the loss rose as well: training itself went wrong
        ([0.5, 0.2, 0.6, 0.1], [1.0, 0.9, 0.8, 0.7], [2]),  # once
        ([None, 0.5, None, 0.1], [1.0, 0.9, 0.8, 0.7], [4]),
        ([0.0, 0.0, 0.0], [3.0, 2.0, 1.0], []),
    ],
)
def test_when_it_is_said(mious: list[float | None], losses: list[float], said: list[int]) -> None:
    watch, found = FallWatch(), []
    for epoch, (miou, loss) in enumerate(zip(mious, losses, strict=True), 1):
        if watch.update(miou, loss, epoch):
            found.append(epoch)
        saved = json.loads(json.dumps(watch.state_dict()))  # as over a resume
        watch = FallWatch()
        watch.load_state_dict(saved)
    assert found == said


@pytest.mark.slow
def test_a_run_says_it_in_the_line_of_the_epoch(tmp_path: Path) -> None:
    """Validation masks that contradict those of training: the more is learned, the lower."""
    home = tmp_path / "here"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / "voc" / folder).mkdir(parents=True)
    (home / "voc/labels.txt").write_text("dark\nbright\n")
    rng = np.random.default_rng(0)
    for split, swapped in (("train", 0), ("val", 1)):
        names = [f"{split}{i}" for i in range(8)]
        (home / f"voc/ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            mask = np.zeros((64, 64), np.uint8)
            mask[:, 32:] = 1
            image = np.where(mask[..., None] > 0, 200, 50) + rng.integers(0, 50, (64, 64, 3))
            Image.fromarray(image.astype(np.uint8)).save(home / f"voc/JPEGImages/{name}.png")
            write_mask(home / f"voc/SegmentationClass/{name}.png", mask ^ swapped)
    settings = (
        *("data=voc", "data.root=voc", "model/backbone=tiny", "model.backbone.width=8"),
        *("model.aspp_channels=16", "model.decoder_channels=16", "augment=none"),
        *("optimizer=adamw", "optimizer.lr=2e-3", "loader.batch_size=8", "loader.num_workers=0"),
        *("trainer.max_epochs=12", "trainer.device=cpu", "out_dir=run"),
    )
    result = quick_call(*settings, cwd=home)
    assert result.status == 0, result.err
    text = result.out + result.err
    (line,) = [x for x in text.splitlines() if ", and the loss falls)" in x]
    assert line.startswith("epoch ")
    (causes,) = [x for x in text.splitlines() if "likely causes" in x]
    assert "whole images beside crops of 64 x 64 and atrous rates 1, 2, 3" in causes
    assert "BatchNorm's statistics of 8 images" in causes
    assert "optimizer.lr=0.0007" in causes
    advised = ("val.window.size=[64,64]", "model.freeze_bn=true", "optimizer.lr=0.0007")
    result = quick_call(*settings, *advised, "out_dir=advised", "trainer.max_epochs=1", cwd=home)
    assert result.status == 0, result.err


def test_the_advice_against_small_crops_is_accepted(tmp_path: Path) -> None:
    assert call("train.py", "val.window.size=[64,64]", "--cfg", "job", cwd=tmp_path).status == 0
