"""train.py from end to end on the CPU, on a small set of shapes; test_resume.py goes on."""

import csv
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import result_of
from scripts import SMALL, SMALL_RUN, call, quick_call
from shared_run import copy_of_run
from voc_folder import make_voc

from segkit.runs.checkpoint import read_checkpoint

FILES = {
    ".lock",
    "config.yaml",
    "checkpoints/last.pt",
    "checkpoints/previous.pt",
    "checkpoints/best.pt",
    "metrics.jsonl",
    "metrics.csv",
    *(
        f"plots/{name}.png"
        for name in (
            *("training_images", "validation_images"),
            *("curves", "iou", "confusion_matrix"),
        )
    ),
    "train.log",
    "summary.json",
}
CLASSES = ["background", "disk", "square", "triangle", "star", "ring"]
TINY = (*SMALL_RUN, "model/backbone=tiny", "augment=none", "optimizer=adamw")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run ``first`` of two epochs."""
    return copy_of_run(tmp_path_factory, "plain", "first")


@pytest.fixture(scope="module")
def first(home: Path) -> Path:
    return home / "first"


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    content = torch.load(run / "checkpoints" / name, weights_only=True)
    state: dict[str, torch.Tensor] = content["state"]["model"]
    return state


def numbers(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the machine."""
    timed = ("seconds", "images_per_second", "memory_mib")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines(run)]


def assert_same_run(run: Path, other: Path) -> None:
    assert numbers(run) == numbers(other)
    mine, theirs = weights(run), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def train(home: Path, name: str, *arguments: str) -> Path:
    result = quick_call(*arguments, f"out_dir={name}", cwd=home)
    assert result.status == 0, result.err
    return home / name


def test_a_run_writes_what_is_promised(first: Path, home: Path) -> None:
    files = {str(p.relative_to(first)) for p in first.rglob("*") if p.is_file()}
    events = {name for name in files if name.startswith("tensorboard/")}
    assert files - events == FILES
    assert len(events) == 1
    assert {path.name for path in home.iterdir()} >= {"data", "first"}


