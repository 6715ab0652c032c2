"""Cut large images and their masks into tiles, and put predicted masks together again.

python -m segkit.tools.tile data.root=PATH out=PATH [size=[1024,1024]] [overlap=128] [key=value ...]
python -m segkit.tools.tile images=PATH out=PATH [key=value ...]        (images without masks)
python -m segkit.tools.tile predictions=PATH out=PATH [key=value ...]   (masks of tiles to masks)

A tile is called NAME_yTOP_xLEFT_of_HEIGHTxWIDTH after its place in the image. Where predictions
overlap, the tile whose centre is nearest counts.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from segkit.cli.arguments import run_tool
from segkit.commands import argument, command
from segkit.config.schema import LARGEST, LARGEST_SIDE, REQUIRED, option
from segkit.console import say
from segkit.data.bands import count_bands
from segkit.data.classes import read_lines, write_lines
from segkit.data.decode import load, pixel_limit
from segkit.data.masks import write_mask
from segkit.data.named_files import files_below
from segkit.data.pairs import SUFFIXES
from segkit.data.voc import IMAGES, LISTS, MASKS, VOCSegmentation, split_file
from segkit.errors import ConfigError, DataError
from segkit.files import user_path
from segkit.text import bullet_list
from segkit.tools.data_keys import MaskKeys
from segkit.tools.tiling import Tile, find_tiles, image_numbers, join, tiles_of, write_image

LABELS = "labels.txt"


@dataclass
class Request(MaskKeys):
    """The keys of ``tile``."""

    data_root: str | None = option(None, "folder in VOC layout to cut", name="data.root", path=True)
    images: str | None = option(None, "folder of images to cut, without masks", path=True)
    predictions: str | None = option(None, "folder of masks of tiles to put together", path=True)
    out: str = option(REQUIRED, "folder for the files", path=True)
    splits: list[str] | None = option(None, "lists to cut, as [train,val]; null: all")
    size: list[int] = option(
        [1024, 1024],
        "height and width of a tile",
        low=1,
        high=LARGEST_SIDE,
        length=2,
        kind=list,
        whole=True,
    )
    overlap: int | None = option(
        None, "pixels that neighbours share at least; null: an eighth of the smaller side", low=0
    )
    max_pixels: int = option(
        2**30, "of an image; one of RGB takes 16 bytes of memory for each", low=1, high=LARGEST
    )
    force: bool = option(False, "replace files that are there")
    dry_run: bool = option(False, "do everything but write")

    @property
    def pixels_shared(self) -> int:
        return min(self.size) // 8 if self.overlap is None else self.overlap


def tile(request: Request) -> None:
    """Cut a data set or images, or put predictions together.

    All files are made in a temporary folder on the same disk and moved when the last one is there.
    """
    sources = {
        "data.root": request.data_root,
        "images": request.images,
        "predictions": request.predictions,
    }
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{' and '.join(given) or 'nothing'} to work on: give one of {', '.join(sources)}"
        )
    if request.pixels_shared >= min(request.size):
        raise ConfigError(
            f"size={request.size} overlap={request.pixels_shared}: expected an overlap "
            "below both sides"
        )
    out, source = user_path(request.out), user_path(str(sources[given[0]]))
    if out.resolve() == source.resolve():
        raise ConfigError(f"out={request.out}: is {given[0]} too; give another folder")
    work = {"data.root": cut_dataset, "images": cut_images, "predictions": join_predictions}
    with ExitStack() as stack:
        stack.enter_context(pixel_limit(request.max_pixels))
        home = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
        if request.dry_run:
            home = Path(tempfile.gettempdir())
        temporary = tempfile.TemporaryDirectory(dir=home, prefix=".tile-")
        staging = Path(stack.enter_context(temporary))
        for line in work[given[0]](request, source, staging):
            say(line)
        files = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
        stale, others = earlier_files(out, files)
        same = Path(LABELS) if same_labels(out, staging) else None
        refuse_taken(out, [file for file in [*files, *stale] if file != same], request.force)
        refuse_other_classes(out, staging, others)
        if request.dry_run:
            removed = f", and remove {len(stale)}" if stale else ""
            say(f"dry run: would write {len(files)} files to {out}{removed}")
            return
        # The lists, which make the others count, come last.
        for file in sorted(files, key=lambda file: file.parts[0] == LISTS.partition("/")[0]):
            place = out / file
            place.parent.mkdir(parents=True, exist_ok=True)
            (staging / file).replace(place)
        for file in stale:
            (out / file).unlink()
    removed = f"; {len(stale)} other tiles of these images removed" if stale else ""
    say(f"{len(files)} files written to {out}{removed}")
    if others:
        say(
            f"note: {out} also holds {len(others)} images and masks of earlier runs, such as "
            f"{others[0]}; if they are not to stay, delete it and run this again"
        )


def earlier_files(out: Path, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Images and masks below ``out`` that ``files``, named from there, do not replace.

    Returns:
        Tiles of the same images cut at other places, which would be mixed with these; all others.
    """
    if not out.is_dir():
        return [], []
    new, images = set(files), {one.image for file in files if (one := as_tile(file))}
    left = [path.relative_to(out) for path in files_below(out, SUFFIXES)]
    left = [file for file in left if file not in new]
    stale = [file for file in left if (one := as_tile(file)) and one.image in images]
    return stale, [file for file in left if file not in set(stale)]


def as_tile(file: Path) -> Tile | None:
    return Tile.parse(file.with_suffix("").as_posix())


