"""Images that are trained on and validated on: under any name, as a link, as equal bytes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import SMALL, call
from voc_folder import make_voc

from segkit.data import leaks
from segkit.data.check import check_splits
from segkit.data.leaks import check_disjoint, image_sums, remembered
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "voc")


def both(root: Path) -> tuple[VOCSegmentation, VOCSegmentation]:
    return VOCSegmentation(root, "train"), VOCSegmentation(root, "val")


def image(root: Path, name: str) -> Path:
    return root / "JPEGImages" / f"{name}.png"


def mask(root: Path, name: str) -> Path:
    return root / "SegmentationClass" / f"{name}.png"


@pytest.mark.parametrize("text", ["./a\n", ".//a\n", "a 1\n", "c\n./a\n"])
def test_a_leak_is_seen_however_an_id_is_spelt(root: Path, text: str) -> None:
    (root / "ImageSets/Segmentation/val.txt").write_text(text)
    with pytest.raises(DataError, match=r"1 images are in the train split .*\n  - a$"):
        check_disjoint(*both(root))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_leak_is_seen_through_links(root: Path, link) -> None:  # type: ignore[no-untyped-def]
    image(root, "c").unlink()
    link(image(root, "b"), image(root, "c"))
    with pytest.raises(DataError, match=r"1 images .*\n  - c \(the file of b\)$"):
        check_disjoint(*both(root))


def test_a_leak_is_seen_through_a_linked_folder(root: Path) -> None:
    for kind in ("JPEGImages", "SegmentationClass"):
        (root / kind / "again").symlink_to(root / kind)
    (root / "ImageSets/Segmentation/val.txt").write_text("again/a\n")
    with pytest.raises(DataError, match=r"1 images .*\n  - again/a \(the file of a\)$"):
        check_disjoint(*both(root))


def test_a_mask_of_two_images_in_both_splits_is_a_warning(root: Path) -> None:
    mask(root, "c").unlink()
    mask(root, "c").symlink_to(mask(root, "a"))
    (warning,) = check_disjoint(*both(root))
    assert warning.startswith("1 masks of the validation split are also masks of other images")
    assert warning.endswith("c has that of a")


def test_links_in_one_split_are_a_warning(root: Path) -> None:
    image(root, "b").unlink()
    image(root, "b").symlink_to(image(root, "a"))
    report = check_splits(dict(zip(("train", "val"), both(root), strict=True)), progress=False)
    assert report.warnings == [
        "1 images of the train split stand there under several ids (links to one file), and "
        "count so often; the first: a, b"
    ]


def test_equal_bytes_are_a_warning(root: Path) -> None:
    shutil.copyfile(image(root, "a"), image(root, "c"))
    (warning,) = check_disjoint(*both(root))
    assert warning.startswith("1 validation images hold the same bytes")
    assert warning.endswith("c equals a")


def test_images_of_equal_size_are_hardly_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BMPs, say: all have one size, and a piece in the middle tells that they differ."""
    rng = np.random.default_rng(0)
    for name in "abc":
        image(root, name).unlink()
        pixels = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.bmp")
    monkeypatch.setattr(leaks, "_equal", None)  # would be a TypeError
    assert check_disjoint(*both(root)) == []


def test_no_image_is_read_where_sizes_differ(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate("abc"):
        Image.new("RGB", (12 + number, 8)).save(root / "JPEGImages" / f"{name}.bmp")
        image(root, name).unlink()
    monkeypatch.setattr(leaks, "_piece", lambda *_: pytest.fail("an image was read"))
    assert check_disjoint(*both(root)) == []


def test_a_leak_is_told_with_all_other_problems(root: Path) -> None:
    (root / "ImageSets/Segmentation/val.txt").write_text("./a\nc\n")
    mask(root, "b").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)1 images are in .*\n1 items cannot be used:.*b\.png"):
        check_splits(dict(zip(("train", "val"), both(root), strict=True)), progress=False)


