"""Images in one folder and masks in another, and what divides them."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripts import SMALL_RUN, call
from voc_folder import example_mask

from segkit.cli.arguments import parse
from segkit.data import FolderSegmentation
from segkit.data.check import check_splits, open_splits
from segkit.data.dataset import IncompleteSplit, can_examine
from segkit.data.groups import group_names, held_out
from segkit.data.masks import write_mask
from segkit.data.named_files import stem_of
from segkit.errors import ConfigError, DataError, SegkitError
from segkit.tools.split import Request, split


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all that follows happens: paths are relative to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def image(path: str) -> None:
    rng = np.random.default_rng(sum(map(ord, path)))
    save(path, rng.integers(0, 256, (8, 12, 3), dtype=np.uint8))


def mask(path: str) -> None:
    save(path, example_mask())


def save(path: str, values: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def pairs(*names: str, image_end: str = ".png", mask_end: str = ".png") -> None:
    for name in names:
        image(f"images/{name}{image_end}")
        mask(f"masks/{name}{mask_end}")


def text(path: str, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


def opened(split: str = "all", **settings: Any) -> FolderSegmentation:
    given = {"images": "images", "masks": "masks", "num_classes": 3} | settings
    return FolderSegmentation(split, **given)


def ids(split: str = "all", **settings: Any) -> list[str]:
    return opened(split, **settings).ids


def test_images_and_masks_are_paired_by_their_paths() -> None:
    pairs("b", "street/a", image_end=".jpg")
    dataset = opened()
    assert dataset.ids == ["b", "street/a"]
    assert dataset.files(1) == (Path("images/street/a.jpg"), Path("masks/street/a.png"))
    found, labels = dataset.read(0)
    assert found.shape == (8, 12, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(labels, example_mask())
    assert can_examine(dataset)
    report = check_splits({"all": dataset}, trained=False, progress=False)
    # Rows of 4 x 0, 3 x 1, 1 x 255, 4 x 2, eight in each of two masks.
    assert report.counts["all"].pixels.tolist() == [64, 48, 64]
    assert report.counts["all"].ignored == 16


def test_classes_and_colours_are_as_in_a_voc_folder() -> None:
    pairs("a")
    text("masks/labels.txt", "background\ncat\ndog\n")
    assert opened(num_classes=None).classes == ["background", "cat", "dog"]
    merged = opened(num_classes=None, classes=["no", "yes"], label_map={1: 1, 2: 1})
    assert merged.read(0)[1].max(where=merged.read(0)[1] < 255, initial=0) == 1
    assert merged.palette.shape == (256, 3)
    Path("masks/labels.txt").rename("labels.txt")  # in the folder above
    assert opened(num_classes=None).classes[1] == "cat"
    Path("labels.txt").unlink()
    with pytest.raises(DataError, match=r"^masks/labels\.txt: no such file.*data\.num_classes"):
        opened(num_classes=None)


def test_suffixes_choose_the_files() -> None:
    for name in ("x/one", "x/two"):
        image(f"images/{name}_leftImg8bit.png")
        for end in ("color", "labelIds"):
            mask(f"masks/{name}_gtFine_{end}.png")
    image("images/x/one_depth.png")
    for end in ("_gtFine_labelIds", "_gtFine_labelIds.png"):
        found = opened(image_suffix="_leftImg8bit", mask_suffix=end)
        assert found.ids == ["x/one", "x/two"]
        assert found.files(0)[1].name == "one_gtFine_labelIds.png"


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("a_m.png", "_m", "a"),
        ("a_m.PNG", "_m.png", "a"),
        ("a_m.png", "_m.png", "a"),
        ("a.b.png", None, "a.b"),
        ("a.png", "_m", None),
        ("_m.png", "_m", None),
        ("a.JPG", ".jpg", "a"),
    ],
)
def test_stems(name: str, suffix: str | None, stem: str | None) -> None:
    assert stem_of(name, suffix) == stem


def test_one_folder_may_hold_both() -> None:
    image("both/a.jpg")
    mask("both/a_mask.png")
    assert ids(images="both", masks="both", mask_suffix="_mask") == ["a"]
    with pytest.raises(DataError, match=r"are one folder, both: give data\.mask_suffix"):
        opened(images="both", masks="both")
    mask("both/masks/a.png")
    with pytest.raises(DataError, match=r"both/a_mask\.png: has no mask; expected both/masks/a_m"):
        opened(images="both", masks="both/masks")
    assert ids(images="both", masks="both/masks", image_suffix=".jpg") == ["a"]


# How they are divided


def test_by_folders_that_are_called_as_the_splits() -> None:
    pairs("train/a", "train/deep/b", "val/a")
    assert ids("train") == ["train/a", "train/deep/b"]
    assert ids("val") == ["val/a"]
    assert len(ids("all")) == 3
    with pytest.raises(DataError, match=r"are test\? .*\(there are train, val\).*0\.2"):
        ids("test")


def test_by_folders_beside_each_other() -> None:
    for part in ("train", "val"):
        image(f"camvid/{part}/0001.png")
        mask(f"camvid/{part}annot/0001.png")
    found = opened("val", images="camvid/{split}", masks="camvid/{split}annot")
    assert found.ids == ["val/0001"]
    assert found.files(0) == (Path("camvid/val/0001.png"), Path("camvid/valannot/0001.png"))


def test_folders_in_the_midst_of_a_tree() -> None:
    for place in ("Train/Urban", "Train/Rural", "Val/Urban"):
        image(f"set/{place}/images_png/7.png")
        mask(f"set/{place}/masks_png/7.png")
    folders = {"images": "set/{split}/*/images_png", "masks": "set/{split}/*/masks_png"}
    assert ids("Train", **folders) == ["Train/Rural/7", "Train/Urban/7"]
    assert ids("Val", **folders) == ["Val/Urban/7"]
    folders = {"images": "set/Train/*/images_png", "masks": "set/Train/*/masks_png"}
    text("lists/train.txt", "Urban/7.png\n")
    assert ids("train", splits="lists", **folders) == ["Urban/7"]

    with pytest.raises(DataError, match="which images are train"):
        ids("train", **folders)
    with pytest.raises(DataError, match=r"data\.images=set/Val/\*/x: no such folder"):
        ids("all", **folders | {"images": "set/Val/*/x"})


def test_by_lists_of_ids_and_of_file_names() -> None:
    pairs("s/a", "s/b", "s/c", image_end=".jpg")
    text("lists/train.txt", "s/b\ns/a\n")
    text("lists/val.txt", "images/s/c.jpg\n")
    assert ids("train", splits="lists") == ["s/b", "s/a"]
    assert ids("val", splits="lists") == ["s/c"]
    assert len(ids("all", splits="lists")) == 3
    with pytest.raises(DataError, match=r"lists/test\.txt: no such list.*: train, val"):
        ids("test", splits="lists")
    text("lists/val.txt", "s/c\nimages/s/c.jpg\n")
    with pytest.raises(DataError, match=r"listed twice; keep each once:\n  - s/c: lines 1, 2"):
        ids("val", splits="lists")
    text("lists/val.txt", "s/c\ns/d\n")
    with pytest.raises(DataError, match=r"(?s)1 lines name no image in images.*line 2: s/d"):
        ids("val", splits="lists")


def test_by_lists_of_pairs() -> None:
    pairs("a", "b c")
    text("train.txt", "images/a.png masks/a.png\nimages/b c.png masks/b c.png\n")
    assert ids("train", images=None, masks=None, splits=".") == ["images/a", "images/b c"]
    assert ids("train", splits=".") == ["a", "b c"]
    text("train.txt", "b c.png b c.png\n")
    image("of_train/b c.png")
    assert ids("train", splits=".", images="of_{split}") == ["b c"]
    text("train.txt", "images/a.png masks/x.png\n")
    with pytest.raises(DataError, match=r"train\.txt, line 1: masks/x\.png: no such mask"):
        ids("train", images=None, masks=None, splits=".")


def test_by_a_table() -> None:
    pairs("a", "b", "c")
    rows = "masks/{0}.png;{1};images/{0}.png;note\n"
    table = "mask;split;image;comment\n" + "".join(
        rows.format(name, part) for name, part in (("a", "train"), ("b", "val"), ("c", "train"))
    )
    text("all.csv", table)
    plain = {"images": None, "masks": None, "splits": "all.csv"}
    assert ids("train", **plain) == ["images/a", "images/c"]
    assert ids("all", **plain) == ["images/a", "images/b", "images/c"]
    text("all.csv", "image,mask,split\na.png,a.png,train\n")
    assert ids("train", splits="all.csv") == ["a"]
    with pytest.raises(DataError, match=r"no row has the split test; there are train"):
        ids("test", splits="all.csv")
    text("all.csv", "image,mask\nb.png,b.png\na.png,a.png\n")
    assert len(ids("val", splits="all.csv", val=0.5)) == 1
    with pytest.raises(DataError, match=r"has no column split, so which rows are val\?"):
        ids("val", splits="all.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"line 1: '' is not the head"),
        ("file,label\na,b\n", r"line 1: 'file,label' is not the head of a list of pairs"),
        (f"image,mask\n{'x' * 200_000},y\n", r"line 2: is no row of a table \(field larger"),
        (f"image,mask\n{'x' * 300},a.png\n", r"line 2: x{300}: no such image"),
        ("image,mask\n", r"holds no row below its head"),
        ("image,mask,split\na.png,a.png\n", r"line 2 has no split: 'a\.png,a\.png'"),
        ("image,mask,split\na.png,a.png,train,9\n", r"line 2 has 4 columns"),
        ("image,mask,split\na.png,x.png,train\n", r"all\.csv, line 2: x\.png: no such mask"),
        ("image,mask,split\nx.png,a.png,train\n", r"all\.csv, line 2: x\.png: no such image"),
        (
            "image,mask,split\na.png,a.png,train\na.png,b.png,train\n",
            r"line 3: the image a\.png has the id a, as that of line 2",
        ),
        (
            "image,mask,split\nimages/a.png,images/a.png,train\n",
            r"line 2: image and mask are one file",
        ),
    ],
)
def test_a_table_with_mistakes(content: str, message: str) -> None:
    pairs("a", "b")
    text("all.csv", content)
    with pytest.raises(DataError, match=message):
        ids("train" if "split" in content else "all", splits="all.csv")


def test_a_part_is_held_out() -> None:
    names = [f"{video}/{number}" for video in "abcde" for number in range(4)]
    pairs(*names)
    train, val = ids("train", val=0.2), ids("val", val=0.2)
    assert len(val) == 4
    assert sorted(train + val) == names
    # Which ones is redone by hand: the first four in the order of a hash.
    order = sorted(names, key=lambda name: hashlib.sha256(f"0\n{name}".encode()).digest())
    assert sorted(order[:4]) == val
    assert ids("val", val=0.2, split_seed=1) != val
    grouped = {"val": 0.4, "group": "^(.)/"}
    assert len({name[0] for name in ids("val", **grouped)}) == 2
    assert not {name[0] for name in ids("val", **grouped)} & {
        name[0] for name in ids("train", **grouped)
    }
    check_splits({s: opened(s, **grouped) for s in ("train", "val")}, progress=False)


def test_images_that_are_added_hardly_move_the_others() -> None:
    names = [f"frame{number}" for number in range(1000)]
    before = held_out(names[:900], names[:900], 0.2, 0)
    after = held_out(names, names, 0.2, 0)
    assert (len(before), len(after)) == (180, 200)
    assert len(before - after) + len((after - before) & set(names[:900])) < 10


def test_groups_that_cannot_be_held_out() -> None:
    assert held_out("abc", ["x", "x", "y"], 0.1, 0) == {"c"}  # at least one
    assert held_out("abc", ["x", "x", "y"], 0.9, 0) in ({"c"}, {"a", "b"})  # at most all but one
    with pytest.raises(DataError, match="3 images in 1 group; expected two groups"):
        held_out("abc", "xxx", 0.5, 0)
    with pytest.raises(DataError, match=r"data\.group=\\d: 1 ids do not match:\n  - b"):
        group_names(["a1", "b"], r"\d", "data.group")
    with pytest.raises(ConfigError, match=r"group=\(: is no regular expression"):
        group_names(["a1"], "(")


# What is wrong, in words


def test_an_image_without_a_mask() -> None:
    pairs("a")
    image("images/b.png")
    with pytest.raises(
        IncompleteSplit, match=r"(?s)1 of 2 images.*images/b\.png: has no mask; expected masks/b\.p"
    ) as error:
        opened()
    assert error.value.rest is not None
    assert list(error.value.rest.ids) == ["a"]


def test_two_files_for_one() -> None:
    pairs("a", "b")
    mask("masks/a.tif")
    image("images/b.jpg")
    with pytest.raises(DataError) as error:
        opened()
    assert "a: 2 files for one mask (masks/a.png, masks/a.tif)" in str(error.value)
    assert "b: 2 files for one image (images/b.jpg, images/b.png)" in str(error.value)


def test_masks_without_an_image_are_told() -> None:
    pairs("a", "b")
    mask("masks/c.png")
    report = check_splits({"all": opened()}, trained=False, progress=False)
    (warning,) = (text for text in report.warnings if "not used" in text)
    assert warning.startswith("1 masks in masks have no image in images and are not used; the fir")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": None}, r"data\.images is not set: give data\.images=FOLDER and"),
        ({"masks": None}, r"data\.masks is not set"),
        ({"images": "gone"}, r"data\.images=gone: no such folder\. Relative paths start at"),
        ({"images": "empty"}, r"data\.images=empty: holds no images; expected files that end in"),
        ({"masks": "empty"}, r"data\.masks=empty: holds no masks"),
        (
            {"mask_suffix": "_m"},
            r"names end in data\.mask_suffix=_m; the first of 1 files is a\.png",
        ),
        ({"val": 1.0}, r"data\.val=1\.0: expected a number between 0 and 1"),
        ({"val": 0.5}, r"1 images in 1 group; expected two groups"),
        ({"group": "a"}, r"data\.group is for data\.val"),
        ({"val": 0.5, "splits": "empty"}, r"data\.val=0\.5 and data\.splits=empty both divide"),
        ({"splits": "gone"}, r"data\.splits=gone: expected a folder with train\.txt"),
        ({"images": "{split}", "val": 0.5}, r"\{split\} stands for the folders of splits"),
        ({"split": "../x"}, r"is no name of a split"),
        ({"split": "x", "val": 0.5}, r"makes the splits train and val, and no x"),
        ({"images": "s3://x"}, r"an address \(s3:\), not a path"),
    ],
)
def test_mistakes_are_told(settings: dict[str, Any], message: str) -> None:
    pairs("a")
    Path("empty").mkdir()
    with pytest.raises(SegkitError, match=message):
        opened(**{"split": "train", **settings})


def test_folders_that_are_swapped() -> None:
    pairs("a")
    with pytest.raises(DataError, match=r"images and data\.masks swapped\? The image mas"):
        opened(images="masks", masks="images")
    assert opened().ids == ["a"]


@pytest.mark.parametrize(
    ("image_end", "mask_end"),
    [("", "_mask"), ("_leftImg8bit", "_gtFine_labelIds"), ("_0000", ""), ("_training", "_manual1")],
)
def test_the_advice_about_names_ends_in_pairs(image_end: str, mask_end: str) -> None:
    for name in ("21", "22", "2"):
        image(f"images/{name}{image_end}.png")
        mask(f"masks/{name}{mask_end}.png")
    with pytest.raises(DataError, match="Each image would have a mask with") as error:
        opened()
    advice = str(error.value).rpartition("would have a mask with ")[2].split()
    settings = dict(one.removeprefix("data.").split("=") for one in advice)
    assert settings == {
        key: end for key, end in (("image_suffix", image_end), ("mask_suffix", mask_end)) if end
    }
    assert sorted(ids(**settings)) == ["2", "21", "22"]


def test_all_kinds_of_masks_are_offered() -> None:
    pairs("a", mask_end="_color.png")
    mask("masks/a_labelIds.png")
    with pytest.raises(DataError, match=r"with data\.mask_suffix=_color, or with data\.mask_suff"):
        opened()


def test_links_to_folders_are_followed_but_not_for_ever() -> None:
    pairs("far/a")
    Path("store").mkdir()
    for name in ("images", "masks"):
        Path(name, "far").rename(f"store/{name}")
        Path(name, "near").symlink_to(Path("store", name).absolute())
        Path(name, "loop").symlink_to(Path(name).absolute())
        Path(name, ".hidden").mkdir()
        image(f"{name}/.hidden/b.png")
        image(f"{name}/._c.png")
    assert ids() == ["near/a"]


def test_a_folder_that_may_not_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs("far/a", "b")
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if Path(path).name == "far":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(DataError, match=r"^images/far: cannot be read \(Permission denied\)"):
        opened()


def test_splits_that_share_an_image_are_refused() -> None:
    pairs("a", "b")
    text("lists/train.txt", "a\nb\n")
    text("lists/val.txt", "b\n")
    sets = open_splits(lambda split: opened(split, splits="lists"), ["train", "val"])
    with pytest.raises(DataError, match="1 images are in the train split and in the validation"):
        check_splits(sets, progress=False)


def test_a_run_is_trained_checked_and_scored(here: Path) -> None:
    home = here / "here"
    pairs(*map(str, range(8)), mask_end="_L.png")
    home.mkdir()
    Path("images").rename(home / "img")
    Path("masks").rename(home / "ann")
    data = ("data.images=img", "data.masks=ann", "data.mask_suffix=_L", "data.num_classes=3")
    division = ("data=folders", "data.val=0.25", r"data.group=^(\d)")
    network = ("model/backbone=tiny", "augment.crop_size=[8,8]", "loader.cache=ram", *SMALL_RUN)
    result = call("train.py", *data, *division, *network, "out_dir=run", cwd=home)
    assert result.status == 0, result.err
    assert "6 images to train on, 2 to validate on" in result.out
    result = call("evaluate.py", "checkpoint=run", "save_predictions=true", cwd=home)
    assert result.status == 0, result.err
    assert len(list(home.glob("run/eval/val-best/predictions/*.png"))) == 2
    result = call("evaluate.py", "checkpoint=run", "data.root=voc", "out_dir=x", cwd=home)
    assert "here/voc: no such folder; expected a folder with JPEGImages" in result.err
    result = call("segkit/tools/check.py", *data, *division, cwd=home)
    assert result.out.endswith("6 pairs in train, 2 pairs in val: fine\n")
    result = call("segkit/tools/stats.py", "data=folders", *data, "split=all", cwd=home)
    assert (result.status, result.err) == (0, "")
    result = call("segkit/tools/check.py", "data.val=0.2", cwd=home)
    assert result.err.startswith("error: data.val=0.2: this data set takes no val (a VOC folder is")
    result = call("train.py", "data=voc", "data.root=x", "data.masks=ann", cwd=home)
    assert "ann: this data set takes no masks; add data=folders, or leave data.masks" in result.err
    result = call("train.py", *data, *division, "data.root=x", cwd=home)
    assert "is for a folder in VOC layout (data=voc); data=folders has" in result.err


def test_the_split_tool_writes_lists_of_two_folders() -> None:
    pairs(*(f"{video}/{number}" for video in "ab" for number in range(3)), mask_end="_m.png")
    folders = ["data=folders", "data.images=images", "data.masks=masks", "data.mask_suffix=_m"]
    split(parse(Request, [*folders, "lists=lists", "val=0.5", "group=^."]))
    given = {"mask_suffix": "_m", "splits": "lists"}
    found = {name: {one[0] for one in ids(name, **given)} for name in ("train", "val")}
    assert sorted(found["train"] | found["val"]) == ["a", "b"]
    assert not found["train"] & found["val"]
    for keys, message in (
        (["data.root=x", "lists=lists"], r"lists=lists: is for data=folders"),
        (["data.root=x", "data.masks=m"], r"data\.masks=m: is for data=folders"),
        ([], r"data\.root is not set"),
        (folders, r"needs data\.images=DIR, data\.masks=DIR and lists=DIR"),
        ([*folders, "lists=x", "of=all"], r"data\.root and of are for data=voc"),
    ):
        with pytest.raises(ConfigError, match=message):
            split(parse(Request, keys))
    with pytest.raises(DataError, match=r"6 of 6 images in images have no mask"):
        split(parse(Request, [*folders[:3], "lists=x"]))


def test_the_folder_that_is_given_comes_before_that_of_the_list(tmp_path: Path) -> None:
    for folder, value in (("images", 0), ("old", 1), ("new", 2)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            write_mask(tmp_path / folder / f"{name}.png", np.full((4, 6), value, np.uint8))
    table = "image,mask,split\na.png,a.png,train\nb.png,b.png,val\n"
    for home in ("old", "images"):
        (tmp_path / home / "list.csv").write_text(table)
        found = FolderSegmentation(
            "train",
            images=tmp_path / "images",
            masks=tmp_path / "new",
            splits=tmp_path / home / "list.csv",
            num_classes=3,
        )
        assert found.files(0) == (tmp_path / "images/a.png", tmp_path / "new/a.png")