def same_labels(out: Path, staging: Path) -> bool:
    there = (out / LABELS).exists() and (staging / LABELS).exists()
    return there and read_lines(out / LABELS) == read_lines(staging / LABELS)


def refuse_other_classes(out: Path, staging: Path, others: Sequence[Path]) -> None:
    """Raise a DataError if masks that stay would get other classes by the new ``labels.txt``."""
    masks = [str(file) for file in others if file.parts[0] == MASKS]
    if not masks or not (staging / LABELS).exists() or not (out / LABELS).exists():
        return
    before, now = read_lines(out / LABELS), read_lines(staging / LABELS)
    if before != now[: len(before)]:
        raise DataError(
            f"{out}: holds {len(masks)} masks of earlier runs with the class ids of {out / LABELS} "
            f"({', '.join(before)}), which would name other classes ({', '.join(now)}); nothing "
            f"was written. Cut all splits in one go, or give out= another folder:\n"
            f"{bullet_list(masks)}"
        )


def refuse_taken(out: Path, files: list[Path], force: bool) -> None:
    """Raise a DataError if files would be replaced and ``force`` is not set."""
    taken = [str(out / file) for file in files if (out / file).exists()]
    if taken and not force:
        raise DataError(
            f"{out}: {len(taken)} files are there already; nothing was written. Add force=true to "
            f"replace them, or give out= another folder:\n{bullet_list(taken)}"
        )


def cut_dataset(request: Request, root: Path, staging: Path) -> Iterator[str]:
    """Tiles of all images and masks of the lists, as class ids; the lists name tiles then."""
    names = request.splits or sorted(path.stem for path in (root / LISTS).glob("*.txt"))
    if not names:
        raise DataError(
            f"{root / LISTS}: no lists; {command('split')} {argument('data.root', root)}"
        )
    refuse_taken(user_path(request.out), [Path(LISTS, f"{n}.txt") for n in names], request.force)
    tiles: dict[str, list[str]] = {}  # of each image that is cut already
    whites: set[int] = set()
    for name in names:
        dataset = VOCSegmentation(root, name, **request.meaning)
        for index in tqdm(range(len(dataset)), f"tile {name}", leave=False, disable=None):
            if dataset.ids[index] not in tiles:
                tiles[dataset.ids[index]] = cut_pair(request, dataset, index, staging, whites)
        ids = [tile for image in dataset.ids for tile in tiles[image]]
        split_file(staging, name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(split_file(staging, name), ids)
        yield f"{name}: {len(dataset)} images, {len(ids)} tiles"
    write_lines(staging / LABELS, dataset.classes)
    yield from range_notes(whites)


def range_notes(whites: set[int]) -> Iterator[str]:
    """What must be known of images whose largest number is none that PNG or TIFF tells."""
    for white in sorted(whites - {1, 3, 15, 255, 65535}):
        yield (
            f"note: there are images of numbers up to {white}, which their tiles keep without "
            f"telling it: give 'data.range=[0,{white}]' wherever you did not give data.range"
        )


def cut_pair(
    request: Request, dataset: VOCSegmentation, index: int, staging: Path, whites: set[int]
) -> list[str]:
    """Write the tiles of an image and its mask; returns their names."""
    item, name = dataset.examine(index), dataset.ids[index]
    whites.add(item.stored.white or 255)
    size = (item.mask.shape[0], item.mask.shape[1])
    numbers = image_numbers(item.stored, size, str(dataset.files(index)[0]))
    names = []
    for one in tiles_of(name, size, request.size, request.pixels_shared):
        write_image(staging / IMAGES, one.name, one.part(numbers, request.size))
        path = staging / MASKS / f"{one.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, one.part(item.mask, request.size), dataset.palette)
        names.append(one.name)
    return names


def cut_images(request: Request, folder: Path, staging: Path) -> Iterator[str]:
    """Tiles of all images below a folder."""
    if not folder.is_dir():
        raise DataError(f"images={folder}: no such folder")
    out = user_path(request.out).resolve()
    files = [f for f in files_below(folder, SUFFIXES) if out not in f.resolve().parents]
    if not files:
        raise DataError(f"images={folder}: holds no images; expected {' '.join(SUFFIXES)}")
    count, whites = 0, set[int]()
    for path in tqdm(files, "tile", leave=False, disable=None):
        stored = load(path, count_bands(path))
        whites.add(stored.white or 255)
        numbers = image_numbers(stored, None, str(path))
        name = path.relative_to(folder).with_suffix("").as_posix()
        for one in tiles_of(name, numbers.shape[:2], request.size, request.pixels_shared):
            made = staging / f"{one.name}.png", staging / f"{one.name}.tif"
            if any(file.exists() for file in made):
                raise DataError(f"{path}: another image is called {name} too; rename one")
            write_image(staging, one.name, one.part(numbers, request.size))
            count += 1
    yield f"{len(files)} images, {count} tiles"
    yield from range_notes(whites)
    yield f"next: {command('predict')} checkpoint=RUN {argument('source', request.out)}"


def join_predictions(request: Request, folder: Path, staging: Path) -> Iterator[str]:
    """The masks of whole images, of which each tile must be there."""
    found = find_tiles(folder, request.max_pixels)
    for name, tiles in tqdm(found.items(), "join", leave=False, disable=None):
        mask, palette = join(tiles)
        path = staging / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, mask, palette)
    yield (
        f"{len(found)} masks of {sum(map(len, found.values()))} tiles; where tiles overlap, the "
        "one whose centre is nearest counts"
    )


if __name__ == "__main__":
    sys.exit(run_tool(Request, tile, sys.argv[1:], str(__doc__)))