def test_what_a_checkpoint_was_trained_on_is_known(root: Path) -> None:
    train, val = both(root)
    sums = image_sums(train)
    assert len({*sums}) == len(train)
    assert all(len(one) == 16 for one in sums)
    assert remembered(val, "val", sums) == []
    (root / "ImageSets/Segmentation/all.txt").write_text("\n".join([*train.ids, *val.ids]))
    (told,) = remembered(VOCSegmentation(root, "all"), "all", sums)
    assert told.startswith(f"{len(train)} of the {len(train) + len(val)} images of all were")
    # Another image under the same id is another one.
    name = train.ids[0]
    image(root, name).write_bytes(image(root, name).read_bytes() + b"\0")
    assert len({*image_sums(VOCSegmentation(root, "train"))} & {*sums}) == len(train) - 1


def test_lists_that_are_divided_anew_are_told(tmp_path: Path) -> None:
    """The scores of such a split used to look like any others."""
    home = tmp_path / "here"
    home.mkdir()
    done = call("train.py", *SMALL, "trainer.max_epochs=1", "out_dir=run", cwd=home)
    assert done.status == 0, done.err
    score = ("evaluate.py", "checkpoint=run", "bootstrap.resamples=0")
    assert "trained on" not in call(*score, cwd=home).out
    told = call(*score, "split=train", cwd=home).out
    assert "24 of the 24 images of train were trained on" in told
    lists = home / "data/shapes/ImageSets/Segmentation"
    first, *rest = (lists / "train.txt").read_text().splitlines()
    (lists / "train.txt").write_text("\n".join(rest) + "\n")
    (lists / "val.txt").write_text((lists / "val.txt").read_text() + f"{first}\n")
    assert "1 of the 7 images of val were trained on" in call(*score, cwd=home).out
    more = ("train.py", "resume=run", "trainer.max_epochs=2")
    refused = call(*more, cwd=home)
    assert refused.status == 1
    assert "was validated on other images (0 of them are not in the validation" in refused.err
    assert "1 are new), so its best score would be compared with scores of others" in refused.err
    (lists / "val.txt").write_text((lists / "val.txt").read_text().replace(f"{first}\n", ""))
    told = call(*more, cwd=home)
    assert told.status == 0, told.err
    assert "was trained on 1 are not in the train split any more, and 0 are new" in told.out
    (lists / "val.txt").write_text((lists / "val.txt").read_text() + f"{first}\n")
    assert "1 of the 7 images of val were trained on" in call(*score, cwd=home).out  # still known


def test_what_the_first_weights_were_trained_on_is_told(tmp_path: Path) -> None:
    """Lists may be divided anew between the two runs."""
    home = tmp_path / "here"
    home.mkdir()
    short = (*SMALL, "trainer.max_epochs=1")
    done = call("train.py", *short, "out_dir=first", cwd=home)
    assert done.status == 0, done.err
    lists = home / "data/shapes/ImageSets/Segmentation"
    first, *rest = (lists / "train.txt").read_text().splitlines()
    (lists / "train.txt").write_text("\n".join(rest) + "\n")
    (lists / "val.txt").write_text((lists / "val.txt").read_text() + f"{first}\n")
    told = "images of the validation split were trained on"
    assert told not in call("train.py", *short, "out_dir=fresh", cwd=home).out
    for start, out_dir in (("first", "second"), ("second", "third")):  # it is handed on
        more = call("train.py", *short, f"init_from={start}", f"out_dir={out_dir}", cwd=home)
        assert f"warning: init_from: 1 of the 7 {told}" in more.out
        scores = call("evaluate.py", f"checkpoint={out_dir}", "bootstrap.resamples=0", cwd=home)
        assert "1 of the 7 images of val were trained on" in scores.out
    again = call("train.py", "resume=third", "trainer.max_epochs=2", cwd=home)
    assert f"1 of the 7 {told}" in again.out
    scores = call("evaluate.py", "checkpoint=third", "bootstrap.resamples=0", cwd=home)
    assert "1 of the 7 images of val were trained on" in scores.out
