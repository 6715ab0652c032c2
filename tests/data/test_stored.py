"""Numbers of masks and images as other programs store them: exact, or refused by name."""

import os
import socket
import struct
import threading

import numpy as np
import png
import pytest
import tifffile
from PIL import Image

from segkit.data.decode import load, read_image, read_labels
from segkit.errors import DataError

GREY = np.arange(24).reshape(4, 6)
RNG = np.random.default_rng(0)
WIDE = RNG.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
COLOR_TABLE = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257


def tiff(path, values, photometric="minisblack", **options):
    tifffile.imwrite(path, values, photometric=photometric, **options)
    return path


def png_file(path, rows, **options):
    height, width = len(rows), len(rows[0]) // options.pop("planes", 1)
    with path.open("wb") as file:
        png.Writer(width, height, **options).write(file, rows)
    return path


def bmp(path, indices, bits, palette):
    """An uncompressed BMP of 1, 4 or 8 bits with any palette of (blue, green, red)."""
    height, width = indices.shape
    digits = np.unpackbits(indices.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
    rows = np.packbits(digits.reshape(height, -1), axis=1)[::-1]
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    table = b"".join(bytes([*color, 0]) for color in palette)
    start = 54 + len(table)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, len(palette), 0)
    head = b"BM" + struct.pack("<IHHI", start + rows.size, 0, 0, start)
    path.write_bytes(head + info + table + rows.tobytes())
    return path


# --- masks: one table of files that other programs write -----------------------------------------

EXACT = {
    f"{photometric} {kind} {order}": (
        lambda path, p=photometric, k=kind, o=order: tiff(path, GREY.astype(k), p, byteorder=o),
        GREY,
    )
    for photometric, kinds in {
        "minisblack": ("u1", "u2", "i1", "i2", "i4"),
        "miniswhite": ("u1",),
    }.items()
    for kind in kinds
    for order in "<>"
}
EXACT |= {
    "miniswhite u2": (lambda p: tiff(p, GREY.astype("u2"), "miniswhite"), GREY),
    "minisblack u4": (lambda p: tiff(p, GREY.astype("u4")), GREY),
    "miniswhite deflated": (
        lambda p: tiff(p, GREY.astype("u1"), "miniswhite", compression="zlib"),
        GREY,
    ),
    "miniswhite in tiles": (
        lambda p: tiff(p, np.tile(GREY, (9, 9)).astype("u1"), "miniswhite", tile=(16, 16)),
        np.tile(GREY, (9, 9)),
    ),
    "miniswhite 1 bit": (lambda p: tiff(p, GREY % 2 == 1, "miniswhite"), GREY % 2),
    "minisblack 1 bit": (lambda p: tiff(p, GREY % 2 == 1), GREY % 2),
    "predictor": (lambda p: tiff(p, GREY.astype("u2"), compression="zlib", predictor=True), GREY),
    "BigTIFF": (lambda p: tiff(p, GREY.astype("u1"), bigtiff=True), GREY),
    "TIFF palette": (
        lambda p: tiff(p, GREY.astype("u1"), "palette", colormap=COLOR_TABLE),
        GREY,
    ),
    "large ids": (lambda p: tiff(p, (GREY + 40000).astype("u2")), GREY + 40000),
    "transparent grey": (
        lambda p: png_file(p, (GREY % 4).tolist(), greyscale=True, bitdepth=2, transparent=1),
        GREY % 4,
    ),
    "BMP 4 bits, palette of greys": (
        lambda p: bmp(p, GREY % 16, 4, [(i, i, i) for i in range(16)]),
        GREY % 16,
    ),
    "BMP 8 bits, black and white": (
        lambda p: bmp(p, GREY % 2, 8, [(0, 0, 0), (255, 255, 255)]),
        GREY % 2,
    ),
    "BMP 1 bit, white and black": (
        lambda p: bmp(p, GREY % 2, 1, [(255, 255, 255), (0, 0, 0)]),
        GREY % 2,
    ),
    "BMP 1 bit": (lambda p: bmp(p, GREY % 2, 1, [(0, 0, 0), (255, 255, 255)]), GREY % 2),
    "BMP 4 bits, colours": (
        lambda p: bmp(p, GREY % 16, 4, [(i, 9, 200) for i in range(16)]),
        GREY % 16,
    ),
}
for bits in (1, 2, 4, 8, 16):
    for interlace in (False, True):
        values = GREY % 2**bits if bits < 16 else GREY * 2000
        EXACT[f"PNG grey {bits} {'interlaced' * interlace}"] = (
            lambda p, v=values, b=bits, i=interlace: png_file(
                p, v.tolist(), greyscale=True, bitdepth=b, interlace=i
            ),
            values,
        )
