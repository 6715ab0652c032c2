"""Archives as bytes: sound ones, and such as nobody can unpack."""

import io
import re
import struct
import tarfile
import zipfile

import numpy as np

Files = dict[str, bytes]


FILES: Files = {f"a/{i}.bin": np.random.default_rng(i).bytes(3000) for i in range(3)}


def tar_bytes(files: Files, *more: tarfile.TarInfo, end: bool = True) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in more:
            tar.addfile(info)
        size = tar.offset
    return stream.getvalue() if end else stream.getvalue()[:size]


def zip_bytes(files: Files, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return stream.getvalue()


def encrypted(files: Files) -> bytes:
    """With the bit that says so, in both headers of each file."""
    data = bytearray(zip_bytes(files))
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(magic), bytes(data)):
            data[found.start() + place] |= 1
    return bytes(data)


def unknown_method(files: Files, number: int = 98) -> bytes:
    data = bytearray(zip_bytes(files, zipfile.ZIP_STORED))
    for magic, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        for found in re.finditer(re.escape(magic), bytes(data)):
            data[found.start() + place : found.start() + place + 2] = struct.pack("<H", number)
    return bytes(data)
