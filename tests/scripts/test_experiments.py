"""The published recipes, begun on a handful of files: what they say fits together."""

from pathlib import Path

import pytest
from recipe_files import make_recipes
from scripts import call
from voc_folder import make_voc

SHORT = (
    *("trainer.max_epochs=1", "loader.batch_size=2", "loader.num_workers=0", "trainer.device=cpu"),
    *("augment.crop_size=[65,65]", "model.backbone.weights=null", "out_dir=run"),
)


@pytest.mark.slow
def test_voc2012(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "data", {"trainaug": ["a", "b", "d"], "val": ["c"]})
    names = [f"class {i}" for i in range(21)]
    (root / "labels.txt").write_text("\n".join(names) + "\n")
    done = call("train.py", "experiment=voc2012", f"data.root={root}", *SHORT, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "21 classes" in done.out and "3 images to train on, 1 to validate on" in done.out
    assert call("evaluate.py", "checkpoint=run", cwd=tmp_path).status == 0


@pytest.mark.slow
def test_cityscapes(tmp_path: Path) -> None:
    make_recipes(tmp_path)
    folders = ("data.images=cityscapes/leftImg8bit", "data.masks=cityscapes/gtFine")
    done = call("train.py", "experiment=cityscapes", *folders, *SHORT, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "19 classes" in done.out and "2 images to train on, 1 to validate on" in done.out
    assert call("evaluate.py", "checkpoint=run", cwd=tmp_path).status == 0
