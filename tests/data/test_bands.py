"""Images of one, three or more channels, of 8 or 16 bits: from the file to the network's floats."""

import re
from contextlib import suppress
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import tifffile
import torch
from band_files import make_bands, tiff
from numpy.typing import NDArray
from PIL import Image

from segkit.config.slots import TRANSFORMS
from segkit.data import bands
from segkit.data.augment import Augment
from segkit.data.bands import count_bands
from segkit.data.cached import cached
from segkit.data.check import check_splits
from segkit.data.decode import read_image
from segkit.data.folders import FolderSegmentation
from segkit.data.loader import Collate, Sample
from segkit.data.scale_rotate_crop import RandomScaleRotateCrop
from segkit.data.voc import VOCSegmentation
from segkit.errors import ConfigError, DataError
from segkit.models.normalize import Normalize
from segkit.report.images import picture

FOUR = np.array([[[0, 1000, 4095, 5000], [1, 2, 3, 4]]], np.uint16)  # (1, 2, 4)
RANGE = (0.0, 4095.0)


def random_bands(*shape: int, top: int = 65536) -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, top, shape).astype(np.uint16)


# --- files --------------------------------------------------------------------------------------


def test_bands_by_hand(tmp_path: Path) -> None:
    path = tiff(tmp_path / "x.tif", FOUR, planarconfig="contig")
    eight = read_image(path, None, RANGE, channels=4)
    assert eight.dtype == np.uint8
    assert eight.tolist() == [[[0, 62, 255, 255], [0, 0, 0, 0]]]  # 1000 * 255 / 4095 = 62.27
    sixteen = read_image(path, None, RANGE, channels=4, bits=16)
    assert sixteen.dtype == np.uint16
    # 1000 * 65535 / 4095 = 16003.66; 65535 / 4095 = 16.0037
    assert sixteen.tolist() == [[[0, 16004, 65535, 65535], [16, 32, 48, 64]]]
    assert (read_image(path, channels=4, bits=16) == FOUR).all()  # all of the type: as stored


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "f4", "f8"])
@pytest.mark.parametrize("layout", ["contig", "separate", "pages", "BigTIFF", "zlib"])
def test_all_layouts_and_kinds_give_the_same_pixels(tmp_path: Path, kind: str, layout: str) -> None:
    values = random_bands(6, 7, 5, top=200)
    array = values.astype(kind)
    settings: dict[str, object] = {"planarconfig": "contig"}
    if layout in ("separate", "pages"):
        array = array.transpose(2, 0, 1)
        settings = {"planarconfig": "separate"} if layout == "separate" else {}
    settings |= {"bigtiff": True} if layout == "BigTIFF" else {}
    settings |= {"compression": "zlib"} if layout == "zlib" else {}
    path = tiff(tmp_path / "x.tif", array, **settings)
    assert count_bands(path) == 5
    expected = np.rint(values * (255 / 199.0)).clip(0, 255)
    assert (read_image(path, None, (0, 199), channels=5) == expected).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_kinds_that_pillow_does_not_read_are_read_for_grey_and_rgb_too(
    tmp_path: Path, channels: int
) -> None:
    values = random_bands(6, 7, 3, top=200)
    colours = tiff(tmp_path / "x.tif", values.astype("f4"), planarconfig="contig")
    planar = tiff(tmp_path / "p.tif", values.transpose(2, 0, 1), planarconfig="separate")
    grey = tiff(tmp_path / "g.tif", values[..., 0].astype("f8"))
    expected = np.rint(values * (255 / 199.0))
    assert (read_image(grey, None, (0, 199), channels) == expected[..., :1]).all()
    assert read_image(grey, None, (0, 199), channels).shape == (6, 7, channels)
    if channels == 3:
        assert (read_image(colours, None, (0, 199)) == expected).all()
        assert (read_image(planar, None, (0, 199)) == expected).all()


def test_transparency_is_a_band_where_four_are_asked_for(tmp_path: Path) -> None:
    rgba = random_bands(4, 5, 4, top=256).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png", channels=4) == rgba).all()
    assert (read_image(tmp_path / "x.png") == rgba[..., :3]).all()


def test_cmyk_counts_as_the_rgb_that_it_becomes(tmp_path: Path) -> None:
    """Its four bands became red, green, blue and alpha of a tile."""
    path = tmp_path / "x.tif"
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(path)
    assert count_bands(path) == 3
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


