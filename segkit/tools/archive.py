"""Files out of tar and zip archives that may come from anywhere."""

import bz2
import gzip
import lzma
import shutil
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from tqdm import tqdm

from segkit.errors import DataError
from segkit.files import refuse_special

CHUNK = 1 << 20  # bytes that are in memory at a time
SMALL = 64 << 20  # the largest file that :func:`content` reads into memory, and largest tar header
# What comes out of one byte: images and masks give about 1, text 10, a bomb 1000 and more.
RATIO, ROOM = 200, 64 << 20
OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
AGAIN = "Delete it and download it again"


def members(
    archive: Path, wanted: Callable[[str], object]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content, in pieces, of each file whose name is ``wanted``, in the archive's order.

    Links, devices and folders are passed over, so nothing can point out of the target. The pieces
    of a file must be taken before the next file.

    Raises:
        DataError: The archive is damaged, encrypted, or would fill the disk; or a name points out
            of the folder, or is there twice.
    """
    refuse_special(archive)
    if not archive.is_file():
        raise DataError(f"{archive}: is no file")
    seen: set[str] = set()
    with _told(archive):
        files = _of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive)
        for name, pieces in files:
            if not wanted(name):
                continue
            # On some disks capitals do not count, nor how letters with accents are put together.
            one = unicodedata.normalize("NFC", name).casefold()
            if one in seen:
                raise DataError(
                    f"{archive}: holds {name!r} twice, or another file whose name differs in "
                    f"capitals only. {AGAIN}, from its publisher"
                )
            seen.add(one)
            yield name, pieces


def content(pieces: Iterator[bytes], name: str) -> bytes:
    """A small file as a whole."""
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > SMALL:
            raise DataError(f"{name}: is larger than {SMALL >> 20} MiB; no such file was expected")
    return b"".join(parts)


def extract(archive: Path, place: Callable[[str], str | None], out: Path) -> int:
    """Write the files for which ``place(name)`` names a path below ``out``; returns how many.

    All of them or, if anything is wrong with the archive, none: they are unpacked to a folder in
    ``out`` that goes away, and moved at the end.
    """
    root, kept = out.resolve(), out.exists()
    staging = out / ".unpacking"
    if staging.exists():
        shutil.rmtree(staging)  # of a process that was killed
    targets: list[Path] = []
    try:
        files = tqdm(members(archive, place), f"unpack {archive.name}", leave=False, disable=None)
        for name, pieces in files:
            target = Path(checked_name(str(place(name)), archive))
            if not (out / target).resolve().is_relative_to(root):  # a link in ``out`` itself
                raise DataError(f"{out / target}: is a link out of {out}")
            try:
                (staging / target).parent.mkdir(parents=True, exist_ok=True)
                with (staging / target).open("wb") as file:
                    file.writelines(pieces)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise DataError(
                    f"{archive}: {name!r} is the name of a file and of a folder. {AGAIN}"
                ) from None
            targets.append(target)
        kept = True
        for target in targets:
            (out / target).parent.mkdir(parents=True, exist_ok=True)
            (staging / target).replace(out / target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not kept and out.exists():
            out.rmdir()
    return len(targets)


def checked_name(name: str, archive: Path) -> str:
    """The name with forward slashes; a DataError if it points out of its folder."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and ":" in pure.parts[0]):
        raise DataError(f"{archive}: holds the file {name!r}, which points out of its folder")
    if "\0" in name:
        raise DataError(f"{archive}: holds the file {name!r}, which is no name of a file")
    return pure.as_posix()


def _of_zip(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    with zipfile.ZipFile(archive) as bundle:
        entries = [(checked_name(e.filename, archive), e) for e in bundle.infolist()]
        limit = RATIO * archive.stat().st_size + ROOM
        if (size := sum(entry.file_size for _, entry in entries)) > limit:
            raise _bomb(archive, size)
        for name, entry in entries:
            # The upper bits hold the file type of Unix: 0o12 is a link.
            if not entry.is_dir() and entry.external_attr >> 28 in (0, 0o10):
                yield name, _pieces(archive, entry.file_size, partial(_open, bundle, entry))


def _open(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    if entry.flag_bits & 1:
        raise DataError(
            f"{bundle.filename}: is encrypted; expected an archive without a password. Unpack it "
            "with another program and pack it again, or get it from its publisher"
        )
    try:
        return bundle.open(entry)
    except NotImplementedError as error:
        raise DataError(
            f"{bundle.filename}: {entry.filename!r} is compressed in a way that is not known here "
            f"({error}). Unpack it with another program and pack it again as a usual zip file"
        ) from None


def _of_tar(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    with archive.open("rb") as file:
        start = file.read(6)
    opener = next((o for magic, o in OPENERS.items() if start.startswith(magic)), None)
    with opener(archive) if opener else archive.open("rb") as file:
        bounded = Bounded(file, archive)
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as tar:
            for member in tar:
                name = checked_name(member.name, archive)
                if member.isreg():
                    yield name, _pieces(archive, member.size, partial(tar.extractfile, member))
            # At a header that it cannot read tarfile stops as at the end, which zeros mark.
            bounded.seek(tar.offset)
            if bounded.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing, or a part in its middle is not read")
            while bounded.read(CHUNK):  # up to the check sum of a compressed file
                pass


class Bounded:
    """A file as tarfile reads it: not in one piece into memory, and not for ever.

    Args:
        file: What the archive is when it is not compressed.
        archive: Its path.
    """

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        self.file, self.archive = file, archive
        self.limit = RATIO * archive.stat().st_size + ROOM

    def read(self, size: int) -> bytes:
        if not 0 <= size <= SMALL:  # a header that says so
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        piece = self.file.read(size)
        self._check(self.file.tell())
        return piece

    def seek(self, place: int) -> int:
        self._check(place)
        return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()

    def _check(self, place: int) -> None:
        if place > self.limit:
            raise _bomb(self.archive, place)


def _pieces(archive: Path, size: int, start: Callable[[], IO[bytes] | None]) -> Iterator[bytes]:
    """The content of a file of ``size`` bytes; opened when the first piece is asked for."""
    left = size
    with _told(archive):
        file = start()
        assert file is not None
        with file:
            while piece := file.read(CHUNK):
                left -= len(piece)
                yield piece
        if left:
            raise EOFError(f"{size - left:,} of the {size:,} bytes of a file are there")


@contextmanager
def _told(archive: Path) -> Iterator[None]:
    """Whatever a library says of an archive as a DataError that names it.

    Damage makes them raise nearly anything: struct.error, KeyError, RecursionError and so on.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{archive}: is damaged ({reason[:100]}). {AGAIN}") from None


def _bomb(archive: Path, size: int) -> DataError:
    return DataError(
        f"{archive}: {archive.stat().st_size:,} bytes that unpack to {size:,} or more; no archive "
        f"of images is packed that tightly. {AGAIN}, from its publisher"
    )
