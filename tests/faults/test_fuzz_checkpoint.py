"""Edited checkpoints and exported files: each works rightly or ends in one line that names it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edits import edited
from numpy.typing import NDArray
from scripts import Result, call, quick_call
from shared_run import copy_of_run
from trained import CLASSES, save_model

from segkit.errors import SegkitError
from segkit.inference.model import load_model
from segkit.inference.onnx_network import DESCRIBED, export_metadata, read_facts
from segkit.runs.checkpoint import read_checkpoint
from segkit.runs.description import described

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
DATA = {
    "dataset": {"_target_": "segkit.data.VOCSegmentation", "_partial_": True, "root": "x"},
    "classes": CLASSES,
    "val_split": "val",
}
PARTS = ("about", "about", "state", "scores", None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of all that a run can have."""
    return copy_of_run(tmp_path_factory, "everything", "run")


@pytest.fixture(scope="module")
def content(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(home / "run/checkpoints/last.pt", weights_only=True)
    return found


def write_edited(path: Path, content: dict[str, Any], seed: int) -> str:
    """Write a checkpoint with one edit; returns which."""
    rng = random.Random(seed)
    part = rng.choice(PARTS)
    if part is None or not content[part]:
        new, what = edited(content, rng)
    else:
        new, what = edited(content[part], rng)
        new = content | {part: new}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(new, path)
    return f"{seed}: {what}"


def in_words(work: Callable[[], object], path: Path, what: str) -> bool:
    """Whether it works; if not, it is refused in one line that names the file."""
    try:
        work()
    except SegkitError as error:
        assert str(path) in str(error), what
        assert len(str(error).splitlines()) == 1, what
        str(error).encode()
        return False
    return True


def predicted(path: Path, what: str) -> NDArray[Any] | None:
    """The mask; None if the file is refused in words."""
    masks: list[NDArray[Any]] = []
    in_words(lambda: masks.append(load_model(path, device="cpu").predict(IMAGE)), path, what)
    return masks[0] if masks else None


def assert_sound(path: Path, what: str) -> None:
    """What was accepted is sound, whatever looked at it before."""
    metadata = read_checkpoint(path).metadata
    assert len(set(metadata.classes)) == len(metadata.classes) == 6, what
    assert np.asarray(metadata.palette).shape == (256, 3), what
    assert np.isfinite(metadata.mean + metadata.std).all(), what
    assert min(metadata.std) > 0, what


def try_edits(content: dict[str, Any], folder: Path, seeds: range) -> dict[bool, int]:
    counts = {True: 0, False: 0}
    for seed in seeds:
        path = folder / "edited.pt"
        what = write_edited(path, content, seed)
        mask = predicted(path, what)
        counts[mask is not None] += 1
        if mask is not None:
            assert_sound(path, what)
    return counts


@pytest.mark.parametrize(
    "numbers", [range(20), pytest.param(range(20, 500), marks=pytest.mark.slow)]
)
def test_edited_checkpoints_are_read_or_refused(tmp_path: Path, numbers: range) -> None:
    recipe = {"config": {"data": {"root": "${oc.env:HOME}"}, "seed": 5}, "choices": {"data": "voc"}}
    best = save_model(tmp_path / "best.pt", with_average=True, config={"data": DATA})
    content = torch.load(best, weights_only=True)
    content["about"]["recipe"] = recipe
    counts = {True: 0, False: 0}
    for seed in numbers:
        what = write_edited(tmp_path / "edited.pt", content, seed)
        counts[in_words(lambda: read_checkpoint(tmp_path / "edited.pt"), tmp_path, what)] += 1
    assert min(counts.values()) > len(numbers) // 15


@pytest.mark.slow
def test_many_edited_checkpoints(content: dict[str, Any], tmp_path: Path) -> None:
    assert min(try_edits(content, tmp_path, range(1000, 2500)).values()) > 200


def resume(home: Path) -> Result:
    return quick_call("resume=edited", "trainer.max_epochs=3", cwd=home)


def evaluate(home: Path) -> Result:
    return call("evaluate.py", "checkpoint=edited", "bootstrap.resamples=0", cwd=home)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "number"), [(resume, 300), (evaluate, 200)])
def test_scripts_go_on_from_edited_checkpoints_or_refuse_them(
    script: Callable[[Path], Result], number: int, home: Path, content: dict[str, Any]
) -> None:
    path = home / "edited/checkpoints/last.pt"
    for seed in range(number):
        what = write_edited(path, content, seed)
        result = script(home)
        first, *more = result.err.splitlines() or [""]
        is_list = first.endswith(" items cannot be used:")  # files, where the labels are changed
        assert result.status == 0 or is_list or not more, (what, result.err)
        assert "Traceback" not in result.out + result.err, what


# Exported files

RAW = ("", "[", "NaN", "[" * 100_000, "1" * 5000, '"\\ud800"', "null", "{}", "[0, 0, 0]")


@pytest.fixture(scope="module")
def exported(home: Path) -> Any:
    onnx = pytest.importorskip("onnx", reason="needs the extra export")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    pytest.importorskip("onnxruntime.transformers", reason="needs the extra export")
    result = call("export.py", "checkpoint=run", "out=run.onnx", "latency.runs=0", cwd=home)
    assert result.status == 0, result.err
    return onnx.load(home / "run.onnx")


def edited_metadata(known: dict[str, Any], rng: random.Random) -> tuple[dict[str, str], str]:
    """Metadata with an edit, as texts, and which it was."""
    new, what = edited(known, rng)
    facts = {str(name): json.dumps(value, default=str) for name, value in new.items()}
    if rng.random() < 0.2:
        name = rng.choice(list(facts))
        facts[name] = rng.choice(RAW)
        what += f" and {facts[name]:.20} as {name}"
    return facts, what


def test_edited_metadata_are_read_or_refused(tmp_path: Path) -> None:
    best = read_checkpoint(save_model(tmp_path / "best.pt", config={"data": DATA}))
    texts = export_metadata(best, preprocessing=True, precision="fp32", opset=18)
    known = {name: json.loads(text) for name, text in texts.items()}
    counts = {True: 0, False: 0}
    for seed in range(300):
        facts, what = edited_metadata(known, random.Random(seed))
        path = tmp_path / "a.onnx"

        def read(path: Path = path, facts: dict[str, str] = facts) -> None:
            found = read_facts(path, facts)
            described(path, {name: found[name] for name in DESCRIBED} | {"precision": "fp32"})

        counts[in_words(read, path, f"{seed}: {what}")] += 1
    assert min(counts.values()) > 10


@pytest.mark.slow
def test_many_edited_metadata(exported: Any, tmp_path: Path) -> None:
    import onnx

    known = {p.key: json.loads(p.value) for p in exported.metadata_props}
    counts = {True: 0, False: 0}
    for seed in range(1000, 2000):
        facts, what = edited_metadata(known, random.Random(seed))
        model = onnx.ModelProto()
        model.CopyFrom(exported)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, facts)
        onnx.save(model, tmp_path / "a.onnx")
        counts[predicted(tmp_path / "a.onnx", f"{seed}: {what}") is not None] += 1
    assert min(counts.values()) > 200
