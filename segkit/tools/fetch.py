"""Download of a large file that survives lost connections, and is checked before it counts."""

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tqdm import tqdm

from segkit.errors import DataError
from segkit.files import refuse_special

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring nothing
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
PAUSE = 2.0  # seconds, before the second of them; twice as long before each further one


def fetch(url: str, path: Path, md5: str | None) -> None:
    """Make ``path`` from ``url``, unless it is there; a part of it that is there is continued.

    Until it is whole and has the right check sum the file is called ``<name>.part``.

    Args:
        url: http, https or file.
        path: File to write.
        md5: Its check sum, where one is known.

    Raises:
        DataError: No URL, the server does not answer or lacks the file, or another check sum.
    """
    if path.exists():
        if not path.is_file():
            raise DataError(f"{path}: is no file. Move it away and run the same command again")
        check_sum(path, md5)
        return
    check_url(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    by_hand = f"Try again later, or download it by other means and save it as {path}"
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(url, part)
            break
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code < 500:
                raise DataError(f"{url}: {error.code} {error.reason}. {by_hand}") from None
            reason = f"{error.code} {error.reason}"
        except (ValueError, http.client.InvalidURL) as error:
            raise no_url(url, str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
                raise DataError(
                    f"{part}: {error.strerror}. Make room and run the same command again, which "
                    "goes on from there"
                ) from None
            if isinstance(error, OSError) and error.errno is not None and error.filename:
                raise  # of the own disk
            reason = str(getattr(error, "reason", None) or error or type(error).__name__)
        now = part.stat().st_size if part.exists() else 0
        failures = 0 if now > before else failures + 1
        if failures >= ATTEMPTS:
            raise DataError(
                f"{url}: {reason}. {now:,} bytes are there, from which the same command goes on. "
                + by_hand
            )
        time.sleep(PAUSE * 2 ** max(failures - 1, 0))
    check_sum(part, md5)
    part.replace(path)


def check_url(url: str) -> None:
    """Raise a DataError unless this may be fetched."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise no_url(url, str(error)) from None
    if parts.scheme not in ("http", "https", "file"):
        raise no_url(url, f"unknown url type: {parts.scheme!r}")
    # A device has no end, and a pipe waits for one who writes.
    if parts.scheme == "file" and not Path(urllib.request.url2pathname(parts.path)).is_file():
        raise DataError(f"{url}: no such file")


def no_url(url: str, reason: str) -> DataError:
    return DataError(
        f"{url}: is no URL ({reason}); expected one that starts with http://, https:// or file://"
    )


def _continue(url: str, part: Path) -> None:
    """Append what is missing; raises an OSError or HTTPException if the connection is lost."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "segkit"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # nothing behind the last byte: all there, or not ours
            length = error.headers.get("Content-Range", "").rpartition("/")[2]
            if length == str(start):
                return
            part.unlink()
            raise ConnectionError(f"the server's file has {length or 'fewer'} bytes") from None
        raise
    with response:
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and not goes_on:
            start = 0  # the server sends all of it
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(
                desc=part.stem,
                initial=start,
                total=total,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=None,
            ) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and part.stat().st_size < total:  # read() does not complain
            raise ConnectionError(f"the connection was lost after {part.stat().st_size:,} bytes")


def check_sum(path: Path, md5: str | None) -> None:
    """Delete a downloaded part, and raise a DataError, unless its MD5 sum is ``md5``.

    MD5 is what the publishers of data sets give: it finds damage, not forgery by an expert.
    """
    if md5 is None:
        return
    refuse_special(path)
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() == md5:
        return
    size = path.stat().st_size
    if path.suffix == ".part":
        path.unlink()
        raise DataError(
            f"{path}: {size:,} bytes with the MD5 sum {digest.hexdigest()}; expected {md5}. The "
            "file was deleted: run the same command again, or try another server with mirror=URL"
        )
    raise DataError(
        f"{path}: {size:,} bytes with the MD5 sum {digest.hexdigest()}; expected {md5}. Delete the "
        "file and run the same command again"
    )
