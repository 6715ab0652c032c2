"""The check before a run: all problems at once, counts, the 0/255 mask, the cache, the command."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from voc_folder import SHARED, example_mask, make_voc, needs_shared

from segkit.data import cache
from segkit.data.check import check_disjoint, check_splits
from segkit.data.counts import Counts, class_table
from segkit.data.dataset import FileDataset
from segkit.data.masks import write_mask
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError
from segkit.tools.check import main


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    return make_voc(tmp_path / "voc")


def both(root, **settings):
    return {split: VOCSegmentation(root, split, **settings) for split in ("train", "val")}


class InMemory:
    """The least that a user's data set can be."""

    def __init__(self, masks, classes=("ground", "object"), image=None):
        self.masks, self.classes = masks, list(classes)
        self.ids = [f"item_{n}" for n in range(len(masks))]
        self.image = image

    def __len__(self):
        return len(self.masks)

    def read(self, index):
        mask = np.array(self.masks[index])
        image = np.zeros((*mask.shape, 3), dtype=np.uint8) if self.image is None else self.image
        return image, mask


def test_counts_by_hand(root):
    report = check_splits(both(root))
    # Each mask has 8 rows of 4 x 0, 3 x 1, 4 x 2, 1 x 255; train has two masks.
    assert report.counts["train"].pixels.tolist() == [64, 48, 64]
    assert report.counts["train"].pixels.dtype == np.int64
    assert report.counts["train"].ignored == 16
    assert report.counts["val"].pixels.tolist() == [32, 24, 32]
    assert report.warnings == []
    assert "cat" in report.table()


def test_the_number_of_threads_changes_nothing(root):
    for workers in (1, 4):
        report = check_splits({"train": VOCSegmentation(root, "train")}, num_workers=workers)
        assert report.counts["train"].pixels.tolist() == [64, 48, 64]


