"""Parts that resemble each other, groups that stay together, lists that are not overwritten."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from voc_folder import SHARED, make_voc, needs_shared

from segkit.cli.arguments import parse
from segkit.data.check import check_disjoint
from segkit.data.masks import write_mask
from segkit.data.voc import VOCSegmentation, read_split
from segkit.errors import ConfigError, DataError
from segkit.tools.split import Request, find_groups, split
from segkit.tools.stratify import divide


def run(root: Path, *arguments: str) -> None:
    split(parse(Request, [f"data.root={root}", *arguments]))


def lists(root: Path) -> dict[str, list[str]]:
    folder = root / "ImageSets/Segmentation"
    return {path.stem: read_split(root, path.stem) for path in sorted(folder.glob("*.txt"))}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty images in four scenes; class 2 is in four of them, two of these in scene 0."""
    ids = [f"scene{i // 5}_{i:02}" for i in range(20)]
    root = make_voc(tmp_path / "voc", {"all": ids})
    for number, name in enumerate(ids):
        mask = np.zeros((8, 12), np.uint8)
        mask[:4] = 1
        mask[0, 0] = 255
        if number in (0, 1, 7, 13):
            mask[4:, :6] = 2
        write_mask(root / "SegmentationClass" / f"{name}.png", mask)
    return root


def everyone(count: int) -> np.ndarray:
    return np.arange(count)


def test_two_rare_images_are_shared_out_by_hand() -> None:
    # Class 1 is in images 0 and 3 only: each part must get one, and two images in all.
    amounts = np.array([[5, 9], [5, 0], [5, 0], [5, 9]])
    parts = divide(amounts, everyone(4), [0.5, 0.5], seed=0)
    assert parts[0] != parts[3]
    assert np.bincount(parts).tolist() == [2, 2]


@settings(deadline=None, max_examples=60)
@given(
    amounts=st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=5, max_size=20),
    seed=st.integers(0, 3),
)
def test_sizes_are_the_rounded_ones(amounts: list[list[int]], seed: int) -> None:
    count = len(amounts)
    parts = divide(np.array(amounts), everyone(count), [0.7, 0.2, 0.1], seed)
    sizes = np.bincount(parts, minlength=3)
    assert sizes.sum() == count
    assert (sizes >= 1).all()
    assert (np.abs(sizes - count * np.array([0.7, 0.2, 0.1])) <= 1).all()
    again = divide(np.array(amounts), everyone(count), [0.7, 0.2, 0.1], seed)
    assert parts.tolist() == again.tolist()


@settings(deadline=None, max_examples=40)
@given(groups=st.lists(st.integers(0, 5), min_size=6, max_size=30))
def test_groups_stay_together_and_no_part_is_empty(groups: list[int]) -> None:
    numbers = np.unique(groups, return_inverse=True)[1]
    if numbers.max() < 2:
        return
    parts = divide(np.ones((len(groups), 1), np.int64), numbers, [0.6, 0.2, 0.2], 0)
    assert set(parts) == {0, 1, 2}
    for number in set(numbers):
        assert len(set(parts[numbers == number])) == 1


def test_it_balances_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    amounts = (rng.random((200, 5)) < 0.1) * rng.integers(1, 1000, (200, 5))

    def imbalance(parts: np.ndarray) -> float:
        share = amounts[parts == 1].sum(axis=0) / amounts.sum(axis=0)
        return float(np.abs(share - 0.2).max())

    balanced = imbalance(divide(amounts, everyone(200), [0.8, 0.2], 0))
    by_chance = [imbalance(divide(amounts[:, :0], everyone(200), [0.8, 0.2], s)) for s in range(20)]
    assert balanced < 0.02
    assert balanced < min(by_chance)


def test_train_val_and_test(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, "val=0.25", "test=0.25")
    found = lists(root)
    assert {name: len(ids) for name, ids in found.items()} == {
        "all": 20,
        "train": 10,
        "val": 5,
        "test": 5,
    }
    assert sorted(found["train"] + found["val"] + found["test"]) == found["all"]
    rare = {"scene0_00", "scene0_01", "scene1_07", "scene2_13"}
    assert [len(rare & {*found[name]}) for name in ("train", "val", "test")] == [2, 1, 1]
    check_disjoint(VOCSegmentation(root, "train"), VOCSegmentation(root, "val"))
    out = capsys.readouterr().out
    assert "train: 10 images in 10 groups" in out
    table = [line.split() for line in out.splitlines()]
    assert [line[2] for line in table if line[:2] == ["2", "dog"]] == ["48"]  # two of 24 pixels


