"""Masks and images that are sound alone, but not together; and that the advice is right."""

import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.data.check import check_splits
from segkit.data.masks import voc_palette, write_mask
from segkit.data.voc import VOCSegmentation
from segkit.errors import DataError
from segkit.tools import browse, stats
from segkit.tools import split as split_tool
from segkit.tools.check import main

MASK = np.zeros((48, 64), np.uint8)
MASK[4:16, 4:24], MASK[24:44, 30:60] = 1, 2
TRUE = [2232, 240, 600]  # pixels of each class, of 3072
COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
GREYS = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(-1, 3)
ORDERS = [[0, 1, 2], [2, 1, 0], [1, 2, 0]]


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def voc(root, save, classes="background red green"):
    """Six images; ``save(number, path without suffix)`` writes the masks."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(root / f"JPEGImages/{number}.png")
        save(number, root / f"SegmentationClass/{number}")
    for split, ids in {"train": range(4), "val": (4, 5)}.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{i}\n" for i in ids))
    (root / "labels.txt").write_text("\n".join(classes.split()))
    return root


def check(root, **settings):
    sets = {name: VOCSegmentation(root, name, **settings) for name in ("train", "val")}
    return check_splits(sets, progress=False)


def pixels(root, **settings):
    """Of each class in one image of the train split, and the ignored ones."""
    counts = check(root, **settings).counts["train"]
    return [*(counts.pixels // 4).tolist(), counts.ignored // 4]


def refused(root, **settings):
    with pytest.raises(DataError) as error:
        check(root, **settings)
    for _ in range(2):  # what the cache remembers is judged alike
        with pytest.raises(DataError, match=re.escape(str(error.value))):
            check(root, **settings)
    return str(error.value)


def in_order(path, order, mask=MASK, colors=COLORS, **options):
    order = np.array(order)
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[mask])
    image.putpalette(colors[order].tobytes())
    image.save(path, **options)


# --- palettes ------------------------------------------------------------------------------------


def test_palettes_in_another_order_are_refused_and_read_by_their_colours(tmp_path):
    root = voc(tmp_path / "voc", lambda i, path: in_order(f"{path}.png", ORDERS[i % 3]))
    text = refused(root)
    assert re.search(r"SegmentationClass/\d\.png: index \d is \(", text)
    listed = re.search(r"in the order of the classes: ([^.]*)\.", text)[1]
    assert set(listed.split()) == {f"[{r},{g},{b}]" for r, g, b in COLORS.tolist()}
    assert pixels(root, colormap=COLORS.tolist()) == [*TRUE, 0]
    assert pixels(root, colormap="voc") == [*TRUE, 0]
    check(root, colormap="indices")  # the user has spoken


def test_a_split_whose_palettes_are_not_those_of_the_model_is_told(tmp_path):
    root = voc(tmp_path / "voc", lambda i, path: in_order(f"{path}.png", ORDERS[1]))
    sets = {"val": VOCSegmentation(root, "val")}
    settings = {"trained": False, "progress": False}
    (warning,) = check_splits(sets, **settings, palette=voc_palette()).warnings
    assert "2 masks have the colours that the model was trained with, but at other" in warning
    assert check_splits(sets, **settings, palette=COLORS[ORDERS[1]]).warnings == []
    # Other colours say nothing: the model's may be VOC's for want of better ones.
    assert check_splits(sets, **settings, palette=COLORS + np.uint8(1)).warnings == []


TOOLS = {
    "stats": lambda root, colormap: stats.stats(stats.Request(data_root=root, colormap=colormap)),
    "split": lambda root, colormap: split_tool.split(
        split_tool.Request(data_root=root, colormap=colormap, dry_run=True, prefix="new_")
    ),
    "browse": lambda root, colormap: browse.main(
        [f"data.root={root}", "data=voc", "out=new.png", "dry_run=true", *given(colormap)]
    ),
}


def given(colormap):
    return [] if colormap is None else [f"data.colormap={colormap}"]


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tools_refuse_palettes_that_disagree_too(tmp_path, tool):
    root = voc(tmp_path / "voc", lambda i, path: in_order(f"{path}.png", ORDERS[i % 3]))
    with pytest.raises((DataError, SystemExit), match="the masks have palettes that disagree"):
        TOOLS[tool](str(root), None)
    assert not TOOLS[tool](str(root), "voc")


def test_one_odd_palette_is_named(tmp_path):
    root = voc(tmp_path / "voc", lambda i, path: in_order(f"{path}.png", ORDERS[i == 5]))
    text = refused(root)  # 5 is in the other split
    assert text.count("SegmentationClass/5.png: index") == 2
    assert "index 0 is (0, 128, 0); in" in text


def test_palettes_of_the_colours_that_occur_are_refused(tmp_path):
    """Some programs store a palette of the file's own colours: 1 is red here and green there."""

    def save(number, path):
        mask = np.where(number % 2 + 1 == MASK, MASK, 0)
        own = COLORS[[0, 1 + number % 2]]
        in_order(f"{path}.gif", [0, 1], (mask > 0).astype(np.uint8), own)

    root = voc(tmp_path / "voc", save)
    assert "index 1 is" in refused(root)
    assert pixels(root, colormap=COLORS.tolist()) == [2652, 120, 300, 0]


