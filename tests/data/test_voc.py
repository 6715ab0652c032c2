"""Folders in VOC layout: what is accepted, and one clear error for everything that is not."""

import codecs
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc_folder import SHARED, example_mask, make_pair, make_voc, needs_shared

from segkit.data.masks import voc_palette, write_mask
from segkit.data.voc import VOCSegmentation, read_split, split_file
from segkit.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_voc(tmp_path / "VOC2012")


def write_split(root, text, split="train"):
    data = text if isinstance(text, bytes) else text.encode()
    (root / "ImageSets/Segmentation" / f"{split}.txt").write_bytes(data)


def mask_path(root, name="a"):
    return root / "SegmentationClass" / f"{name}.png"


def test_a_folder_is_read(root):
    dataset = VOCSegmentation(root, "train")
    assert (len(dataset), dataset.ids, dataset.num_classes) == (2, ["a", "b"], 3)
    assert dataset.classes == ["background", "cat", "dog"]
    image, mask = dataset.read(0)
    assert (image.dtype, image.shape) == (np.uint8, (8, 12, 3))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, example_mask())
    assert dataset.files(1) == (root / "JPEGImages/b.png", root / "SegmentationClass/b.png")
    assert pickle.loads(pickle.dumps(dataset)).ids == dataset.ids  # goes to worker processes


# --- where the classes come from -----------------------------------------------------------------


def test_names_or_a_number_in_place_of_the_file(root):
    (root / "labels.txt").unlink()
    assert VOCSegmentation(root, "val", classes=["x", "y", "z"]).classes == ["x", "y", "z"]
    assert VOCSegmentation(root, "val", num_classes=3).classes == ["class_0", "class_1", "class_2"]
    with pytest.raises(DataError, match=r"labels\.txt: no such file.*data\.classes or data\.num_c"):
        VOCSegmentation(root, "val")


def test_sources_of_the_classes_may_agree(root):
    classes = ["background", "cat", "dog"]
    assert VOCSegmentation(root, "val", classes=classes, num_classes=3).classes == classes


def test_labels_file_of_windows(root):
    (root / "labels.txt").write_bytes(codecs.BOM_UTF8 + b"background\r\ncat \r\ndog\r\n\r\n")
    assert VOCSegmentation(root, "val").classes == ["background", "cat", "dog"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["a", "b", "c"]}, r"labels\.txt: holds the classes .* but data\.classes is"),
        ({"num_classes": 21}, r"labels\.txt: holds 3 names, but data\.num_classes is 21"),
        ({"classes": ["a", "b"], "num_classes": 3}, r"is 3, but data\.classes has 2 names"),
        ({"classes": ["a", "a"]}, "'a' stands there twice"),
        ({"classes": ["a", ""]}, "class 1 has an empty name"),
        ({"classes": ["a", False]}, "class 1 is False, not a text.*quotes"),
        ({"classes": ["a"]}, "holds 1 names; expected 2 to 256"),
        ({"num_classes": 1}, "is 1; expected 2 to 256. The background counts"),
        ({"num_classes": 257}, "is 257; expected 2 to 256"),
        ({"ignore_index": -100}, r"data\.ignore_index is -100; expected 0 to 255"),
        ({"label_map": {1: 3}}, "holds 1: 3; .*0 to 2.* or ignore"),
        ({"label_map": {"cat": 1}}, "holds 'cat': 1; expected an id"),
        ({"label_map": {1: True}}, "holds 1: True; expected an id"),
        ({"label_map": {1: 1.9}}, "holds 1: 1.9; expected an id"),
        ({"label_map": {1: None}}, "holds 1: None; expected an id"),
        ({"label_map": {-1: 0}}, "holds -1: 0; expected an id"),
        ({"label_map": {1: 0, "1": 2}}, "lists 1 twice"),
        ({"colormap": "rainbow"}, r"data\.colormap is 'rainbow'"),
    ],
)
def test_settings_that_contradict_are_refused(root, settings, message):
    with pytest.raises(DataError, match=message):
        VOCSegmentation(root, "train", **settings)


def test_an_empty_line_between_names_is_refused(root):
    (root / "labels.txt").write_text("background\n\ndog\n")
    with pytest.raises(DataError, match="class 1 has an empty name"):
        VOCSegmentation(root, "train")


# --- split files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"a\r\nb\r\n",
        b"\n a \n\n\nb",
        codecs.BOM_UTF8 + b"a\nb\n",
        b"a  1\nb -1\n",
        b"a\t0\nb  1\n\n",
    ],
)
def test_split_files_as_they_come(root, text):
    write_split(root, text)
    assert VOCSegmentation(root, "train").ids == ["a", "b"]


