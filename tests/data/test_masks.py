"""Masks: reading, writing, colours, renumbering, the check of values, one-hot columns."""

import numpy as np
import png
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from voc_folder import SHARED, needs_shared

from segkit.data.colors import fill_palette
from segkit.data.labels import apply_label_map, check_labels
from segkit.data.masks import one_hot, read_mask, voc_palette, write_mask
from segkit.errors import DataError

MASK = np.array([[0, 1, 2], [2, 255, 1]], dtype=np.uint8)
COLORS = [[0, 0, 0], [200, 0, 0], [0, 0, 7]]


def rgb_of(mask, colors=COLORS):
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    table[255] = (224, 224, 192)
    return table[mask]


def test_voc_palette_has_the_published_colours():
    palette = voc_palette()
    assert (palette.dtype, palette.shape) == (np.uint8, (256, 3))
    assert palette[0].tolist() == [0, 0, 0]
    assert palette[1].tolist() == [128, 0, 0]  # aeroplane
    assert palette[15].tolist() == [192, 128, 128]  # person
    assert palette[20].tolist() == [0, 64, 128]  # tvmonitor
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256
    np.testing.assert_array_equal(voc_palette(21), palette[:21])
    with pytest.raises(ValueError, match="between 1 and 256, got 257"):
        voc_palette(257)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_what_is_written_is_read_back(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("masks") / "m.png"
    write_mask(path, mask)
    got = read_mask(path)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, mask)


def test_write_mask_makes_an_eight_bit_palette_png_of_the_given_colours(tmp_path):
    path = tmp_path / "m.png"
    write_mask(path, MASK.astype(np.int64), np.array(COLORS, dtype=np.uint8))
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.array(image.convert("RGB")), rgb_of(MASK))
    np.testing.assert_array_equal(read_mask(path), MASK)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[256]]), "0 to 255, got 256 to 256"),
        (np.array([[-1]]), "0 to 255, got -1 to -1"),
        (np.zeros((2, 2)), "must be integer"),
        (np.zeros((2, 2, 3), dtype=np.uint8), "must be integer"),
        (np.zeros((0, 2), dtype=np.uint8), "must be integer"),
    ],
)
def test_write_mask_refuses_what_it_cannot_store(tmp_path, mask, message):
    with pytest.raises(ValueError, match=message):
        write_mask(tmp_path / "m.png", mask)
    with pytest.raises(ValueError, match=r"palette must have shape .* got \(2, 4\)"):
        fill_palette(np.zeros((2, 4), dtype=np.uint8))


def test_one_labelling_saved_in_five_ways_reads_the_same(tmp_path):
    write_mask(tmp_path / "p.png", MASK, np.array(COLORS, dtype=np.uint8))
    Image.fromarray(MASK).save(tmp_path / "l.png")
    Image.fromarray(MASK.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(rgb_of(MASK)).save(tmp_path / "rgb.png")
    Image.fromarray(rgb_of(MASK)).convert("RGBA").save(tmp_path / "rgba.png")
    for path in sorted(tmp_path.iterdir()):
        got = read_mask(path, colormap=COLORS)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, MASK)


def test_large_ids_stay_and_impossible_ones_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 300]], dtype=np.uint16)).save(tmp_path / "16.png")
    got = read_mask(tmp_path / "16.png")
    assert got.dtype == np.uint16
    assert got.tolist() == [[0, 300]]
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "32.tif")
    with pytest.raises(DataError, match=r"32\.tif: values from 0 to 70000; expected"):
        read_mask(tmp_path / "32.tif")


