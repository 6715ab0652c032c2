"""The archives of public data sets, small."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import Server
from PIL import Image
from scipy.io import savemat

from segkit.tools import datasets


def tar(path: Path, files: dict[str, bytes], *special: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for entry in special:
            archive.addfile(entry)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def jpeg(size: tuple[int, int] = (4, 6)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def mat(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    savemat(stream, {"GTcls": {"Segmentation": values.astype(np.uint8), "CategoriesPresent": [1]}})
    return stream.getvalue()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def voc_archives(folder: Path) -> tuple[Path, Path]:
    """VOC with 2 images to train on, 1 to validate on and 2 without masks; SBD with 4 of them."""
    base, ids = "VOCdevkit/VOC2012", ["t_1", "t_2", "v_1", "x_1", "x_2"]
    files = {f"{base}/JPEGImages/{name}.jpg": jpeg() for name in ids}
    files |= {f"{base}/SegmentationClass/{n}.png": png(np.full((4, 6), 255)) for n in ids[:3]}
    files |= {f"{base}/ImageSets/Segmentation/train.txt": b"t_1\nt_2\n"}
    files |= {f"{base}/ImageSets/Segmentation/val.txt": b"v_1\n"}
    files |= {f"{base}/ImageSets/Main/cat_train.txt": b"t_1 1\n", f"{base}/Annotations/x.xml": b""}
    mats = {
        f"benchmark_RELEASE/dataset/cls/{name}.mat": mat(np.full((4, 6), 7))
        for name in ("t_1", "v_1", "x_1", "x_2")
    }
    return (
        tar(folder / "VOCtrainval_11-May-2012.tar", files),
        tar(folder / "benchmark.tgz", mats | {"benchmark_RELEASE/dataset/train.txt": b"x_1\n"}),
    )


@pytest.fixture
def small_voc(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small archives in the place of the real ones."""
    (tmp_path / "server").mkdir()
    paths = voc_archives(tmp_path / "server")
    server.files = {path.name: path.read_bytes() for path in paths}
    counts = {"train": 2, "val": 1, "trainaug": 4}
    for name, number in (("voc2012", 1), ("voc2012aug", 2)):
        data = datasets.PUBLIC[name]
        archives = [
            replace(archive, md5=md5(path), gigabytes=0.0)
            for archive, path in zip(data.archives, paths[:number], strict=True)
        ]
        images = {split: counts[split] for split in data.images}
        monkeypatch.setitem(datasets.PUBLIC, name, replace(data, archives=archives, images=images))
