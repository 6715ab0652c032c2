"""The files in a folder of images and a folder of masks, and which of them are pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segkit.data.named_files import (
    ByID,
    files_below,
    files_by_id,
    folders_like,
    images_below,
    match,
    suffix_advice,
)
from segkit.data.pairs import SUFFIXES, Pairs
from segkit.errors import DataError
from segkit.text import bullet_list

SPLIT = "{split}"  # what stands for a split's name in the path of a folder
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class FolderFiles:
    """The files in the folders of images and masks.

    Attributes:
        warnings: Grows.
    """

    images: Path | None
    masks: Path | None
    image_suffix: str | None
    mask_suffix: str | None
    warnings: list[str]

    def of(self, images: Path, masks: Path) -> "FolderFiles":
        return FolderFiles(images, masks, self.image_suffix, self.mask_suffix, self.warnings)

    def within(self, split: str) -> "FolderFiles":
        """With the split's name in the folders' paths, where they have a place for it."""
        images, masks = self.both
        return self.of(*(Path(str(path).replace(SPLIT, split)) for path in (images, masks)))

    @property
    def both(self) -> tuple[Path, Path]:
        if self.images is None or self.masks is None:
            name = "images" if self.images is None else "masks"
            raise DataError(
                f"data.{name} is not set: give data.images=FOLDER and data.masks=FOLDER, or "
                "data.splits=PATH with the paths of images and masks"
            )
        return self.images, self.masks

    @property
    def is_by_split(self) -> bool:
        return any(SPLIT in str(folder) for folder in self.both)

    @cached_property
    def found(self) -> tuple[ByID, ByID]:
        """Images and masks by id.

        Raises:
            DataError: No such folder, or none in it.
        """
        images, masks = self.both
        for key, folder in (("images", images), ("masks", masks)):
            if not folders_like(folder):
                raise DataError(
                    f"data.{key}={folder}: no such folder. Relative paths start at {Path.cwd()}"
                )
        ends = self.image_suffix, self.mask_suffix
        is_one = images == masks or images.resolve() == masks.resolve()
        if is_one and ends == (None, None):
            raise DataError(
                f"data.images and data.masks are one folder, {images}: give data.mask_suffix, the "
                "end of mask names that image names lack, as _mask"
            )

        def scan(folder: Path, own: str | None, other: Path, others: str | None) -> ByID:
            inside = other if not is_one and other.is_relative_to(folder) else None
            return files_by_id(folder, own, without=others if is_one else None, outside=inside)

        found = scan(images, ends[0], masks, ends[1]), scan(masks, ends[1], images, ends[0])
        for key, folder, end, files in zip(
            ("images", "masks"), (images, masks), ends, found, strict=True
        ):
            if not files:
                raise DataError(_empty(key, folder, end))
        return found

    def pairs(self, names: Sequence[str] | None = None) -> tuple[Pairs, list[str]]:
        """Those of some ids, or of all images; and a text of what is wrong with others."""
        images, masks = self.both
        by_image, by_mask = self.found
        wanted = list(by_image) if names is None else names
        end = self.mask_suffix or ""
        end = end if Path(f"x{end}").suffix.lower() in SUFFIXES else f"{end}.png"
        expected = {name: f"{masks / name}{end}" for name in wanted}
        pairs, problems = match(by_image, by_mask, wanted, expected)
        if names is None and (lost := [name for name in by_mask if name not in by_image]):
            self.warnings.append(
                f"{len(lost)} masks in {masks} have no image in {images} and are not used; the "
                f"first: {lost[0]}"
            )
        if not problems:
            return pairs, []
        text = (
            f"{len(problems)} of {len(wanted)} images in {images} have no mask in {masks}, or "
            f"more than one:\n{bullet_list(problems)}"
        )
        if not pairs and self.image_suffix is None and self.mask_suffix is None:
            advice = suffix_advice(images, masks)
            options = [" ".join(f"data.{key}={end}" for key, end in one.items()) for one in advice]
            if options:
                text += f"\nEach image would have a mask with {', or with '.join(options)}"
        return pairs, [text]

    def spellings(self) -> dict[str, str]:
        """How a list may name each image: its id, its file, both with the folder's name too."""
        images, _ = self.both
        by_id, _ = self.found
        inside = dict(images_below(images))
        known: dict[str, str] = {}
        for name, files in by_id.items():
            for file in (inside[file].as_posix() for file in files):
                for text in (file, file.removesuffix(Path(file).suffix)):
                    known |= {text: name, f"{images.name}/{text}": name}
        return known | {name: name for name in by_id}


def _empty(key: str, folder: Path, suffix: str | None) -> str:
    what = f"data.{key}={folder}: holds no {key}"
    if suffix and (files := files_below(folder, SUFFIXES)):
        return (
            f"{what} whose names end in data.{key[:-1]}_suffix={suffix}; the first of {len(files)} "
            f"files is {files[0].name}"
        )
    return f"{what}; expected files that end in {' '.join(SUFFIXES)}, in it or in folders below"


def labels_file(masks: Path | None, lists: Path | None) -> Path:
    """Where the class names are, or would be expected first."""
    folders = []
    if masks is not None:
        while any(mark in str(masks) for mark in (SPLIT, "*")):
            masks = masks.parent
        folders = [masks, masks.parent]
    if lists is not None:
        folders.append(lists.parent if lists.suffix.lower() in TABLES else lists)
    files = [folder / "labels.txt" for folder in folders] or [Path("labels.txt")]
    return next((file for file in files if file.is_file()), files[0])
