"""What ``convert`` asks of a format: the images, and how the mask of each one is drawn."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from segkit.config.schema import REQUIRED, option
from segkit.data.colors import Palette
from segkit.data.label_list import column_problem, line_problems
from segkit.data.named_files import (
    by_look,
    files_below,
    files_by_id,
    spelt_otherwise,
    with_several,
)
from segkit.data.pairs import SUFFIXES
from segkit.errors import ConfigError, DataError
from segkit.files import is_file, refuse_special, user_path
from segkit.text import bullet_list, did_you_mean, join_lines
from segkit.tools.formats.drawing import IGNORE, OVERLAPS, Size, brief

FORMATS = ("labelme", "coco", "cvat", "yolo", "ids", "rgb", "binary", "folders")
# Keys that only some formats have a use for.
MASKS = ("ids", "rgb", "binary", "folders")
DRAWN = ("labelme", "coco", "cvat", "yolo")
ONLY_FOR = {
    "image_suffix": MASKS,
    "mask_suffix": MASKS,
    "label_map": ("ids",),
    "first_id": ("ids",),
    "labels": ("ids",),
    "threshold": ("binary",),
    "colors": ("rgb", "ids"),
    "overlap": (*DRAWN, "folders"),
    "ignore": (*DRAWN, "ids", "rgb", "folders"),
    "valid": MASKS,
    "valid_suffix": MASKS,
}
BACKGROUND = ("background", "_background_")  # the second is labelme's own name

ENDS = re.compile(r"[\r\n\0]")  # what ends a line, or a text file


@dataclass
class Request:
    """The keys of ``convert``."""

    format: str = option(REQUIRED, "what the labels are", choices=FORMATS)
    source: str = option(REQUIRED, "file or folder of the labels", path=True)
    out: str = option(REQUIRED, "folder in VOC layout, new or to be added to", path=True)
    images: str | None = option(
        None, "folder of the images; null: where or beside the labels", path=True
    )
    classes: list[str] | None = option(
        None, "names in index order, the background first; null: all that occur"
    )
    ignore: list[str] = option([], "names whose pixels become 255")
    overlap: str = option(
        "auto",
        "what covers what; auto: area for coco and yolo, else last",
        choices=("auto", *OVERLAPS),
    )
    colors: Any = option(
        None,
        "rgb: {name: [r,g,b], ...}, or a file with lines of name:r,g,b; ids: indices, if palettes "
        "disagree and do not matter",
    )
    threshold: int = option(
        0, "binary: least value of an object; 0: only 255 (or 1) is one", low=0, high=65535
    )
    image_suffix: str | None = option(None, "end of image names that ids lack; others are none")
    mask_suffix: str | None = option(
        None, "end of mask names that image names lack, as _mask; other files are no masks"
    )
    label_map: dict[Any, Any] | None = option(
        None, "ids: {id: class id, name or ignore, ..., other: ignore}"
    )
    first_id: int = option(
        0, "ids: id of the first class in the masks; what is below becomes 255", low=0, high=65535
    )
    labels: str | None = option(
        None, "ids: file with the names of the classes, one per line", path=True
    )
    valid: str | None = option(
        None, "folder of masks that are 0 where nothing counts: that becomes 255", path=True
    )
    valid_suffix: str | None = option(None, "end of their names that image names lack")
    split: str = option("all", "list of the ids to write to ImageSets/Segmentation")
    force: bool = option(False, "overwrite what is there")
    prune: bool = option(False, "with force: remove pairs that the source has no more")
    dry_run: bool = option(False, "do everything but write")

    def check(self) -> None:
        """Raise a ConfigError if a key is set that the format has no use for."""
        usual = {
            f.name: f.default if f.default_factory is MISSING else f.default_factory()
            for f in fields(self)
        }
        problems = [
            f"{key}={getattr(self, key)}: is for format={' or '.join(formats)}"
            for key, formats in ONLY_FOR.items()
            if self.format not in formats and getattr(self, key) != usual[key]
        ]
        if self.valid_suffix is not None and self.valid is None:
            problems.append(f"valid_suffix={self.valid_suffix}: is for valid=FOLDER")
        if problems:
            raise ConfigError(join_lines(problems))

    @cached_property
    def valid_files(self) -> dict[str, Path]:
        """The files in ``valid`` by the names of their images."""
        folder = user_path(self.valid or "")
        found = files_by_id(folder, self.valid_suffix)
        if not found:
            raise DataError(f"valid={self.valid}: holds no masks; expected one for each image")
        if twice := with_several(found):
            raise DataError(
                f"valid={self.valid}: {len(twice)} images have several masks; expected one for "
                f"each:\n{bullet_list(twice)}"
            )
        return {item_name(f"{name}.png"): files[0] for name, files in found.items()}

    def overlap_or(self, usual: str) -> str:
        """What covers what, where ``auto`` is what is usual for the format."""
        return usual if self.overlap == "auto" else self.overlap

    def image_folders(self, *beside: Path) -> list[Path]:
        """Where to look for images."""
        return [user_path(self.images)] if self.images else list(beside)

    def find_image(self, path: str, *beside: Path, home: Path | None = None) -> Path | None:
        """The file called ``path`` in one of the folders, with or without the folders in its name.

        Below ``images`` it is found in any folder, if only one has a file of that name.

        Args:
            path: As labels name it.
            *beside: Folders to look in, unless ``images`` is set.
            home: Where the labels lie below ``source``; ``images`` may have the same folders.
        """
        pure = PurePosixPath(path.replace("\\", "/"))
        folders = self.image_folders(*beside)
        if self.images and home is not None:
            folders.insert(0, folders[0] / home)
        for folder in folders:
            if is_file(folder / pure):
                return folder / pure
            if is_file(folder / pure.name):
                if pure.parent.name not in ("", "..", folder.absolute().name):
                    self.elsewhere.append(f"{path}: taken from {folder / pure.name}")
                return folder / pure.name
        deeper = self._below_images.get(pure.name, []) if self.images else []
        if len(deeper) > 1:
            raise DataError(
                f"{path}: {len(deeper)} images below images={self.images} have this name; give "
                f"images= the folder of the one that is meant:\n{bullet_list([*map(str, deeper)])}"
            )
        return deeper[0] if deeper else None

    @cached_property
    def elsewhere(self) -> list[str]:
        """Images that were found in another folder than the labels name; grows as they are."""
        return []

    @cached_property
    def notes(self) -> list[str]:
        """What else to say, as sentences; grows while labels are read."""
        return []

    def elsewhere_note(self) -> list[str]:
        """What to say of them: in another folder a file of one name may be another image."""
        if not self.elsewhere:
            return []
        return [
            f"{len(self.elsewhere)} images are not in the folders that the labels name, and were "
            f"taken by their names alone:\n{bullet_list(self.elsewhere)}"
        ]

    @cached_property
    def _below_images(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for file in files_below(self.image_folders()[0], SUFFIXES):
            found[file.name].append(file)
        return found

    def missing_images(self, missing: Sequence[str], *beside: Path) -> DataError:
        """What to say of images that are not where :meth:`find_image` looks."""
        folders = self.image_folders(*beside)
        where = ", ".join(map(str, folders))
        there = by_look(file.name for folder in folders for file in files_below(folder, SUFFIXES))
        missing = [f"{name}{spelt_otherwise(PurePosixPath(name).name, there)}" for name in missing]
        if self.images:
            way_out = f"; give another images=FOLDER, or take their labels out of {self.source}"
        else:
            way_out = "; give images=FOLDER, in or below which they lie"
        return DataError(
            f"{len(missing)} images are missing in {where}{way_out}:\n{bullet_list(missing)}"
        )


@dataclass(frozen=True)
class Item:
    """An image and its labels.

    Attributes:
        name: Its id, unique in the data set.
        image: The image's file, or its content where that is part of the labels.
        source: The file of the labels.
        draw: Makes the mask, uint8 (H, W).
    """

    name: str
    image: Path | bytes
    source: Path
    draw: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class Annotations:
    """What was found in ``source``.

    Attributes:
        classes: Names in index order.
        items: In a stable order.
        palette: Colours of the classes, where the source has some.
        notes: What was left out, as sentences.
        unseen: Shapes that cover no pixel; grows while the masks are drawn, in any order.
    """

    classes: Sequence[str]
    items: Sequence[Item]
    palette: Palette | None = None
    notes: Sequence[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def number_labels(found: Iterable[str], request: Request) -> tuple[list[str], dict[str, int]]:
    """Class names, and the class id of each label.

    Id 0 is the background, which needs no label; the others follow in the order of ``found``.

    Raises:
        DataError: A label that is not in ``classes``, a name to ignore that is no label, the
            background in another place than the first, or more than 255 classes.
    """
    labels = list(dict.fromkeys(found))
    check_ignored(request, labels)
    ignored = {"__ignore__", *request.ignore}
    objects = [label for label in labels if label not in ignored and label not in BACKGROUND]
    classes = request.classes or ["background", *objects]
    if unknown := [label for label in objects if label not in classes]:
        raise DataError(
            f"{request.source}: {len(unknown)} labels are not in classes: {', '.join(unknown)}. "
            "List them in classes or in ignore"
        )
    check_classes(classes)
    if late := [name for name in classes[1:] if name in BACKGROUND]:
        raise DataError(
            f"classes: {late[0]} is class {classes.index(late[0])}, but pixels without a label "
            f"become class 0, {classes[0]}. Put {late[0]} first"
        )
    if classes[0] in objects:
        request.notes.append(
            f"pixels without a label became {classes[0]}, which comes first in classes; if they "
            f"are none, begin with a name for them: classes=[background,{classes[0]},...]"
        )
    numbers = {label: classes.index(label) for label in objects}
    numbers |= dict.fromkeys(BACKGROUND, 0) | dict.fromkeys(ignored, IGNORE)
    return classes, numbers


def check_ignored(request: Request, labels: Sequence[str]) -> None:
    """Raise a DataError for a name in ``ignore`` that no label has; labelme lists no names."""
    lost = [name for name in request.ignore if name not in labels]
    if lost and request.format == "labelme":
        request.notes.append(f"no shape has the label {', '.join(lost)} of ignore")
    elif lost:
        other = did_you_mean(lost[0], labels)
        raise DataError(f"ignore: no label of {request.source} is called {lost[0]}{other}")


def check_classes(classes: Sequence[str]) -> None:
    """Raise a DataError unless these names can be written to ``labels.txt``."""
    if not 2 <= len(classes) <= 255:
        raise DataError(
            f"{len(classes)} classes ({', '.join(classes[:5])}); expected 2 to 255, the background "
            "included: masks have 8 bits and 255 is for pixels without a label"
        )
    bad = [name for name in classes if name != name.strip() or not name or unwritable(name)]
    if bad or len(set(classes)) != len(classes):
        raise DataError(
            f"classes: {brief(list(classes))}; expected different names without outer blanks and "
            "control characters"
        )
    # What would be refused when it is read back.
    if problem := next(line_problems(classes, "classes"), None) or column_problem(classes):
        raise DataError(f"{problem}. Give other names with classes=[...], or rename the labels")


def mask_size(height: Any, width: Any, name: str) -> Size:
    """(H, W) as labels give it; a DataError with ``name`` if no image can have that."""
    try:
        size = _whole(height), _whole(width)
    except (TypeError, ValueError, OverflowError):
        size = 0, 0
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if min(size) < 1 or (limit is not None and size[0] * size[1] > limit):
        raise DataError(
            f"{name}: height and width are {brief(height)} and {brief(width)}; expected whole "
            f"numbers from 1 on, and at most {limit} pixels, since no larger image is read"
        )
    return size


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError(f"{value} is no whole number")
    return number


def unwritable(name: str) -> bool:
    """Whether a text holds what a line of a UTF-8 file cannot, or should not."""
    return any(unicodedata.category(character) in UNWRITABLE for character in name)


# Control characters, halves of a pair (no UTF-8), ends of lines and paragraphs
UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")


def item_name(path: str) -> str:
    """The id for a file: its path without suffix, with ``_`` for blanks.

    A path out of the folder loses its folders. (VOC's lists cannot hold blanks: what follows one
    would be taken for a column.)
    """
    pure = PurePosixPath("_".join(path.replace("\\", "/").split()))
    if pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0]:
        pure = PurePosixPath(pure.name)
    return pure.with_suffix("").as_posix() if pure.suffix.lower() in KNOWN else pure.as_posix()


KNOWN = (*SUFFIXES, ".json")


def read_json(path: Path) -> Any:
    """Raises a DataError that names the file."""
    refuse_special(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_no_key_twice)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{path}: its lists and mappings lie too deep in each other") from None
    except ValueError as error:
        text = "holds a number of thousands of digits" if "digits" in str(error) else error
        raise DataError(f"{path}: {text}") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values for one key Python keeps the last, so that labels would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"a mapping has the key {brief(twice)} twice; expected it once")
    return content


def left_out(counts: Mapping[str, int]) -> list[str]:
    """One sentence per kind of shape that has no area."""
    return [f"{number} {what} left out" for what, number in sorted(counts.items()) if number]
