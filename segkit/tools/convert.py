"""Convert labels of other tools to a folder in VOC layout.

python -m segkit.tools.convert format=labelme source=PATH out=PATH [images=PATH] [key=value ...]
"""

import os
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.cli.arguments import run_tool
from segkit.commands import argument, command
from segkit.console import say
from segkit.data.bands import count_bands
from segkit.data.classes import check_lines, read_labels_file, write_lines
from segkit.data.counts import Counts, class_table
from segkit.data.dataset import check_pair
from segkit.data.decode import load
from segkit.data.masks import write_mask
from segkit.data.named_files import files_below
from segkit.data.orientation import shown_size
from segkit.data.pairs import SUFFIXES
from segkit.data.threads import map_parallel
from segkit.data.voc import IMAGES, MASKS, read_split, split_file
from segkit.errors import DataError
from segkit.files import user_path
from segkit.text import bullet_list
from segkit.tools.formats import READERS
from segkit.tools.formats.annotation import Annotations, Item, Request
from segkit.tools.formats.drawing import IGNORE


def convert(request: Request) -> None:
    """Draw the masks and put them, with their images, into ``request.out``.

    All files are made in a temporary folder on the same disk and moved when the last one is there,
    so that a mistake in one of them, or Ctrl-C, leaves ``out`` as it was.
    """
    request.check()
    found = READERS[request.format](request)
    layout = VocFolder(user_path(request.out), request.split)
    check_names(found.items)
    check_lines([item.name for item in found.items], layout.split_file)
    taken = layout.taken(found)
    if taken and not request.force:
        raise DataError(
            f"{layout.root}: {len(taken)} files are there already; nothing was written. Add "
            f"force=true to replace them, or give out= another folder:\n{bullet_list(taken)}"
        )
    gone = layout.gone(found)
    if gone and not request.prune:
        raise DataError(
            f"{layout.root}: {len(gone)} pairs of the last conversion are not in the source any "
            "more; nothing was written. Add prune=true to remove their images and masks, or give "
            f"out= another folder:\n{bullet_list(gone)}"
        )
    layout.check_others(found, gone)
    with ExitStack() as stack:
        staging = None
        if not request.dry_run:
            home = layout.root if layout.root.exists() else layout.root.parent
            home.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(dir=home, prefix=".convert-")
            staging = Path(stack.enter_context(temporary))

        def work(item: Item) -> NDArray[np.int64]:
            return make_pair(item, found, staging)

        counts = sum(map_parallel(work, found.items, "convert"), np.zeros(256, np.int64))
        if staging is not None:
            layout.take(found, gone, staging)
    pixels = Counts(counts[: len(found.classes)], int(counts[IGNORE]))
    say(class_table(found.classes, {request.split: pixels}))
    for note in [*found.notes, *request.notes, *request.elsewhere_note()]:
        say(f"note: {note}")
    if found.unseen:
        say(
            f"note: {len(found.unseen)} shapes cover no pixel, since they are thinner than one or "
            f"outside of the image:\n{bullet_list(sorted(found.unseen))}"
        )
    if request.dry_run:
        replaced = f", {len(taken)} of them over existing ones" if taken else ""
        removed = f", and remove {len(gone)}" if gone else ""
        say(f"dry run: would write {len(found.items)} pairs to {layout.root}{replaced}{removed}")
        return
    if gone:
        say(f"{len(gone)} pairs removed:\n{bullet_list(gone)}")
    say(f"{len(found.items)} pairs written to {layout.root}, their ids to {layout.split_file}")
    say(f"next: {layout.next_step(found)}")