def test_the_channels_of_a_set_are_those_of_all_its_images(tmp_path: Path) -> None:
    """They were those of the first, so the order of the ids decided what could be checked."""
    root = make_bands(tmp_path, channels=4)
    assert VOCSegmentation(root, "train", channels=None).channels == 4
    Image.new("RGB", (48, 40)).save(root / "JPEGImages/1.tif")
    assert VOCSegmentation(root, "train", channels=None).channels == 3


def damaged(path: Path) -> Path:
    path.write_bytes(tiff(path, random_bands(20, 20, 4), planarconfig="contig").read_bytes()[:900])
    return path


def several(path: Path) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for side in (4, 6):
            writer.write(random_bands(side, side, 4), photometric="minisblack")
    return path


def nan(path: Path) -> Path:
    array = FOUR.astype("f4")
    array[0, 0, 0] = np.nan
    return tiff(path, array, planarconfig="contig")


def rgb(path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(path, "PNG")
    return path


def grey(path: Path) -> Path:
    Image.new("L", (4, 4)).save(path, "PNG")
    return path


def palette(path: Path) -> Path:
    Image.new("P", (4, 4)).save(path, "PNG")
    return path


def four(path: Path) -> Path:
    return tiff(path, FOUR, planarconfig="contig")


LEAVE = "Leave data.mean and data.std out to train on RGB images"
REFUSED = {
    "four, not three": (
        four,
        3,
        r"has 4 channels, and data\.mean has 3 numbers; .* 4 numbers each",
    ),
    "four, not five": (four, 5, r"has 4 channels, and data\.mean has 5 numbers"),
    "three, not four": (rgb, 4, f"has 3 channels, and data.mean has 4 numbers; .*{LEAVE}"),
    "three, not one": (rgb, 1, f"has 3 channels, and data.mean has 1 number; .*{LEAVE}"),
    "grey, not four": (grey, 4, f"has 1 channel, and data.mean has 4 numbers; .*{LEAVE}"),
    "palette, not one": (palette, 1, "has 3 channels, and data.mean has 1 number"),
    "NaN": (nan, 4, r"holds NaN or infinity; .*data\.ignore_index at the same pixels"),
    "several": (several, 4, "holds 2 images of different sizes or kinds"),
    "damaged": (damaged, 4, "cannot be decoded .*Copy or download the file again"),
    "complex": (
        lambda p: tiff(p, FOUR.astype("c8"), planarconfig="contig"),
        4,
        "holds numbers of the type complex64",
    ),
    "volume": (
        lambda p: tiff(p, random_bands(2, 3, 4, 5), metadata={"axes": "TCYX"}),
        4,
        r"holds an array of shape \(2, 3, 4, 5\) with the axes TCYX",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_channels_and_files_are_refused_in_words(tmp_path: Path, case: str) -> None:
    make, channels, message = REFUSED[case]
    with pytest.raises(DataError, match=rf"x\.tif: {message}"):
        read_image(make(tmp_path / "x.tif"), None, RANGE if case == "NaN" else None, channels)


def test_numbers_without_a_range_need_one(tmp_path: Path) -> None:
    path = tiff(tmp_path / "x.tif", FOUR.astype("f4"), planarconfig="contig")
    with pytest.raises(DataError, match=r"\(float32, 0 to 5000\) have no fixed range.*data\.range"):
        read_image(path, channels=4)


@pytest.mark.parametrize("layout", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_bytes_that_are_cut_off_or_changed_never_pass_silently(
    tmp_path: Path, layout: dict[str, object]
) -> None:
    array, path = random_bands(30, 20, 4), tmp_path / "x.tif"
    whole = tiff(path, array, planarconfig="contig", **layout).read_bytes()
    rng = np.random.default_rng(0)
    for length in range(8, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.tif: "):
            read_image(path, channels=4, bits=16)
    for _ in range(60):
        changed = np.frombuffer(whole, np.uint8).copy()
        changed[rng.integers(4, 500, 2)] = rng.integers(0, 256, 2)
        path.write_bytes(changed.tobytes())
        assert count_bands(path) > 0
        with suppress(DataError):  # of a pixel that is another number nothing can be said
            read_image(path, channels=4, bits=16)


@pytest.mark.parametrize("codec", ["tiff_lzw", "zstd"])
def test_a_compression_is_read_or_its_package_is_named(tmp_path: Path, codec: str) -> None:
    image = random_bands(20, 30, 4, top=9).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "x.tif", compression=codec)
    try:
        assert (read_image(tmp_path / "x.tif", channels=4) == image).all()
    except DataError as error:
        assert "Install imagecodecs: pip install imagecodecs" in str(error)


def test_without_tifffile_the_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "can_read", lambda: False)
    with pytest.raises(DataError, match=r"is a TIFF that Pillow does not read; install tifffile"):
        read_image(four(tmp_path / "x.tif"), channels=4)


# --- data sets ----------------------------------------------------------------------------------


def test_a_set_is_checked_and_cached_as_it_is_read(tmp_path: Path) -> None:
    root = make_bands(tmp_path / "voc")
    settings = {"value_range": [0, 4095], "channels": 5, "bits": 16}
    plain = {name: VOCSegmentation(root, name, **settings) for name in ("train", "val")}
    assert check_splits(plain, progress=False).warnings == []
    kept = cached(plain, "ram")
    for _ in range(2):  # as it is read, then out of the cache
        for name, dataset in plain.items():
            for index in range(len(dataset)):
                expected, found = dataset.read(index), kept[name].read(index)
                assert found[0].dtype == np.uint16
                assert all((a == b).all() for a, b in zip(expected, found, strict=True))
    assert kept["train"].store.get(0) is not None
    assert VOCSegmentation(root, "train", value_range=[0, 4095], channels=None).channels == 5
    with pytest.raises(
        DataError, match=r"3 items cannot be used:\n.*has 5 channels, and data\.mean"
    ):
        check_splits({"train": VOCSegmentation(root, "train")}, progress=False)


class Own:
    """A data set of somebody's own that says nothing of its channels."""

    ids, classes = ("a",), ("x", "y")

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.uint8)


def test_a_data_set_of_ones_own_says_its_channels() -> None:
    with pytest.raises(DataError, match=r"uint8 \(4, 4, 2\); expected uint8 \(H, W, 3\)"):
        check_splits({"train": Own()}, trained=False, progress=False)
    Own.channels = 2
    check_splits({"val": Own()}, trained=False, progress=False)
    del Own.channels
    image, mask = Own().read(0)
    found = Collate((0, 0, 0), 255)([Sample(image, mask, "a")])
    assert str(found) == (
        "a: the image has 2 channels; expected 3, for each of which data.mean has a number"
    )


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "top"), [("u1", 255), ("u2", 65535)])
def test_floats_are_those_of_the_formula(kind: str, top: int) -> None:
    images = [random_bands(4, 5, 2, top=top).astype(kind), random_bands(3, 5, 2).astype(kind)]
    fill = (top // 4, top // 2)
    samples = [Sample(one, np.zeros(one.shape[:2], np.uint8), "x") for one in images]
    batch = Collate(fill, 255).stack(samples)
    assert batch.image.dtype == (torch.uint8 if kind == "u1" else torch.uint16)
    assert batch.image[1, :, 3].tolist() == [[fill[0]] * 5, [fill[1]] * 5]
    found = Normalize((0.25, 0.5), (0.1, 0.2))(batch.image)
    expected = (images[0] / top - [0.25, 0.5]) / [0.1, 0.2]
    np.testing.assert_allclose(found[0].permute(1, 2, 0), expected, atol=2e-6)


@pytest.mark.gpu
def test_sixteen_bits_become_the_same_floats_on_a_device() -> None:
    image = torch.from_numpy(random_bands(2, 9, 7, 5)).permute(0, 3, 1, 2)
    normalize = Normalize((0.1, 0.2, 0.3, 0.4, 0.5), (0.2,) * 5)
    on_device = normalize(image.pin_memory().to("cuda", non_blocking=True))
    torch.testing.assert_close(on_device.cpu(), normalize(image), rtol=1e-6, atol=1e-6)


# --- augmentation -------------------------------------------------------------------------------


def test_six_channels_move_as_three_and_three_do() -> None:
    image, mask = random_bands(30, 40, 6, top=256).astype(np.uint8), np.zeros((30, 40), np.uint8)
    fill = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]

    def crop(part: slice) -> NDArray[np.uint8]:
        step = RandomScaleRotateCrop(50, 50, scale=(0.7, 1.3), degrees=(20, 30), rotate_p=1)
        augment = Augment([step], fill=fill[part])
        return augment(image[..., part], mask, np.random.default_rng(5))[0]

    halves = np.dstack([crop(slice(0, 3)), crop(slice(3, 6))])
    assert (crop(slice(0, 6)) == halves).all()
    assert halves[0, 0].tolist() == fill  # a hole
    assert (crop(slice(0, 1))[..., 0] == halves[..., 0]).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_geometry_leaves_in_holes_is_the_mean(channels: int, bits: int) -> None:
    top = 2**bits - 1
    image = np.full((20, 24, channels), top, np.uint8 if bits == 8 else np.uint16)
    steps = [A.Affine(translate_px=8, p=1), A.PadIfNeeded(40, 40, p=1), A.CoarseDropout(p=1)]
    fill = [25.5 * number for number in range(channels)]
    augment = Augment(steps, fill=fill, bits=bits)
    found, mask = augment(image, np.zeros((20, 24), np.uint8), np.random.default_rng(0))
    assert found.dtype == image.dtype
    assert found.shape == (40, 40, channels)
    holes = found[mask == 255]
    assert len(holes) > 1000
    expected = [round(value * top / 255) for value in fill]
    np.testing.assert_allclose(holes, np.broadcast_to(expected, holes.shape), atol=1)


