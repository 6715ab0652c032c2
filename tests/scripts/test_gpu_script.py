"""``benchmarks/gpu.py`` on a machine without a CUDA device: what becomes of its parts."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from scripts import ROOT


@pytest.fixture
def gpu() -> Any:
    return importlib.import_module("gpu")


def bench(gpu: Any, folder: Path, device: str = "cpu") -> Any:
    return gpu.Bench(device, folder, folder / "gpu.log")


def later() -> float:
    return time.monotonic() + 60


def test_ways_out_that_the_message_lacks_are_a_failure(gpu: Any, tmp_path: Path) -> None:
    parts = sys.modules["gpu_parts"]

    class Said:
        message = "error: out of memory: use a smaller loader.batch_size, or a smaller model"

        def train(self, run: str, *arguments: str, **options: Any) -> str:
            return self.message

    with pytest.raises(gpu.Failed, match=r"no way out by augment.crop_size, trainer.precision in"):
        parts.out_of_memory(Said())
    Said.message += ", a smaller augment.crop_size, trainer.precision=bf16"
    assert "what the message names does: loader.batch_size=8 or" in parts.out_of_memory(Said())


@pytest.mark.parametrize(
    ("run", "outcome", "seen"),
    [
        (lambda bench: bench.python("-c", "print('fine')").strip(), "passed", "fine"),
        (
            lambda bench: bench.python("-c", "print('why'); exit(3)"),
            "failed",
            "status 3, expected status 0; it said\nwhy\n",
        ),
        (lambda bench: {}["mIoU"], "failed", "KeyError: 'mIoU'"),
    ],
)
def test_what_a_part_finds_is_recorded(
    gpu: Any, tmp_path: Path, run: Any, outcome: str, seen: str
) -> None:
    part = gpu.Part(run, limit=60)
    found = gpu.attempt(part, bench(gpu, tmp_path), later(), has_cuda=False)
    assert found == (outcome, seen)


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started(
    gpu: Any, tmp_path: Path
) -> None:
    code = "import subprocess, sys\nprint('on the way', flush=True)\n"
    code += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    part = gpu.Part(lambda bench: bench.python("-c", code), limit=2)
    started = time.monotonic()
    outcome, seen = gpu.attempt(part, bench(gpu, tmp_path), later(), has_cuda=False)
    assert time.monotonic() - started < 30
    assert outcome == "failed"
    assert seen == "no end in time, expected status 0; it said\non the way\n"


def test_parts_that_cannot_run_are_told_apart_from_failures(gpu: Any, tmp_path: Path) -> None:
    part = gpu.Part(lambda bench: pytest.fail("ran"), limit=60, needs_cuda=True)
    here, cuda = bench(gpu, tmp_path), bench(gpu, tmp_path, "cuda")
    answers = [
        gpu.attempt(part, cuda, later(), has_cuda=False),
        gpu.attempt(part, here, later(), has_cuda=True),
        gpu.attempt(part, cuda, time.monotonic(), has_cuda=True),
    ]
    assert answers == [
        ("not run", "PyTorch sees no CUDA device"),
        ("not run", "only CUDA can do this"),
        ("not run", "the time was over"),
    ]


@pytest.mark.slow
def test_the_parts_that_need_no_cuda(tmp_path: Path) -> None:
    parts = ["deterministic", "out_of_memory", "torchrun", "end_to_end"]
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--device", "cpu", "--out", tmp_path]
    done = subprocess.run(
        [*command, "--parts", *parts], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    outcomes = {part["part"]: part["outcome"] for part in content["parts"]}
    assert outcomes == dict.fromkeys(parts, "passed") | {"out_of_memory": "not run"}
    table = (tmp_path / "gpu.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table if " passed " in line] == [
        "| deterministic",
        "| torchrun",
        "| end_to_end",
    ]
    assert "$ python -m torch.distributed.run" in (tmp_path / "gpu.log").read_text()