for bits in (1, 2, 4, 8):
    for alpha in (False, True):
        table = [(i, 255 - i, 3, i)[: 4 if alpha else 3] for i in range(min(256, 2**bits))]
        EXACT[f"PNG palette {bits} {'alpha' * alpha}"] = (
            lambda p, b=bits, t=table: png_file(p, (GREY % 2**b).tolist(), palette=t, bitdepth=b),
            GREY % 2**bits,
        )


@pytest.mark.parametrize("kind", EXACT)
def test_masks_hold_the_numbers_that_were_written(tmp_path, kind):
    make, expected = EXACT[kind]
    got = read_labels(make(tmp_path / "mask.png"))  # whatever its name
    np.testing.assert_array_equal(got.astype(np.int64), expected)


def test_negative_numbers_stay_negative(tmp_path):
    values = np.array([[0, -1, 5]])
    for kind in ("i1", "i2", "i4"):
        assert read_labels(tiff(tmp_path / "x.tif", values.astype(kind))).tolist() == [[0, -1, 5]]
    wide = np.array([[2**32 - 1, 1]], np.uint32)
    assert read_labels(tiff(tmp_path / "x.tif", wide)).tolist() == [[2**32 - 1, 1]]


def gif(path, indices, palette, **options):
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(palette)
    image.save(path, format="GIF", **options)
    return path


def test_a_gif_mask_holds_its_indices(tmp_path):
    black_and_white = [0, 0, 0, 255, 255, 255]
    path = gif(tmp_path / "x.gif", GREY % 2, black_and_white)
    np.testing.assert_array_equal(read_labels(path), GREY % 2)
    path = tmp_path / "y.gif"  # as those of DRIVE
    Image.fromarray((GREY % 2 * 255).astype(np.uint8)).save(path, optimize=False)
    np.testing.assert_array_equal(read_labels(path), GREY % 2 * 255)
    path = gif(tmp_path / "z.gif", GREY % 3, [9, 9, 9, 8, 8, 8, 7, 7, 7], transparency=1)
    np.testing.assert_array_equal(read_labels(path), GREY % 3)


def test_of_a_gif_with_several_frames_the_first_counts_if_all_are_equal(tmp_path):
    first = Image.fromarray((GREY * 9).astype(np.uint8))
    same = tmp_path / "same.jpg"  # Oxford-IIIT Pet has such
    first.save(same, "GIF", save_all=True, append_images=[first.copy()], duration=[10, 20])
    np.testing.assert_array_equal(read_image(same)[..., 0], GREY * 9)
    other = tmp_path / "other.gif"
    first.save(other, "GIF", save_all=True, append_images=[Image.new("L", first.size, 7)])
    for read in (read_image, read_labels):
        with pytest.raises(DataError, match=r"other\.gif: is an animation, whose frame 2 differs"):
            read(other)


def test_a_gif_whose_frame_is_smaller_than_it_is_refused(tmp_path):
    content = bytearray(gif(tmp_path / "x.gif", GREY % 2, [0, 0, 0, 9, 9, 9]).read_bytes())
    content[6] += 1  # the width of the whole, in its head
    (tmp_path / "x.gif").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.gif: its first frame covers a part of the image"):
        read_labels(tmp_path / "x.gif")


