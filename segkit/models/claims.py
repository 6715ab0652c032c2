"""What a file of ``torch.save`` claims to hold, compared with what is there, before it is read.

``torch.load`` takes the file's word: it unpacks compressed entries of any size, allocates or maps
storages of any length, and makes tensors of any shape out of a single number.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what files from before PyTorch 1.6 begin with
ITEM_SIZES = {
    "ComplexDoubleStorage": 16,
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
}  # of the others 1
DEEPEST = 64  # levels of dicts and lists


def check_archive(path: Path) -> None:
    """Raise a CheckpointError unless the zip file is whole and no more than it seems.

    Its check sums are compared too, which ``torch.load`` does not: it returns flipped bits as
    weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(path, entries)
            damaged = archive.testzip()
            if damaged is None:
                _check_storages(path, archive, entries)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise CheckpointError(f"{path}: cut off or damaged ({error})") from error
    except Exception as error:  # of damaged bytes zipfile and pickle raise nearly anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(f"{path}: not a file written by torch.save ({reason})") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged, the check sum of {damaged} is wrong")


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    names: set[str] = set()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"{path}: {entry.filename} in it is compressed, which torch.save never does, and "
                "may be far larger than the file: refused. Unpack it and save it with torch.save"
            )
        if entry.flag_bits & 1:
            raise CheckpointError(f"{path}: {entry.filename} in it is encrypted: refused")
        if entry.filename.lower() in names:  # PyTorch might read another one than is checked
            raise CheckpointError(f"{path}: {entry.filename} is twice in it: refused")
        names.add(entry.filename.lower())
    claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if claimed > size:
        raise CheckpointError(
            f"{path}: claims to hold {claimed} bytes, and has {size}: refused as damaged or forged"
        )


def _check_storages(path: Path, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    sizes = {entry.filename: entry.file_size for entry in entries}
    folder = next(iter(sizes), "").partition("/")[0]
    if f"{folder}/data.pkl" not in sizes:
        return  # nothing that PyTorch would read
    scan = Scan(path, io.BytesIO(archive.read(f"{folder}/data.pkl")))
    scan.load()
    for key, claimed in scan.storages.items():
        found = sizes.get(f"{folder}/data/{key}", -1)
        if claimed > found:
            raise CheckpointError(
                f"{path}: its storage {key} claims {claimed} bytes, and has {max(0, found)}: "
                "refused as damaged or forged"
            )


def check_legacy(path: Path) -> None:
    """Likewise for a file of the time before zip files; anything else is left to PyTorch."""
    with path.open("rb") as file:
        try:
            if Scan(path, file).load() != LEGACY_MAGIC:
                return
            for _ in range(2):  # version of the format, and of the machine
                Scan(path, file).load()
            scan = Scan(path, file)
            scan.load()
        except CheckpointError:
            raise
        except Exception:  # PyTorch cannot read it either, and has words for it
            return
    claimed, size = sum(scan.storages.values()), path.stat().st_size
    if claimed > size:
        raise CheckpointError(
            f"{path}: claims to hold {claimed} bytes, and has {size}: refused as damaged or forged"
        )


class Inert:
    """Stands for whatever a pickle names, and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def nothing(self, *arguments: Any, **named: Any) -> "Inert":
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = update = nothing


class Scan(pickle.Unpickler):
    """Reads a pickle without any of the objects in it; ``storages`` are bytes that it claims."""

    def __init__(self, path: Path, file: Any) -> None:
        super().__init__(file)
        self.path = path
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if name == "bytearray":  # of any length, by a number
            raise CheckpointError(f"{self.path}: holds a bytearray, expected tensors and values")
        return type(name, (Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, count, *_ = pid
        if kind not in ("storage", b"storage") or type(count) is not int or count < 0:
            raise CheckpointError(f"{self.path}: names storages as torch.save does not: refused")
        size = count * ITEM_SIZES.get(storage.__name__, 1)
        self.storages[str(key)] = max(size, self.storages.get(str(key), 0))
        return Inert()


def check_tensors(path: Path, content: Any) -> None:
    """Raise a CheckpointError unless all tensors are plain ones, as large as they say."""
    level, seen = [content], {id(content)}
    for _ in range(DEEPEST):
        below: list[Any] = []
        for node in level:
            if isinstance(node, Tensor):
                _check_tensor(path, node)
            elif isinstance(node, dict):
                below += [*node.keys(), *node.values()]
            elif isinstance(node, list | tuple | set):
                below += node
        level = []
        for node in below:
            if id(node) not in seen and isinstance(node, Tensor | dict | list | tuple | set):
                seen.add(id(node))
                level.append(node)
        if not level:
            return
    raise CheckpointError(f"{path}: nested more than {DEEPEST} levels deep: refused")


def _check_tensor(path: Path, tensor: Tensor) -> None:
    is_plain = (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
    )
    if not is_plain:
        kind = f"{type(tensor).__name__}, {tensor.layout}, {tensor.dtype}, {tensor.device}"
        raise CheckpointError(f"{path}: holds a tensor that is none of plain numbers ({kind})")
    claimed, found = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > found:
        raise CheckpointError(
            f"{path}: a tensor of shape {tuple(tensor.shape)} claims {claimed} bytes, and has "
            f"{found}: refused as damaged or forged"
        )
