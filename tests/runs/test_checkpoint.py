"""Checkpoints: whole or not at all, data and no code, and a run that goes on bit for bit."""

import os
import pickle
import re
import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from states import METADATA, assert_same, make_state, take_steps
from torch import Tensor, nn

from segkit.errors import CheckpointError
from segkit.runs import checkpoint
from segkit.runs.checkpoint import (
    find_checkpoint,
    model_weights,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from segkit.runtime.log import log_to_console
from segkit.training.warm_start import read_start

SCORES = {"miou": 0.5, "iou": [0.5, None]}


def test_round_trip(tmp_path: Path) -> None:
    state = make_state(with_average=True)
    take_steps(state, 2)
    save_checkpoint(tmp_path / "last.pt", state, METADATA, SCORES)
    found = read_checkpoint(tmp_path / "last.pt")
    assert (found.metadata, found.scores, found.path) == (METADATA, SCORES, tmp_path / "last.pt")
    assert found.written_at == (tmp_path / "last.pt").stat().st_mtime_ns
    assert_same(found.state, state.state_dict())


def test_a_file_holds_tensors_and_builtins_only(tmp_path: Path) -> None:
    state = make_state(with_average=True)
    take_steps(state, 1)
    state.monitor.best.kept = [(0.5, 1)]
    save_checkpoint(tmp_path / "last.pt", state, METADATA, SCORES)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    allowed = (dict, OrderedDict, list, tuple, str, int, float, bool, Tensor)

    def walk(value: object) -> None:
        assert value is None or type(value) in allowed
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()]
        if isinstance(value, list | tuple):
            for one in value:
                walk(one)

    walk(content)
    assert content["torch"] == str(torch.__version__)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("enforce fail\n2")])