def test_the_seed_decides(root: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        run(root, f"seed={seed}", "force=true", "stratify=false")
        found.append(lists(root)["val"])
    assert found[0] == found[1] != found[2]


def test_an_ignored_class_is_counted_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, "data.ignore_index=0", "val=0.25")
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in table if len(line) == 6 and line[0].isdecimal()]
    assert [row[0] for row in rows] == ["1", "2", "255"]  # not 0, which is ignored
    assert sum(float(row[3][:-1]) for row in rows) == pytest.approx(100, abs=0.02)


def test_groups_by_pattern(root: Path) -> None:
    run(root, r"group=^(scene\d)_", "val=0.25")
    found = lists(root)
    assert len(found["val"]) == 5
    assert len({name[:6] for name in found["val"]}) == 1
    assert not {name[:6] for name in found["val"]} & {name[:6] for name in found["train"]}


def test_groups_are_numbered() -> None:
    assert find_groups(["b1", "a1", "b2"], "[ab]").tolist() == [1, 0, 1]
    assert find_groups(["b1", "a1", "b2"], "^.(.)").tolist() == [0, 0, 1]
    with pytest.raises(DataError, match=r"group=\^b: 1 ids do not match:\n  - a1"):
        find_groups(["b1", "a1"], "^b")
    with pytest.raises(ConfigError, match="no regular expression"):
        find_groups(["a"], "(")


def test_folds(root: Path) -> None:
    run(root, "folds=4", "test=0.2")
    found = lists(root)
    assert len(found["test"]) == 4
    vals = [found[f"fold_{k}_val"] for k in range(4)]
    assert [len(ids) for ids in vals] == [4] * 4
    assert sorted(sum(vals, found["test"])) == found["all"]
    for k in range(4):
        rest = {*found["all"]} - {*found["test"], *vals[k]}
        assert {*found[f"fold_{k}_train"]} == rest


def test_lists_are_not_overwritten(root: Path) -> None:
    run(root, "--dry-run")
    assert [*lists(root)] == ["all"]
    run(root)
    before = lists(root)
    with pytest.raises(DataError, match="2 lists are there already; nothing was written"):
        run(root, "seed=3")
    assert lists(root) == before
    run(root, "prefix=b_", "of=train", "val=0.5")
    assert sorted(lists(root)["b_train"] + lists(root)["b_val"]) == sorted(before["train"])


