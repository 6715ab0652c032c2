"""Checkpoints: whole or not at all, data and no code, and a run that goes on bit for bit."""

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.engine import checkpoint
from segkit.engine.checkpoint import (
    Best,
    Description,
    TrainState,
    find_checkpoint,
    init_from,
    read_checkpoint,
    save_checkpoint,
)
from segkit.errors import CheckpointError

ABOUT = Description(
    config={"data": {"root": "somewhere", "classes": ["a", "b"]}, "seed": 0},
    classes=["a", "b"],
    palette=[[i, 0, 0] for i in range(256)],
    ignore_index=255,
    mean=[0.5] * 3,
    std=[0.25] * 3,
    precision="fp32",
)
SCORES = {"miou": 0.5, "iou": [0.5, None]}


def make_state(num_classes: int = 2, seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, num_classes, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    return TrainState(model, optimizer, scaler, Best("val/miou", "max"))


def take_steps(state: TrainState, count: int) -> None:
    for _ in range(count):
        state.optimizer.zero_grad()
        image = torch.full((2, 3, 6, 6), 0.1 * (state.step + 1))
        state.scaler.scale(state.model(image).square().mean()).backward()  # dropout draws
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.step += 1


def test_round_trip(tmp_path: Path) -> None:
    state = make_state()
    take_steps(state, 2)
    state.best.score, state.best.epoch = 0.5, 1
    state.epoch, state.skipped_steps = 1, 3
    save_checkpoint(tmp_path / "last.pt", state, ABOUT, SCORES)
    found = read_checkpoint(tmp_path / "last.pt")
    assert (found.about, found.scores, found.path) == (ABOUT, SCORES, tmp_path / "last.pt")
    other = make_state(seed=1)
    other.load_state_dict(found.state)
    assert (other.epoch, other.step, other.batch, other.skipped_steps) == (1, 2, 0, 3)
    assert other.best == Best("val/miou", "max", 0.5, 1)
    for name, value in state.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = make_state()
    take_steps(whole, 4)
    first = make_state()
    take_steps(first, 2)
    save_checkpoint(tmp_path / "last.pt", first, ABOUT, {})
    second = make_state(seed=7)
    second.load_state_dict(read_checkpoint(tmp_path / "last.pt").state)
    take_steps(second, 2)
    assert_same(second.state_dict(), whole.state_dict())
    assert whole.scaler.get_scale() == 16.0  # it grew once, after the third step


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_file_holds_tensors_and_builtins_only(tmp_path: Path) -> None:
    state = make_state()
    take_steps(state, 1)
    save_checkpoint(tmp_path / "last.pt", state, ABOUT, SCORES)
    content = torch.load(tmp_path / "last.pt", weights_only=True)

    def walk(value: object) -> None:
        assert type(value) in (dict, list, tuple, str, int, float, bool, type(None), Tensor)
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
    save_checkpoint(path, make_state(), ABOUT, {})
    before = path.read_bytes()

    def die_half_way(content: object, file: Any) -> None:
        file.write(before[: len(before) // 2])
        raise error

    monkeypatch.setattr(torch, "save", die_half_way)
    with pytest.raises(CheckpointError, match=r"could not be written .*is the disk full") as info:
        save_checkpoint(path, make_state(seed=1), ABOUT, {})
    assert "\n" not in str(info.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_came_out_damaged_does_not_replace_the_file_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_state(), ABOUT, {})
    before = path.read_bytes()

    def flip(content: object, file: Any) -> None:
        damaged = bytearray(before)
        damaged[damaged.find(b"somewhere")] ^= 1
        file.write(damaged)

    monkeypatch.setattr(torch, "save", flip)
    with pytest.raises(CheckpointError, match="came out damaged"):
        save_checkpoint(path, make_state(), ABOUT, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was_run"),)


def bad_files(folder: Path) -> dict[str, Path]:
    good = folder / "good.pt"
    save_checkpoint(good, make_state(), ABOUT, {})
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


def test_init_from_takes_what_fits_another_head(tmp_path: Path) -> None:
    source = make_state(num_classes=2)
    save_checkpoint(tmp_path / "last.pt", source, ABOUT, {})
    model = make_state(num_classes=5, seed=1).model
    report = init_from(model, tmp_path / "last.pt")
    assert len(report.taken) == 7  # all but weight and bias of the head
    assert "3.weight is 2x8x1x1 in the file, 5x8x1x1 in the model" in str(report)
    assert torch.equal(model[0].weight, source.model[0].weight)  # type: ignore[index]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_init_from_takes_plain_weights_with_prefixes(tmp_path: Path, prefix: str) -> None:
    weights = make_state().model.state_dict()
    torch.save({prefix + name: value for name, value in weights.items()}, tmp_path / "w.pt")
    model = make_state(seed=1).model
    assert init_from(model, tmp_path / "w.pt").skipped == []
    assert_same(dict(model.state_dict()), dict(weights))


def test_init_from_refuses_a_file_of_which_nothing_fits(tmp_path: Path) -> None:
    torch.save({"format": 1, "other": torch.zeros(1)}, tmp_path / "w.pt")
    message = rf"^init_from={re.escape(str(tmp_path))}/w.pt: none of the 2 entries"
    with pytest.raises(CheckpointError, match=message):
        init_from(make_state().model, tmp_path / "w.pt")


def test_weights_of_a_compiled_model_have_their_plain_names() -> None:
    class Compiled(nn.Module):  # as torch.compile wraps a model
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self._orig_mod = model

    plain = make_state()
    compiled = replace(make_state(seed=1), model=Compiled(make_state(seed=1).model))
    assert compiled.state_dict()["model"].keys() == plain.model.state_dict().keys()
    state = plain.state_dict()
    state["optimizer"] = compiled.optimizer.state_dict()
    compiled.load_state_dict(state)
    assert_same(compiled.state_dict()["model"], plain.state_dict()["model"])


def test_a_run_without_a_scaler_goes_on_from_one_with(tmp_path: Path) -> None:
    state = make_state()
    other = replace(make_state(), scaler=torch.amp.GradScaler("cpu", enabled=False))
    other.load_state_dict(state.state_dict())
    state.load_state_dict(other.state_dict())
    assert state.scaler.get_scale() == 8.0


@pytest.mark.parametrize(
    ("mode", "scores", "improved"),
    [
        ("max", [0.2, 0.1, 0.2, 0.3], [True, False, False, True]),
        ("min", [0.2, 0.3, 0.1], [True, False, True]),
        ("max", [None, None, 0.0, None], [True, False, True, False]),
    ],
)
def test_best(mode: str, scores: list[float | None], improved: list[bool]) -> None:
    best = Best("val/miou", mode)
    for epoch, (score, expected) in enumerate(zip(scores, improved, strict=True), 1):
        assert best.improves(score) is expected
        if expected:
            best.score, best.epoch = score, epoch


def test_format_is_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", make_state(), ABOUT, {})
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["format"] == checkpoint.FORMAT
