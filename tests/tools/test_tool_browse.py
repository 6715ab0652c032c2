"""The sheet of what a model will be fed."""

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from voc_folder import make_voc

from segkit.cli.command import CONFIGS
from segkit.config import build_augment
from segkit.data.colors import fill_palette
from segkit.data.decode import read_image
from segkit.data.loader import Samples
from segkit.data.voc import VOCSegmentation
from segkit.report.contact_sheet import LINE, Tile, contact_sheet
from segkit.report.images import GAP, hatched
from segkit.tools.browse import Request, main, write_sheet

STEP = 240 + GAP  # from one column to the next

PALETTE = fill_palette(np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8))


def browse(*arguments: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["browse", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "segkit.tools.browse", raising=False)  # or runpy warns
    with pytest.raises(SystemExit) as end:
        runpy.run_module("segkit.tools.browse", run_name="__main__")
    if isinstance(end.value.code, str):
        print(end.value.code, file=sys.stderr)
    return end.value.code if isinstance(end.value.code, int) else 1


def test_a_tile_shows_image_and_mask() -> None:
    image = np.full((4, 6, 3), 77, np.uint8)
    mask = np.array([[0, 0, 0, 1, 1, 1]] * 2 + [[255, 255, 255, 2, 2, 2]] * 2, np.uint8)
    sheet = contact_sheet([[Tile(image, mask, "x")]], ["a", "b", "c"], PALETTE, 255, side=300)
    assert (sheet[LINE : LINE + 4, :6] == 77).all()
    shown = sheet[LINE + 4 + GAP : LINE + 8 + GAP, :6]
    np.testing.assert_array_equal(shown, hatched(mask, PALETTE, 255))
    assert (shown[:2, 3:] == [200, 0, 0]).all()
    assert set(np.unique(shown[2:, :3])) <= {90, 160}  # stripes


def test_large_images_shrink_and_labels_are_not_blended() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    mask = np.zeros((40, 80), np.uint8)
    mask[:, 40:] = 2
    sheet = contact_sheet([[Tile(image, mask, "x")] * 2], ["a", "b", "c"], PALETTE, 255, side=40)
    shown = sheet[LINE + 20 + GAP : LINE + 40 + GAP, :40]
    assert (shown[:, :20] == 0).all()
    assert (shown[:, 20:] == [0, 200, 0]).all()


def sheet_of(root: Path, *overrides: str, **settings: Any) -> np.ndarray:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["data=voc", f"data.root={root}", *overrides])
    path = root / "sheets/sheet.png"
    write_sheet(cfg, Request(**settings, out=str(path), force=True))
    return read_image(path)


def test_the_sheet_is_made_of_what_training_reads(tmp_path: Path) -> None:
    root, crop = make_voc(tmp_path / "voc"), "augment.crop_size=[8,8]"
    first = sheet_of(root, crop)
    assert first.shape[1] == 4 * STEP  # the file and three epochs
    np.testing.assert_array_equal(first, sheet_of(root, crop))
    other = sheet_of(root, crop, "seed=1")
    assert (first != other).any()
    # The seed does not change the file.
    np.testing.assert_array_equal(first[LINE:40, :12], other[LINE:40, :12])


def test_a_column_is_what_samples_reads(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    sheet = sheet_of(root, "augment=light", "seed=3", epochs=2, images=1)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["data=voc", f"data.root={root}", "augment=light"])
    fed = Samples(VOCSegmentation(root, "train"), build_augment(cfg), seed=3)
    for column in (1, 2):
        image, _ = fed.read(column, 0)
        shown = sheet[LINE : LINE + 8, column * STEP : column * STEP + 12]
        np.testing.assert_array_equal(shown, image)


def test_pasted_objects_are_shown(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    for name in ("a", "b"):
        mask = np.zeros((30, 40), np.uint8)
        mask[10:16, 10:20] = 1
        Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
        Image.new("RGB", (40, 30), (50, 50, 50) if name == "a" else (90, 90, 90)).save(
            root / f"JPEGImages/{name}.png"
        )
    plain = sheet_of(root, "augment=none", epochs=1)
    pasted = sheet_of(root, "augment=none", "augment.copy_paste=1", epochs=1)
    changed = (plain != pasted).any(axis=(0, 2)).nonzero()[0]
    assert len(changed) and changed.min() >= STEP  # the column of the files is as it was


def test_without_augmentation_all_columns_are_the_file(tmp_path: Path) -> None:
    sheet = sheet_of(make_voc(tmp_path / "voc"), "augment=none", epochs=1, images=1)
    rows = slice(LINE, LINE + 16 + GAP)  # image and mask
    np.testing.assert_array_equal(sheet[rows, :12], sheet[rows, STEP : STEP + 12])


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_voc(tmp_path / "voc")
    arguments = ("data=voc", "data.root=voc", "images=5", "augment=none", "out=new/s.png")
    assert browse(*arguments, cwd=tmp_path, monkeypatch=monkeypatch) == 0
    assert "2 of 2 images of train: new/s.png" in capsys.readouterr().out
    assert (tmp_path / "new/s.png").is_file()


@pytest.mark.slow
def test_a_sheet_that_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_voc(tmp_path / "voc")
    arguments = ("data=voc", "data.root=voc", "augment=none", "images=1", "epochs=1")
    assert browse(*arguments, "--dry-run", cwd=tmp_path, monkeypatch=monkeypatch) == 0
    assert "dry run: would write browse.png" in capsys.readouterr().out
    path = tmp_path / "browse.png"
    assert not path.exists()
    path.write_text("mine")
    assert browse(*arguments, cwd=tmp_path, monkeypatch=monkeypatch) == 1
    assert "out=browse.png: is there already; nothing was written" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert browse(*arguments, "--force", cwd=tmp_path, monkeypatch=monkeypatch) == 0
    assert read_image(path).ndim == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images=0"], "error: images=0: expected at least 1"),
        (["pictures=4"], "error: pictures=4: pictures is called images now"),
        (["data=voc"], "error: data.root is not set"),
        (["agument=none"], "agument"),
        (["out=x.jpg", "data=voc", "data.root=voc"], "expected a name that ends in .png"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    make_voc(tmp_path / "voc")
    assert browse(*arguments, cwd=tmp_path, monkeypatch=monkeypatch) == 1
    assert message in capsys.readouterr().err


def test_help_tells_its_own_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data=voc", "--help"]) == 0
    out = capsys.readouterr().out
    assert "All other keys are those of train.py" in out
    assert "images=... rows of the sheet" in out