def test_a_test_part_stays_apart(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It used to be trained on after the next division, with its list still there."""
    run(root, "val=0.25", "test=0.2")
    test = lists(root)["test"]
    run(root, "folds=3")
    assert "test.txt stays: its 4 images are in no other list" in capsys.readouterr().out
    run(root, "val=0.5", "force=true")
    found = lists(root)
    assert found["test"] == test
    for name in ("train", "val", *(f"fold_{k}_train" for k in range(3))):
        assert not {*test} & {*found[name]}, name
    assert (len(found["train"]), len(found["val"])) == (8, 8)
    # The ways out that are told.
    run(root, "val=0.25", "test=0.25", "force=true", "seed=1")
    assert len(lists(root)["test"]) == 5
    (root / "ImageSets/Segmentation/test.txt").unlink()
    run(root, "val=0.25", "force=true")
    assert len(lists(root)["train"]) == 15
    # The test part itself can be divided, and another division has its own.
    run(root, "val=0.25", "test=0.2", "prefix=b_")
    run(root, "of=b_test", "val=0.5", "prefix=c_")
    assert sorted(lists(root)["c_train"] + lists(root)["c_val"]) == sorted(lists(root)["b_test"])


def test_a_test_part_without_images_that_are_gone(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(root, "val=0.25", "test=0.2")
    first, *rest = lists(root)["test"]
    for file in (f"SegmentationClass/{first}.png", f"JPEGImages/{first}.png"):
        (root / file).unlink()
    (root / "ImageSets/Segmentation/train.txt").unlink()
    (root / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(DataError, match=r"1 lists are there already.*\n.*test\.txt"):
        run(root)
    run(root, "force=true")
    assert lists(root)["test"] == rest
    said = f"test.txt: without 1 images that are gone:\n  - {first}\n"
    assert said in capsys.readouterr().out


def test_a_test_part_of_images_without_masks_stays(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that of VOC 2012; its list became an empty file."""
    folder = root / "ImageSets/Segmentation"
    hidden = ["scene0_00", "scene1_05"]
    for name in hidden:
        (root / f"SegmentationClass/{name}.png").unlink()
    (folder / "test.txt").write_text("\n".join(hidden) + "\n")
    run(root, "force=true")
    assert lists(root)["test"] == hidden
    assert "test.txt stays: its 2 images are in no other list" in capsys.readouterr().out
    for name in hidden:
        (root / f"JPEGImages/{name}.png").unlink()
    before = (folder / "train.txt").read_text()
    with pytest.raises(DataError, match=r"test\.txt: none of its 2 images is there any more; del"):
        run(root, "force=true", "seed=1")
    assert (folder / "train.txt").read_text() == before


@pytest.mark.parametrize(
    "line", ["{}", "{}.png", "JPEGImages/{}.png", "JPEGImages/{0}.png SegmentationClass/{0}.png"]
)
def test_a_test_list_may_name_its_images_in_any_way(tmp_path: Path, line: str) -> None:
    root = make_voc(tmp_path / "voc", {"all": list("abcdefgh")})
    keys = [f"data.images={root}/JPEGImages", f"data.masks={root}/SegmentationClass"]
    keys += ["data=folders", f"lists={tmp_path / 'lists'}", "val=0.5"]
    content = f"{line.format('a')}\n{line.format('b')}\n"
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/test.txt").write_text(content)
    split(parse(Request, [*keys, "force=true"]))
    assert (tmp_path / "lists/test.txt").read_text() == content
    parts = [(tmp_path / f"lists/{name}.txt").read_text().split() for name in ("train", "val")]
    assert sorted(parts[0] + parts[1]) == list("cdefgh")


def test_names_that_no_list_can_hold_are_refused_before_anything_is_written(root: Path) -> None:
    run(root, "val=0.25")
    before = lists(root)
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder / "scene0_00.png").rename(root / folder / os.fsdecode(b"\xe9.png"))
    with pytest.raises(DataError, match=r"1 ids hold ends of lines, or bytes .* Rename these"):
        run(root, "force=true")
    assert lists(root) == before


def test_a_list_without_the_test_part_is_divided_as_ever(root: Path) -> None:
    """As where test images were converted to a list of their own."""
    ids = read_split(root, "all")
    folder = root / "ImageSets/Segmentation"
    (folder / "all.txt").write_text("\n".join(ids[4:]))
    (folder / "test.txt").write_text("\n".join(ids[:4]))
    run(root, "of=all", "val=0.25")
    found = lists(root)
    assert found["test"] == ids[:4]
    assert sorted(found["train"] + found["val"]) == ids[4:]


