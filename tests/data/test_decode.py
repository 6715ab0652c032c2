"""Reading of image files in every mode, and of files that are damaged or something else."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc_folder import SHARED, needs_shared

from segkit.data.decode import load_labels, read_image, read_labels, read_palette
from segkit.errors import DataError

GREY = np.arange(96, dtype=np.uint8).reshape(8, 12) * 2  # a ramp that is easy to follow


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def grey_image() -> Image.Image:
    return Image.fromarray(GREY)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P"])
def test_the_same_image_in_every_mode_gives_the_same_pixels(tmp_path, mode):
    image = grey_image().convert(mode)
    if "A" in mode:
        image.putalpha(7)  # nearly transparent: dropped, not composited
    got = read_image(save(tmp_path / "x.png", image))
    assert got.dtype == np.uint8
    assert got.flags.writeable
    np.testing.assert_array_equal(got, np.stack([GREY] * 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_keep_the_pixels(tmp_path, suffix):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(rgb), **options)
    np.testing.assert_array_equal(read_image(path), rgb)


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    got = read_image(save(tmp_path / "x.jpg", image, quality=100))
    assert got.shape == (16, 16, 3)
    assert np.abs(got.astype(int) - (200, 40, 90)).max() <= 4


def test_one_bit_becomes_black_and_white(tmp_path):
    image = Image.fromarray(np.array([[False, True]]))
    assert read_image(save(tmp_path / "x.png", image)).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = read_image(save(tmp_path / f"x.{suffix}", Image.fromarray(ramp)))[..., 0]
    # 65535 = 255 * 257, so v / 257 is the exact scale.
    np.testing.assert_array_equal(got, np.round(ramp / 257).astype(np.uint8))


def test_a_palette_with_alpha_gives_its_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    path = save(tmp_path / "x.png", image, transparency=bytes([0, 128]))
    assert read_image(path).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range_are_refused(tmp_path, mode):
    path = save(tmp_path / "x.tif", Image.new(mode, (4, 4)))
    message = r"x\.tif: its numbers \((int|float)32, 0 to 0\) have no fixed range.*data\.range=\["
    with pytest.raises(DataError, match=message):
        read_image(path)


# What each EXIF orientation must turn the stored rows [1 2 3 / 4 5 6] into.
TURNED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
    9: [[1, 2, 3], [4, 5, 6]],
}


def oriented(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.array(TURNED[1], dtype=np.uint8)
    return save(path, Image.fromarray(stored), exif=exif.tobytes())


@pytest.mark.parametrize("orientation", TURNED)
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    path = oriented(tmp_path / "x.png", orientation)
    assert read_image(path)[..., 0].tolist() == TURNED[orientation]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_orientation_is_left_alone_where_only_that_fits_the_mask(tmp_path, orientation):
    path = oriented(tmp_path / "x.png", orientation)
    assert read_image(path, size=(2, 3))[..., 0].tolist() == TURNED[1]
    assert read_image(path, size=(3, 2))[..., 0].tolist() == TURNED[orientation]
    assert read_image(path, size=(9, 9))[..., 0].tolist() == TURNED[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_is_turned_by_its_format(tmp_path, orientation, compression, dtype):
    """Pillow 13 garbles the pixels if it may map the file: one of 28 x 42 that is stored turned."""
    stored = np.arange(28 * 42).reshape(28, 42).astype(dtype)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.tif", Image.fromarray(stored), exif=exif, compression=compression)
    # Where the numbers of a 2 x 3 image go, the pixels go: bring that to this size.
    flipped = stored.T if orientation >= 5 else stored
    first_row, first_column = TURNED[orientation][0], [row[0] for row in TURNED[orientation]]
    expected = flipped[:: 1 if first_column == sorted(first_column) else -1]
    expected = expected[:, :: 1 if first_row == sorted(first_row) else -1]
    np.testing.assert_array_equal(read_labels(path), expected)
    image = read_image(path)[..., 0]
    assert image.shape == expected.shape
    if dtype == np.uint8:
        np.testing.assert_array_equal(image, expected)


def test_a_damaged_exif_block_does_not_matter(tmp_path):
    path = save(tmp_path / "x.jpg", grey_image(), exif=b"Exif\x00\x00MM\x00*garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, about the EXIF block
        assert read_image(path).shape == (8, 12, 3)


def test_a_png_whose_pixels_were_damaged_is_refused(tmp_path):
    """Also where they can be decoded: Pillow alone would give other labels, without a word."""
    path = save(tmp_path / "x.png", grey_image().convert("P"), compress_level=0)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(GREY[2])) + 5] ^= 1
    path.write_bytes(data)
    for read in (read_image, read_labels):
        with pytest.raises(DataError, match=r"x\.png: cannot be decoded \(broken PNG file"):
            read(path)


def png_of_size(width: int, height: int) -> bytes:
    """A grey PNG that claims a size and holds hardly any pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99)))