def test_a_colour_with_two_indices_is_refused(tmp_path):
    def save(number, path):
        order = [0, 1, 2] if number % 2 else [0, 2, 1]
        in_order(f"{path}.png", order, np.where(MASK == 1, 1, 0))

    root = voc(tmp_path / "voc", save)
    assert "that colour has the index" in refused(root)
    assert pixels(root, colormap=COLORS.tolist()) == [2832, 240, 0, 0]


def test_palettes_that_agree_on_what_is_used_pass(tmp_path):
    def save(number, path):
        if number == 0:
            Image.fromarray(MASK).save(f"{path}.png")  # grey: says nothing of colours
        elif number == 1:  # a ramp of greys, neither
            in_order(f"{path}.png", range(256), colors=GREYS)
        elif number == 2:  # no more entries than needed, and another colour of what is ignored
            in_order(f"{path}.png", range(3))
        else:
            write_mask(f"{path}.png", MASK, voc_palette(number + 3))

    root = voc(tmp_path / "voc", save)
    assert pixels(root) == [*TRUE, 0]
    assert check(root).warnings == []


# --- 255 -----------------------------------------------------------------------------------------


def binary(number, path, value, border=False):
    mask = np.where(MASK > 0, value, 0).astype(np.uint8)
    if border:
        mask[0] = 255
    Image.fromarray(mask).save(f"{path}.png")


def test_masks_of_0_and_255_among_those_of_0_and_1_are_refused(tmp_path):
    root = voc(tmp_path / "voc", lambda i, p: binary(i, p, 255 if i % 2 else 1), "background cell")
    text = refused(root)
    assert "2 of 4 masks of the train split hold 255" in text
    assert "(1, 3); 2 hold 'cell' and nothing ignored (0, 2)" in text
    assert "'data.label_map={1: 1, 255: 1}'" in text
    assert pixels(root, label_map={1: 1, 255: 1}) == [2232, 840, 0]
    check(root, label_map={255: "ignore"})  # what the message says of 255 without a meaning


def test_a_val_split_of_0_and_255_is_refused(tmp_path):
    save = lambda i, p: binary(i, p, 255 if i > 3 else 1)  # noqa: E731
    root = voc(tmp_path / "voc", save, "background cell")
    assert "the val split holds the class 'background' only" in refused(root)
    assert pixels(root, label_map={1: 1, 255: 1}) == [2232, 840, 0]


def test_masks_with_borders_may_have_some_without_objects(tmp_path):
    save = lambda i, p: binary(i, p, 255 if i == 1 else 1, border=True)  # noqa: E731
    root = voc(tmp_path / "voc", save, "background cell")
    (warning,) = check(root).warnings
    assert "1 of 4 masks of the train split hold 255, which is ignored, and no class" in warning
    assert check(root, label_map={255: "ignore"}).warnings == []


