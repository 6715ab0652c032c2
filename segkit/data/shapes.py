"""The built-in data set: drawn shapes in VOC layout, generated on first use."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from segkit.data.classes import write_lines
from segkit.data.colors import ColorMap
from segkit.data.masks import write_mask
from segkit.data.scenes import CLASSES, draw_scene
from segkit.data.voc import IMAGES, MASKS, VOCSegmentation, split_file
from segkit.errors import DataError
from segkit.files import PathLike, refuse_special, user_path

VERSION = 1  # raise it with any change of the drawn pixels
SETTINGS_FILE = "shapes.json"


class Shapes(VOCSegmentation):
    """A split (``train`` or ``val``) of the shapes in ``root``, which is made if it is missing.

    Args:
        root: A folder of its own for the data set.
        split: ``train`` or ``val``.
        num_train: Number of images to train on.
        num_val: Number of images to validate on; they do not depend on ``num_train``.
        height: Of every image, in pixels.
        width: Of every image, in pixels.
        seed: The same one draws the same bytes again.
        make: Generate what is missing; otherwise it must be there.
        classes: Class names in index order, for other ones than those of the shapes.
        num_classes: Enough where there are no names.
        ignore_index: Value of the pixels without a label, 0 to 255.
        label_map: Ids in the masks to class ids or ``"ignore"``, as for
            :class:`~segkit.data.VOCSegmentation`.
        colormap: The same; the masks of the shapes hold ids.
        value_range: Two numbers in the images that become 0 and 255; None is 0 and 255.
        channels: 3, which the shapes have.
        bits: 8 or 16, of each channel of the images that are read.

    Raises:
        DataError: ``root`` holds something else, or shapes that other settings made, or it is not
            there and is not to be made, or :func:`check_place` refuses to make it.
    """

    def __init__(
        self,
        root: PathLike,
        split: str,
        *,
        num_train: int = 300,
        num_val: int = 60,
        height: int = 96,
        width: int = 128,
        seed: int = 0,
        make: bool = True,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
        ignore_index: int = 255,
        label_map: Mapping[int | str, int | str] | None = None,
        colormap: ColorMap | None = None,
        value_range: Sequence[float] | None = None,
        channels: int = 3,
        bits: int = 8,
    ) -> None:
        root = user_path(root)
        settings = {
            "version": VERSION,
            "num_train": num_train,
            "num_val": num_val,
            "height": height,
            "width": width,
            "seed": seed,
        }
        if min(num_train, num_val) < 1 or min(height, width) < 32 or seed < 0:
            raise DataError(
                f"shapes: {settings}; expected at least 1 image per split, a height and width of "
                "at least 32, and a seed of at least 0"
            )
        if not _is_made(root, settings):
            if not make:
                raise DataError(
                    f"data.root={root}: no shapes there, and only a new training makes them; give "
                    "data.root=FOLDER, the one with the shapes of the run"
                )
            check_place(root)
            try:
                _make(root, settings)
            except OSError as error:
                raise DataError(f"data.root={root}: cannot be made ({error.strerror})") from error
        super().__init__(
            root,
            split,
            classes=classes,
            num_classes=num_classes,
            ignore_index=ignore_index,
            label_map=label_map,
            colormap=colormap,
            value_range=value_range,
            channels=channels,
            bits=bits,
        )


def check_place(root: PathLike) -> None:
    """Raise a DataError if ``root`` lies so deep in nothing that its name must be a mistake.

    One folder above it may be missing, as ``data/`` is in a fresh clone.
    """
    if not user_path(root).absolute().parent.parent.is_dir():
        raise DataError(f"data.root={root}: no such folder; for your own data add data=voc")


def _is_made(root: Path, settings: Mapping[str, int]) -> bool:
    """Whether ``root`` holds just these shapes; an error if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    refuse_special(root / SETTINGS_FILE)
    try:
        found = json.loads((root / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        is_voc = (root / "JPEGImages").is_dir() and not (root / SETTINGS_FILE).exists()
        way_out = "For your own data add data=voc" if is_voc else "Give data.root another folder"
        raise DataError(
            f"{root}: is not empty and holds no shapes ({SETTINGS_FILE} is missing or damaged). "
            f"{way_out}"
        ) from None
    if found != settings:
        raise DataError(
            f"{root}: holds shapes of other settings: {found}, but {dict(settings)} are asked for. "
            "Delete the folder, or give data.root another one"
        )
    return True


def _make(root: Path, settings: Mapping[str, int]) -> None:
    """Draw the data set beside ``root`` and move it there whole, so that no half of it is seen."""
    root.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as temporary:
        new = Path(temporary) / root.name
        for folder in (IMAGES, MASKS):
            (new / folder).mkdir(parents=True)
        write_lines(new / "labels.txt", CLASSES)
        for number, split in enumerate(("train", "val")):
            ids = [f"{split}_{index:04d}" for index in range(settings[f"num_{split}"])]
            for index, name in enumerate(ids):
                # One generator per image: none depends on how many were drawn before it.
                rng = np.random.default_rng([settings["seed"], number, index])
                image, mask = draw_scene(rng, settings["height"], settings["width"])
                PIL.Image.fromarray(image).save(new / IMAGES / f"{name}.png", compress_level=1)
                write_mask(new / MASKS / f"{name}.png", mask)
            write_lines(split_file(new, split), ids)
        (new / SETTINGS_FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")
        try:
            new.replace(root)
        except OSError:
            if not _is_made(root, settings):  # else another process was faster: use what it made
                raise