def test_sixteen_bits_survive_a_flip_exactly() -> None:
    image = np.arange(65536, dtype=np.uint16).reshape(128, 256, 2)
    augment = Augment([A.HorizontalFlip(p=1)], fill=[0, 0], bits=16)
    found, _ = augment(image, np.zeros((128, 256), np.uint8), np.random.default_rng(0))
    assert (found == image[:, ::-1]).all()


COLOURS = """CLAHE ChromaticAberration ColorJitter Equalize HEStain HueSaturationValue ISONoise
PlanckianJitter RandomFog RandomGravel RandomRain RandomSnow RandomSunFlare RGBShift Spatter
ToGray ToSepia"""


@pytest.mark.parametrize("bits", [8, 16])
def test_colour_transforms_refuse_four_channels_by_name(bits: int) -> None:
    for name in COLOURS.split():
        transform = getattr(A, name)(p=0.1)
        with pytest.raises(ConfigError) as caught:
            Augment([A.OneOf([transform])], fill=[0] * 4, bits=bits)
        assert re.match(
            rf"augment\.train\[0\]: {name} cannot take images of 4 channels and {bits} bits, .*"
            "augment=bands has none",
            str(caught.value),
        )


def test_the_way_out_of_that_works() -> None:
    for channels in (1, 2, 4, 9):
        Augment([A.RandomBrightnessContrast()], fill=[0] * channels, bits=16)
    Augment([A.ColorJitter()], fill=[0])  # of grey it changes brightness and contrast
    assert {f"albumentations.{name}" for name in COLOURS.split()} <= {*TRANSFORMS}


