"""What a person means by ``source``: images, videos or a camera, and the names of their results.

The suffix decides only where a folder is searched; a file that is named is taken as it is.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segkit.config.schema import OUTPUTS
from segkit.data.pairs import SUFFIXES
from segkit.errors import ConfigError
from segkit.files import special_kind, user_path
from segkit.runtime.log import log

IMAGES = set(SUFFIXES)
CAMERA = re.compile("[0-9]{1,3}")  # more digits are a mistyped folder, named by a date, say
AREAS = "areas.csv"  # stands beside all results
RUN_FILES = {"config.yaml", "metrics.jsonl", "checkpoints"}
VIDEOS = {
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"),
    *(".3gp", ".flv", ".mts", ".ogv"),
}


@dataclass(frozen=True)
class Source:
    """One thing to look at.

    Attributes:
        path: A file, or the number of a camera.
        name: Name of its results without suffix, relative to the output folder.
    """

    path: Path | int
    name: str

    @property
    def is_video(self) -> bool:
        return isinstance(self.path, int) or self.path.suffix.lower() in VIDEOS


def find_sources(source: str, out_dir: Path) -> list[Source]:
    """Everything that ``source`` stands for, in the order of the names.

    Args:
        source: A file, a folder (with all folders in it), a glob pattern with ``*``, ``?`` or
            ``**``, or the number of a camera. A file of that name comes first.
        out_dir: Where the results go; results of an earlier run in there are no sources.

    Raises:
        ConfigError: There is nothing, or the results would come where the images are.
    """
    path = user_path(source)
    if kind := special_kind(path):
        raise ConfigError(
            f"source={source}: is {kind}, neither a file nor a folder; a camera is its number, as "
            "source=0"
        )
    if not path.exists():
        if CAMERA.fullmatch(source):
            return [Source(int(source), f"camera-{int(source)}")]
        home, files = matches(path)
    elif path.is_dir():
        if path.resolve() == out_dir.resolve():
            raise ConfigError(
                f"out_dir={out_dir}: the folder of the images; give out_dir=FOLDER, another one"
            )
        home, files = path, list(walk(path, out_dir))
    else:
        home, files = path.parent, [path]
    if not files:
        known = " ".join(sorted(suffix[1:] for suffix in IMAGES | VIDEOS))
        raise ConfigError(
            f"source={source}: no image and no video in this folder ({known})"
            if path.is_dir()
            else f"source={source}: no such file or folder, and no pattern of any; relative paths "
            f"start at {Path.cwd()}"
        )
    refuse_results(files, out_dir)
    return name_results(files, home)


def matches(pattern: Path) -> tuple[Path, list[Path]]:
    """The folder below which a glob pattern varies, and the files that match it."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    # Not Path.glob, which takes hidden files too, and folders alone for a `**` at the end.
    found = (Path(name) for name in glob.glob(str(pattern), recursive=True))  # noqa: PTH207
    return fixed, sorted({path for path in found if path.is_file()})


def walk(folder: Path, out_dir: Path) -> Iterator[Path]:
    """Images and videos in a folder and below it, but for hidden ones and those in ``out_dir``.

    Hidden ones are left out since some systems put a file of theirs, ``._a.jpg``, beside each.
    Links to folders are followed, to each folder once. What earlier predictions and trainings
    wrote there is left out, too, and said: masks and plots are no photographs.
    """
    seen = {folder.resolve(), out_dir.resolve()}  # links may lead in a circle
    for home, folders, names in os.walk(folder, followlinks=True):
        inner = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        if {*names, *inner} >= RUN_FILES:
            log.info("left out: %s, a run", home)
            continue
        if AREAS in names and (results := [name for name in inner if name in OUTPUTS]):
            log.info("left out: %s in %s, results of an earlier run", ", ".join(results), home)
            inner = [name for name in inner if name not in OUTPUTS]
        for name in inner:
            place = (Path(home) / name).resolve()
            if place not in seen:
                seen.add(place)
                folders.append(name)
        for name in sorted(names):
            if Path(name).suffix.lower() in IMAGES | VIDEOS and not name.startswith("."):
                yield Path(home) / name


def refuse_results(files: Sequence[Path], out_dir: Path) -> None:
    """Raise a ConfigError if a result could replace the image that it is made of."""
    homes = {out_dir.resolve() / kind for kind in OUTPUTS}
    for folder in sorted({file.parent for file in files}):
        resolved = folder.resolve()
        if homes & {resolved, *resolved.parents}:
            raise ConfigError(
                f"out_dir={out_dir}: the results would come to {folder}, where the images are; "
                "give out_dir=FOLDER, another one"
            )


def name_results(files: Sequence[Path], home: Path) -> list[Source]:
    """The files with the names of their results: without suffix where that is unique.

    Of ``a.jpg`` and ``a.png`` in one folder, both keep it: ``a.jpg`` and ``a.png`` become
    ``a.jpg.png`` and ``a.png.png``, say. Capitals count as equal, since some disks take them so.
    """
    full = [file.relative_to(home).as_posix() for file in files]
    names = [file.relative_to(home).with_suffix("").as_posix() for file in files]
    # Taken as well: the frames of clip.mp4 go to clip/, where the results of clip/1.jpg go.
    folders = {str(parent).casefold() for name in full for parent in PurePosixPath(name).parents}
    while True:
        counts = Counter([*folders, *(name.casefold() for name in names)])
        longer = [
            whole if counts[name.casefold()] > 1 else name
            for name, whole in zip(names, full, strict=True)
        ]
        if longer == names:
            return [Source(file, name) for file, name in zip(files, names, strict=True)]
        names = longer