def lossy_webp(path):
    Image.fromarray((GREY * 9).astype(np.uint8)).save(path, "WEBP", quality=90)
    return path


REFUSED = {
    "floats": (lambda p: tiff(p, GREY.astype("f4")), "mode F; expected palette"),
    "two bands": (
        lambda p: tiff(p, np.zeros((4, 6, 2), "u1"), planarconfig="contig"),
        "(has 2 bands; expected one|a kind that is not read: 2 bands)",  # by the version of Pillow
    ),
    "RGB and one more": (
        lambda p: tiff(p, np.zeros((4, 6, 4), "u1"), "rgb", extrasamples=["unspecified"]),
        "has 4 bands; expected one, or RGB",
    ),
    "premultiplied": (
        lambda p: tiff(p, np.full((4, 6, 4), 9, "u1"), "rgb", extrasamples=["assocalpha"]),
        "RGBa colours, whose conversion changes label values",
    ),
    "colours of 16 bits": (lambda p: tiff(p, WIDE, "rgb"), "has colours of 16 bits; expected 8"),
    "grey, alpha, 16 bits": (
        lambda p: png_file(
            p, np.repeat(GREY, 2, 1).tolist(), planes=2, greyscale=True, alpha=True, bitdepth=16
        ),
        "mode LA; expected palette",
    ),
    "lossy WEBP": (lossy_webp, "a lossy WEBP, whose compression changes label values"),
    "a kind of TIFF": (
        lambda p: tiff(p, np.zeros((4, 6, 5), "u2"), planarconfig="contig"),
        r"is a TIFF of a kind that is not read: 5 bands of whole numbers with 16 bits\. Save it as",
    ),
    "64 bits": (
        lambda p: tiff(p, GREY.astype("f8")),
        "1 band of floating point numbers with 64 bits",
    ),
    "BigTIFF of a kind": (
        lambda p: tiff(p, GREY.astype("f8"), bigtiff=True),
        "1 band of floating point numbers with 64 bits",
    ),
    "pages": (lambda p: tiff(p, np.zeros((2, 4, 6), "u1")), "holds 2 images; expected one"),
    "planar": (
        lambda p: tiff(p, WIDE.transpose(2, 0, 1), "rgb", planarconfig="separate"),
        r"band after band \(planar\), which is not read",
    ),
}


def test_smaller_copies_and_masks_beside_an_image_are_no_images(tmp_path):
    """As GDAL writes them: overviews, and which pixels are valid."""
    labels = np.arange(24, dtype="u1").reshape(4, 6)
    small, valid = labels[::2, ::2], labels > 3
    for kinds, count in (((1, 1), 1), ((4,), 1), ((4, 1), 1), ((1, 0), 2), ((2,), 2)):
        path = tmp_path / "x.tif"
        with tifffile.TiffWriter(path) as file:
            file.write(labels, photometric="minisblack")
            for kind in kinds:
                is_mask = kind == 4
                look = "mask" if is_mask else "minisblack"
                file.write(valid if is_mask else small, photometric=look, subfiletype=kind)
        if count == 1:
            assert np.array_equal(read_labels(path), labels)
            assert np.array_equal(read_image(path)[..., 0], labels)
        else:
            with pytest.raises(DataError, match="holds 2 images; expected one"):
                read_labels(path)


@pytest.mark.parametrize("kind", REFUSED)
def test_masks_that_cannot_be_exact_are_refused_by_name(tmp_path, kind):
    make, message = REFUSED[kind]
    with pytest.raises(DataError, match=rf"mask\.png: .*{message}"):
        read_labels(make(tmp_path / "mask.png"))


