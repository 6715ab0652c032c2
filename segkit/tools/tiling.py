"""Tiles of images and masks: where they lie, what they are called, how masks are put together."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from segkit.data.arrays import Mask
from segkit.data.bands import INSTALL, can_read
from segkit.data.decode import load_labels
from segkit.data.orientation import upright
from segkit.data.stored import Stored
from segkit.errors import DataError
from segkit.inference.predictor import tile_origins
from segkit.text import bullet_list

_NAME = re.compile(r"(?P<image>.+)_y(?P<top>\d+)_x(?P<left>\d+)_of_(?P<height>\d+)x(?P<width>\d+)")


class Tile(NamedTuple):
    """A part of an image.

    Attributes:
        image: Id of the image.
        top: Its first row there.
        left: Its first column there.
        height: Of the image.
        width: Of the image.
    """

    image: str
    top: int
    left: int
    height: int
    width: int

    @property
    def name(self) -> str:
        return f"{self.image}_y{self.top}_x{self.left}_of_{self.height}x{self.width}"

    @classmethod
    def parse(cls, name: str) -> "Tile | None":
        """The tile that :attr:`name` names; None for any other text."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        return cls(found["image"], *(int(found[part][:18]) for part in cls._fields[1:]))

    def part(self, array: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
        """The tile of ``size`` (or less, at most to the end of the image) in (H, W, ...)."""
        return array[self.top : self.top + size[0], self.left : self.left + size[1]]


def tiles_of(image: str, shape: Sequence[int], size: Sequence[int], overlap: int) -> Iterator[Tile]:
    """All tiles of an image, in rows from the top left; the last ones end with the image.

    Args:
        image: Its id.
        shape: Height and width of the image.
        size: Of a tile; a smaller image is one tile.
        overlap: Pixels that neighbours share at least, below ``size``.
    """
    sides = [min(tile, whole) for tile, whole in zip(size, shape, strict=True)]
    tops, lefts = (
        tile_origins(whole, side, max(tile - overlap, 1))
        for whole, side, tile in zip(shape, sides, size, strict=True)
    )
    for top in tops:
        for left in lefts:
            yield Tile(image, top, left, *shape)


def image_numbers(stored: Stored, size: tuple[int, int] | None, name: str) -> NDArray[Any]:
    """What a file stores, to be stored again: (H, W) or (H, W, bands), upright, 0 black.

    Args:
        stored: What it holds; of a palette the colours count.
        size: Height and width of its mask, by which the EXIF orientation is judged.
        name: What errors call it.
    """
    numbers = stored.numbers
    if stored.palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(stored.palette)] = stored.palette
        numbers = colors[numbers]
    elif stored.white in (1, 3, 15):  # fewer bits than a PNG is written with here
        numbers = numbers * np.uint8(255 // stored.white)
    if stored.white_is_zero:
        if stored.white is None:
            raise DataError(f"{name}: shows its 0 as white and has no largest number; invert it")
        numbers = np.iinfo(numbers.dtype).max - numbers
    if stored.alpha is not None and numbers.dtype == np.uint8:
        numbers = np.dstack([numbers, stored.alpha])
    return upright(numbers, stored, size)


def write_image(folder: Path, name: str, numbers: NDArray[Any]) -> Path:
    """Write numbers (H, W) or (H, W, bands) without loss: as PNG, or as TIFF what PNG cannot hold.

    Returns:
        The file.

    Raises:
        DataError: A TIFF is needed and tifffile is not installed.
    """
    bands = numbers.shape[2] if numbers.ndim == 3 else 1
    as_png = (numbers.dtype == np.uint8 and bands <= 4) or (
        numbers.dtype == np.uint16 and bands == 1
    )
    path = folder / f"{name}.{'png' if as_png else 'tif'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.ascontiguousarray(numbers)
    if as_png:
        PIL.Image.fromarray(numbers).save(path)
        return path
    if not can_read():
        raise DataError(f"{path}: {bands} bands of {numbers.dtype} need a TIFF; {INSTALL}")
    import tifffile

    layout: Any = {"planarconfig": "contig"} if bands > 1 else {}
    tifffile.imwrite(path, numbers, photometric="minisblack", compression="zlib", **layout)
    return path


def find_tiles(folder: Path, max_pixels: int) -> dict[str, list[tuple[Tile, Path]]]:
    """The predicted tiles below a folder, by their image, from the top left.

    Raises:
        DataError: There are none, or a file that is no tile.
    """
    if not folder.is_dir():
        raise DataError(f"predictions={folder}: no such folder; expected masks of tiles")
    found: dict[str, list[tuple[Tile, Path]]] = defaultdict(list)
    strange = []
    for path in sorted(folder.rglob("*.png")):
        tile = Tile.parse(path.relative_to(folder).with_suffix("").as_posix())
        if tile is None:
            strange.append(path.name)
        else:
            found[tile.image].append((tile, path))
    if strange or not found:
        raise DataError(
            f"predictions={folder}: {len(strange)} files are no tiles, {len(found)} images have "
            "tiles; expected masks alone, NAME_yTOP_xLEFT_of_HEIGHTxWIDTH.png, as this tool calls "
            "tiles (of predict.py give the folder index, of evaluate.py the folder predictions)"
            + (f":\n{bullet_list(strange)}" if strange else "")
        )
    for name, tiles in found.items():
        if len({tile[3:] for tile, _ in tiles}) > 1:
            raise DataError(f"{folder}: the tiles of {name} are of images of different sizes")
        if (pixels := tiles[0][0].height * tiles[0][0].width) > max_pixels:
            raise DataError(
                f"{folder}: {name} has {pixels} pixels; expected at most max_pixels={max_pixels}"
            )
    return {name: sorted(tiles) for name, tiles in found.items()}


def join(tiles: Sequence[tuple[Tile, Path]]) -> tuple[Mask, NDArray[np.uint8] | None]:
    """The mask of an image, uint8 (H, W), and the palette of its tiles.

    Where tiles overlap, the one whose centre is nearest counts: a network sees least at the border
    of a tile. Of two that are as near it is the upper, then the left one.

    Args:
        tiles: All of one image with their files.

    Raises:
        DataError: A tile is missing, does not lie in the image, or holds no class ids.
    """
    shape = tiles[0][0].height, tiles[0][0].width
    mask = np.zeros(shape, np.uint8)
    distance = np.full(shape, np.iinfo(np.uint32).max, np.uint32)  # to the centre, doubled, squared
    palette = None
    for tile, path in tiles:
        stored = load_labels(path)
        numbers = stored.numbers
        palette = stored.palette if palette is None else palette
        if numbers.ndim != 2 or numbers.dtype != np.uint8:
            raise DataError(f"{path}: expected class ids of 8 bits, a palette or grey PNG")
        height, width = numbers.shape
        part = tile.part(mask, numbers.shape)
        if part.shape != numbers.shape:
            raise DataError(
                f"{path}: is {width} x {height} (width x height) and would leave its image of "
                f"{shape[1]} x {shape[0]}; was it resized or renamed?"
            )
        rows, columns = ((2 * np.arange(side) - side + 1) ** 2 for side in (height, width))
        found = (rows[:, None] + columns).astype(np.uint32)
        known = tile.part(distance, numbers.shape)
        nearer = found < known
        part[nearer], known[nearer] = numbers[nearer], found[nearer]
    missing = distance == np.iinfo(np.uint32).max
    if missing.any():
        row, column = (int(place[0]) for place in np.nonzero(missing))
        raise DataError(
            f"{tiles[0][1].parent}: tiles of {tiles[0][0].image} are missing: {missing.sum()} of "
            f"its pixels are in none, the first in row {row}, column {column}; nothing was "
            "written. Predict all tiles"
        )
    return mask, palette
