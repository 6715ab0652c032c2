"""augment.late_epochs: the last epochs of a run have transforms of their own."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from composed import config
from omegaconf import DictConfig
from scripts import SMALL, call, quick_call
from voc_folder import make_voc

from segkit.config import build_augment
from segkit.config.schema import TrainConfig
from segkit.data.augment import Augment
from segkit.data.loader import Batch, Collate, Samples
from segkit.runtime.context import Runtime
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.signals import StopSignals
from segkit.training.data import load_data
from segkit.training.field_of_view import seen_sizes
from segkit.training.plan import epoch_plan

CROPS = ("augment=standard", "augment.crop_size=[32,32]", "augment.late_crop_size=[48,64]")
FLIP = "{_target_:albumentations.HorizontalFlip}"


class OneImage:
    ids, classes = ("one",), ("a",)

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> tuple[Any, Any]:
        return np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)


def painted(value: int) -> Augment:
    def paint(image: Any, mask: Any) -> dict[str, Any]:
        return {"image": np.full_like(image, value), "mask": mask}

    return Augment([paint], late=None if value == 2 else painted(2), late_from=4)


def test_a_sample_is_made_by_the_list_of_its_epoch() -> None:
    samples = Samples(OneImage(), painted(1), seed=0)
    reds = [int(samples.read(epoch, 0)[0][0, 0, 0]) for epoch in (1, 3, 4, 5)]
    assert reds == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("late_epochs", "late_crop", "keys"),
    [
        (0, None, ["augment.crop_size"] * 3),
        (1, [8, 8], ["augment.crop_size"] * 2 + ["augment.late_crop_size"]),
        (1, None, ["augment.crop_size"] * 2 + [None]),  # whole images, of any size
        (5, [8, 8], ["augment.late_crop_size"] * 3),
    ],
)
def test_the_plan_knows_what_sets_the_size(
    late_epochs: int, late_crop: list[int] | None, keys: list[str | None]
) -> None:
    usual = TrainConfig()
    late = {"late_epochs": late_epochs, "late_crop_size": late_crop}
    settings = replace(
        usual,
        trainer=replace(usual.trainer, max_epochs=3),
        augment=replace(usual.augment, crop_size=[4, 4], **late),
    )
    states: list[Any] = [SimpleNamespace(epoch=epoch, images=0) for epoch in range(3)]
    assert [epoch_plan(settings, 8, state, 2, 1).crop_size_key for state in states] == keys


def fed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Sizes of the batches that are put together from here on, of several images each."""
    seen: list[tuple[int, ...]] = []
    stack = Collate.stack

    def noted(self: Collate, samples: Any) -> Batch:
        batch = stack(self, samples)
        if len(batch) > 6:  # not validation's
            seen.append(tuple(batch.image.shape[2:]))
        return batch

    monkeypatch.setattr(Collate, "stack", noted)
    return seen


def test_the_last_epochs_see_whole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fed(monkeypatch)
    late = ("augment.late_epochs=1", "trainer.max_epochs=3", "trainer.check_precision=false")
    result = quick_call(*SMALL, *CROPS, *late, "out_dir=run", cwd=tmp_path)
    assert result.status == 0, result.err
    assert seen == [(32, 32)] * 6 + [(48, 64)] * 3
    assert "crops of 32 x 32; augment.late, 48 x 64, in the last epoch; loss" in result.out
    assert "warning: augment" not in result.out + result.err

    # A run that is over goes on with them, for longer.
    seen.clear()
    more = ("augment.late_epochs=2", "trainer.max_epochs=5", "augment.late_crop_size=[40,56]")
    result = quick_call("resume=run", *more, cwd=tmp_path)
    assert result.status == 0, result.err
    assert seen == [(40, 56)] * 6


def test_a_run_without_others_says_so(tmp_path: Path) -> None:
    result = quick_call(*SMALL, *CROPS, "augment.late_epochs=9", "out_dir=run", cwd=tmp_path)
    assert result.status == 0, result.err
    text = "augment.late_epochs=9: all 2 epochs of the run are late ones, and augment.train is not"
    assert text in result.out + result.err