def test_transparency_that_tells_pixels_apart_is_not_dropped(tmp_path):
    rgba = np.full((4, 6, 4), 255, np.uint8)
    rgba[:, :3, 3] = 0  # white and transparent white
    Image.fromarray(rgba).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png: pixels of one colour differ in their transpar"):
        read_labels(tmp_path / "x.png")
    rgba[:, :3, :3] = 0  # painted in a colour of their own, as the message advises
    Image.fromarray(rgba).save(tmp_path / "x.png")
    assert read_labels(tmp_path / "x.png")[0, [0, 5], 0].tolist() == [0, 255]


# --- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_images_of_any_depth_reach_from_black_to_white(tmp_path, bits):
    top = 2**bits - 1
    path = png_file(tmp_path / "x.png", [[0, top]], greyscale=True, bitdepth=bits)
    assert read_image(path)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_a_image_whose_0_is_white_is_shown_so(tmp_path, kind):
    top = np.iinfo(kind).max
    path = tiff(tmp_path / "x.tif", np.array([[0, top]], kind), "miniswhite")
    assert read_image(path)[0, :, 0].tolist() == [255, 0]


WIDE_COLORS = {
    "PNG": lambda p: png_file(
        p, WIDE.reshape(5, -1).tolist(), planes=3, greyscale=False, bitdepth=16
    ),
    "PNG interlaced": lambda p: png_file(
        p, WIDE.reshape(5, -1).tolist(), planes=3, greyscale=False, bitdepth=16, interlace=True
    ),
    "TIFF": lambda p: tiff(p, WIDE, "rgb"),
    "TIFF, big-endian": lambda p: tiff(p, WIDE, "rgb", byteorder=">"),
    "TIFF deflated": lambda p: tiff(p, WIDE, "rgb", compression="zlib"),
    "TIFF, a fourth band": lambda p: tiff(
        p, np.dstack([WIDE, WIDE[..., 0]]), "rgb", extrasamples=["unspecified"]
    ),
}


@pytest.mark.parametrize("kind", WIDE_COLORS)
def test_colours_of_16_bits_are_read_whole(tmp_path, kind):
    path = WIDE_COLORS[kind](tmp_path / "x.png")
    np.testing.assert_array_equal(load(path).numbers, WIDE)
    np.testing.assert_array_equal(read_image(path), np.rint(WIDE / 257).astype(np.uint8))


def test_grey_with_alpha_of_16_bits_is_read_whole(tmp_path):
    rows = np.dstack([GREY * 2000, GREY]).reshape(4, -1).tolist()
    path = png_file(tmp_path / "x.png", rows, planes=2, greyscale=True, alpha=True, bitdepth=16)
    np.testing.assert_array_equal(load(path).numbers, GREY * 2000)


def test_a_range_maps_the_stored_numbers(tmp_path):
    values = np.array([[0, 100, 2100, 4100, 65535]], np.uint16)
    expected = [0, 0, 128, 255, 255]  # (2100 - 100) / 4000 * 255 = 127.5
    path = tiff(tmp_path / "x.tif", values)
    assert read_image(path, value_range=(100, 4100))[0, :, 0].tolist() == expected
    path = tiff(tmp_path / "w.tif", values, "miniswhite")
    inverted = [255 - value for value in expected]
    assert read_image(path, value_range=(100, 4100))[0, :, 0].tolist() == inverted
    path = tiff(tmp_path / "c.tif", np.dstack([values] * 3), "rgb")
    assert read_image(path, value_range=(100, 4100))[0, :, 1].tolist() == expected


@pytest.mark.parametrize("kind", ["i2", "i4", "f4", "u4"])
def test_a_range_reads_numbers_that_have_none(tmp_path, kind):
    path = tiff(tmp_path / "x.tif", np.array([[0, 50, 100]], kind))
    with pytest.raises(DataError, match=r"x\.tif: its numbers .*0 to 100.* data\.range=\[low,high"):
        read_image(path)
    assert read_image(path, value_range=(0, 100))[0, :, 0].tolist() == [0, 128, 255]
    if kind == "f4":
        tiff(path, np.array([[0, np.nan]], kind))
        with pytest.raises(DataError, match="holds NaN or infinity"):
            read_image(path, value_range=(0, 100))


