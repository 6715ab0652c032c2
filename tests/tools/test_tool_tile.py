"""Tiles that cover images, carry their place in their names, and become whole masks again."""

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from band_files import make_bands
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from voc_folder import make_voc

from segkit.cli.arguments import parse
from segkit.data.classes import read_lines
from segkit.data.decode import load_labels, read_image
from segkit.data.masks import read_mask, write_mask
from segkit.data.voc import VOCSegmentation, read_split
from segkit.errors import ConfigError, DataError
from segkit.tools.tile import Request, tile
from segkit.tools.tiling import Tile, tiles_of


def run(*arguments: str) -> None:
    tile(parse(Request, arguments))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_places_by_hand() -> None:
    tiles = list(tiles_of("town/a", (5, 9), (4, 4), 1))
    assert [(one.top, one.left) for one in tiles] == [
        *((0, 0), (0, 3), (0, 5)),  # the last ones end with the image
        *((1, 0), (1, 3), (1, 5)),
    ]
    assert tiles[1].name == "town/a_y0_x3_of_5x9"
    assert [one.name for one in tiles_of("b", (3, 4), (4, 4), 1)] == ["b_y0_x0_of_3x4"]


@settings(deadline=None, max_examples=100)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.data(),
)
def test_tiles_cover_all_and_overlap(
    shape: tuple[int, int], size: tuple[int, int], data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, min(size) - 1))
    covered = np.zeros(shape, int)
    tiles = list(tiles_of("x_y1_x2_of_3x4", shape, size, overlap))  # a tile of a tile
    for one in tiles:
        part = one.part(covered, size)
        assert part.shape == tuple(map(min, size, shape))
        part += 1
        assert Tile.parse(one.name) == one
    assert (covered > 0).all()
    lefts = sorted({one.left for one in tiles})
    assert all(left + size[1] - next_left >= overlap for left, next_left in pairwise(lefts))


def test_a_set_becomes_a_set_of_tiles_and_its_masks_whole_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "voc/JPEGImages/town").mkdir(parents=True)
    (tmp_path / "voc/SegmentationClass/town").mkdir(parents=True)
    root = make_voc(
        tmp_path / "voc", {"train": ["a", "town/b"], "val": ["c"], "trainval": ["a", "c"]}
    )
    out, joined = tmp_path / "tiles", tmp_path / "joined"
    run(f"data.root={root}", f"out={out}", "size=[5,6]", "overlap=2")
    assert "train: 2 images, 12 tiles" in capsys.readouterr().out
    assert len(read_split(out, "trainval")) == 12
    for split in ("train", "val"):
        whole, tiles = VOCSegmentation(root, split), VOCSegmentation(out, split)
        assert tiles.classes == whole.classes
        assert (tiles.palette == whole.palette).all()
        for index, name in enumerate(tiles.ids):
            place = Tile.parse(name)
            image, mask = whole.read(whole.ids.index(place.image))
            found = tiles.read(index)
            assert (found[0] == place.part(image, (5, 6))).all()
            assert (found[1] == place.part(mask, (5, 6))).all()
    run(f"predictions={out}/SegmentationClass", f"out={joined}")
    assert "3 masks of 18 tiles" in capsys.readouterr().out
    for name in ("a", "town/b", "c"):
        before = root / f"SegmentationClass/{name}.png"
        assert (read_mask(joined / f"{name}.png") == read_mask(before)).all()
        assert (load_labels(joined / f"{name}.png").palette == load_labels(before).palette).all()


def test_of_two_tiles_the_one_whose_centre_is_nearer_counts(tmp_path: Path) -> None:
    # Columns 0 to 5 and 3 to 8: their centres are at 2.5 and 5.5, so column 4 is as near to both.
    (tmp_path / "in").mkdir()
    for left, value in ((0, 1), (3, 2)):
        write_mask(tmp_path / f"in/a_y0_x{left}_of_1x9.png", np.full((1, 6), value))
    run(f"predictions={tmp_path}/in", f"out={tmp_path}/out")
    assert read_mask(tmp_path / "out/a.png").tolist() == [[1, 1, 1, 1, 1, 2, 2, 2, 2]]