# --- pictures -----------------------------------------------------------------------------------


def test_people_see_the_first_three_channels_or_grey() -> None:
    eight = random_bands(4, 5, 5, top=256).astype(np.uint8)
    assert (picture(eight) == eight[..., :3]).all()
    assert picture(eight[..., :3]) is not None
    assert (picture(eight[..., :2]) == eight[..., :1]).all()
    assert picture(eight[..., :1]).shape == (4, 5, 3)
    sixteen = np.array([[[0, 128, 129, 65535]]], np.uint16)  # 257 a step: 128 is just below half
    assert picture(sixteen).tolist() == [[[0, 0, 1]]]
    assert picture(sixteen[..., 3:]).tolist() == [[[255] * 3]]


def test_two_folders_are_read_as_a_voc_folder_is(tmp_path: Path) -> None:
    root = make_bands(tmp_path / "voc")
    kind = {"channels": 5, "bits": 16, "value_range": [0, 4095]}
    voc = VOCSegmentation(root, "train", **kind)  # type: ignore[arg-type]
    two = FolderSegmentation(
        "train",
        images=root / "JPEGImages",
        masks=root / "SegmentationClass",
        splits=root / "ImageSets/Segmentation",
        classes=["ground", "thing"],
        **kind,  # type: ignore[arg-type]
    )
    assert two.ids == voc.ids and two.fingerprint == voc.fingerprint
    for index in range(len(voc)):
        for found, expected in zip(two.read(index), voc.read(index), strict=True):
            assert found.dtype == expected.dtype and (found == expected).all()
    counted = FolderSegmentation(
        "all",
        images=root / "JPEGImages",
        masks=root / "SegmentationClass",
        classes=["ground", "thing"],
        channels=None,
    )
    assert counted.channels == 5 and len(counted) == 4
