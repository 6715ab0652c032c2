"""A long run needs no more of the machine at its end than at its beginning."""

import os
import statistics
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripts import call

from segkit.runs.metrics_log import RunLog

EPOCHS, STEPS = 50, 1000
SLACK_MIB = 8  # for 800 steps; 10 KiB a step, a thousandth of what one batch and its network take


@dataclass(frozen=True)
class Usage:
    """Of this process and, for the memory, those that it started."""

    mib: float
    children_mib: float
    files: int
    threads: int
    children: int


def usage() -> Usage:
    processes = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    children = [process for process in processes if parent(process) == os.getpid()]
    return Usage(
        mib=resident(os.getpid()),
        children_mib=sum(map(resident, children)),
        files=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        threads=threading.active_count(),
        children=len(children),
    )


def parent(process: int) -> int | None:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:  # it has ended
        return None


def resident(process: int) -> float:
    """MiB of memory in use."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_files_threads_and_processes_do_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """50 epochs of 20 steps, with an average, saves, images and curves."""
    seen: list[Usage] = []
    write = RunLog.epoch

    def epoch(self: RunLog, values: Mapping[str, float | None]) -> None:
        write(self, values)
        seen.append(usage())

    monkeypatch.setattr(RunLog, "epoch", epoch)
    (tmp_path / "here").mkdir()
    before = usage().children  # Python's own helper process, if an earlier test started it
    result = call(
        "train.py",
        "data.dataset.num_train=40",
        "data.dataset.num_val=2",
        "data.dataset.height=32",
        "data.dataset.width=32",
        "model.backbone.width=8",
        "model.aspp_channels=16",
        "model.decoder_channels=16",
        "loader.batch_size=2",
        f"loader.num_workers={num_workers}",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.device=cpu",
        "trainer.ema_decay=0.9",
        "trainer.save_every_steps=10",
        "trainer.keep_best=3",
        "trainer.log_every=1",
        "out_dir=run",
        cwd=tmp_path / "here",
    )
    assert result.status == 0, result.err
    assert len(seen) == EPOCHS
    assert f'"step": {STEPS}' in (tmp_path / "here/run/metrics.jsonl").read_text().splitlines()[-1]
    early, late = seen[10:20], seen[-10:]
    for what in ("mib", "children_mib"):
        grown = statistics.median(getattr(u, what) for u in late) - statistics.median(
            getattr(u, what) for u in early
        )
        print(f"{num_workers} loader processes: {what} grew by {grown:.2f}")
        assert grown < SLACK_MIB, what
    # The fewest: now and then an epoch ends while a loader process opens or closes something.
    for what in ("files", "threads", "children"):
        assert min(getattr(u, what) for u in late) <= min(getattr(u, what) for u in early), what
    assert usage().children <= before