def test_a_crop_for_no_epoch_is_told(tmp_path: Path) -> None:
    once = (*SMALL, *CROPS[:2], "trainer.max_epochs=1")
    result = quick_call(*once, CROPS[2], "out_dir=run", cwd=tmp_path)
    assert result.status == 0, result.err
    text = "warning: augment.late_crop_size=[48, 64]: not used, augment.late_epochs is 0"
    assert text in result.out + result.err
    # A file of one's own that knows nothing of it
    result = quick_call(*once, "augment.late_crop_size=null", "out_dir=other", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "late" not in result.out + result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["augment.late_epochs=-1"], "augment.late_epochs=-1: expected at least 0"),
        (["augment.late=[1]"], "augment.late[0]=1: expected a node with _target_"),
        (
            ["augment.late_epochs=1", f"augment.late=[{FLIP[:-1]},p:7}}]"],
            "augment.late[0]: 1 validation error for InitSchema p Input should be less than",
        ),
        (
            ["augment.late_epochs=1", "augment.late_crop_size=[32,32]"],  # the shapes are whole
            "augment.late_crop_size=[32, 32]: no transform of augment.late crops to it; use",
        ),
    ],
)
def test_mistakes_name_the_list(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = call("train.py", *SMALL, *arguments, cwd=tmp_path)
    assert result.status == 1
    assert message in result.err
    assert not any(tmp_path.iterdir())


def test_a_list_for_no_epoch_need_not_fit_the_data() -> None:
    bands = ("data.mean=[0.5,0.5,0.5,0.5]", "data.std=[0.2,0.2,0.2,0.2]")
    given = ("augment=standard", f"augment.train=[{FLIP}]", *bands, "augment.crop_size=null")
    cfg = config("train", *given)
    assert isinstance(cfg, DictConfig), cfg
    assert len(build_augment(cfg).steps) == 1
    late = (*given, "augment.late_epochs=1")
    assert "augment.late[0].height: null is not possible here" in str(config("train", *late))
    text = config("train", *late, "augment.late_crop_size=[32,32]")
    assert "augment.late[2]: ColorJitter cannot take images of 4 channels" in str(text)


@pytest.mark.parametrize(
    ("late", "expected"),
    [((), (32, 32)), ((1, 48, 64), (48, 64)), ((1, 8, 8), (32, 32))],
)
def test_the_larger_crop_decides_what_fits(
    tmp_path: Path, late: tuple[int, ...], expected: tuple[int, int]
) -> None:
    make_voc(tmp_path / "voc", {"train": ["a", "b"], "val": ["c"]})
    epochs, *size = late or (0, 9, 9)
    arguments = (*CROPS[:2], f"augment.late_epochs={epochs}", f"augment.late_crop_size={size}")
    cfg = config("train", "data=voc", f"data.root={tmp_path / 'voc'}", *arguments)
    assert isinstance(cfg, DictConfig), cfg
    data = load_data(cfg, None, Runtime(DistributedContext(), StopSignals(), ExitStack()))
    assert data.image_size == (32, 32)
    assert data.late_size == (tuple(size) if late else (32, 32))
    assert data.largest_size == expected


class Photographs:
    """Of 20 x 30 pixels, but for one of them that was taken upright."""

    def __len__(self) -> int:
        return 100

    def read(self, epoch: int, index: int) -> tuple[Any, Any]:
        size = {14: (30, 20), 90: (20, 36)}.get(index, (20, 30))
        return np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)


def test_a_batch_is_as_large_as_the_largest_of_its_images() -> None:
    """It is padded to that, and what had room for the median did not fit."""
    samples: Any = Photographs()
    medians, largest = seen_sizes(samples, 1, look_for_large=True)
    assert medians == (20, 30)
    assert largest == (30, 36)
    assert seen_sizes(samples, 1, look_for_large=False)[1] == (20, 30)  # as of eight