def test_rgb_masks_need_a_colormap(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(rgb_of(MASK)).save(path)
    with pytest.raises(DataError, match=r"m\.png: the mask is an RGB image.*data\.colormap"):
        read_mask(path)


def test_an_unknown_colour_is_named_with_its_place(tmp_path):
    rgb = rgb_of(MASK)
    rgb[1, 2] = (201, 0, 0)  # one anti-aliased pixel
    path = tmp_path / "m.png"
    Image.fromarray(rgb).save(path)
    message = r"m\.png: colour \(201, 0, 0\) at row 1, column 2 .* \(1 pixels of 1 unknown colours"
    with pytest.raises(DataError, match=message):
        read_mask(path, colormap=COLORS)


def test_the_standard_colormap_and_the_border(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(voc_palette()[MASK]).save(path)
    np.testing.assert_array_equal(read_mask(path, colormap="voc"), MASK)
    got = read_mask(path, colormap="voc", ignore_index=77)
    assert got.tolist() == [[0, 1, 2], [2, 77, 1]]


def test_a_listed_border_colour_is_a_class(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(rgb_of(MASK)).save(path)
    got = read_mask(path, colormap=[*COLORS, [224, 224, 192]])
    assert got.tolist() == [[0, 1, 2], [2, 3, 1]]


@pytest.mark.parametrize(
    ("colormap", "message"),
    [
        ("cityscapes", "'cityscapes'; expected voc"),
        ([[0, 0, 0], [0, 0, 0]], "twice"),
        (5, "data.colormap is 5; expected voc"),
        ([1, 2], "expected .red, green, blue"),
        ([[0, 0]], "expected .red, green, blue"),
        ([[0, 0, 256]], "expected .red, green, blue"),
        ([[0, 0, True]], "expected .red, green, blue"),
    ],
)
def test_bad_colormaps_are_refused(tmp_path, colormap, message):
    Image.fromarray(rgb_of(MASK)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=message):
        read_mask(tmp_path / "m.png", colormap=colormap)


def palette_file(path, indices, colors, **options):
    image = Image.fromarray(np.array(indices, dtype=np.uint8))
    image.putpalette([value for color in colors for value in color])
    image.save(path, **options)
    return path


def test_a_colormap_holds_for_the_colours_of_palettes(tmp_path):
    other_order = [COLORS[2], COLORS[0], (224, 224, 192), COLORS[1]]
    indices = [[1, 3, 0], [0, 2, 3]]  # of the same labels
    for bits in ({}, {"bits": 2}, {"transparency": 1}):
        path = palette_file(tmp_path / "m.png", indices, other_order, **bits)
        np.testing.assert_array_equal(read_mask(path, colormap=COLORS), MASK)
        assert read_mask(path).tolist() == read_mask(path, colormap="indices").tolist() == indices
    path = palette_file(tmp_path / "m.gif", indices, other_order)
    np.testing.assert_array_equal(read_mask(path, colormap=COLORS), MASK)


def test_a_palette_colour_outside_the_colormap_is_named(tmp_path):
    path = palette_file(tmp_path / "m.png", [[0, 3, 3]], [*COLORS, (9, 8, 7)])
    message = r"m\.png: index 3 \(2 pixels\) has the colour \(9, 8, 7\) in its palette, which"
    with pytest.raises(DataError, match=message):
        read_mask(path, colormap=COLORS)
    assert read_mask(path, colormap=[*COLORS, [9, 8, 7]]).tolist() == [[0, 3, 3]]
    assert read_mask(path, colormap="indices").tolist() == [[0, 3, 3]]
    path = palette_file(tmp_path / "unused.png", [[0, 1]], [*COLORS, (9, 8, 7)])
    assert read_mask(path, colormap=COLORS).tolist() == [[0, 1]]
    path = tmp_path / "short.png"
    with path.open("wb") as file:
        png.Writer(2, 1, palette=[(0, 0, 0), (200, 0, 0)], bitdepth=2).write(file, [[0, 3]])
    with pytest.raises(DataError, match=r"short\.png: holds the index 3, but its palette has 2"):
        read_mask(path, colormap=COLORS)


def test_grey_masks_that_a_colormap_makes_ambiguous_are_refused(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(path)
    black_and_white = [[0, 0, 0], [255, 255, 255]]
    with pytest.raises(DataError, match=r"m\.png: the mask is grey with the values 0, 255, which"):
        read_mask(path, colormap=black_and_white)
    # Both ways out lead to the same labels.
    assert apply_label_map(read_mask(path), {255: 1}).tolist() == [[0, 1]]
    Image.open(path).convert("RGB").save(path)
    assert read_mask(path, colormap=black_and_white).tolist() == [[0, 1]]
    Image.fromarray(np.array([[False, True]])).save(path)  # both readings agree
    assert read_mask(path, colormap=black_and_white).tolist() == [[0, 1]]


def test_label_map_renumbers():
    got = apply_label_map(MASK, {0: 255, 1: 0, 2: 1})
    assert got.tolist() == [[255, 0, 1], [1, 255, 0]]
    assert got.dtype == np.uint8


def test_label_map_reaches_the_ignored_value():
    binary = np.array([[0, 255]], dtype=np.uint8)
    assert apply_label_map(binary, {255: 1}).tolist() == [[0, 1]]
    assert apply_label_map(binary, {0: 0, 255: 1}).tolist() == [[0, 1]]


def test_label_map_of_large_ids():
    mask = np.array([[300, 7, 65535]], dtype=np.uint16)
    got = apply_label_map(mask, {300: 0, 7: 1, 65535: 255})
    assert got.dtype == np.uint8
    assert got.tolist() == [[0, 1, 255]]


def test_an_unlisted_id_stays_unless_another_one_gets_its_number():
    mask = np.array([[0, 5, 5]], dtype=np.uint8)
    assert apply_label_map(mask, {9: 1}).tolist() == [[0, 5, 5]]
    with pytest.raises(DataError, match=r"m\.png: id 5 \(2 pixels\) is not in data\.label_map"):
        apply_label_map(mask, {9: 5}, name="m.png")


def test_an_unlisted_ignored_pixel_stays_ignored():
    assert apply_label_map(MASK, {0: 255, 1: 0, 2: 0})[1, 1] == 255


def test_label_map_refuses_other_dtypes_and_ids():
    with pytest.raises(ValueError, match="uint8 or uint16, got int64"):
        apply_label_map(MASK.astype(np.int64), {0: 1})
    with pytest.raises(ValueError, match="between 0 and 65535, got -1: 0"):
        apply_label_map(MASK, {-1: 0})


@given(
    mask=hnp.arrays(np.uint8, (3, 4), elements=st.integers(0, 5)),
    targets=st.lists(st.integers(0, 9), min_size=6, max_size=6),
)
def test_a_full_label_map_equals_a_plain_loop(mask, targets):
    got = apply_label_map(mask, dict(enumerate(targets)))
    assert got.tolist() == [[targets[value] for value in row] for row in mask.tolist()]


@pytest.mark.parametrize(
    ("mask", "ignore_index", "message"),
    [
        ([[0, 37, 37, 9]], 255, r"holds 9 \(1 pixels\), 37 \(2 pixels\); expected 0 to 2 or 255"),
        ([[0, 37]], 255, "Set num_classes, or renumber"),
        ([[1, 2, 3]], 255, "one too small .*or the labels start at 1"),
        ([[0, 255]], 0, "255 is usually the border .*data.label_map"),
        ([list(range(100))], 255, "and 89 more; .*like a resized, compressed or grey image"),
        ([[0, -3]], 255, r"holds -3 \(1 pixels\)"),
    ],
)
def test_wrong_values_are_counted_and_explained(mask, ignore_index, message):
    with pytest.raises(DataError, match=message):
        check_labels(np.array(mask), 3, ignore_index)


def test_right_values_pass_the_check():
    check_labels(MASK, 3)
    check_labels(np.array([[0, -100]]), 1, -100)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_one_hot_by_hand(convert):
    got = one_hot(convert(MASK), 3)
    assert type(got) is type(convert(MASK))
    assert str(got.dtype).endswith("uint8")
    assert got.tolist() == [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        [[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]],
    ]
    assert got[1, 1, :-1].tolist() == [0, 0, 0]  # without the last column: a row of zeros


@given(
    classes=st.integers(1, 300),
    ignore_index=st.sampled_from([255, 0, -100, 10**6]),
    data=st.data(),
)
def test_one_hot_round_trip(classes, ignore_index, data):
    values = st.one_of(st.integers(0, classes - 1), st.just(ignore_index))
    mask = data.draw(hnp.arrays(np.int64, (2, 3), elements=values))
    columns = one_hot(mask, classes, ignore_index)
    assert columns.shape == (2, 3, classes + 1)
    assert (columns.sum(axis=-1) == 1).all()
    back = columns.argmax(axis=-1)
    back[columns[..., -1] == 1] = ignore_index
    np.testing.assert_array_equal(back, mask)
    tensor = one_hot(torch.from_numpy(mask), classes, ignore_index)
    np.testing.assert_array_equal(tensor.numpy(), columns)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "int64"])
def test_one_hot_takes_every_integer_dtype(dtype):
    mask = np.array([[0, 1]], dtype=dtype)
    assert one_hot(mask, 300).argmax(axis=-1).tolist() == [[0, 1]]
    assert one_hot(torch.from_numpy(mask), 300).argmax(dim=-1).tolist() == [[0, 1]]


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_one_hot_refuses_other_values_shapes_and_dtypes(convert):
    with pytest.raises(ValueError, match=r"holds 3 \(1 pixels\); expected 0 to 2"):
        one_hot(convert(np.array([[3, 0]])), 3)
    with pytest.raises(ValueError, match=r"holds -1 "):
        one_hot(convert(np.array([[-1, 0]])), 3)
    with pytest.raises(ValueError, match=r"integer \(H, W\), got .*int64 \(1, 1, 1\)"):
        one_hot(convert(np.zeros((1, 1, 1), dtype=np.int64)), 3)
    with pytest.raises(ValueError, match=r"got .*float32"):
        one_hot(convert(np.zeros((1, 1), dtype=np.float32)), 3)
    with pytest.raises(ValueError, match=r"got .*bool"):
        one_hot(convert(np.zeros((1, 1), dtype=bool)), 3)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        one_hot(convert(MASK), 0)


def test_one_hot_refuses_lists():
    with pytest.raises(ValueError, match="an array or a tensor, got list"):
        one_hot([[0]], 3)


@needs_shared
def test_real_voc_masks_hold_the_published_values(tmp_path):
    paths = sorted((SHARED / "voc_samples" / "MasksOnly").glob("*.png"))
    assert len(paths) == 632
    for path in paths[::16]:
        mask = read_mask(path)
        assert 255 in mask
        check_labels(mask, 21)
        with Image.open(path) as image:
            colors = image.convert("RGB")
        # The colours that the file shows are those of our palette, and lead back to the indices.
        np.testing.assert_array_equal(voc_palette()[mask], np.array(colors))
        colors.save(tmp_path / "rgb.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "rgb.png", colormap="voc"), mask)