def test_images_of_the_test_parts_groups_stay_out(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = r"group=^(scene\d)_"
    run(root, group, "val=0.25", "test=0.25")
    test = root / "ImageSets/Segmentation/test.txt"
    test.write_text("\n".join(read_split(root, "test")[1:]) + "\n")  # as if one were new
    run(root, group, "val=0.3", "force=true")
    assert "note: 1 other images of their groups are in no list" in capsys.readouterr().out
    found = lists(root)
    assert not {name[:6] for name in found["test"]} & {
        name[:6] for name in found["train"] + found["val"]
    }


def test_hidden_test_images_keep_their_group_apart(root: Path) -> None:
    """Other frames of their video were trained on."""
    (root / "SegmentationClass/scene0_00.png").unlink()
    (root / "ImageSets/Segmentation/test.txt").write_text("scene0_00\n")
    run(root, r"group=^(scene\d)_", "val=0.3", "force=true")
    found = lists(root)
    assert found["test"] == ["scene0_00"]
    assert len(found["train"] + found["val"]) == 15
    assert not any(name.startswith("scene0") for name in found["train"] + found["val"])


def test_a_test_list_that_was_emptied_is_none(root: Path) -> None:
    (root / "ImageSets/Segmentation/test.txt").touch()
    run(root, "val=0.25", "force=true")
    train = read_split(root, "train") + read_split(root, "val")
    assert sorted(train) == read_split(root, "all")


def test_fewer_folds_leave_none_of_before(root: Path) -> None:
    run(root, "folds=5", "prefix=a.")
    with pytest.raises(DataError, match="10 lists are there already"):
        run(root, "folds=3", "prefix=a.")
    run(root, "folds=3", "prefix=a.", "force=true")
    assert [name for name in lists(root) if "fold" in name] == [
        f"a.fold_{k}_{part}" for k in range(3) for part in ("train", "val")
    ]


def test_lists_of_folders_keep_their_test_part(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc", {"all": [f"{i:02}" for i in range(10)]})
    keys = [f"data.images={root}/JPEGImages", f"data.masks={root}/SegmentationClass"]
    keys += ["data=folders", f"lists={tmp_path / 'lists'}", "val=0.2"]
    split(parse(Request, [*keys, "test=0.3"]))
    test = {*(tmp_path / "lists/test.txt").read_text().split()}
    split(parse(Request, [*keys, "force=true"]))
    train = {*(tmp_path / "lists/train.txt").read_text().split()}
    assert (len(test), len(train), test & train) == (3, 6, set())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["val=0.5", "test=0.5"], "expected val \\+ test below 1"),
        (["folds=1"], "2 or more folds"),
        (["folds=21"], "20 groups cannot be divided into 21 parts"),
        (["of=nothing"], "nothing.txt: no such file. Splits found"),
    ],
)
def test_impossible_requests(root: Path, arguments: list[str], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        run(root, *arguments)


def test_masks_of_other_suffixes_count(root: Path) -> None:
    masks = root / "SegmentationClass"
    (masks / "scene0_00.png").rename(masks / "scene0_00.PNG")
    with Image.open(masks / "scene0_01.png") as image:
        image.save(masks / "scene0_01.bmp")
    (masks / "scene0_01.png").unlink()
    run(root, "val=0.25")
    found = lists(root)
    assert sorted(found["train"] + found["val"]) == found["all"]
    run(root, "of=all", "prefix=b_")
    assert len(VOCSegmentation(root, "b_train")) == 16
    (masks / "scene0_01.bmp").unlink()
    with pytest.raises(DataError, match=r"lacks the masks of 1 ids:\n  - scene0_01"):
        run(root, "of=all", "prefix=c_")


def test_bad_masks_are_named(root: Path) -> None:
    (root / "SegmentationClass/scene0_00.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 20 cannot be used:\n.*scene0_00\.png: is empty"):
        run(root)
    with pytest.raises(DataError, match="has no SegmentationClass"):
        run(root / "JPEGImages")


@needs_shared
def test_camvid_by_sequence(tmp_path: Path) -> None:
    folder = tmp_path / "camvid"
    (folder / "ImageSets").mkdir(parents=True)
    for name in ("JPEGImages", "SegmentationClass", "labels.txt"):
        (folder / name).symlink_to(SHARED / "camvid" / name)
    run(folder, r"group=^([^_]+)_", "val=0.2")
    found = lists(folder)
    assert len(found["train"]) + len(found["val"]) == 701
    sequences = [{name.partition("_")[0] for name in found[part]} for part in ("train", "val")]
    assert not sequences[0] & sequences[1]


def test_a_mask_that_is_there_twice_is_refused(root: Path) -> None:
    masks = sorted((root / "SegmentationClass").iterdir())
    other = masks[0].with_suffix(".tif")
    other.write_bytes(masks[0].read_bytes())
    with pytest.raises(DataError, match=rf"(?s)1 ids have several masks.*{other.name}"):
        run(root)


def test_a_mask_without_an_image_is_refused(root: Path) -> None:
    image = sorted((root / "JPEGImages").iterdir())[0]
    image.unlink()
    with pytest.raises(DataError, match=rf"(?s)lacks the images of 1 masks.*{image.stem}"):
        run(root)


def test_the_test_part_is_not_divided_while_it_stays_one(root: Path) -> None:
    """It used to be trained on, and scored as unseen."""
    run(root, "test=0.25")
    before = lists(root)
    with pytest.raises(ConfigError, match=r"of=test: test\.txt would go on listing images"):
        run(root, "of=test", "force=true")
    assert lists(root) == before
    run(root, "of=test", "test=0.2", "force=true")
    found = lists(root)
    assert sorted(found["train"] + found["val"] + found["test"]) == sorted(before["test"])
    check_disjoint(VOCSegmentation(root, "train"), VOCSegmentation(root, "test"))