def test_the_table_holds_the_lines(first: Path) -> None:
    with (first / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = [{k: "" if v is None else v for k, v in line.items()} for line in lines(first)]
    assert [{k: v and float(v) for k, v in row.items()} for row in rows] == expected


def test_tensorboard_opens_with_losses_and_mean_iou(first: Path) -> None:
    """It opens the first two groups in the order of letters; a group is all before a slash."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(first / "tensorboard"))
    events.Reload()
    tags = sorted(events.Tags()["scalars"] + events.Tags()["images"])
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in tags))
    assert groups[:2] == ["train", "val"]
    shown = [tag for tag in tags if tag.partition("/")[0] in groups[:2]]
    assert shown == [
        "train/loss",
        "train/loss/ce",
        "train/loss/dice",
        "train/lr",
        "val/loss",
        "val/miou",
    ]


def test_one_line_per_epoch_with_every_value(first: Path) -> None:
    log = lines(first)
    assert [line["epoch"] for line in log] == [1, 2]
    assert [line["step"] for line in log] == [3, 6]  # 24 images in batches of 8
    expected = {
        "train/loss",
        "train/loss/ce",
        "train/loss/dice",
        "train/grad_norm",
        "lr",
        "val/loss",
        "val/miou",
    }
    expected |= {f"val/iou/{name}" for name in CLASSES} | {"images_per_second"}
    assert all(expected <= line.keys() for line in log)


def test_the_summary_names_the_best_epoch(first: Path) -> None:
    summary = json.loads((first / "summary.json").read_text())
    scores = [line["val/miou"] for line in lines(first)]
    assert summary["best_score"] == max(scores)
    assert summary["best_epoch"] == 1 + scores.index(max(scores))
    assert summary["scores"]["miou"] == summary["best_score"]
    assert summary["classes"] == CLASSES
    assert len(summary["scores"]["iou"]) == len(CLASSES)
    assert summary["seconds"] > 0


@pytest.mark.slow  # test_resume.py compares its runs, bit for bit
def test_twice_the_same_run(first: Path, home: Path) -> None:
    assert_same_run(first, train(home, "again", *SMALL))


@pytest.mark.slow  # tests/data/test_loader.py compares the batches, bit for bit
def test_loader_processes_change_nothing(first: Path, home: Path) -> None:
    assert_same_run(first, train(home, "workers", *SMALL, "loader.num_workers=1"))


def test_every_loss_trains(home: Path, first: Path) -> None:
    """Together; each alone makes steps in tests/training/test_accumulate.py."""
    terms = ["bce", "dice", "focal", "mse"]
    arguments = (f"loss=[{','.join(terms)}]", "loader.batch_size=12", "trainer.max_epochs=1")
    (line,) = lines(train(home, "losses", *SMALL, *arguments))
    assert line["step"] == 2
    assert all(line[f"train/loss/{term}"] > 0 for term in terms)
    assert line["train/loss"] == pytest.approx(sum(line[f"train/loss/{term}"] for term in terms))


def test_a_run_with_many_settings(home: Path, first: Path) -> None:
    """Weights by name, steps of two batches, clipping, validating less often, another best."""
    arguments = (
        *("loss.terms.ce.loss.class_weights=balanced", "trainer.max_epochs=3"),
        *("trainer.accumulate=2", "trainer.clip_grad_norm=0.1", "trainer.val_every=2"),
        *("trainer.monitor=val/iou/background", "trainer.monitor_mode=min"),
    )
    result = quick_call(*SMALL, *arguments, "out_dir=many", cwd=home)
    assert result.status == 0, result.err
    assert "class weights (balanced): background " in result.out
    run = home / "many"
    content = torch.load(run / "checkpoints/last.pt", weights_only=True)
    saved = content["about"]["config"]["loss"]["terms"]["ce"]["loss"]["class_weights"]
    assert len(saved) == len(CLASSES)
    log = lines(run)
    assert [line["step"] for line in log] == [2, 4, 6]  # three batches: a pair and one more
    assert ["val/miou" in line for line in log] == [False, True, True]
    # The worst epoch is the best, where less is said to be better.
    scores = [line.get("val/iou/background", 2.0) for line in log]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["monitor"] == "val/iou/background"
    assert summary["best_epoch"] == 1 + scores.index(min(scores))


def test_a_loss_that_is_not_finite_stops_the_run(home: Path, first: Path) -> None:
    huge = "optimizer.lr=1e30"
    result = quick_call(*SMALL, huge, "scheduler.warmup_epochs=0", "out_dir=nan", cwd=home)
    assert result.status == 1
    assert "error: step " in result.err
    assert "Try a lower optimizer.lr" in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_the_saved_config_holds_absolute_paths_and_no_secrets(
    home: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_TEST_ROOT", str(home / "data/shapes"))
    from_env = "data.root=${oc.env:SEGKIT_TEST_ROOT}"
    run = train(home, "env", *SMALL, from_env, "trainer.max_epochs=1", "init_from=first")
    text = (run / "config.yaml").read_text()
    assert "root: ${oc.env:SEGKIT_TEST_ROOT}" in text
    assert str(home / "data") not in text
    assert f"init_from: {first}" in text
    config = torch.load(run / "checkpoints/last.pt", weights_only=True)["about"]["config"]
    assert config["data"]["dataset"]["root"] == "${oc.env:SEGKIT_TEST_ROOT}"
    root = read_checkpoint(first).metadata.config["data"]["dataset"][
        "root"
    ]  # not typed: data/shapes
    assert Path(root).is_absolute()
    assert f"root: {root}\n" in (first / "config.yaml").read_text()

    elsewhere = home.parent / "elsewhere"
    elsewhere.mkdir()
    result = call("evaluate.py", f"checkpoint={run}", cwd=elsewhere)
    assert result.status == 0, result.err
    monkeypatch.delenv("SEGKIT_TEST_ROOT")
    result = call("evaluate.py", f"checkpoint={run}", cwd=elsewhere)
    assert result.status == 1
    assert "Environment variable 'SEGKIT_TEST_ROOT' not found" in result.err
    result = call(
        "evaluate.py", f"checkpoint={run}", "data.root=../here/data/shapes", cwd=elsewhere
    )
    assert result.status == 0, result.err


def voc(home: Path, name: str, sizes: dict[str, tuple[int, int]], val: list[str]) -> Path:
    """A VOC folder with images of the given sizes (width, height)."""
    root = make_voc(home / name, {"train": list(sizes), "val": val, "trainval": list(sizes)})
    for item, size in sizes.items():
        for file in root.glob(f"*/{item}.png"):
            Image.open(file).resize(size, Image.Resampling.NEAREST).save(file)
    return root


@pytest.mark.slow
def test_images_of_mixed_sizes_in_odd_batches(home: Path) -> None:
    sizes = {"a": (33, 47), "b": (64, 40), "c": (40, 64), "d": (33, 47), "e": (50, 50)}
    voc(home, "mixed", {**sizes, "f": (65, 33), "g": (20, 21)}, ["f", "g"])
    (home / "mixed/ImageSets/Segmentation/train.txt").write_text("a\nb\nc\nd\ne\n")
    arguments = ("data=voc", "data.root=mixed", "loader.batch_size=2", "trainer.max_epochs=1")
    (line,) = lines(train(home, "mixed_run", *TINY, *arguments, "optimizer.lr=0.01"))
    assert line["step"] == 2  # a last batch of one is left out
    assert line["lr"] == pytest.approx(0.01 * (1 - 1 / 2) ** 0.9)  # and not waited for at the end


@pytest.mark.slow
def test_one_image_one_batch(home: Path) -> None:
    voc(home, "one", {"a": (48, 40)}, ["a"])
    arguments = ("data=voc", "data.root=one", "loader.batch_size=1", "trainer.max_epochs=1")
    (line,) = lines(train(home, "one_run", *TINY, *arguments))
    assert line["step"] == 1
    assert "small for BatchNorm" in (home / "one_run/train.log").read_text()


@pytest.mark.slow
def test_trainval_is_taken_with_a_warning(home: Path) -> None:
    voc(home, "both", {"a": (48, 40), "b": (48, 40)}, ["b"])
    arguments = ("data=voc", "data.root=both", "data.train_split=trainval", "trainer.max_epochs=1")
    result = quick_call(*TINY, *arguments, "out_dir=both_run", cwd=home)
    assert result.status == 0, result.err
    assert "1 of 1 validation images are also trained on" in result.out


@pytest.mark.slow
def test_a_binary_mask_of_0_and_255_with_a_label_map(home: Path) -> None:
    root = voc(home, "binary", {"a": (32, 32), "b": (32, 32)}, ["b"])
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (root / "labels.txt").unlink()
    for name in "ab":
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 8:20] = 255
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
    arguments = ("data=voc", "data.root=binary", "trainer.max_epochs=1", "data.num_classes=2")
    result = quick_call(*TINY, *arguments, "out_dir=refused", cwd=home)
    assert result.status == 1
    assert "data.label_map={255: 1}" in result.err
    assert not (home / "refused").exists()
    (line,) = lines(train(home, "binary_run", *TINY, *arguments, "data.label_map={255:1}"))
    assert "val/iou/class_1" in line


def test_a_corrupt_image_is_found_before_a_folder_is_made(home: Path) -> None:
    root = voc(home, "corrupt", {"a": (32, 32), "b": (32, 32)}, ["b"])
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n")
    image = root / "JPEGImages/a.png"
    image.write_bytes(image.read_bytes()[:200])
    result = quick_call(*TINY, "data=voc", "data.root=corrupt", "out_dir=bad", cwd=home)
    assert result.status == 1
    assert "corrupt/JPEGImages/a.png" in result.err
    assert not (home / "bad").exists()
    assert not (home / "runs").exists()


@pytest.mark.slow
def test_switches_of_the_trainer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Histograms, the other memory order, and a reduced precision that nobody checks."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def fail(*_: object) -> None:
        raise AssertionError("the precision is checked")

    monkeypatch.setattr("segkit.training.precision_check.check_precision", fail)
    switches = ("trainer.histograms=true", "trainer.channels_last=false")
    precision = ("trainer.precision=bf16", "trainer.check_precision=false")
    short = ("trainer.max_epochs=1", "loader.batch_size=2", "trainer.log_every=1")
    run = train(home, "switches", *SMALL, *switches, *precision, *short)
    events = EventAccumulator(str(run / "tensorboard"), {"histograms": 0})
    events.Reload()
    drawn = events.Tags()["histograms"]
    assert {f"logits/{name}" for name in CLASSES} <= set(drawn)
    assert "gradients/classifier.weight" in drawn
    steps = [event.step for event in events.Histograms("logits/disk")]
    assert steps == [12]  # the first validation image, once per validation
    weight = weights(run)["backbone.stem.0.0.weight"]
    assert weight.is_contiguous()
    assert lines(run)[0]["train/loss"] > 0


@pytest.mark.slow
def test_synchronised_batch_norm_is_refused_on_the_cpu(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def process(rank: int) -> tuple[int, str]:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        result = quick_call(*SMALL, "trainer.sync_bn=true", "out_dir=synced", cwd=home)
        return result.status, result.err

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda rank: result_of(partial(process, rank), 120), (0, 1)))
    assert [status for status, _ in found] == [1, 1]
    assert "error in process 0: trainer.sync_bn=true needs CUDA, and this run is on" in found[0][1]
    assert "Traceback" not in found[0][1] + found[1][1]
    assert not (home / "synced").exists()