# --- TIFFs whose 0 is white ----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 8])
def test_a_tiff_that_shows_0_as_white_keeps_its_numbers_and_the_advice_holds(tmp_path, bits):
    def save(number, path):
        values = MASK > 0 if bits == 1 else np.where(MASK > 0, 255, 0).astype(np.uint8)
        tifffile.imwrite(f"{path}.tif", values, photometric="miniswhite")

    root = voc(tmp_path / "voc", save, "background cell")
    settings = {}
    if bits == 8:
        assert "set 'data.label_map={255: 1}'" in refused(root)
        settings = {"label_map": {255: 1}}
    assert pixels(root, **settings) == [2232, 840, 0]
    warning = check(root, **settings).warnings[0]
    assert "4 of 4 masks of the train split are TIFFs that show their 0 as white" in warning


# --- images ------------------------------------------------------------------------------------


def with_images(tmp_path, make):
    root = voc(tmp_path / "voc", lambda i, path: write_mask(f"{path}.png", MASK))
    for number in range(6):
        (root / f"JPEGImages/{number}.png").unlink()
        make(number, root / f"JPEGImages/{number}.tif")
    return root


def twelve_bits(number, path):
    values = np.random.default_rng(number).integers(0, 4096, (48, 64)).astype(np.uint16)
    tifffile.imwrite(path, values, photometric="minisblack")


def test_images_that_lose_their_levels_are_told_and_the_advice_keeps_them(tmp_path, capsys):
    root = with_images(tmp_path, twelve_bits)
    warning = check(root).warnings[0]
    found = re.fullmatch(
        r"4 of 4 images of the train split hold (\d+) to (\d+) of their type's 0 to 65535: of "
        r"the (\d+) levels of \d only 17 are left\. Set data\.range=\[0,4095\], or keep all "
        r"of them: data\.bits=16",
        warning,
    )
    assert found
    assert int(found[1]) < 20 < 4080 < int(found[2])
    assert check(root, value_range=[0, 4095]).warnings == []
    photo = VOCSegmentation(root, "train", value_range=[0, 4095]).read(0)[0]
    assert len(np.unique(photo)) == 256
    assert check(root, bits=16).warnings == []
    for warning in check(root, value_range=[0, 2047]).warnings:
        assert re.match(
            r"[45]\d\.\d% of the pixels of the .* beyond data\.range=\[0,2047\]", warning
        )
    assert main([f"data.root={root}", "data.range=[0,4095]"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main([f"data.root={root}", "data.range=[4095,0]"]) == 1
    assert "data.range is [4095, 0]; expected [low, high]" in capsys.readouterr().err


def test_images_that_fill_their_type_are_not_mentioned(tmp_path):
    def make(number, path):
        values = np.random.default_rng(number).integers(0, 65536, (48, 64, 3)).astype(np.uint16)
        tifffile.imwrite(path, values, photometric="rgb")

    assert check(with_images(tmp_path, make)).warnings == []


def test_bands_that_are_not_used_are_told(tmp_path):
    def make(number, path):
        bands = np.random.default_rng(number).integers(0, 256, (48, 64, 4)).astype(np.uint8)
        extra = ["unspecified" if number % 2 else "unassalpha"]
        tifffile.imwrite(path, bands, photometric="rgb", extrasamples=extra)

    expected = (
        "4 of 4 images of the train split have bands besides grey or RGB, such as transparency "
        "or infrared, that are not used (data.mean and data.std of as many numbers as bands use "
        "them); the first is 0"
    )
    root = with_images(tmp_path, make)
    assert check(root).warnings[0] == expected
    assert check(root, channels=4).warnings == []

    def opaque(number, path):
        Image.new("RGBA", (64, 48), (number, 2, 3, 255)).save(path)

    assert check(with_images(tmp_path / "opaque", opaque)).warnings == []


@pytest.mark.parametrize("wrong", [[0], [0, 0], [1, 0], ["a", 1], 5, "full", [0, float("nan")]])
def test_impossible_ranges_are_refused(tmp_path, wrong):
    root = voc(tmp_path / "voc", lambda i, path: write_mask(f"{path}.png", MASK))
    with pytest.raises(
        DataError, match=r"data\.range is .*; expected \[low, high\] with low < high"
    ):
        VOCSegmentation(root, "train", value_range=wrong)