@pytest.mark.parametrize(
    "names", [["berlin/x_1", "img.v1", "my photo", "img 1"], ["img 0", "img 1"]]
)
def test_ids_with_folders_dots_and_blanks(root, names):
    for kind in ("JPEGImages", "SegmentationClass"):
        (root / kind / "berlin").mkdir(exist_ok=True)
    for name in names:
        make_pair(root, name)
    write_split(root, "\n".join(names))
    dataset = VOCSegmentation(root, "train")
    assert dataset.ids == names
    assert dataset.read(0)[1].shape == (8, 12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train\.txt: holds no id"),
        ("\n \r\n", "holds no id"),
        ("a\nb\na\n", "1 ids stand there more than once.*\n  - a$"),
        ("a\n../b\n", r"'../b' points out of the folder"),
        ("/etc/passwd\n", "points out of the folder"),
        ("a\nb\n".encode("utf-16"), "is not UTF-8 text.*Save it as UTF-8"),
    ],
)
def test_bad_split_files_are_refused(root, text, message):
    write_split(root, text)
    with pytest.raises(DataError, match=message):
        VOCSegmentation(root, "train")


def test_an_unknown_split_lists_those_that_exist(root):
    with pytest.raises(DataError, match=r"test\.txt: no such file.*: train, val$"):
        VOCSegmentation(root, "test")


@pytest.mark.parametrize("split", ["../train", "/train", "a/../../b", "", " ", "a\nb", "..\\b"])
def test_a_split_outside_of_the_folder_of_lists_is_refused(root, split):
    for use in (VOCSegmentation, read_split, split_file):
        with pytest.raises(DataError, match="is no name of a split; expected the name of a file"):
            use(root, split)


# --- folders and files ---------------------------------------------------------------------------