@dataclass(frozen=True)
class VocFolder:
    """Where the files of a data set go."""

    root: Path
    split: str

    @property
    def split_file(self) -> Path:
        return split_file(self.root, self.split)

    @property
    def labels_file(self) -> Path:
        return self.root / "labels.txt"

    def taken(self, found: Annotations) -> list[str]:
        """What would be replaced; ``labels.txt`` only counts if it says something else."""
        taken = [str(self.split_file)] if self.split_file.exists() else []
        if self.labels_file.exists() and self.classes() != list(found.classes):
            taken.append(f"{self.labels_file} (with other classes)")
        names = {item.name for item in found.items}
        return taken + [str(file) for name, file in self.files() if name in names]

    def classes(self) -> list[str] | None:
        """The names in ``labels.txt``, if it can be read."""
        try:
            return read_labels_file(self.labels_file).names
        except DataError:
            return None

    def files(self) -> Iterator[tuple[str, Path]]:
        """Ids of images and masks that are there, under any suffix, and their files."""
        for folder in (self.root / IMAGES, self.root / MASKS):
            for file in files_below(folder, SUFFIXES):
                yield file.relative_to(folder).with_suffix("").as_posix(), file

    def left(self, found: Annotations) -> set[str]:
        """Ids that are there and would stay, since this source does not have them."""
        return {name for name, _ in self.files()} - {item.name for item in found.items}

    def gone(self, found: Annotations) -> list[str]:
        """Ids that the last conversion to this list wrote, and that are left.

        A list that names others that are there is not a part of this one, as what ``split`` writes
        is, but of a conversion of its own, which may have got some of these.
        """
        there, last = {name for name, _ in self.files()}, self._listed(self.split)
        lists = [self._listed(path.stem) & there for path in self.split_file.parent.glob("*.txt")]
        elsewhere = set().union(*(ids for ids in lists if not ids <= last))
        return sorted((self.left(found) & last) - elsewhere)

    def _listed(self, split: str) -> set[str]:
        try:
            return set(read_split(self.root, split))
        except DataError:
            return set()

    def check_others(self, found: Annotations, gone: Sequence[str]) -> None:
        """Raise a DataError if masks that stay would get other classes by the new names."""
        others, before = self.left(found) - set(gone), self.classes()
        if others and before is not None and before != list(found.classes)[: len(before)]:
            raise DataError(
                f"{self.root}: holds {len(others)} pairs that are not in this source, whose masks "
                f"have the class ids of {self.labels_file} ({', '.join(before)}). It would name "
                f"other classes ({', '.join(found.classes)}); nothing was written. Give out= "
                f"another folder, or convert all in one go:\n{bullet_list(sorted(others))}"
            )

    def next_step(self, found: Annotations) -> str:
        """The command that makes this folder one to train on, or checks it if it is one."""
        there = [name for name in ("train", "val") if split_file(self.root, name).exists()]
        root = argument("data.root", self.root)
        divide = f"{command('split')} {root}"
        if len(there) == 2:
            listed = set().union(*(self._listed(name) for name in (*there, "test")))
            if self.split == "all" and listed != {item.name for item in found.items}:
                return f"{divide} force=true"  # images came or went
            return f"{command('check')} {root}"
        if not there and self.split == "test":  # divided, it would be trained on too
            return "convert other images with split=train, and others with split=val"
        if not there:
            return divide if self.split == "all" else f"{divide} of={self.split}"
        other = "val" if there == ["train"] else "train"
        return (
            f"convert other images with split={other}, or divide these: {divide} of={there[0]} "
            "force=true"
        )

    def take(self, found: Annotations, gone: Sequence[str], staging: Path) -> None:
        """Move what ``staging`` holds into place; the lists, which make it count, come last."""
        replaced = {item.name for item in found.items} | set(gone)
        for name, old in list(self.files()):
            if name in replaced:
                old.unlink()
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            place = self.root / file.relative_to(staging)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
        write_lines(self.labels_file, found.classes)
        write_lines(self.split_file, [item.name for item in found.items])


def make_pair(item: Item, found: Annotations, staging: Path | None) -> NDArray[np.int64]:
    """Draw a mask, check its image, and write both below ``staging``, if there is one.

    Returns:
        How many pixels have each value, int64 (256,).
    """
    mask = item.draw()
    with tempfile.TemporaryDirectory() as folder:
        file = item.image
        if isinstance(file, bytes):
            suffix = ".png" if file.startswith(b"\x89PNG") else ".jpg"
            content, file = file, Path(folder) / f"image{suffix}"
            file.write_bytes(content)
        if file.suffix.lower() not in SUFFIXES:
            raise DataError(f"{file}: expected an image with a suffix of {' '.join(SUFFIXES)}")
        try:
            size = shown_size(load(file, count_bands(file)), (mask.shape[0], mask.shape[1]))
        except DataError as error:
            if file == item.image:
                raise
            text = str(error).removeprefix(f"{file}: ")
            raise DataError(f"{item.source}: the image inside: {text}") from error
        image = np.broadcast_to(np.uint8(0), (*size, 3))  # its numbers do not matter here
        check_pair(image, mask, len(found.classes), IGNORE, name=f"{item.source} ({item.name})")
        if staging is not None:
            place = staging / IMAGES / f"{item.name}{file.suffix.lower()}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
            place = staging / MASKS / f"{item.name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            write_mask(place, mask, found.palette)
    return np.bincount(mask.ravel(), minlength=256)


def check_names(items: Sequence[Item]) -> None:
    """Raise a DataError if there is nothing to convert, or two items share an id or an image."""
    if not items:
        raise DataError("the source holds no images with labels")
    twice = [name for name, count in Counter(item.name for item in items).items() if count > 1]
    if twice:
        raise DataError(
            f"{len(twice)} ids (paths without suffix, blanks as _) belong to several images; "
            f"rename these:\n{bullet_list(twice)}"
        )
    entries = defaultdict(list)
    for item in items:
        if isinstance(item.image, Path):
            entries[os.path.normpath(item.image.absolute())].append(f"{item.name} ({item.source})")
    shared = [f"{file}: {', '.join(names)}" for file, names in entries.items() if len(names) > 1]
    if shared:
        raise DataError(
            f"{len(shared)} images would get the labels of several entries. Where the labels name "
            "other folders than there are, give images= the folder that holds these; else correct "
            f"the names in the labels:\n{bullet_list(shared)}"
        )


if __name__ == "__main__":
    sys.exit(run_tool(Request, convert, sys.argv[1:], str(__doc__)))