def test_all_problems_of_all_splits_are_told_at_once(root):
    masks = root / "SegmentationClass"
    wrong = example_mask()
    wrong[0, 0] = 37
    write_mask(masks / "a.png", wrong)
    write_mask(masks / "b.png", example_mask()[:5])
    (masks / "c.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        check_splits(both(root))
    text = str(error.value)
    assert text.startswith("3 items cannot be used:")
    assert "a.png: holds 37 (1 pixels)" in text
    assert "b.png: the mask is 12 x 5" in text
    assert "c.png: is empty" in text


def test_of_many_problems_ten_are_shown(tmp_path):
    names = [f"x{n:02d}" for n in range(13)]
    root = make_voc(tmp_path / "voc", {"train": names})
    for name in names:
        (root / "SegmentationClass" / f"{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match="13 items cannot be used") as error:
        check_splits({"train": VOCSegmentation(root, "train")})
    assert str(error.value).splitlines()[-1] == "  ... and 3 more"


def test_unseen_classes_are_named_per_split(root):
    write_mask(root / "SegmentationClass" / "c.png", example_mask() % 2)
    report = check_splits(both(root))
    assert report.warnings == ["no pixel in the val split of: dog"]


# --- masks of 0 and 255 --------------------------------------------------------------------------


def binary_root(tmp_path):
    root = make_voc(tmp_path / "binary")
    (root / "labels.txt").write_text("background\ncat\n")
    for name in "abc":
        mask = np.repeat(np.uint8([[0] * 9 + [255] * 3]), 8, axis=0)
        write_mask(root / "SegmentationClass" / f"{name}.png", mask)
    return root


def test_masks_of_0_and_255_are_recognised(tmp_path):
    root = binary_root(tmp_path)
    message = r"class 'background' only, and 25\.00% .*0 and 255.*data\.label_map=\{255: 1\}"
    with pytest.raises(DataError, match=message):
        check_splits(both(root))
    report = check_splits(both(root, label_map={255: 1}))
    assert report.counts["val"].pixels.tolist() == [72, 24]
    assert report.counts["val"].ignored == 0


def test_a_split_without_labels_is_refused():
    with pytest.raises(DataError, match=r"every pixel of the train split is ignored \(value 255\)"):
        check_splits({"train": InMemory([[[255, 255]]])})


def test_masks_of_0_and_255_are_recognised_by_a_few_pixels():
    mask = np.zeros((20, 20), dtype=np.uint8)
    mask[0, 0] = 255
    message = r"{} split holds .*and 0\.25% of its pixels .*data\.label_map=\{{255: 1\}}"
    with pytest.raises(DataError, match=message.format("train")):
        check_splits({"train": InMemory([mask])})
    with pytest.raises(DataError, match=message.format("test")):
        check_splits({"test": InMemory([mask])}, trained=False)
    of_three = {"test": InMemory([mask], classes="abc")}
    (warning,) = check_splits(of_three, trained=False).warnings
    assert "the test split holds the class 'a' only, of 3: scores on it say nothing" in warning


def test_a_split_of_one_class_is_no_training_and_no_silent_score():
    """100 % over 1 of 2 classes would follow."""
    blank, both_classes = np.zeros((2, 2), np.uint8), [[0, 1]]
    with pytest.raises(DataError, match="train split holds the class 'ground' only, of 2 classes:"):
        check_splits({"train": InMemory([blank, blank])})
    sets = {"train": InMemory([both_classes]), "val": InMemory([blank])}
    sets["val"].ids = ["other"]
    (warning,) = check_splits(sets).warnings
    assert "the val split holds the class 'ground' only, of 2: scores on it say nothing" in warning
    (warning,) = check_splits({"val": InMemory([blank])}, trained=False).warnings
    assert "'ground' everywhere would score 100 %" in warning


# --- splits that share images ------------------------------------------------------------------


def test_images_in_both_splits_are_an_error(tmp_path):
    root = make_voc(tmp_path / "voc", {"train": ["a", "b", "c"], "val": ["b", "c", "d"]})
    with pytest.raises(DataError, match=r"2 images are in the train split .*\n  - b\n  - c"):
        check_splits(both(root))


def test_one_split_for_both_is_meant(root):
    train = VOCSegmentation(root, "train")
    report = check_splits({"train": train, "val": VOCSegmentation(root, "train")})
    assert len(report.warnings) == 1
    assert "2 of 2 validation images are also trained on" in report.warnings[0]


def test_trainval_holds_val_on_purpose(tmp_path):
    root = make_voc(
        tmp_path / "voc", {"trainval": ["a", "b", "c"], "val": ["c"], "all": ["c", "d"]}
    )
    val = VOCSegmentation(root, "val")
    assert "1 of 1" in check_disjoint(VOCSegmentation(root, "trainval"), val)[0]
    with pytest.raises(DataError, match="1 images"):
        check_disjoint(VOCSegmentation(root, "all"), val)


def test_problems_of_a_split_used_twice_are_told_once(root):
    (root / "SegmentationClass" / "a.png").write_bytes(b"")
    train = VOCSegmentation(root, "train")
    with pytest.raises(DataError, match=r"^1 items cannot be used"):
        check_splits({"train": train, "val": train})


# --- data sets of users --------------------------------------------------------------------------


def test_a_plain_class_is_enough_and_leaves_no_cache(cache_home):
    data = InMemory([[[0, 1, 1]], [[1, 255, 0]]])
    assert not isinstance(data, FileDataset)
    report = check_splits({"train": data})
    assert report.counts["train"].pixels.tolist() == [2, 3]
    assert report.counts["train"].ignored == 1
    assert not cache_home.exists()


def test_a_subclass_with_a_read_of_its_own_is_read_by_it(root):
    class Merged(VOCSegmentation):
        class_of_items = "a name that is the user's"

        def read(self, index):
            image, mask = super().read(index)
            return image, np.where(mask == 2, 1, mask).astype(np.uint8)

    for _ in range(2):  # the second time as the first is remembered, and not as the plain one is
        plain = check_splits({"train": VOCSegmentation(root, "train")})
        assert plain.counts["train"].pixels[2] > 0
        report = check_splits({"train": Merged(root, "train")})
        assert report.counts["train"].pixels.tolist() == [64, 112, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (InMemory([[[0, 7]]]), r"item_0: holds 7 \(1 pixels\)"),
        (InMemory([[[0.5, 1]]]), "item_0: the mask is float64 .*expected integer"),
        (InMemory([[[0, 1]]], image=np.zeros((1, 2, 3))), "the image is float64 .*expected uint8"),
        (InMemory([[[0, 1]]], image=np.zeros((1, 2), np.uint8)), r"the image is uint8 \(1, 2\)"),
        (InMemory([]), "0 items"),
    ],
)
def test_what_breaks_the_contract_is_named(data, message):
    with pytest.raises(DataError, match=message):
        check_splits({"train": data})


def test_equal_ids_and_different_classes_are_refused():
    data = InMemory([[[0]], [[1]]])
    data.ids = ["x", "x"]
    with pytest.raises(DataError, match="2 items with 1 different ids"):
        check_splits({"train": data})
    other = InMemory([[[0]]], classes=["object", "ground"])
    with pytest.raises(DataError, match="splits train and val have different classes"):
        check_splits({"train": InMemory([[[0, 1]]]), "val": other})


def test_a_bug_in_a_data_set_is_not_hidden():
    class Broken(InMemory):
        def read(self, index):
            return self.nothing

    with pytest.raises(AttributeError, match="nothing"):
        check_splits({"train": Broken([[[0]]])})


# --- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """The items that VOCSegmentation was asked to read."""
    seen = []
    original = VOCSegmentation.examine

    def examine(self, index):
        seen.append(self.ids[index])
        return original(self, index)

    monkeypatch.setattr(VOCSegmentation, "examine", examine)
    return seen


def test_a_second_check_reads_what_changed_only(root, reads):
    first = check_splits(both(root))
    assert sorted(reads) == ["a", "b", "c"]
    reads.clear()
    again = check_splits(both(root))
    assert reads == []
    assert again.counts["train"].pixels.tolist() == first.counts["train"].pixels.tolist()
    assert again.counts["val"].ignored == first.counts["val"].ignored

    path = root / "SegmentationClass" / "b.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    check_splits(both(root))
    assert reads == ["b"]


def test_an_image_that_changed_is_read_again(root, reads):
    check_splits(both(root))
    reads.clear()
    (root / "JPEGImages" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: is empty"):
        check_splits(both(root))
    assert reads == ["a"]


def test_other_settings_have_another_cache(root, reads):
    check_splits(both(root))
    for settings in ({"label_map": {2: "ignore"}}, {"ignore_index": 2}, {"colormap": "voc"}):
        reads.clear()
        if settings == {"ignore_index": 2}:
            with pytest.raises(DataError, match="holds 255"):
                check_splits(both(root, **settings), ignore_index=2)
        else:
            check_splits(both(root, **settings))
        assert sorted(reads) == ["a", "b", "c"]


def test_bad_items_are_not_remembered(root, reads):
    path = root / "SegmentationClass" / "a.png"
    path.write_bytes(b"")
    for _ in range(2):
        reads.clear()
        with pytest.raises(DataError, match="1 items"):
            check_splits(both(root))
        assert "a" in reads
    assert reads == ["a"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "nested"])
def test_a_damaged_cache_file_is_ignored(root, reads, damage):
    check_splits(both(root))
    reads.clear()
    (file,) = (cache.cache_folder()).iterdir()
    if damage == "nested":
        entries = json.loads(file.read_text())
        stamps = [entry["stamp"] for entry in entries.values()]
        damaged = [{"stamp": stamp, "facts": {"pixels": "many"}} for stamp in stamps]
        damage = json.dumps(dict(zip(entries, [*damaged[:-1], 7], strict=True)))
    file.write_text(damage)
    report = check_splits(both(root))
    assert sorted(reads) == ["a", "b", "c"]
    assert report.counts["train"].pixels.tolist() == [64, 48, 64]


def test_without_a_cache_folder_the_check_still_works(root, tmp_path, monkeypatch, reads):
    (tmp_path / "file").write_text("")  # in the way of a folder, for root too
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert check_splits(both(root)).counts["val"].ignored == 8
    assert len(reads) == 6


def test_the_cache_is_in_the_home_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "segkit"


# --- table and command ---------------------------------------------------------------------------


def test_the_table_by_hand():
    counts = {
        "train": Counts(np.array([3000, 1000]), 1000),
        "val": Counts(np.array([0, 0]), 0),
    }
    assert class_table(["sky", "a long name"], counts).splitlines() == [
        " id  class          train pixels   share      val pixels   share",
        "  0  sky                   3,000  75.00%               0   0.00%",
        "  1  a long name           1,000  25.00%               0   0.00%",
        "     (ignored)             1,000  20.00%               0   0.00%",
    ]


def test_classes_without_a_pixel_share_a_line_of_the_table():
    counts = {"train": Counts(np.array([0, 3, 0, 0]), 0), "val": Counts(np.array([0, 0, 0, 1]), 0)}
    assert class_table(["a long name", "b", "c", "d"], counts).splitlines() == [
        " id  class        train pixels   share      val pixels   share",
        "  1  b                       3 100.00%               0   0.00%",
        "  3  d                       0   0.00%               1 100.00%",
        "     2 classes do not occur: a long name, c",
        "     (ignored)               0   0.00%               0   0.00%",
    ]


def test_the_command_prints_the_table(root, capsys):
    given = ["data=voc", f"data.root={root}", "data.val_split=train", "data.label_map={2: ignore}"]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "cat" in out
    assert "warning: no pixel in the train split of: dog" in out
    assert out.splitlines()[-1] == "2 pairs in train: fine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "data.root is not set"),
        (["data.rot=x"], r"unknown key data.rot; did you mean data.root\?"),
        (["loss=ce"], "unknown key loss; there are data, data.root, "),
        (["data.root"], "expected key=value"),
        (["data.root=does/not/exist"], "does/not/exist: no such folder"),
        (["data.root={root}", "data.num_classes=5"], "holds 3 names, but data.num_classes is 5"),
        (["data=shapes", "data.root={root}"], "data=shapes: no such value; there are folders, voc"),
        (["data.root={root}", "data.ignore_index=abc"], "expected a whole number"),
        (["data.root={root}", "data.ignore_index=null"], "expected a whole number"),
        (["data.root={root}", "data.num_classes=ten"], "expected a whole number"),
        (["data.root={root}", "data.classes=abc"], r"expected a list of texts, \[a,b\]"),
        (["data.root={root}", "data.classes=3"], r"expected a list of texts, \[a,b\]"),
        (["data.root=[a]", "data=voc"], r"data\.root=\[a\]: no such folder"),
    ],
)
def test_the_command_explains_mistakes(root, capsys, arguments, message):
    assert main([argument.replace("{root}", str(root)) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err)


def test_the_command_explains_itself(capsys):
    assert main(["--help"]) == 0
    assert "data.ignore_index=... value without a label [255]" in capsys.readouterr().out


@pytest.mark.quick("segkit.data.check")
@pytest.mark.parametrize("module", ["segkit.data.check", "segkit.tools.check"])
def test_the_command_as_a_module(root, module):
    (root / "SegmentationClass" / "c.png").write_bytes(b"")
    command = [sys.executable, "-m", module, f"data.root={root}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "c.png: is empty" in done.stderr
    assert "Traceback" not in done.stderr


@needs_shared
def test_real_camvid_counts_are_the_published_ones():
    report = check_splits({"train": VOCSegmentation(SHARED / "camvid", "val")})
    counts = report.counts["train"]
    assert counts.pixels[:3].tolist() == [1601620, 4531180, 98499]  # README of the data
    assert counts.ignored == 297271


# --- images that are turned --------------------------------------------------------------------


def turned_pair(root, name, orientation, mask_shape):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Image.fromarray(np.zeros((8, 12, 3), np.uint8))
    photo.save(root / "JPEGImages" / f"{name}.png", exif=exif.tobytes())
    mask = np.eye(*mask_shape, dtype=np.uint8)
    write_mask(root / "SegmentationClass" / f"{name}.png", mask)


def test_what_was_done_about_exif_orientations_is_told_for_each_split(root, reads):
    turned_pair(root, "a", 6, (12, 8))  # the mask was drawn on the turned image,
    turned_pair(root, "b", 6, (8, 12))  # on the stored one,
    turned_pair(root, "c", 2, (8, 12))  # on one of them
    expected = [
        "1 of 2 images of the train split are turned or mirrored as their EXIF orientation says; "
        "the first is a",
        "1 of 2 images of the train split are left as they are stored, against their EXIF "
        "orientation: so their masks fit; the first is b",
        "1 of 1 images of the val split are turned or mirrored as their EXIF orientation says; "
        "the first is c",
    ]
    for known in (False, True):  # the cache remembers it
        reads.clear()
        warnings = check_splits(both(root)).warnings
        assert [text for text in warnings if "EXIF" in text] == expected
        assert (reads == []) == known
