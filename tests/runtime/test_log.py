"""The lines for people, ``metrics.jsonl`` and TensorBoard."""

import builtins
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.config.schema import TrainConfig
from segkit.runs.metrics_log import RunLog, curve_name
from segkit.runtime.log import log, log_to_console, log_to_file, progress
from segkit.training.monitor import Best
from segkit.training.summary import hyperparameters, results_of, score_text


@pytest.fixture(autouse=True)
def console() -> Iterator[None]:
    log_to_console()
    yield
    log_to_console()  # closes files


def test_lines_go_to_the_console_and_with_the_time_to_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.info("before")
    log_to_file(tmp_path / "train.log")
    log.warning("epoch %d", 1)
    assert capsys.readouterr().out == "before\nepoch 1\n"
    text = (tmp_path / "train.log").read_text()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    # Also what was said before there was a file.
    assert re.fullmatch(rf"{time} INFO before\n{time} WARNING epoch 1\n", text)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is full")
@pytest.mark.parametrize("place", ["pipe", "/dev/full"])
def test_a_console_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "pipe":  # whose reader has gone, as that of `train.py | head -n 1`
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(place, os.O_WRONLY)
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        log.info("before")
        log_to_file(tmp_path / "train.log")
        log.info("after")
        print("at the end of the program")
        out.flush()  # as Python itself does then
    text = (tmp_path / "train.log").read_text()
    assert re.findall(r"INFO (\w+)", text) == ["before", "after"]


def test_a_second_run_in_one_process_leaves_the_first_log_alone(tmp_path: Path) -> None:
    log_to_file(tmp_path / "first.log")
    first = next(h for h in log.handlers if isinstance(h, logging.FileHandler))
    log_to_console()
    log_to_file(tmp_path / "second.log")
    log.info("two")
    assert (tmp_path / "first.log").read_text() == ""
    assert "two" in (tmp_path / "second.log").read_text()
    assert first not in log.handlers
    assert first.stream is None  # closed


def test_progress_shows_what_it_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    log_to_console()
    assert list(progress(range(3), "val", 3, "images")) == [0, 1, 2]
    assert re.search(r"val: +0%.* 0/3 .*\? images/s", capsys.readouterr().err)


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), "epoch 1")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_metrics_are_strict_json_one_line_per_epoch(tmp_path: Path) -> None:
    run_log = RunLog(tmp_path)
    run_log.epoch({"epoch": 1, "val/miou": 0.5, "val/iou/cat": None})
    run_log.epoch({"epoch": 2, "train/loss": float("nan"), "val/miou": float("-inf")})
    run_log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"epoch": 1, "val/miou": 0.5, "val/iou/cat": None},
        {"epoch": 2, "train/loss": None, "val/miou": None},
    ]


def test_tensorboard_holds_curves_images_and_text(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_log = RunLog(tmp_path)
    for step in (1, 2):
        run_log.scalars({"val/miou": step / 4, "val/iou/cat": None}, step)
    run_log.image("val/image", np.zeros((4, 5, 3), np.uint8), 2)
    run_log.text("config", "seed: 0")
    run_log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert tags["scalars"] == ["val/miou"]
    assert [(e.step, e.value) for e in events.Scalars("val/miou")] == [(1, 0.25), (2, 0.5)]
    assert [(e.step, e.width, e.height) for e in events.Images("val/image")] == [(2, 5, 4)]
    assert tags["tensors"] == ["config/text_summary"]


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("lr", "train/lr"),
        ("seconds", "watch/seconds"),
        ("train/loss/ce", "train/loss/ce"),
        ("train/grad_norm", "watch/grad_norm"),
        ("val/fw_iou", "val_means/fw_iou"),
        ("val/not_finite", "val/not_finite"),
        ("val_raw/miou", "val_raw/miou"),
        ("val/miou", "val/miou"),
        ("val/iou/cat", "val_iou/cat"),
        ("val/f1/left/right", "val_f1/left/right"),  # a class name may hold anything
        ("step/train/loss/ce", "within_epoch/train/loss/ce"),
    ],
)
def test_curves_are_grouped(name: str, drawn: str) -> None:
    assert curve_name(name) == drawn


