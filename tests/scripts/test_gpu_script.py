"""``benchmarks/gpu.py`` on a machine without a CUDA device: its tables, and parts that fail."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from scripts import ROOT
from voc_folder import make_voc


@pytest.fixture
def gpu() -> Any:
    return importlib.import_module("gpu")


@pytest.fixture
def run(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a part with some cases; returns its result."""

    def run_part(cases: dict[str, Any], seconds: float = 60.0) -> Any:
        monkeypatch.setitem(sys.modules, "made_up", SimpleNamespace(cases=lambda options: cases))
        part = gpu.Part("Some cases.", seconds, module="made_up")
        options = gpu.Options("cpu")
        bench = gpu.Bench(options, tmp_path, tmp_path, time.monotonic() + 60)
        return bench.run("part", part)

    return run_part


def rows(*values: Any) -> Callable[[], Iterator[dict[str, Any]]]:
    return lambda: iter({"seen": value} for value in values)


def fails() -> Iterator[dict[str, Any]]:
    yield {"seen": "before"}
    raise ValueError("no such thing\nand more of it")


def dies() -> Iterator[dict[str, Any]]:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    yield {}


def test_a_case_that_fails_or_dies_does_not_end_the_others(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    cases = {"one": rows(1.23456, "a|b"), "bad": fails, "two": rows(1234567.0), "dead": dies}
    result = run(cases | {"three": rows(None)})
    assert result.rows == [
        {"case": "one", "seen": 1.23456},
        {"case": "one", "seen": "a|b"},
        {"case": "bad", "seen": "before"},
        {"case": "bad", "note": "ValueError: no such thing"},
        {"case": "two", "seen": 1234567.0},
        {"case": "dead", "note": "SIGSEGV"},
        {"case": "three", "seen": None},
    ]
    assert result.outcome == "failed: see the notes"
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content[0]["rows"] == result.rows
    table = (tmp_path / "gpu.md").read_text()
    assert "| part | failed: see the notes |" in table
    assert "| case | seen | note |\n| --- | --- | --- |\n| one | 1.23 | - |\n" in table
    assert "| one | a\\|b | - |" in table
    assert "| two | 1234567 | - |" in table
    assert "| three | - | - |" in table
    assert "ValueError: no such thing\nand more of it\n" in table  # the end of the log
    log = (tmp_path / "gpu.log").read_text()
    assert "last words\nFatal Python error: Segmentation fault" in log
    assert "dies" in table  # the function in which it died


def test_rows_are_written_before_the_next_one_is_there(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    def waits() -> Iterator[dict[str, Any]]:
        yield {"seen": "first"}
        table = tmp_path / "gpu.md"
        until = time.monotonic() + 30
        while time.monotonic() < until and not table.exists():
            time.sleep(0.01)
        text = table.read_text()
        yield {"seen": "| slow | first |" in text and "| part | in progress |" in text}

    result = run({"slow": waits})
    assert [row["seen"] for row in result.rows] == ["first", True]


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    def hangs() -> Iterator[dict[str, Any]]:
        child = subprocess.Popen(["sleep", "60"])
        yield {"seen": child.pid}
        child.wait()

    result = run({"one": rows(1), "long": hangs, "never": rows(2)}, seconds=3.0)
    assert result.outcome == "cut off: its time was over"
    assert [row["case"] for row in result.rows] == ["one", "long", "long"]
    assert result.rows[2]["note"] == "cut off"
    until = time.monotonic() + 10
    while time.monotonic() < until and Path(f"/proc/{result.rows[1]['seen']}").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{result.rows[1]['seen']}").exists()


def test_a_part_whose_cases_all_fail_is_given_up(run: Callable[..., Any]) -> None:
    result = run({f"case {i}": fails for i in range(9)})
    assert result.outcome == "failed: given up after ValueError: no such thing"
    assert [row["case"] for row in result.rows[::2]] == ["case 0", "case 1", "case 2"]


def test_a_part_that_cannot_begin_fails_at_once(gpu: Any, tmp_path: Path) -> None:
    bench = gpu.Bench(gpu.Options("cpu"), tmp_path, tmp_path, time.monotonic() + 60)
    result = bench.run("part", gpu.Part("Nothing.", 60, module="no_such_part"))
    name = "ModuleNotFoundError: No module named 'no_such_part'"
    assert result.outcome == f"failed: given up after {name}"


def test_what_a_case_calls_failed_is_a_failure(run: Callable[..., Any]) -> None:
    assert run({"tests": lambda: iter([{"outcome": "passed"}])}).outcome == "done"
    assert run({"tests": lambda: iter([{"outcome": "failed"}])}).outcome == "failed: see the notes"


def test_what_cannot_run_here_is_told_apart_from_failures(gpu: Any, tmp_path: Path) -> None:
    over = gpu.Bench(gpu.Options("cpu"), tmp_path, tmp_path, time.monotonic())
    late = over.run("late", gpu.Part("Too late.", 60, module="made_up"))
    assert (late.rows, late.outcome) == ([], "not run: the time of all parts together was over")
    needy = over.run("needy", gpu.Part("Needs CUDA.", 60, needs_cuda=True, module="made_up"))
    assert (needy.rows, needy.outcome) == ([{"case": "all", "note": "needs CUDA"}], "done")


def test_a_machine_without_a_device_is_refused(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(gpu, "prepare_imports", lambda paths: None)  # they are there
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"PyTorch sees no CUDA device .*gpu\.md says more"):
        gpu.main()
    assert "PyTorch sees no CUDA device" in (tmp_path / "gpu.md").read_text()


def test_a_folder_without_wheels_is_refused(gpu: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no \*\.whl in it"):
        gpu.install(tmp_path, tmp_path / "site", tmp_path / "gpu.log")


def test_the_page_tells_of_all_parts(gpu: Any) -> None:
    page = (ROOT / "benchmarks/README.md").read_text()
    for name, part in gpu.PARTS.items():
        assert f"\n| `{name}` | {part.seconds} | " in page


def test_kernels_count_for_the_phase_in_which_they_were_launched() -> None:
    shares = importlib.import_module("gpu_parts.shares")
    cpu, cuda = shares.DeviceType.CPU, shares.DeviceType.CUDA

    class Kernel(NamedTuple):
        name: str
        duration: float

    def event(start: float, name: str, *kernels: Kernel, device: Any = cpu) -> Any:
        span = SimpleNamespace(start=start)
        return SimpleNamespace(time_range=span, name=name, kernels=kernels, device_type=device)

    events = [
        event(9, "aten::add", Kernel("add", 5)),
        event(1, "phase: network"),
        event(2, "aten::conv", Kernel("conv", 100), Kernel("copy", 10)),
        event(3, "phase: loss"),
        event(2.5, "conv", device=cuda),
        event(4, "aten::exp", Kernel("exp", 30)),
        event(5, "phase: optimizer"),
        event(6, "Optimizer.step", Kernel("Optimizer.step", 400)),  # the range, no kernel
        event(7, "aten::lerp", Kernel("lerp", 7)),
        event(8, "phase: other"),
    ]
    found = shares.of_phases(events, cuda=True)
    assert found == {"network": 110, "loss": 30, "optimizer": 7, "other": 5}
    assert shares.union([(0, 2), (1, 3), (5, 6), (5.5, 5.6)]) == 4


@pytest.mark.slow
def test_all_parts_at_tiny_sizes(gpu: Any, tmp_path: Path) -> None:
    names = [f"image_{i}" for i in range(8)]
    make_voc(tmp_path / "voc", {"train": names, "val": ["a", "b"]})
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--device", "cpu", "--quick"]
    done = subprocess.run(
        [*command, "--data", tmp_path / "voc", "--out", tmp_path / "out", "--seconds", "550"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    table = (tmp_path / "out/gpu.md").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + table
    content = json.loads((tmp_path / "out/gpu.json").read_text())
    seen = {part["part"]: part["rows"] for part in content}
    assert list(seen) == list(gpu.PARTS)
    assert all(part["outcome"] == "done" for part in content)
    notes = {name: {row.get("note") for row in rows} for name, rows in seen.items()}
    assert notes["gpu_tests"] == notes["fused_loss"] == {"needs CUDA"}
    assert "needs CUDA" in notes["factors"] & notes["processes"]
    (first, _) = seen["processes"]
    assert first["loss differs by"] < 1e-6
    assert first["change of weights differs by"] < 1e-5
    assert seen["deterministic"][0]["same bits"] == "yes"
    assert seen["compiled"][0]["breaks"] == 0
    assert seen["compiled"][0]["loss differs by"] < 1e-5
    (shares,) = seen["shares"]
    assert sum(value for name, value in shares.items() if name.endswith("%")) == pytest.approx(100)
    assert shares["network %"] > shares["EMA %"] > 0
    assert all(0 <= row["waiting %"] <= 100 for row in seen["loading"])
    assert len(seen["validation"]) == 4
    assert all(row["segkit ms"] > 0 for row in seen["steps"])
    for part in gpu.PARTS:
        assert f"\n## {part}\n" in table
