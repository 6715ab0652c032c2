"""Everything that is wrong with a data set is told in one round, whatever stage would find it."""

from pathlib import Path

import pytest
from scripts import SMALL_RUN, call, quick_call
from voc_folder import make_voc

from segkit.tools.check import main


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train, val = [f"t{i}" for i in range(4)], [f"v{i}" for i in range(4)]
    return make_voc(tmp_path / "voc", {"train": train, "val": val})


def spoil(root: Path) -> list[str]:
    """Break something in every place; what the one message must name."""
    images, masks = root / "JPEGImages", root / "SegmentationClass"
    (images / "t0.png").write_bytes(b"")
    (images / "v0.png").write_bytes(b"")
    (images / "v1.png").unlink()
    (masks / "t1.png").unlink()
    (masks / "v2.png").unlink()
    broken = masks / "v3.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    return [
        "JPEGImages/t0.png: is empty",
        "JPEGImages/v0.png: is empty",
        "JPEGImages/v1: no image",
        "SegmentationClass/t1: no mask",
        "SegmentationClass/v2: no mask",
        "SegmentationClass/v3.png: cannot be decoded",
    ]


def test_the_command_tells_all_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = spoil(root)
    assert main([f"data.root={root}"]) == 1
    err = capsys.readouterr().err
    assert [text for text in expected if text not in err] == []
    # And one round is enough: with all of that put right, all is fine.
    make_voc(root, {"train": [f"t{i}" for i in range(4)], "val": [f"v{i}" for i in range(4)]})
    assert main([f"data.root={root}"]) == 0


def test_also_with_bad_lists(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = spoil(root)
    (root / "labels.txt").write_text("background\ncat\n# dog\n")
    (root / "ImageSets/Segmentation/train.txt").write_text("t0\nt1\nt2\nt3\nt9 5\n")
    assert main([f"data.root={root}"]) == 1
    err = capsys.readouterr().err
    expected += ["labels.txt, line 3", "t9 5: no image (line 5: more columns than one"]
    assert [text for text in expected if text not in err] == []
    assert err.count("labels.txt, line 3") == 1


def test_a_list_that_says_nothing_hides_nothing_of_the_other(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(root)
    (root / "ImageSets/Segmentation/train.txt").write_text("t0\nt0\n../x\n")
    assert main([f"data.root={root}"]) == 1
    err = capsys.readouterr().err
    for text in ("more than once", "'../x' points out", "v1: no image", "v0.png: is empty"):
        assert text in err


def test_training_and_evaluation_tell_all_at_once(root: Path, tmp_path: Path) -> None:
    make_voc(root)
    (tmp_path / "here").mkdir()
    data = ("data=voc", f"data.root={root}", "model/backbone=tiny", *SMALL_RUN)
    more = ("augment=none", "data.val_split=train", "trainer.max_epochs=1", "out_dir=run")
    done = quick_call(*data, *more, cwd=tmp_path / "here")
    assert (done.status, done.err) == (0, "")
    expected = spoil(make_voc(root, {"train": ["t0", "t1"], "val": ["v0", "v1", "v2", "v3"]}))
    done = quick_call(*data, cwd=tmp_path / "here")
    assert done.status == 1
    assert [text for text in expected if text not in done.err] == []
    assert not (tmp_path / "here" / "runs").exists()
    done = call("evaluate.py", "checkpoint=run", "split=val", cwd=tmp_path / "here")
    assert done.status == 1
    expected = [text for text in expected if "/v" in text]
    assert [text for text in expected if text not in done.err] == []
