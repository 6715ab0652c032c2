"""When checkpoints are written, under which names, and what happens if one cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from states import METADATA, make_state, take_steps

from segkit.errors import CheckpointError
from segkit.runs.checkpoint import best_file, read_checkpoint
from segkit.runtime.log import log_to_console
from segkit.training import saver as saving
from segkit.training.monitor import Best
from segkit.training.saver import Saver
from segkit.training.state import TrainState

NONE = Best("val/miou", "max")


def saver_and_state(folder: Path, keep_best: int = 1) -> tuple[Saver, TrainState]:
    state = make_state()
    return Saver(folder, METADATA, state.monitor.best, keep_best=keep_best), state


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def finish_epoch(saver: Saver, state: TrainState, score: float) -> None:
    """One step and the validation of an epoch, as ``train.py`` does them."""
    take_steps(state, 1)
    epoch = state.epoch + 1
    state.monitor.best.update(score, epoch, {}, saver.keep_best)
    state.finish_epoch()
    saver.save(state, {"miou": score})


def step_in(path: Path) -> int:
    return int(read_checkpoint(path).state["step"])


def test_the_one_before_and_the_best_stay_beside_the_last(tmp_path: Path) -> None:
    saver, state = saver_and_state(tmp_path)
    finish_epoch(saver, state, 0.5)
    assert names(tmp_path) == {"last.pt", "best.pt"}
    finish_epoch(saver, state, 0.4)
    assert names(tmp_path) == {"last.pt", "previous.pt", "best.pt"}
    steps = [step_in(tmp_path / f"{name}.pt") for name in ("last", "previous", "best")]
    assert steps == [2, 1, 1]
    assert read_checkpoint(tmp_path / "best.pt").scores == {"miou": 0.5}


def test_the_best_epochs_keep_a_file_each(tmp_path: Path) -> None:
    saver, state = saver_and_state(tmp_path, keep_best=2)
    kept = []
    for score in (0.2, 0.3, 0.1, 0.25, 0.4):
        finish_epoch(saver, state, score)
        kept.append(sorted(file.name for file in tmp_path.glob("epoch_*")))
    assert kept == [
        ["epoch_1.pt"],
        ["epoch_1.pt", "epoch_2.pt"],
        ["epoch_1.pt", "epoch_2.pt"],
        ["epoch_2.pt", "epoch_4.pt"],
        ["epoch_2.pt", "epoch_5.pt"],
    ]
    assert [step_in(tmp_path / f"epoch_{n}.pt") for n in (2, 5)] == [2, 5]
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "epoch_5.pt").read_bytes()


def test_a_run_in_another_folder_takes_its_best_along(tmp_path: Path) -> None:
    """Without it ``evaluate.py`` would take the last epoch for the best."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    saver, state = saver_and_state(old, keep_best=3)
    for score in (0.5, 0.4, 0.9):
        finish_epoch(saver, state, score)
    found = {n: best_file(read_checkpoint(old / f"epoch_{n}.pt")) for n in (1, 2, 3)}
    assert found == {1: old / "epoch_1.pt", 2: old / "epoch_1.pt", 3: old / "epoch_3.pt"}
    assert best_file(read_checkpoint(old / "last.pt")) == old / "last.pt"

    state = make_state()
    state.load_state_dict(read_checkpoint(old / "epoch_2.pt").state)
    first = Saver(new, METADATA, state.monitor.best, best_file=found[2])
    finish_epoch(first, state, 0.45)
    assert [step_in(new / f"{name}.pt") for name in ("best", "last")] == [1, 3]
    finish_epoch(first, state, 0.6)
    assert step_in(new / "best.pt") == 4
    # One that is better at once is the best.
    again = Saver(new, METADATA, state.monitor.best, best_file=found[2])
    finish_epoch(again, state, 0.7)
    assert step_in(new / "best.pt") == 5
    (old / "epoch_1.pt").unlink()
    assert best_file(read_checkpoint(old / "epoch_2.pt")) is None  # best.pt is epoch 3


