"""Advice of the parts of a training, followed to the letter: weights, losses, augmentation."""

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import albumentations as A
import numpy as np
import pytest
import torch
from label_files import write
from PIL import Image
from torch import nn
from voc_folder import make_voc

from segkit.data import Shapes
from segkit.data.augment import Augment
from segkit.data.levels import image_of
from segkit.data.loader import Batch
from segkit.data.stored import Stored
from segkit.data.voc import VOCSegmentation
from segkit.errors import CheckpointError, SegkitError, TrainingError
from segkit.losses import WEIGHTINGS, CrossEntropyLoss, WeightedSum
from segkit.models.backbones import ResNet, Xception
from segkit.models.normalize import Normalize
from segkit.models.weights import load_matching, read_tensors
from segkit.predict.video import open_video, write_video
from segkit.runtime.device import Precision
from segkit.runtime.finite import refuse_logits, refuse_weights
from segkit.schedules import Poly
from segkit.training.loop import train_one_epoch
from segkit.training.monitor import Best, Monitor
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState
from segkit.training.step import TrainStep

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
MASK = np.zeros((40, 48), np.uint8)
MASK[:20, :24] = 1


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Step(NamedTuple):
    """A mistake, and the same with what its message advises.

    ``right`` gets what the groups of ``message`` find, and says whether the result is right.
    """

    wrong: Callable[[], object]
    message: str
    right: Callable[..., object]


def same(net: nn.Module, path: str) -> bool:
    """Whether a file of weights gives ``net`` anew."""
    other = nn.Conv2d(3, 2, 1)
    load_matching(other, read_tensors(path))
    return all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


NET = nn.Conv2d(3, 2, 1)


def whole() -> object:
    torch.save(NET, "net.pt")
    return read_tensors("net.pt")


def state_dict() -> bool:
    torch.save(NET.state_dict(), "net.pt")
    return same(NET, "net.pt")


def compressed() -> object:
    torch.save(NET.state_dict(), "net.pt")
    with (
        zipfile.ZipFile("net.pt") as old,
        zipfile.ZipFile("small.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return read_tensors("small.pt")


def unpacked() -> bool:
    with zipfile.ZipFile("small.pt") as packed:
        packed.extractall("folder")
    with zipfile.ZipFile("again.pt", "w") as plain:
        for path in sorted(Path("folder").rglob("*")):
            if path.is_file():
                plain.write(path, path.relative_to("folder"))
    torch.save(torch.load("again.pt", weights_only=True), "net.pt")
    return same(NET, "net.pt")


def augmented(*transforms: Any) -> bool:
    """Whether an image keeps its kind, and its mask its ids."""
    image, mask = Augment(transforms)(PHOTO, MASK, np.random.default_rng(0))
    return image.dtype == np.uint8 and {*np.unique(mask).tolist()} <= {0, 1, 255}


def weighted(name: str) -> bool:
    weights = vars(__import__(name.rpartition(".")[0], fromlist=["x"]))[name.rpartition(".")[2]]
    assert weights is WEIGHTINGS
    loss = CrossEntropyLoss(class_weights=weights["balanced"]([30, 10]))
    target = torch.tensor([[[0, 1]]])
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])
    expected = nn.functional.cross_entropy(logits, target, torch.tensor([40 / 60, 2.0]))
    return torch.allclose(loss(logits, target), expected)


FLOATS = Stored(np.array([[0.0, 0.5, 2.0]], np.float32), None, "F", "F")
BYTES = Stored(np.array([[0, 128, 255]], np.uint8), 255, "L", "L")


def voc(root: str) -> VOCSegmentation:
    return VOCSegmentation(root, "train")


def nested() -> object:
    make_voc(Path("outer/inner"))
    return voc("outer")


def two_files() -> object:
    make_voc(Path("voc"))
    Image.fromarray(PHOTO).save("voc/JPEGImages/a.bmp")
    return voc("voc")


def first(root: str) -> bool:
    image, mask = voc(root).read(0)
    kept = np.asarray(Image.open(f"{root}/JPEGImages/a.png"))
    return np.array_equal(image, kept) and mask[0].tolist() == [0] * 4 + [1] * 3 + [255] + [2] * 4


