"""Files of masks and of their images for ``convert``: which belong together, and what they hold."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.data.decode import load_labels
from segkit.data.levels import image_of
from segkit.data.named_files import files_by_id, folders_like, images_below, with_several
from segkit.data.pairs import SUFFIXES
from segkit.errors import DataError
from segkit.files import user_path
from segkit.text import bullet_list
from segkit.tools.formats.annotation import Item, Request, item_name, left_out
from segkit.tools.formats.drawing import IGNORE

Draw = Callable[[Path], NDArray[np.uint8]]
Files = dict[str, Path]


def mask_files(request: Request, folder: Path) -> Files:
    """The masks in a folder by the names of their images. Those without ``mask_suffix`` are none.

    Raises:
        DataError: There are none, or two of one name.
    """
    is_shared = request.images is not None and user_path(request.images) == folder
    if is_shared and not (request.mask_suffix or request.image_suffix):
        raise DataError(
            f"{folder}: images and masks lie in one folder; give mask_suffix, the end of mask "
            "names that image names lack, as _mask"
        )
    found = files_by_id(
        folder, request.mask_suffix, without=request.image_suffix if is_shared else None
    )
    if not found:
        ends = f" whose names end in {request.mask_suffix}" if request.mask_suffix else ""
        raise DataError(f"{folder}: holds no masks{ends}; expected files {' '.join(SUFFIXES)}")
    return _named(found, folder, "masks")


def image_files(request: Request) -> Files:
    """The images in ``images``, likewise.

    Raises:
        DataError: ``images`` is not set, or two files have one name.
    """
    if request.images is None:
        raise DataError(
            "images is not set: masks are files, so images=FOLDER must say where the images are"
        )
    (folder,) = request.image_folders()
    is_shared = folder == user_path(request.source)
    found = files_by_id(
        folder, request.image_suffix, without=request.mask_suffix if is_shared else None
    )
    return _named(found, folder, "images")


def _named(found: Mapping[str, Sequence[Path]], folder: Path, what: str) -> Files:
    named: dict[str, list[Path]] = {}
    for name, files in found.items():
        named.setdefault(item_name(f"{name}.png"), []).extend(files)
    if twice := with_several(named):
        raise DataError(f"{folder}: several {what} with one name:\n{bullet_list(twice)}")
    return {name: files[0] for name, files in named.items()}


def items_of(request: Request, masks: Files, draw: Draw) -> list[Item]:
    """The images with their masks, each made by ``draw``.

    Raises:
        DataError: An image is missing, or its file of valid pixels.
    """
    images = image_files(request)
    check_images(request, list(masks), images)
    return [
        Item(name, images[name], path, within_valid(request, name, path, partial(draw, path)))
        for name, path in masks.items()
    ]


def check_images(request: Request, names: Sequence[str], images: Mapping[str, Path]) -> None:
    """Raise a DataError unless there is an image of each name."""
    missing = [name for name in names if name not in images]
    if not missing:
        return
    error = request.missing_images(missing)
    starts = [name for name in images if missing[0].startswith(name)]
    if starts and request.mask_suffix is None:
        end = missing[0].removeprefix(max(starts, key=len))
        raise DataError(
            f"{error}\nAre the masks called as the images, with {end} at their end? "
            f"Then add mask_suffix={end}"
        )
    ends = [name for name in images if name.startswith(missing[0])]
    if ends and request.image_suffix is None:
        end = min(ends, key=len).removeprefix(missing[0])
        raise DataError(
            f"{error}\nAre the images called as the masks, with {end} at their end? "
            f"Then add image_suffix={end}"
        )
    raise error


def within_valid(
    request: Request, name: str, source: Path, draw: Callable[[], NDArray[np.uint8]]
) -> Callable[[], NDArray[np.uint8]]:
    """``draw``, with 255 where the file of valid pixels says 0; as it is without ``valid``."""
    if request.valid is None:
        return draw
    file = request.valid_files.get(name)
    if file is None:
        first = next(iter(request.valid_files), "nothing")
        raise DataError(
            f"valid={request.valid}: has no file for {name}, the first is {first}; its files are "
            "called as the ids of the images, with valid_suffix=END after that"
        )
    return partial(_ignore_outside, draw, file, source)


def _ignore_outside(
    draw: Callable[[], NDArray[np.uint8]], file: Path, source: Path
) -> NDArray[np.uint8]:
    mask, valid = draw(), read_rgb(file).any(axis=-1)
    if valid.shape != mask.shape:
        raise DataError(
            f"{file}: is {valid.shape[1]} x {valid.shape[0]} (width x height), the mask {source} "
            f"{mask.shape[1]} x {mask.shape[0]}; expected equal sizes"
        )
    return np.where(valid, mask, np.uint8(IGNORE))


def unused(request: Request, folders: Sequence[Path], items: Sequence[Item]) -> list[str]:
    """What was left out, as sentences: images without a mask, and files that are no masks."""
    used = {item.source for item in items}
    images: Collection[Path] = image_files(request).values()
    files = [path for folder in folders for path, _ in images_below(folder)]
    others = 0
    if request.mask_suffix:
        others = sum(path not in used and path not in images for path in files)
    return left_out(
        {
            "images without a mask": len(images) - len(items),
            f"files whose names do not end in {request.mask_suffix}": others,
        }
    )


def class_folders(source: Path) -> list[Path]:
    """The folders in a folder, by their names; hidden ones are not meant."""
    inside = [path for home, _ in folders_like(source) for path in sorted(home.iterdir())]
    return [path for path in inside if path.is_dir() and path.name[0] != "."]


def read_rgb(path: Path) -> NDArray[np.integer[Any]]:
    """The colours of a mask, (H, W, 3); grey ones are three equal values."""
    stored = load_labels(path)
    if stored.numbers.ndim == 3:
        return stored.numbers
    if stored.palette is not None:
        if stored.numbers.max(initial=0) >= len(stored.palette):
            raise DataError(
                f"{path}: holds the index {stored.numbers.max()}, but its palette has "
                f"{len(stored.palette)} colours; expected one for each. Export the mask again"
            )
        colors: NDArray[np.uint8] = stored.palette[stored.numbers]
        return colors
    if stored.white is None or stored.white > 255:
        raise DataError(
            f"{path}: is grey with more than 8 bits, so its values are no colours; expected RGB, a "
            "palette, or grey of 8 bits. Save it as one of them"
        )
    return image_of(stored, None, str(path))


def read_grey(path: Path) -> NDArray[np.integer[Any]]:
    """Values of a mask that has one channel, or three equal ones.

    A palette of greys stands for its greys, if that tells the same pixels from 0 as the indices do.
    """
    stored = load_labels(path)
    values = stored.numbers
    if stored.palette is not None and values.max(initial=0) < len(stored.palette):
        used = np.unique(values)
        colors = stored.palette[used]
        if (colors == colors[:, :1]).all() and len(np.unique(colors[:, 0])) == len(used):
            if ((colors[:, 0] > 0) != (used > 0)).any():
                raise DataError(
                    f"{path}: its palette shows the index 0 as {tuple(stored.palette[0].tolist())} "
                    "or another as black, so which of them is the object? Say it by colour: "
                    "format=rgb 'colors={background: [0,0,0], object: [255,255,255]}'"
                )
            return stored.palette[values][..., 0]
    return one_channel(values, path, "black and white")


def one_channel(
    values: NDArray[np.integer[Any]], path: Path, expected: str
) -> NDArray[np.integer[Any]]:
    """(H, W) out of that or of three equal channels."""
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise DataError(f"{path}: has colours; expected {expected}, or format=rgb")
        values = values[..., 0]
    return values