def test_a_missing_root_is_named_with_the_starting_folder(tmp_path):
    with pytest.raises(DataError, match=r"data\.root=.*nowhere: no such folder.*start at /"):
        VOCSegmentation(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("given", ["..", "../..", "JPEGImages"])
def test_a_root_above_or_below_the_right_one_is_corrected(tmp_path, given):
    root = make_voc(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(DataError, match=r"has no JPEGImages.*Did you mean data\.root=.*VOC2012\?"):
        VOCSegmentation((root / given).resolve(), "train")


def test_a_root_of_something_else_says_what_is_missing(root):
    (root / "JPEGImages").rename(root / "images")
    with pytest.raises(DataError, match=r"has no JPEGImages; expected a folder with JPEGImages"):
        VOCSegmentation(root, "train")


@pytest.mark.parametrize("suffix", ["JPG", "jpeg", "PNG", "bmp", "tif", "TIFF", "WebP"])
def test_images_of_every_suffix_in_any_case(root, suffix):
    image = root / "JPEGImages"
    with Image.open(image / "a.png") as photo:
        photo.save(image / f"x.{suffix}")
    (image / "a.png").unlink()
    (image / f"x.{suffix}").rename(image / f"a.{suffix}")
    assert VOCSegmentation(root, "train").read(0)[0].shape == (8, 12, 3)


def test_all_missing_files_are_told_at_once(root):
    write_split(root, "\n".join(["a", *(f"gone_{n:02d}" for n in range(6))]))
    with pytest.raises(DataError) as error:
        VOCSegmentation(root, "train")
    lines = str(error.value).splitlines()
    assert "12 files missing" in lines[0]
    assert lines[1].endswith("JPEGImages/gone_00: no image")
    assert lines[2].endswith("SegmentationClass/gone_00: no mask")
    assert len(lines) == 12
    assert lines[-1] == "  ... and 2 more"


def test_two_images_of_one_name_are_refused(root):
    Image.new("RGB", (12, 8)).save(root / "JPEGImages" / "a.bmp")
    with pytest.raises(DataError, match=r"a: 2 files for one image \(a\.bmp, a\.png\)"):
        VOCSegmentation(root, "train")


# --- contents ------------------------------------------------------------------------------------


def test_unequal_sizes_are_refused_with_both(root):
    write_mask(mask_path(root), example_mask()[:5])
    with pytest.raises(DataError, match=r"a\.png: the mask is 12 x 5 .* its image 12 x 8"):
        VOCSegmentation(root, "train").read(0)


def test_a_turned_photo_follows_its_mask(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((8, 12, 3), dtype=np.uint8)
    stored[0] = 250  # upper edge as stored, right edge as shown
    Image.fromarray(stored).save(root / "JPEGImages" / "a.png", exif=exif.tobytes())
    dataset = VOCSegmentation(root, "train")
    assert (dataset.read(0)[0][0] == 250).all()  # the mask is as wide as the stored image
    write_mask(mask_path(root), np.zeros((12, 8), dtype=np.uint8))
    image, mask = dataset.read(0)
    assert image.shape[:2] == mask.shape
    assert (image[:, -1] == 250).all()


def test_a_value_out_of_range_is_named_with_file_and_count(root):
    mask = example_mask()
    mask[0, :3] = 37
    write_mask(mask_path(root), mask)
    with pytest.raises(DataError, match=r"a\.png: holds 37 \(3 pixels\); expected 0 to 2 or 255"):
        VOCSegmentation(root, "train").read(0)


def test_a_truncated_mask_is_named(root):
    path = mask_path(root)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"SegmentationClass/a\.png: cannot be decoded"):
        VOCSegmentation(root, "train").read(0)


@pytest.mark.parametrize("label_map", [{0: "ignore", 1: 0, 2: 1}, {"0": "ignore", "1": 0, "2": 1}])
def test_labels_are_renumbered(root, label_map):
    dataset = VOCSegmentation(root, "train", classes=["cat", "dog"], label_map=label_map)
    expected = np.array([255, 0, 1])[example_mask().clip(max=2)]
    expected[example_mask() == 255] = 255
    np.testing.assert_array_equal(dataset.read(0)[1], expected)


def test_a_binary_mask_is_renumbered_before_255_is_ignored(root):
    write_mask(mask_path(root), np.repeat(np.uint8([[0] * 6 + [255] * 6]), 8, axis=0))
    dataset = VOCSegmentation(root, "train", num_classes=2, label_map={255: 1})
    assert np.bincount(dataset.read(0)[1].ravel()).tolist() == [48, 48]


def test_deep_masks_are_renumbered_to_bytes(root):
    deep = example_mask().astype(np.uint16) * 100  # 0, 100, 200 and 25500
    Image.fromarray(deep).save(mask_path(root))
    settings = {"label_map": {0: 0, 100: 1, 200: 2, 25500: "ignore"}}
    mask = VOCSegmentation(root, "train", **settings).read(0)[1]
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, example_mask())


# --- colours -------------------------------------------------------------------------------------


def test_the_palette_comes_from_the_first_mask(root):
    colors = np.array([[9, 9, 9], [200, 0, 0], [0, 200, 0]], dtype=np.uint8)
    write_mask(mask_path(root), example_mask(), colors)
    palette = VOCSegmentation(root, "train").palette
    assert palette.shape == (256, 3)
    np.testing.assert_array_equal(palette[:3], colors)
    swapped = VOCSegmentation(root, "train", label_map={1: 2, 2: 1}).palette
    np.testing.assert_array_equal(swapped[:3], colors[[0, 2, 1]])


def test_colours_that_show_nothing_are_replaced(root):
    grey = Image.fromarray(example_mask())
    grey.putpalette(bytes(v for n in range(256) for v in (n, n, n)))  # nearly black
    for photo in (Image.fromarray(example_mask()), grey):
        photo.save(mask_path(root))
        palette = VOCSegmentation(root, "train").palette
        np.testing.assert_array_equal(palette, voc_palette())
    write_mask(mask_path(root), example_mask(), np.zeros((256, 3), dtype=np.uint8))
    np.testing.assert_array_equal(VOCSegmentation(root, "train").palette, voc_palette())


def test_rgb_masks_with_a_colormap(root):
    colors = np.array([[1, 2, 3], [40, 50, 60], [70, 80, 90]], dtype=np.uint8)
    table = voc_palette()
    table[:3] = colors
    for name in ("a", "b"):
        Image.fromarray(table[example_mask()]).save(mask_path(root, name))
    dataset = VOCSegmentation(root, "train", colormap=colors.tolist())
    np.testing.assert_array_equal(dataset.read(1)[1], example_mask())
    np.testing.assert_array_equal(dataset.palette[:3], colors)
    with pytest.raises(DataError, match=r"data\.colormap"):
        VOCSegmentation(root, "train").read(0)


# --- the real thing ------------------------------------------------------------------------------


@needs_shared
def test_real_voc_pairs():
    dataset = VOCSegmentation(SHARED / "voc_samples", "trainval")
    assert (len(dataset), dataset.num_classes, dataset.classes[15]) == (16, 21, "person")
    np.testing.assert_array_equal(dataset.palette[:21], voc_palette(21))
    image, mask = dataset.read(dataset.ids.index("2007_000032"))
    assert image.shape == (281, 500, 3)
    assert np.unique(mask).tolist() == [0, 1, 15, 255]


@needs_shared
def test_real_camvid_pairs():
    sizes = {"train": 367, "val": 101, "test": 233, "trainval": 468}
    for split, size in sizes.items():
        dataset = VOCSegmentation(SHARED / "camvid", split)
        assert (len(dataset), dataset.num_classes) == (size, 11)
        image, mask = dataset.read(size - 1)
        assert image.shape == (360, 480, 3)
        assert mask.shape == (360, 480)


@pytest.mark.parametrize(
    ("there", "listed"), [("cafe\u0301", "caf\u00e9"), ("A", "a"), ("a", "a\u200b")]
)
def test_a_name_that_only_looks_alike_is_told(there: str, listed: str, tmp_path: Path) -> None:
    root = make_voc(tmp_path, {"train": [there]})
    (root / "ImageSets/Segmentation/train.txt").write_text(f"{listed}\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        VOCSegmentation(root, "train")
    near = f"(there is {there!a}, not {listed!a}: rename the file, or the entry)"
    assert str(error.value).count(near) == 2  # the image and the mask