def drawn(root: str, num_train: int = 2) -> bool:
    dataset = Shapes(root, "train", num_train=num_train, num_val=1, height=32, width=32)
    return len(dataset) == num_train and bool(dataset.read(0)[1].max() > 0)


def not_empty() -> object:
    write({"mine/x.txt": "x"})
    return drawn("mine")


def other_shapes() -> object:
    drawn("made")
    return drawn("made", num_train=3)


def own_data() -> object:
    make_voc(Path("own"))
    return drawn("own")


def placeholder() -> object:
    Path("net.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return read_tensors("net.pt")


def damaged() -> object:
    write({"clip.mp4": b"no video at all" * 99})
    with open_video(Path("clip.mp4")):
        return None


def filmed(suffix: str) -> bool:
    path = Path("clip").with_suffix(f".{suffix.lower()}")
    with write_video(path, 5.0) as add:
        for _ in range(3):
            add(PHOTO)
    with open_video(path) as video:
        return len(list(video.frames())) == 3


STEPS = {
    "a whole module": Step(whole, r"save the state_dict\(\) of the model instead", state_dict),
    "compressed": Step(compressed, r"Unpack it and save it with torch\.save", unpacked),
    "Normalize": Step(
        lambda: augmented(A.HorizontalFlip(p=1), A.Normalize()),
        "Leave out Normalize and ToTensorV2",
        lambda: augmented(A.HorizontalFlip(p=1)),
    ),
    "blended ids": Step(
        lambda: augmented(
            A.RandomScale(scale_limit=(-0.5, -0.5), area_for_downscale="image_mask", p=1)
        ),
        r"area_for_downscale='image_mask' .*; use '(image)'",
        lambda kind: augmented(
            A.RandomScale(scale_limit=(-0.5, -0.5), area_for_downscale=kind, p=1)
        ),
    ),
    "holes of class 0": Step(
        lambda: augmented(A.GridElasticDeform(num_grid_xy=(4, 4), magnitude=4, p=1)),
        r"use (\w+) or (\w+)$",
        lambda *names: all(augmented(getattr(A, name)(p=1)) for name in names),
    ),
    "named weights": Step(
        lambda: CrossEntropyLoss(class_weights="balanced"),  # type: ignore[arg-type]
        r"in Python by ([\w.]+)$",
        weighted,
    ),
    "no fixed range": Step(
        lambda: image_of(FLOATS, None, "x"),
        r"data\.range=\[low,high\]",
        lambda: image_of(FLOATS, (0.0, 2.0), "x")[0, :, 0].tolist() == [0, 64, 255],
    ),
    "another range": Step(
        lambda: image_of(BYTES, (0.0, 4095.0), "x"),
        r"or leave data\.range out",
        lambda: image_of(BYTES, None, "x")[0, :, 0].tolist() == [0, 128, 255],
    ),
    "a folder too high": Step(nested, r"Did you mean data\.root=(\S+)\?", first),
    "two files": Step(
        two_files,
        r"2 files for one image \((a\.bmp), a\.png\)",
        lambda name: Path("voc/JPEGImages", name).unlink() is None and first("voc"),  # type: ignore[func-returns-value]
    ),
    "a folder of other things": Step(
        not_empty, r"Give data\.root another folder", lambda: drawn("another")
    ),
    "other shapes": Step(
        other_shapes,
        r"or give data\.root another one",
        lambda: drawn("another", num_train=3),
    ),
    "own data for shapes": Step(
        own_data, r"For your own data add (data=voc)", lambda data: first("own")
    ),
    "a placeholder of weights": Step(placeholder, "git lfs pull", state_dict),
    "other shapes: made anew": Step(
        other_shapes,
        "Delete the folder",
        lambda: shutil.rmtree("made") is None and drawn("made", num_train=3),
    ),
    "a damaged video": Step(
        damaged, r"Get it again from its source, or convert it to (MP4)", filmed
    ),
}


@pytest.mark.parametrize("name", list(STEPS))
def test_a_part(name: str) -> None:
    step = STEPS[name]
    with pytest.raises((ValueError, SegkitError)) as error:
        step.wrong()
    found = re.search(step.message, str(error.value))
    assert found is not None, str(error.value)
    assert step.right(*found.groups())


# The weights of ImageNet where there is no home folder


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container: no HOME, and a user whom the system does not know."""
    import pwd

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize("download", ["torch.hub", "torchvision.models._api"])
def test_downloads_without_a_home(
    download: str, homeless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(url: str, **settings: Any) -> dict[str, Any]:
        raise OSError(os.fspath(torch.hub.get_dir()))

    monkeypatch.setattr(f"{download}.load_state_dict_from_url", asked)

    def make() -> nn.Module:
        return Xception("imagenet") if download == "torch.hub" else ResNet("resnet18", "imagenet")

    with torch.device("meta"), pytest.raises(CheckpointError, match="no home folder") as error:
        make()
    found = re.search(r"Set (\w+)=FOLDER in the environment", str(error.value))
    assert found is not None, str(error.value)
    monkeypatch.setenv(found[1], str(Path("kept").absolute()))
    with (
        torch.device("meta"),
        pytest.raises(CheckpointError, match=str(Path("kept/hub").absolute())),
    ):
        make()
    assert not Path("~").exists()


def test_a_download_in_place(homeless: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    net = ResNet("resnet18")
    folder = Path("kept/hub/checkpoints")
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "resnet18-f37072fd.pth")
    with pytest.raises(CheckpointError) as error:
        ResNet("resnet18", "imagenet")
    found = re.search(r"Set (\w+=)FOLDER", str(error.value))
    assert found is not None
    monkeypatch.setenv(found[1].removesuffix("="), "kept")
    loaded = ResNet("resnet18", "imagenet").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())
    assert not Path("~").exists()


# Precision


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_fp32_is_advised_where_it_is_not_used(precision: str) -> None:
    net = nn.Conv2d(1, 1, 1)
    nn.init.constant_(net.weight, torch.nan)
    with pytest.raises(CheckpointError) as weights:
        refuse_weights(net, "x", precision)
    with pytest.raises(CheckpointError) as logits:
        refuse_logits([torch.tensor(False)], "a", "x", precision)
    for error in (weights, logits):
        assert ("precision=fp32" in str(error.value)) == (precision != "fp32")
        assert "a lower optimizer.lr" in str(error.value)


class Diverged(nn.Conv2d):
    """A layer whose loss is finite and whose gradient is not."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + (0 * self.weight.sum()).abs().sqrt()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("loss", "is inf.* not changed by this step"),
        ("weights", "Start again"),
        ("gradient", "the gradient of .* is not finite"),
    ],
)
def test_fp32_is_advised_where_a_step_does_not_use_it(
    kind: str, message: str, precision: str
) -> None:
    net = Diverged(3, 2, 1) if kind == "gradient" else nn.Conv2d(3, 2, 1)
    if kind == "weights":
        nn.init.constant_(net.weight, torch.nan)
    used = Precision.pick(precision, torch.device("cpu"))
    loss = WeightedSum(
        {"ce": {"weight": 3e38 if kind == "loss" else 1, "loss": CrossEntropyLoss()}}
    )
    normalize = Normalize((0.0,) * 3, (1e-3,) * 3, channels_last=False)
    step = TrainStep(loss, normalize, used, Poly(power=1.0))
    optimizer = torch.optim.SGD([{"params": list(net.parameters()), "base_lr": 0.1}], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainState(net, optimizer, scaler, Monitor(Best("val/miou", "max")))
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    batch = Batch(image, torch.zeros(1, 8, 8, dtype=torch.uint8), ("a",))
    with pytest.raises(TrainingError, match=rf"{message}.* a lower optimizer\.lr") as error:
        train_one_epoch(
            state,
            [batch],
            step,
            EpochPlan(epoch=1, max_epochs=1, num_images=1, batch_size=1),
            on_step=lambda values: None,
        )
    assert ("precision=fp32" in str(error.value)) == (precision != "fp32")