def truncated(suffix: str, tmp_path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = save(tmp_path / f"whole.{suffix}", Image.fromarray(noise)).read_bytes()
    return whole[: len(whole) // 2]


def flipped_png(tmp_path: Path) -> bytes:
    data = bytearray(save(tmp_path / "whole.png", grey_image()).read_bytes())
    data[data.index(b"IDAT") + 12] ^= 0xFF  # in the compressed pixels
    return bytes(data)


BAD_FILES = {
    "empty": (lambda _: b"", r"is empty \(0 bytes\)"),
    "html": (
        lambda _: b"<!DOCTYPE html><html></html>",
        "is no image but a web page, it starts with .*DOCTYPE",
    ),
    "lfs": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\n",
        "is a placeholder of Git LFS.*git lfs pull",
    ),
    "gif": (lambda _: b"GIF89a" + bytes(20), "is no image"),
    "jpeg cut": (lambda tmp: truncated("jpg", tmp), "cannot be decoded .*truncated"),
    "png cut": (lambda tmp: truncated("png", tmp), "cannot be decoded"),
    "bmp cut": (lambda tmp: truncated("bmp", tmp), "cannot be decoded"),
    "tiff cut": (lambda tmp: truncated("tif", tmp), "cannot be decoded|is no image"),
    "webp cut": (lambda tmp: truncated("webp", tmp), "cannot be decoded|is no image"),
    "png flipped": (flipped_png, "cannot be decoded"),
    "bomb warned of": (lambda _: png_of_size(12000, 9000), "too large; at most 89478485 pixels"),
    "bomb": (lambda _: png_of_size(30000, 30000), "too large"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("read", [read_image, read_labels, read_palette])
def test_damaged_files_are_refused_by_name(tmp_path, kind, read):
    make, message = BAD_FILES[kind]
    path = tmp_path / "broken.png"
    path.write_bytes(make(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of some before it raises
        with pytest.raises(DataError, match=rf"broken\.png: .*({message})"):
            read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"x\.png: no such file"):
        read_image(tmp_path / "x.png")
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_image(tmp_path)


def test_several_images_in_one_file_are_refused(tmp_path):
    path = tmp_path / "x.tif"
    grey_image().save(path, save_all=True, append_images=[grey_image()])
    with pytest.raises(DataError, match="holds 2 images; expected one"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_labels_of_grey_and_palette_files_are_the_stored_numbers(tmp_path, suffix):
    image = grey_image()
    image.putpalette(bytes(range(256)) * 3)
    for number, photo in enumerate([grey_image(), image]):
        path = save(tmp_path / f"{number}.{suffix}", photo)
        np.testing.assert_array_equal(read_labels(path), GREY)


@pytest.mark.parametrize("colors", [2, 4, 16])
def test_labels_of_small_palettes_with_few_bits_per_pixel(tmp_path, colors):
    labels = (np.arange(35).reshape(5, 7) % colors).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette(bytes(3 * colors))
    np.testing.assert_array_equal(read_labels(save(tmp_path / "x.png", image)), labels)


def test_labels_of_one_bit_and_deep_files(tmp_path):
    bits = Image.fromarray(np.array([[False, True]]))
    assert read_labels(save(tmp_path / "1.png", bits)).tolist() == [[0, 1]]
    deep = Image.fromarray(np.array([[0, 8, 15, 255, 65535]], dtype=np.uint16))
    assert read_labels(save(tmp_path / "16.png", deep)).tolist() == [[0, 8, 15, 255, 65535]]
    wide = Image.fromarray(np.array([[0, 8, -1]], dtype=np.int32))
    assert read_labels(save(tmp_path / "32.tif", wide)).tolist() == [[0, 8, -1]]


def test_jpeg_labels_are_refused_whatever_their_name(tmp_path):
    path = save(tmp_path / "x.png", grey_image(), format="JPEG")
    with pytest.raises(DataError, match=r"x\.png: the mask is a JPEG.*Export"):
        read_labels(path)
    path = save(tmp_path / "x.tif", grey_image(), compression="jpeg")
    with pytest.raises(DataError, match="the mask is a JPEG"):
        read_labels(path)


def test_labels_in_other_modes_are_refused(tmp_path):
    path = save(tmp_path / "x.png", grey_image().convert("LA"))
    with pytest.raises(DataError, match="mode LA; expected palette"):
        read_labels(path)


def test_the_palette_is_read_as_stored(tmp_path):
    image = grey_image()
    image.putpalette([1, 2, 3, 4, 5, 6])
    palette = read_palette(save(tmp_path / "p.png", image))
    assert palette is not None
    assert palette[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read_palette(save(tmp_path / "l.png", grey_image())) is None


@needs_shared
def test_real_photos_are_read():
    paths = sorted((SHARED / "voc_samples" / "JPEGImages").iterdir())
    assert len(paths) == 16
    for path in paths:
        image = read_image(path)
        assert image.shape[2] == 3
        assert image.std() > 10


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_a_mask_that_programs_turn_or_not_is_refused(orientation: int, tmp_path: Path) -> None:
    """Its image is turned as it asks for, and the labels used to lie elsewhere then."""
    exif = Image.Exif()
    exif[0x112] = orientation
    for kind in ("png", "tif"):
        path = tmp_path / f"a.{kind}"
        Image.fromarray(np.eye(6, dtype=np.uint8)).save(path, exif=exif)
        if kind == "tif":  # a TIFF is read as it is stored, as an image is
            load_labels(path)
            continue
        with pytest.raises(
            DataError, match=rf"a\.png: the mask has the EXIF orientation {orientation}"
        ):
            load_labels(path)
    exif[0x112] = 1
    Image.fromarray(np.eye(6, dtype=np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert load_labels(tmp_path / "a.png").numbers.sum() == 6