def test_a_range_beyond_the_numbers_of_a_file_is_refused(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(GREY.astype(np.uint8)).save(path)
    with pytest.raises(DataError, match=r"x\.png: data\.range is \[0, 4095\], .* 0 to 255 only"):
        read_image(path, value_range=(0, 4095))
    assert read_image(path, value_range=(0, 23))[3, 5].tolist() == [255] * 3


# --- what is no image --------------------------------------------------------------------------


OTHERS = {
    "heic": (b"\x00\x00\x00\x18ftypheic" + bytes(50), "is a HEIC image; .* Save it as PNG"),
    "avif": (b"\x00\x00\x00\x18ftypavif" + bytes(50), "is an AVIF image; .* Save it as PNG"),
    "pdf": (b"%PDF-1.7\n", "is a PDF document; .* Save it as PNG"),
    "npy": (b"\x93NUMPY\x01\x00", "is a NumPy array; .* Save it as PNG"),
    "dicom": (bytes(128) + b"DICM" + bytes(9), "is a DICOM image; .* Save it as PNG"),
    "pgm": (b"P5 2 2 255\n\0\0\0\0", "is a PNM image; .* Save it as PNG"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 image; .* Save it as PNG"),
    "psd": (b"8BPS\0\1", "is a Photoshop image; .* Save it as PNG"),
    "zip": (b"PK\3\4" + bytes(30), "is a zip archive; .* Unpack it"),
    "svg": (b'<?xml version="1.0"?><svg/>', "is an SVG or XML text.* Save it as PNG"),
    "zeros": (bytes(5000), "holds zero bytes only.*Copy or download the file again"),
    "png": (
        b"\x89PNG\r\n\x1a\n" + bytes(3),
        "is no image that can be .*begins like a PNG and is damaged. Copy or download",
    ),
    "video": (b"\0\0\0\x20ftypisom" + bytes(50), "is a video; .* Take images out of it"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_sound_files_of_another_kind_are_named(tmp_path, kind):
    """Another copy of them would be no better."""
    content, message = OTHERS[kind]
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.png: {message}") as error:
        read_image(path)
    assert ("Copy or download" in str(error.value)) == (kind in ("zeros", "png"))


def test_only_regular_files_are_opened(tmp_path):
    fifo, link = tmp_path / "fifo.png", tmp_path / "link.png"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    (tmp_path / "null.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    end = socket.socket(socket.AF_UNIX)
    with end:
        end.bind(str(tmp_path / "s.png"))
        expected = {
            "fifo": "a pipe (FIFO), not a file",
            "link": "a pipe (FIFO), not a file",
            "null": "a device, not a file",
            "s": "a socket, not a file",
            "folder": "a folder, not a file",
            "broken": "no such file",
        }
        for name, message in expected.items():
            for read in (read_image, read_labels):
                found = []
                path = tmp_path / f"{name}.png"
                thread = threading.Thread(target=lambda: found.append(error_of(read, path)))  # noqa: B023
                thread.daemon = True  # a read that blocks must not block the tests
                thread.start()
                thread.join(5)
                assert found, f"{read.__name__} of {name} blocks"
                assert message in found[0]


def error_of(read, path):
    try:
        return f"read {read(path).shape}"
    except DataError as error:
        return str(error)


def test_a_damaged_gif_is_named(tmp_path):
    noise = RNG.integers(0, 256, (64, 64)).astype(np.uint8)
    whole = gif(tmp_path / "x.gif", noise, bytes(range(256)) * 3).read_bytes()
    (tmp_path / "x.gif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"x\.gif: .*(cannot|is no image that can) be decoded"):
        read_labels(tmp_path / "x.gif")


def test_a_png_with_wrong_pixels_behind_its_colours_is_still_refused(tmp_path):
    """The second decoding of 16 bits does not get around the check sums of the first."""
    path = WIDE_COLORS["PNG"](tmp_path / "x.png")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 9] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(path)