def test_masks_are_renumbered_and_images_upright(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc", {"train": ["a"]})
    mask = root / "SegmentationClass/a.png"
    write_mask(mask, np.where(read_mask(mask) == 2, 7, read_mask(mask)))
    (root / "JPEGImages/a.png").unlink()
    turned = np.random.default_rng(0).integers(0, 256, (12, 8, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.fromarray(turned).save(root / "JPEGImages/a.png", exif=exif)
    run(f"data.root={root}", f"out={tmp_path}/out", "data.label_map={7: 2}", "size=[8,12]")
    name = "a_y0_x0_of_8x12.png"
    assert (read_image(tmp_path / f"out/JPEGImages/{name}") == np.rot90(turned, -1)).all()
    assert set(np.unique(read_mask(tmp_path / f"out/SegmentationClass/{name}"))) == {0, 1, 2, 255}


@pytest.mark.parametrize(("channels", "kind"), [(5, "u2"), (4, "f4"), (1, "u2")])
def test_bands_keep_their_numbers(tmp_path: Path, channels: int, kind: str) -> None:
    root = make_bands(tmp_path / "voc", channels, kind)
    run(
        f"data.root={root}",
        f"out={tmp_path}/out",
        "size=[16,16]",
        "overlap=4",
        "data.range=[0,4095]",
    )
    settings = {"value_range": [0, 4095], "channels": channels, "bits": 16}
    whole, tiles = (
        VOCSegmentation(folder, "val", **settings) for folder in (root, tmp_path / "out")
    )
    for index, name in enumerate(tiles.ids):
        assert (tiles.read(index)[0] == Tile.parse(name).part(whole.read(0)[0], (16, 16))).all()


def test_images_of_twelve_bits_keep_their_numbers_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    first, second = values.ravel()[::2].astype(int), values.ravel()[1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    content = packed.astype(np.uint8).tobytes()  # two numbers in three bytes
    # Width, height, bits, no compression, 0 is black, place, bands, rows and bytes of the strip.
    tags = {256: 30, 257: 20, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 20, 279: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(content))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "in/a.tif").write_bytes(head + content + directory)
    whole = read_image(tmp_path / "in/a.tif")  # of 12 bits all, without a range
    run(f"images={tmp_path}/in", f"out={tmp_path}/out", "size=[16,16]")
    assert "note: there are images of numbers up to 4095" in capsys.readouterr().out
    tiles = list(tiles_of("a", (20, 30), (16, 16), 2))
    assert len(tiles) == len(list((tmp_path / "out").iterdir()))
    for one in tiles:
        found = read_image(tmp_path / f"out/{one.name}.png", None, (0, 4095))  # as the note says
        assert (found == one.part(whole, (16, 16))).all()


def test_images_above_the_limit_are_cut_and_others_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "in/deep").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (60, 50, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "in/deep/a.png")
    four = np.random.default_rng(0).integers(0, 60000, (60, 50, 4)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in/b.tif", four, photometric="minisblack", planarconfig="contig")
    for name in ("deep/a.png", "b.tif"):
        with pytest.raises(DataError, match=r"too large; .*python -m segkit\.tools\.tile"):
            read_image(tmp_path / "in" / name, channels=3 if name != "b.tif" else 4)
    arguments = (f"images={tmp_path}/in", f"out={tmp_path}/out", "size=[30,30]", "overlap=0")
    with pytest.raises(DataError, match="too large; at most 2999 pixels"):
        run(*arguments, "max_pixels=2999")
    assert not (tmp_path / "out").exists()
    run(*arguments)
    assert PIL.Image.MAX_IMAGE_PIXELS == 1000
    found = read_image(tmp_path / "out/deep/a_y30_x20_of_60x50.png")
    assert (found == image[30:, 20:]).all()
    found = tifffile.imread(tmp_path / "out/b_y0_x20_of_60x50.tif")
    assert (found == four[:30, 20:]).all()


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    root, out = make_voc(tmp_path / "voc"), tmp_path / "out"
    arguments = (f"data.root={root}", f"out={out}", "size=[8,8]", "overlap=2")
    run(*arguments, "dry_run=true")
    assert not out.exists()
    run(*arguments)
    before = everything(out)
    with pytest.raises(
        DataError, match=r"2 files are there already; nothing was written\. Add force"
    ):
        run(*arguments)
    for path in (out / "ImageSets/Segmentation").glob("*.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"12 files are there already"):  # 3 x 2 pairs
        run(*arguments)
    run(*arguments, "force=true")
    assert everything(out) == before
    masks = f"predictions={out}/SegmentationClass"
    run(masks, f"out={tmp_path}/joined")
    with pytest.raises(DataError, match=r"3 files are there already"):
        run(masks, f"out={tmp_path}/joined")
    run(masks, f"out={tmp_path}/joined", "force=true")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["joined", "out", "voc"]


def test_tiles_of_another_size_do_not_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``join`` used to take tiles of both sizes for those of one prediction."""
    photos, out = tmp_path / "photos", tmp_path / "photos/cut"
    photos.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(photos / f"{name}.png")
    cut = (f"images={photos}", f"out={out}", "overlap=0")
    run(*cut, "size=[8,8]")
    assert len(everything(out)) == 8
    with pytest.raises(DataError, match="8 files are there already"):
        run(*cut, "size=[12,12]")
    (photos / "b.png").unlink()
    run(*cut, "size=[12,12]", "force=true")  # what is in out is no image to cut
    said = capsys.readouterr().out
    assert "1 images, 1 tiles" in said
    assert "1 files written to" in said
    assert "3 other tiles of these images removed" in said
    assert "also holds 4 images and masks of earlier runs, such as b_y0_x0_of_12x12.png" in said
    assert sorted(everything(out)) == [
        "a_y0_x0_of_12x12.png",
        *(f"b_y{y}_x{x}_of_12x12.png" for y in (0, 4) for x in (0, 4)),
    ]


def test_masks_that_stay_keep_their_classes(tmp_path: Path) -> None:
    root, out = make_voc(tmp_path / "voc"), tmp_path / "out"
    cut = (f"data.root={root}", f"out={out}", "size=[8,8]", "overlap=2")
    run(*cut, "splits=[train]")
    run(*cut, "splits=[val]")  # may be added
    labels = root / "labels.txt"
    names = read_lines(out / "labels.txt")
    labels.write_text("\n".join([names[0], *reversed(names[1:])]) + "\n")
    before = everything(out)
    with pytest.raises(DataError, match=r"which would name other classes .*nothing was written"):
        run(*cut, "splits=[train]", "force=true")
    assert everything(out) == before
    run(*cut, "force=true")  # all in one go, as told
    assert read_lines(out / "labels.txt") == labels.read_text().split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=x"], "nothing to work on: give one of data.root, images, predictions"),
        (["out=x", "images=a", "predictions=b"], "images and predictions to work on: give one of"),
        (["out=x", "images=a", "size=[8,8]", "overlap=8"], "expected an overlap below both sides"),
        (["out=x", "images=a", "size=[8]"], "expected 2 values"),
        (["out=a", "images=a"], "out=a: is images too; give another folder"),
        (["out=x", "images=a", "size=[0,8]"], "expected at least 1"),
    ],
)
def test_impossible_requests(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*arguments)
    assert message in str(caught.value)


def test_predictions_that_cannot_be_put_together(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", f"out={tmp_path}/out"
    with pytest.raises(DataError, match="no such folder"):
        run(f"predictions={folder}", out)
    folder.mkdir()
    with pytest.raises(DataError, match="0 files are no tiles, 0 images have tiles"):
        run(f"predictions={folder}", out)
    write_mask(folder / "a_y0_x0_of_4x9.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(
        DataError, match="12 of its pixels are in none, the first in row 0, column 6"
    ):
        run(f"predictions={folder}", out)
    write_mask(folder / "a_y0_x5_of_4x9.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(DataError, match=r"x5.*is 6 x 4 .* would leave its image of 9 x 4"):
        run(f"predictions={folder}", out)
    write_mask(folder / "a_y0_x5_of_4x10.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="the tiles of a are of images of different sizes"):
        run(f"predictions={folder}", out)
    write_mask(folder / "overlay.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(DataError, match=r"1 files are no tiles, .*\n  - overlay\.png"):
        run(f"predictions={folder}", out)
    for path in folder.iterdir():
        path.unlink()
    write_mask(folder / "a_y0_x0_of_99999x99999.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(
        DataError, match=r"9999800001 pixels; expected at most max_pixels=1073741824"
    ):
        run(f"predictions={folder}", out)
    assert not (tmp_path / "out").exists()
