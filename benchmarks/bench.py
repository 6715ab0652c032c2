"""Processes of a benchmark: what they say goes to one file, and none outlasts its time."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from kills import fingerprint

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LITTLE_MEMORY = """
import runpy, sys
import segkit
import torch
share = float(sys.argv.pop(1)) * 2**30 / torch.cuda.get_device_properties(0).total_memory
torch.cuda.set_per_process_memory_fraction(share)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SMALL = (
    "data.root=small",
    "data.dataset.num_train=24",
    "data.dataset.num_val=6",
    "data.dataset.height=48",
    "data.dataset.width=64",
    "trainer.max_epochs=2",
    "loader.batch_size=8",
    "loader.num_workers=0",
    "model.backbone.width=8",
    "model.aspp_channels=16",
    "model.decoder_channels=16",
)


class Failed(Exception):
    """What a part found to be wrong."""


@dataclass
class Bench:
    """Where the parts run.

    Attributes:
        device: cuda or cpu.
        folder: For the runs.
        log: Gets all that is said.
        until: End of the part in progress, by ``time.monotonic``.
    """

    device: str
    folder: Path
    log: Path
    until: float = 0.0

    @property
    def settings(self) -> tuple[str, ...]:
        """Of runs whose size does not matter."""
        return SMALL if self.device == "cpu" else ()

    def python(self, *arguments: object, status: int = 0) -> str:
        """What a Python process says, which has to end in time and with this status."""
        paths = [str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        with self.log.open("a+", encoding="utf-8", errors="replace") as log:
            log.write(f"\n$ python {' '.join(map(str, arguments))}\n")
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=self.folder,
                env=environment | {"XDG_CACHE_HOME": str(self.folder / "cache")},
                stdout=log,  # no pipe: what a killed process leaves behind would keep it open
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                ended = f"status {process.wait(max(0.0, self.until - time.monotonic()))}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                ended = "no end in time"
            log.seek(start)
            said = log.read()
        if ended != f"status {status}":
            raise Failed(f"{ended}, expected status {status}; it said\n{said[-3000:]}")
        return said

    def train(self, run: str, *overrides: str, gib: float | None = None, status: int = 0) -> str:
        """``train.py`` with the run folder ``run``, and perhaps with so much memory at most."""
        limit = () if gib is None else ("-c", LITTLE_MEMORY, gib)
        fixed = (f"out_dir={run}", f"trainer.device={self.device}")
        return self.python(*limit, ROOT / "train.py", *fixed, *overrides, status=status)

    def last_epoch(self, run: str) -> dict[str, float]:
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        values: dict[str, float] = json.loads(lines[-1])
        return values

    def same(self, run: str, other: str) -> None:
        """Compare all but the times of two runs."""
        one, two = (fingerprint(self.folder / name) for name in (run, other))
        if differing := [name for name in one if two.get(name) != one[name]]:
            raise Failed(f"{run} and {other} differ in {', '.join(differing)}")