def test_within_an_epoch_only_the_last_is_written(tmp_path: Path) -> None:
    saver, state = saver_and_state(tmp_path, keep_best=2)
    finish_epoch(saver, state, 0.5)  # the best so far is that of this epoch, also after it
    before = (tmp_path / "best.pt").read_bytes()
    take_steps(state, 1)
    state.images = 8
    saver.save(state, {})
    assert names(tmp_path) == {"last.pt", "previous.pt", "best.pt", "epoch_1.pt"}
    assert step_in(tmp_path / "last.pt") == 2
    assert (tmp_path / "best.pt").read_bytes() == before


def test_due_by_steps() -> None:
    saver = Saver(None, METADATA, NONE, every_steps=3)
    assert [step for step in range(1, 8) if saver.due(step)] == [3, 6]
    assert not any(Saver(None, METADATA, NONE).due(step) for step in range(1, 8))


def test_due_by_minutes_since_the_last_save(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(saving, "time", clock)
    saver = Saver(None, METADATA, NONE, every_minutes=0.5)
    clock.now += 29
    assert not saver.due(1)
    clock.now += 1
    assert saver.due(2)
    saver.save(make_state(), {})
    assert not saver.due(3)
    clock.now += 30
    assert saver.due(4)


def test_only_one_process_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "save_checkpoint", lambda *_, **__: pytest.fail("wrote"))
    saver = Saver(None, METADATA, NONE)
    saver.save(make_state(), {})
    saver.close()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    for name in (".last.pt.tmp", ".epoch_3.pt.tmp", "last.pt", "mine.tmp"):
        (tmp_path / name).touch()
    Saver(tmp_path, METADATA, NONE)
    assert names(tmp_path) == {"last.pt", "mine.tmp"}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A disk without space; ``undo()`` frees some."""

    log_to_console()
    monkeypatch.setattr(torch, "save", raise_full)
    return monkeypatch


def raise_full(content: object, file: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_said_and_the_run_goes_on(
    tmp_path: Path, full_disk: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saver, state = saver_and_state(tmp_path)
    finish_epoch(saver, state, 0.5)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"error: {tmp_path / 'last.pt'}: could not be written (No space left")
    assert line.endswith("Training goes on (trainer.on_save_error=continue)")
    assert names(tmp_path) == set()
    with pytest.raises(CheckpointError, match="could not be written"):
        saver.close()  # a run whose result is lost does not end as if all were well
    full_disk.undo()
    finish_epoch(saver, state, 0.6)
    saver.close()
    assert step_in(tmp_path / "last.pt") == 2


def test_an_epoch_that_could_not_be_saved_is_not_taken_for_the_best(
    tmp_path: Path, full_disk: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk.undo()
    saver, state = saver_and_state(tmp_path, keep_best=2)
    for score in (0.5, 0.4):
        finish_epoch(saver, state, score)
    with full_disk.context() as patch:
        patch.setattr(torch, "save", raise_full)
        finish_epoch(saver, state, 0.9)
    assert "Epoch 3 has no file and is not counted among the best. Training goes on" in (
        capsys.readouterr().out
    )
    assert names(tmp_path) == {"last.pt", "previous.pt", "best.pt", "epoch_1.pt", "epoch_2.pt"}
    finish_epoch(saver, state, 0.45)  # there is room again
    saver.close()
    assert (state.monitor.best.epoch, state.monitor.best.kept) == (1, [(0.5, 1), (0.45, 4)])
    assert step_in(tmp_path / "best.pt") == 1
    assert names(tmp_path) == {"last.pt", "previous.pt", "best.pt", "epoch_1.pt", "epoch_4.pt"}


def test_a_full_disk_stops_the_run_if_that_is_wanted(
    tmp_path: Path, full_disk: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path, METADATA, NONE, stop_on_error=True)
    with pytest.raises(CheckpointError, match="What was there before is untouched"):
        finish_epoch(saver, make_state(), 0.5)


def test_the_kept_files_survive_a_save_that_fails(
    tmp_path: Path, full_disk: pytest.MonkeyPatch
) -> None:
    full_disk.undo()
    saver, state = saver_and_state(tmp_path)
    finish_epoch(saver, state, 0.2)
    finish_epoch(saver, state, 0.3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(content: object, file: Any) -> None:
        file.write(before["last.pt"][:100])
        raise OSError(28, "No space left on device")

    full_disk.setattr(torch, "save", full)
    finish_epoch(saver, state, 0.4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
