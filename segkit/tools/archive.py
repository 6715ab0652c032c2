"""Files out of tar and zip archives that may come from anywhere."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from segkit.errors import DataError
from segkit.files import refuse_special

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


def members(archive: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file whose name is ``wanted``, in the order of the archive.

    Links, devices and folders are passed over, so nothing can point out of the target.

    Raises:
        DataError: The archive is damaged, or a name points out of the folder.
    """
    refuse_special(archive)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bundle:
                for entry in bundle.infolist():
                    name = checked_name(entry.filename, archive)
                    # The upper bits hold the file type of Unix: 0o12 is a link.
                    plain = not entry.is_dir() and entry.external_attr >> 28 in (0, 0o10)
                    if plain and wanted(name):
                        yield name, bundle.read(entry)
        else:
            with tarfile.open(archive, "r:*") as tar:
                for member in tar:
                    name = checked_name(member.name, archive)
                    content = tar.extractfile(member) if member.isreg() and wanted(name) else None
                    if content is not None:
                        yield name, content.read()
    except DAMAGE as error:
        raise DataError(
            f"{archive}: is damaged ({error}). Delete it and download it again"
        ) from None


def extract(archive: Path, place: Callable[[str], str | None], out: Path) -> int:
    """Write the files for which ``place(name)`` names a path below ``out``; returns how many."""
    count = 0
    root = out.resolve()
    files = members(archive, place)
    for name, content in tqdm(files, f"unpack {archive.name}", leave=False, disable=None):
        path = out / checked_name(str(place(name)), archive)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.resolve().is_relative_to(root):  # a link in ``out`` itself
            raise DataError(f"{path}: is a link out of {out}")
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(content)
        part.replace(path)
        count += 1
    return count


def checked_name(name: str, archive: Path) -> str:
    """The name with forward slashes; a DataError if it points out of its folder."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and ":" in pure.parts[0]):
        raise DataError(f"{archive}: holds the file {name!r}, which points out of its folder")
    return pure.as_posix()