def test_runs_are_compared_by_settings_and_final_scores(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    best = Best("val/loss", "min", 0.25, epoch=3, scores={"miou": 0.5, "fw_iou": None, "iou": [1]})
    run_log = RunLog(tmp_path)
    run_log.hparams({"backbone": "resnet50", "lr": 0.1}, results_of(best), step=7)
    run_log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    final = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert {tag: (e.step, e.value) for tag, (e,) in final.items()} == {
        "val_best/miou": (7, 0.5),
        "val_best/loss": (7, 0.25),
    }
    kept = events.PluginTagToContent("hparams")
    experiment, start = (
        HParamsPluginData.FromString(kept[f"_hparams_/{name}"])
        for name in ("experiment", "session_start_info")
    )
    assert {info.name.tag for info in experiment.experiment.metric_infos} == set(final)
    settings = start.session_start_info.hparams
    assert settings["backbone"].string_value == "resnet50"
    assert settings["lr"].number_value == 0.1


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"backbone": {"_target_": "segkit.models.backbones.ResNet", "name": "r50"}}, "r50"),
        ({"backbone": {"_target_": "segkit.models.backbones.Tiny", "width": 32}}, "Tiny"),
        ({"_target_": "mine.Model"}, "None"),
        ({"_target_": "mine.Model", "backbone": "resnet18"}, "resnet18"),
    ],
)
def test_backbones_of_one_kind_are_told_apart(model: dict[str, Any], named: str) -> None:
    part = {"_target_": "some.Kind", "lr": 0.1}
    loss = {"_target_": "mine.Loss"}
    settings = TrainConfig(model=model, loss=loss, optimizer=part, scheduler=part)
    assert hyperparameters(settings, 8)["backbone"] == named


def test_a_score_that_is_not_there_is_no_zero() -> None:
    assert [score_text(score) for score in (None, 0.0)] == ["none", "0.0000"]


def test_a_resumed_run_draws_no_step_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, purge_step in ((1, None), (3, 3)):
        run_log = RunLog(tmp_path, purge_step=purge_step)
        for step in range(first, first + 4):
            run_log.scalars({"step/lr": first + step / 10}, step)
        run_log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("within_epoch/lr")]
    assert found == [(s, pytest.approx((1 if s < 3 else 3) + s / 10)) for s in range(1, 7)]


@pytest.mark.parametrize("rest", ["", '{"epoch": 4, "val', "\n", "null\n", '{"loss": 1}\n'])
def test_a_resumed_run_writes_its_epochs_again(tmp_path: Path, rest: str) -> None:
    lines = "".join(f'{{"epoch": {epoch}}}\n' for epoch in (1, 2, 3))
    (tmp_path / "metrics.jsonl").write_text(lines + rest)
    run_log = RunLog(tmp_path, epoch=2)
    run_log.epoch({"epoch": 3, "val/miou": 0.5})
    run_log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3, "val/miou": 0.5}\n'


def test_a_line_that_was_cut_off_is_dropped_although_its_epoch_is_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2, "val/mi')
    RunLog(tmp_path, epoch=2).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'


def test_what_a_power_cut_left_of_a_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n\xff\xfe\0\0\n{"epoch": 2}\n')
    RunLog(tmp_path, epoch=2).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"epoch": 1}\n'


def test_a_line_has_reached_the_disk_when_the_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    run_log = RunLog(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    run_log.epoch({"epoch": 1})
    assert sizes == [(tmp_path / "metrics.jsonl").stat().st_size]
    run_log.close()


def test_of_several_processes_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_log = RunLog(None)
    run_log.scalars({"val/miou": 0.5}, 1)
    run_log.epoch({"epoch": 1})
    run_log.flush()
    run_log.close()
    assert list(tmp_path.iterdir()) == []


def test_the_other_processes_tell_their_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_console(rank=2)
    log.info("fine")
    log.warning("careful")
    log.error("error: broken")
    assert capsys.readouterr().out == "[process 2] error: broken\n"


def test_a_full_disk_ends_tensorboard_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_log = RunLog(tmp_path)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    writer = run_log.writer
    monkeypatch.setattr(writer, "add_scalar", full)
    run_log.scalars({"val/miou": 0.5, "val/loss": 1.0}, 1)
    run_log.image("val/image", np.zeros((4, 5, 3), np.uint8), 1)
    run_log.epoch({"epoch": 1})
    run_log.close()
    writer.close()
    assert capsys.readouterr().out.count("TensorBoard stops here") == 1
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'


@pytest.mark.parametrize("error", [ImportError("no module"), OSError(28, "No space left")])
def test_a_run_goes_on_without_tensorboard(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    real_import = builtins.__import__

    def failing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise error
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", failing)
    run_log = RunLog(tmp_path)
    run_log.scalars({"val/miou": 0.5}, 1)
    run_log.epoch({"epoch": 1})
    run_log.close()
    assert "TensorBoard is not written" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").exists()