def test_a_failed_write_leaves_the_file_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_state(), METADATA, {})
    before = path.read_bytes()

    def die_half_way(content: object, file: Any) -> None:
        file.write(before[: len(before) // 2])
        raise error

    monkeypatch.setattr(torch, "save", die_half_way)
    with pytest.raises(CheckpointError, match=r"could not be written .*is the disk full") as info:
        save_checkpoint(path, make_state(seed=1), METADATA, {})
    assert "\n" not in str(info.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_came_out_damaged_does_not_replace_the_file_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_state(), METADATA, {})
    before = path.read_bytes()

    def flip(content: object, file: Any) -> None:
        damaged = bytearray(before)
        damaged[damaged.find(b"somewhere")] ^= 1
        file.write(damaged)

    monkeypatch.setattr(torch, "save", flip)
    with pytest.raises(CheckpointError, match="came out damaged"):
        save_checkpoint(path, make_state(), METADATA, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_further_names_have_the_same_content_and_the_one_before_is_kept(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    best, epoch = tmp_path / "best.pt", tmp_path / "epoch_1.pt"
    save_checkpoint(last, make_state(), METADATA, {}, also=[best, epoch], previous=previous)
    first = last.read_bytes()
    assert best.read_bytes() == epoch.read_bytes() == first
    assert not previous.exists()
    save_checkpoint(last, make_state(seed=1), METADATA, {}, also=[best], previous=previous)
    assert previous.read_bytes() == epoch.read_bytes() == first
    assert last.read_bytes() == best.read_bytes() != first
    assert len(list(tmp_path.iterdir())) == 4


def test_further_names_are_copies_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*names: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    save_checkpoint(tmp_path / "last.pt", make_state(), METADATA, {}, also=[tmp_path / "best.pt"])
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_without_room_for_all_copies_none_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [tmp_path / name for name in ("last.pt", "best.pt", "epoch_2.pt")]
    save_checkpoint(names[0], make_state(), METADATA, {}, also=names[1:2])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    copy = shutil.copyfile

    def refused(*names: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def room_for_one(file: Path, name: Path) -> None:
        if "epoch" in name.name:
            raise OSError(28, "No space left on device")
        copy(file, name)

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(shutil, "copyfile", room_for_one)
    with pytest.raises(CheckpointError, match="is the disk full"):
        save_checkpoint(names[0], make_state(seed=1), METADATA, {}, also=names[1:])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_every_copy_reaches_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = [], os.fsync

    def refused(*names: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "fsync", note)
    save_checkpoint(tmp_path / "last.pt", make_state(), METADATA, {}, also=[tmp_path / "best.pt"])
    assert {path.stat().st_ino for path in tmp_path.iterdir()} <= set(synced)


def test_the_death_of_a_loader_process_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(content: object, file: Any) -> None:  # PyTorch raises it in a signal handler
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(RuntimeError, match="is killed by signal") as info:
        save_checkpoint(tmp_path / "last.pt", make_state(), METADATA, {})
    assert not isinstance(info.value, CheckpointError)
    assert list(tmp_path.iterdir()) == []


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was_run"),)


def bad_files(folder: Path) -> dict[str, Path]:
    good = folder / "good.pt"
    save_checkpoint(good, make_state(), METADATA, {})
    content = torch.load(good, weights_only=True)
    raw = good.read_bytes()
    files: dict[str, bytes | dict[str, Any]] = {
        "truncated": raw[:-100],
        "half": raw[: len(raw) // 2],
        "empty": b"",
        "text": b"epoch,loss\n1,0.5\n",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "plain_weights": make_state().model.state_dict(),
        "newer": content | {"format": 99, "segkit": "9.0"},
        "other_description": content | {"about": {"classes": ["a"]}},
        "malicious": {"format": 1, "state": Malicious()},
        "old_pickle": pickle.dumps(Malicious()),
    }
    paths = {}
    for name, data in files.items():
        paths[name] = folder / f"{name}.pt"
        if isinstance(data, bytes):
            paths[name].write_bytes(data)
        else:
            torch.save(data, paths[name])
    paths["folder"] = folder / "nothing"
    paths["folder"].mkdir()
    paths["missing"] = folder / "missing.pt"
    return paths


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cut off or damaged"),
        ("half", "cut off or damaged"),
        ("empty", "empty file"),
        ("text", "not (a file written by torch.save|readable as tensors)"),
        ("lfs", "run 'git lfs pull'"),
        ("plain_weights", r"no checkpoint of segkit .*0\.weight.*model\.backbone\.weights=PATH"),
        ("newer", r"format 99; segkit \S+ reads format 1. Use the segkit that wrote it, 9\.0"),
        ("other_description", "its description does not fit"),
        ("malicious", "holds code"),
        ("old_pickle", "not a file written by torch.save"),
        ("folder", "no checkpoints/best.pt"),
        ("missing", "no such file"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = bad_files(tmp_path)[kind]
    with pytest.raises(CheckpointError, match=message) as info:
        read_checkpoint(path)
    assert str(info.value).startswith(f"{path}: ")
    assert "\n" not in str(info.value)
    assert "weights_only" not in str(info.value)
    assert not Path("was_run").exists()


def test_a_run_folder_means_its_best_checkpoint_else_its_last(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.pt").touch()
    assert find_checkpoint(tmp_path) == find_checkpoint(folder) == folder / "last.pt"
    (folder / "best.pt").touch()
    assert find_checkpoint(tmp_path) == find_checkpoint(str(folder)) == folder / "best.pt"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with three checkpoints: last.pt at step 3, previous.pt at 2, best.pt at 1."""
    log_to_console()
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    state = make_state()
    for name in ("best", "previous", "last"):
        take_steps(state, 1)
        save_checkpoint(folder / f"{name}.pt", state, METADATA, {})
    return tmp_path / "run"


def newest_step(run: Path) -> int:
    found = newest_checkpoint(run)
    assert found is not None
    return int(found.state["step"])


def test_the_newest_checkpoint_is_the_last_one(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints/previous.pt").write_bytes(b"damaged, and never looked at")
    assert newest_step(run) == 3
    assert capsys.readouterr().out == ""


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.pt.tmp").touch()
    assert newest_checkpoint(tmp_path) is None


def test_a_run_killed_between_the_two_renames_goes_on_from_the_newest(run: Path) -> None:
    (run / "checkpoints/last.pt").unlink()
    assert newest_step(run) == 2
    (run / "checkpoints/previous.pt").unlink()
    assert newest_step(run) == 1


@pytest.mark.parametrize("part", [i / 20 for i in range(20)])
def test_where_the_last_one_is_cut_off_the_one_before_is_taken(
    run: Path, part: float, capsys: pytest.CaptureFixture[str]
) -> None:
    last = run / "checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[: int(part * last.stat().st_size)])
    assert newest_step(run) == 2
    warning, taken = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: {last}: ")
    assert taken == f"{run / 'checkpoints/previous.pt'} is taken instead, at step 2"


def test_a_flipped_bit_is_noticed(run: Path) -> None:
    last = run / "checkpoints/last.pt"
    damaged = bytearray(last.read_bytes())
    damaged[damaged.find(b"somewhere")] ^= 1
    last.write_bytes(damaged)
    assert newest_step(run) == 2


def test_only_damaged_ones_are_an_error(run: Path) -> None:
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-50])
    message = f"{run}: none of its 3 checkpoints can be read; start anew in another"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        newest_checkpoint(run)


def test_the_weights_that_were_validated_are_the_averages_if_there_are_any() -> None:
    plain, averaged = make_state().state_dict(), make_state(with_average=True)
    take_steps(averaged, 2)
    state = averaged.state_dict()
    for which in ("auto", "raw"):
        assert model_weights(plain, which) is plain["model"]
    assert model_weights(state, "raw") is state["model"]
    assert model_weights(state) is model_weights(state, "ema") is state["average"]["model"]
    with pytest.raises(CheckpointError, match="kept no average of its weights; use raw"):
        model_weights(plain, "ema")


def test_init_from_takes_the_average(tmp_path: Path) -> None:
    source = make_state(with_average=True)
    take_steps(source, 2)
    save_checkpoint(tmp_path / "last.pt", source, METADATA, {})
    model = make_state(seed=1).model
    read_start(tmp_path / "last.pt").into(model)
    assert source.average is not None
    assert_same(dict(model.state_dict()), dict(source.average.model.state_dict()))


def test_init_from_takes_the_parts_that_are_asked_for(tmp_path: Path) -> None:
    source = make_state()
    save_checkpoint(tmp_path / "last.pt", source, METADATA, {})
    model = make_state(seed=1).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = read_start(tmp_path / "last.pt", ["3"]).into(model)
    assert sorted(report.taken) == ["3.bias", "3.weight"]
    for name, value in model.state_dict().items():
        origin = source.model.state_dict() if name.startswith("3.") else before
        assert torch.equal(value, origin[name]), name
    with pytest.raises(CheckpointError, match="none of the 0 entries"):
        read_start(tmp_path / "last.pt", ["decoder"]).into(model)


def test_init_from_takes_what_fits_another_head(tmp_path: Path) -> None:
    source = make_state(num_classes=2)
    save_checkpoint(tmp_path / "last.pt", source, METADATA, {})
    model = make_state(num_classes=5, seed=1).model
    report = read_start(tmp_path / "last.pt").into(model)
    assert len(report.taken) == 7  # all but weight and bias of the head
    assert "3.weight is 2x8x1x1 in the file, 5x8x1x1 in the model" in str(report)
    assert torch.equal(model[0].weight, source.model[0].weight)  # type: ignore[index]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_init_from_takes_plain_weights_with_prefixes(tmp_path: Path, prefix: str) -> None:
    weights = make_state().model.state_dict()
    torch.save({prefix + name: value for name, value in weights.items()}, tmp_path / "w.pt")
    model = make_state(seed=1).model
    assert read_start(tmp_path / "w.pt").into(model).skipped == []
    assert_same(dict(model.state_dict()), dict(weights))


def test_init_from_takes_a_model_that_calls_its_layers_as_a_wrapper_does(tmp_path: Path) -> None:
    own = replace(make_state(), model=nn.ModuleDict({"module": make_state().model}))
    save_checkpoint(tmp_path / "last.pt", own, METADATA, {})
    model = nn.ModuleDict({"module": make_state(seed=1).model})
    assert read_start(tmp_path / "last.pt").into(model).skipped == []
    assert_same(dict(model.state_dict()), dict(own.model.state_dict()))


def test_init_from_refuses_a_file_of_which_nothing_fits(tmp_path: Path) -> None:
    torch.save({"format": 1, "other": torch.zeros(1)}, tmp_path / "w.pt")
    message = rf"^init_from={re.escape(str(tmp_path))}/w.pt: none of the 2 entries"
    with pytest.raises(CheckpointError, match=message):
        read_start(tmp_path / "w.pt").into(make_state().model)


def test_format_is_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", make_state(), METADATA, {})
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["format"] == checkpoint.FORMAT
