"""Bad days of a checkpoint: cut off, damaged, of another kind, or no room for the next one."""

import json
import pickle
import re
import resource
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disks import fill_last_page, filled_up, on_a_disk_of
from scripts import SMALL, Result, call, quick_call
from shared_run import copy_of_run
from torch import Tensor, nn

from segkit.errors import CheckpointError
from segkit.runs.checkpoint import (
    CheckpointMetadata,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from segkit.runs.metrics_log import RunLog
from segkit.runtime.log import log_to_console
from segkit.training.monitor import Best, Monitor
from segkit.training.state import TrainState

PLACES = 20


def make_state(step: int) -> TrainState:
    torch.manual_seed(step)
    model = nn.Conv2d(3, 64, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainState(model, optimizer, scaler, Monitor(Best("val/miou", "max")), step=step)


METADATA = CheckpointMetadata(
    config={"seed": 0},
    classes=["a", "b"],
    palette=[[0, 0, 0]] * 256,
    ignore_index=255,
    mean=[0.5] * 3,
    std=[0.25] * 3,
    precision="fp32",
)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run folder with ``last.pt`` of step 2 and ``previous.pt`` of step 1."""
    (tmp_path / "checkpoints").mkdir()
    last, previous = (tmp_path / "checkpoints" / name for name in ("last.pt", "previous.pt"))
    for step in (1, 2):
        save_checkpoint(last, make_state(step), METADATA, {}, previous=previous)
    log_to_console()
    yield tmp_path
    log_to_console()


def refusal(path: Path) -> str:
    """What is said about a file that cannot be read: one line that begins with its name."""
    with pytest.raises(CheckpointError) as info:
        read_checkpoint(path)
    assert str(info.value).startswith(f"{path}: ")
    assert "\n" not in str(info.value)
    return str(info.value).removeprefix(f"{path}: ")


def assert_previous_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    found = newest_checkpoint(run)
    assert found is not None
    assert (found.path, found.state["step"]) == (run / "checkpoints/previous.pt", 1)
    damaged, taken = capsys.readouterr().out.splitlines()
    assert damaged.startswith(f"warning: {run}/checkpoints/last.pt: ")
    assert taken == f"{run}/checkpoints/previous.pt is taken instead, at step 1"


def test_cut_off_anywhere_it_is_refused_and_the_previous_one_taken(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints/last.pt"
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, PLACES, dtype=int):
        path.write_bytes(whole[:place])
        assert re.match("empty file|cut off or damaged|not ", refusal(path)), place
        assert_previous_is_taken(run, capsys)


def contents(archive: Path) -> list[int]:
    """The positions of the bytes in a zip file that are content, and not alignment or names."""
    raw, found = archive.read_bytes(), []
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            name, extra = (
                int.from_bytes(raw[info.header_offset + i :][:2], "little") for i in (26, 28)
            )
            first = info.header_offset + 30 + name + extra
            found += range(first, first + info.file_size)
    return found


def test_one_flipped_bit_of_its_content_is_noticed_and_the_previous_one_taken(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints/last.pt"
    whole, places = path.read_bytes(), contents(path)
    for i in np.linspace(0, len(places) - 1, PLACES, dtype=int):
        damaged = bytearray(whole)
        damaged[places[i]] ^= 1 << i % 8
        path.write_bytes(damaged)
        assert re.match("damaged, the check sum of .* is wrong", refusal(path)), i
        assert_previous_is_taken(run, capsys)


def test_a_flipped_byte_anywhere_is_noticed_or_changes_nothing(run: Path) -> None:
    """Alignment, times and the like have no check sum, and need none."""
    path = run / "checkpoints/last.pt"
    whole, sound = path.read_bytes(), read_checkpoint(path)
    noticed = 0
    for place in np.linspace(0, len(whole) - 1, PLACES, dtype=int):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            noticed += 1
        else:
            assert (found.metadata, found.scores) == (sound.metadata, sound.scores)
            assert_same(found.state, sound.state)
    assert noticed >= PLACES / 2


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_all_damaged_is_an_error_and_not_a_fresh_start(run: Path) -> None:
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints can be read; start anew"):
        newest_checkpoint(run)


# From end to end


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run ``whole``, of two epochs."""
    return copy_of_run(tmp_path_factory, "plain", "whole")


def train(home: Path, name: str, *arguments: str) -> Result:
    return quick_call(*SMALL, *arguments, f"out_dir={name}", cwd=home)


def state(run: Path) -> dict[str, Any]:
    content = read_checkpoint(run / "checkpoints/last.pt").state
    return {name: value for name, value in content.items() if name != "seconds"}


def test_a_resume_from_the_previous_one_ends_with_the_same_bits(home: Path) -> None:
    shutil.copytree(home / "whole", home / "damaged")
    last = home / "damaged/checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    result = train(home, "damaged", "resume=auto")
    assert result.status == 0, result.err
    assert f"warning: {last}: cut off or damaged" in result.out
    # best.pt may be of the same step
    assert re.search(r"/(previous|best)\.pt is taken instead, at step 3\n", result.out)
    assert_same(state(home / "damaged"), state(home / "whole"))


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was_run"),)


def plain_weights(path: Path) -> None:
    """As torchvision's: a state dict and nothing else."""
    torch.save({"features.0.0.weight": torch.zeros(5), "classifier.1.bias": torch.zeros(5)}, path)


def text(path: Path) -> None:
    path.write_text("epoch,loss\n1,0.5\n")


def other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not weights")


def code(path: Path) -> None:
    torch.save({"format": 1, "state": Payload(), "about": {}, "scores": {}}, path)


def old_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def other_format(path: Path) -> None:
    content = torch.load(path.parent / "whole/checkpoints/last.pt", weights_only=True)
    torch.save(content | {"format": 99, "segkit": "9.0"}, path)


NOT_TENSORS = "not a file written by torch.save|not readable as tensors"
KINDS: list[tuple[Callable[[Path], None], str]] = [
    (plain_weights, "no checkpoint of segkit|none of the 2 entries of the file fits the model"),
    (text, NOT_TENSORS),
    (other_archive, NOT_TENSORS),
    (code, "refused, because it holds code"),
    (old_pickle, NOT_TENSORS),
    (other_format, r"checkpoint format 99; segkit \S+ reads format 1. Use the segkit that wrote"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "expected"),
    [kind if kind[0] is code else pytest.param(*kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_another_kind_of_file_is_refused_in_one_line(
    home: Path, make: Callable[[Path], None], expected: str
) -> None:
    path = home / f"{make.__name__}.pt"
    make(path)
    results = [
        call("train.py", f"resume={path}", cwd=home),
        call("evaluate.py", f"checkpoint={path}", cwd=home),
        train(home, "never", f"init_from={path}", "data.check=false"),
    ]
    for result in results:
        assert result.status == 1
        assert re.search(expected, result.err), result.err
        assert len(result.err.splitlines()) == 1
        assert "weights_only" not in result.err
    assert not (home / "was_run").exists()
    assert not (home / "never").exists()


# No room


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From the second epoch on no file may exceed 64 KiB, as with a quota; needs no rights."""
    if sys.platform == "win32":
        pytest.skip("no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = RunLog.epoch

    def epoch(self: RunLog, values: dict[str, float]) -> None:
        if values["epoch"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
        write(self, values)

    monkeypatch.setattr(RunLog, "epoch", epoch)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


NO_ROOM = r"checkpoints/last.pt: could not be written \((File too|No space).*; is the disk full\?\)"


def assert_whole(run: Path, steps: dict[str, int]) -> None:
    """The run's checkpoints are these, at these steps, all sound, and nothing else is there."""
    found = {file.name: file for file in (run / "checkpoints").iterdir()}
    assert {name: read_checkpoint(file).state["step"] for name, file in found.items()} == steps


def epochs(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text().strip().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


@pytest.mark.slow
@pytest.mark.usefixtures("small_files")
def test_no_room_and_the_training_goes_on(home: Path) -> None:
    result = train(home, "goes_on", "trainer.max_epochs=3")
    assert result.status == 1
    assert len(re.findall(f"error: .*{NO_ROOM}.*Training goes on", result.out)) == 2
    assert re.fullmatch(f"error: .*{NO_ROOM}. What was there before is untouched\n", result.err)
    assert_whole(home / "goes_on", {"last.pt": 3, "best.pt": 3})
    assert epochs(home / "goes_on") == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.usefixtures("small_files")
def test_no_room_and_the_training_stops(home: Path) -> None:
    result = train(home, "stops", "trainer.max_epochs=3", "trainer.on_save_error=stop")
    assert result.status == 1
    assert re.fullmatch(f"error: .*{NO_ROOM}. What was there before is untouched\n", result.err)
    assert "Training goes on" not in result.out
    assert_whole(home / "stops", {"last.pt": 3, "best.pt": 3})
    assert epochs(home / "stops") == [1, 2]


@pytest.mark.slow
@pytest.mark.usefixtures("small_files")
def test_room_again_before_the_end_is_as_if_nothing_had_happened(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = RunLog.close

    def widen(self: RunLog) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        close(self)

    monkeypatch.setattr(RunLog, "close", widen)
    run = train(home, "late", "trainer.max_epochs=3")
    assert run.status == 1  # the last state never reached the disk
    monkeypatch.undo()
    result = train(home, "late", "trainer.max_epochs=3", "resume=auto")
    assert result.status == 0, result.err
    assert epochs(home / "late") == [1, 2, 3]
    whole = train(home, "three", "trainer.max_epochs=3")
    assert whole.status == 0
    assert_same(state(home / "late"), state(home / "three"))


@pytest.mark.slow
def test_a_disk_that_holds_two_checkpoints(home: Path) -> None:
    """The third is written beside them before it takes the place of one: there is no room."""
    size = (home / "whole/checkpoints/last.pt").stat().st_size

    def task(disk: Path) -> dict[str, Any]:
        result = train(home, str(disk / "run"), "trainer.max_epochs=3")
        names = sorted(file.name for file in (disk / "run/checkpoints").iterdir())
        last = read_checkpoint(disk / "run/checkpoints/last.pt")
        return {"result": result, "names": names, "step": last.state["step"]} | {
            "epochs": epochs(disk / "run")
        }

    found = on_a_disk_of(int(2.7 * size) + 2**16, home, task)
    assert found["result"].status == 1
    assert re.search(f"error: .*{NO_ROOM}.*Training goes on", found["result"].out)
    assert re.fullmatch(f"error: .*{NO_ROOM}.*untouched\n", found["result"].err)
    assert (found["step"], found["epochs"]) == (6, [1, 2, 3])
    assert not [name for name in found["names"] if name.endswith(".tmp")]


@pytest.mark.slow
def test_a_disk_that_is_full_to_the_last_byte(home: Path) -> None:
    """Nothing at all can be written from the second epoch on, neither curves nor lines."""

    def task(disk: Path) -> dict[str, Any]:
        write = RunLog.epoch

        def epoch(self: RunLog, values: dict[str, float]) -> None:
            if values["epoch"] == 2:
                filled_up(disk)
                fill_last_page(disk / "run/metrics.jsonl")
            write(self, values)

        RunLog.epoch = epoch  # type: ignore[method-assign]  # in this process alone
        result = train(home, str(disk / "run"), "trainer.max_epochs=3")
        names = sorted(file.name for file in (disk / "run/checkpoints").iterdir())
        step = read_checkpoint(disk / "run/checkpoints/last.pt").state["step"]
        return {"result": result, "names": names, "step": step, "epochs": epochs(disk / "run")}

    found = on_a_disk_of(2**24, home, task)
    result = found["result"]
    assert result.status == 1
    assert "metrics.jsonl: could not be written (No space left on device). Training" in result.out
    assert result.out.count("TensorBoard stops here") <= 1
    assert "Traceback" not in result.out + result.err
    assert re.fullmatch(f"error: .*{NO_ROOM}.*untouched\n", result.err)
    assert (found["step"], found["epochs"]) == (3, [1])  # the first epoch, whole
    assert found["names"] == ["best.pt", "last.pt"]
