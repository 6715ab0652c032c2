"""Kill a run with SIGKILL at random moments, resume it, compare it with one that was left alone.

    python benchmarks/kills.py --kills 30 [-- key=value ...]

What follows ``--`` goes to train.py, as trainer.device=cuda trainer.deterministic=true.

Every second kill waits for a save and strikes in the middle of it. Loader processes alternate
between 0, 1 and 2, and differ between a run and its resume. A run is the same if the hash of its
weights, their average and the optimizer's state is, and every number in metrics.jsonl and
TensorBoard, save those that tell the time. Prints a Markdown table, and ends with status 1 if any
run differs. Each run is a process of its own, forked so that nothing is imported twice.
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import random
import re
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
FORK = multiprocessing.get_context("fork")
# 3 epochs of 6 steps; random crops, two batches a step, an average, a save after every second step.
SETTINGS = [
    "data.root=data",
    "data.dataset.num_train=24",
    "data.dataset.num_val=4",
    "data.dataset.height=48",
    "data.dataset.width=64",
    "augment=standard",
    "augment.crop_size=[32,48]",
    "model.dropout=0.1",
    "model.backbone.width=16",
    "model.aspp_channels=128",
    "model.decoder_channels=64",
    "loader.batch_size=2",
    "trainer.max_epochs=3",
    "trainer.device=cpu",
    "trainer.accumulate=2",
    "trainer.ema_decay=0.9",
    "trainer.save_every_steps=2",
    "trainer.keep_best=2",
    "trainer.log_every=1",
    "trainer.num_images=1",
]
TIMED = re.compile(r"seconds|images_per_second|memory_mib")
LIMIT = 300  # seconds for one run


@dataclass(frozen=True)
class Kill:
    """What became of one killed run.

    Attributes:
        seconds: From its start to the kill.
        saving: Whether that was in the middle of writing a checkpoint.
        step: Where the resume went on; None if there was nothing to go on from.
        differences: Names of what is not as in the run that was left alone.
    """

    seconds: float
    saving: bool
    step: int | None
    differences: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the runs in this folder")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.out is not None and args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out {args.out}: is not empty, and runs of before would be gone on with")
    SETTINGS.extend(args.overrides)
    with tempfile.TemporaryDirectory() as temporary:
        home = (args.out or Path(temporary)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        print("| kill | loader processes | after | while saving | resumed at step | same |")
        print("| --- | --- | --- | --- | --- | --- |")

        def show(number: int, kill: Kill) -> None:
            step = "afresh" if kill.step is None else kill.step
            same = ", ".join(kill.differences) or "yes"
            print(
                f"| {number + 1} | {number % 3}, then {(number + 1) % 3} | {kill.seconds:.2f} s | "
                f"{'yes' if kill.saving else 'no'} | {step} | {same} |",
                flush=True,
            )

        kills = kill_runs(home, args.kills, args.seed, show)
    same = sum(not kill.differences for kill in kills)
    saving = sum(kill.saving for kill in kills)
    print(f"\n{same} of {len(kills)} are the same; {saving} were killed while saving")
    raise SystemExit(same < len(kills))


def kill_runs(
    home: Path, count: int, seed: int, show: Callable[[int, Kill], None] = lambda *_: None
) -> list[Kill]:
    """Kill ``count`` runs in the empty folder ``home``, and resume each to its end."""
    import segkit  # noqa: F401  (first: sets what other libraries read from the environment)

    import torch  # isort: skip

    torch.set_num_threads(1)  # so that a fork is safe
    runpy.run_path(str(TRAIN), run_name="imported")  # what every run needs
    draw = random.Random(seed)
    train(home, "data_is_made", 0, "trainer.max_epochs=1")
    started = time.monotonic()
    train(home, "whole", 0)
    duration = time.monotonic() - started
    whole = fingerprint(home / "whole")
    kills = []
    for number in range(count):
        run = home / f"killed_{number + 1}"
        aim = draw.randrange(1, 12) if number % 2 else None  # there are 12 saves
        seconds = train_and_kill(home, run.name, number % 3, draw, duration, aim)
        saving = bool([*run.glob("checkpoints/.*.tmp")])
        said = train(home, run.name, (number + 1) % 3)
        found = fingerprint(run)
        step = re.search(r"resume: .*, step (\d+)$", said, re.MULTILINE)
        kills.append(
            Kill(
                seconds,
                saving,
                None if step is None else int(step[1]),
                tuple(name for name in whole if found[name] != whole[name]),
            )
        )
        show(number, kills[-1])
    return kills


def train(home: Path, run: str, num_workers: int, *overrides: str) -> str:
    """Train to the end; returns what it said."""
    process = start(home, run, num_workers, *overrides)
    process.join(LIMIT)
    said = (home / f"{run}.txt").read_text()
    if process.exitcode != 0:
        kill(process)
        raise RuntimeError(f"{run} ended with {process.exitcode}:\n{said}")
    return said


def train_and_kill(
    home: Path, run: str, num_workers: int, draw: random.Random, duration: float, aim: int | None
) -> float:
    """Kill it within ``duration`` seconds, or in its ``aim``-th save; returns after how many."""
    temporary = home / run / "checkpoints" / ".last.pt.tmp"
    while True:
        process = start(home, run, num_workers)
        started = time.monotonic()
        if aim is None:
            process.join(draw.uniform(0, duration))
        else:
            there = False
            while aim and process.is_alive():
                there, before = temporary.exists(), there
                aim -= there and not before
                time.sleep(0.0003)
            time.sleep(draw.uniform(0, 0.01))
        seconds = time.monotonic() - started
        alive = process.is_alive()
        kill(process)
        if alive:
            return seconds
        # It was over already: once more, from the start.
        run_folder = home / run
        run_folder.rename(home / f"{run}_was_faster_{time.monotonic_ns()}")
        aim = None if aim is None else draw.randrange(1, 12)


def start(home: Path, run: str, num_workers: int, *overrides: str) -> Any:
    """A process, leader of a group of its own, that starts or resumes ``run``."""
    arguments = [f"out_dir={run}", "resume=auto", f"loader.num_workers={num_workers}", *overrides]

    def work() -> None:
        os.setsid()
        with (home / f"{run}.txt").open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        os.chdir(home)
        os.environ["XDG_CACHE_HOME"] = str(home / "cache")
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = [str(TRAIN), *SETTINGS, *arguments]
        runpy.run_path(str(TRAIN), run_name="__main__")

    process = FORK.Process(target=work)
    process.start()
    return process


def kill(process: Any) -> None:
    """End the process alone, as the system does; its loader processes have to see to themselves."""
    process.kill()
    process.join()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 0)
            time.sleep(0.01)
            continue
        return
    raise RuntimeError("a loader process outlived its run by 30 s")


def fingerprint(run: Path) -> dict[str, Any]:
    """What must not depend on kills: the state by its hash, and every logged number."""
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every step it drops
    found: dict[str, Any] = {}
    for file in sorted((run / "checkpoints").glob("*.pt")):
        if file.name == "previous.pt":  # a resume may save more often
            continue
        state = torch.load(file, map_location="cpu", weights_only=True)["state"]
        del state["seconds"]
        for name, value in state.items():
            found[f"{file.name}: {name}"] = digest(value)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found["metrics.jsonl"] = [
        {name: value for name, value in json.loads(line).items() if not TIMED.search(name)}
        for line in lines
    ]
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found["TensorBoard"] = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in sorted(events.Tags()["scalars"])
        if not TIMED.search(tag)
    }
    return found


def digest(value: Any) -> str:
    """SHA-256 of tensors, and of the builtins around them, by content."""
    hash_ = hashlib.sha256()

    def add(value: Any) -> None:
        if hasattr(value, "numpy"):
            hash_.update(f"{value.dtype} {tuple(value.shape)}".encode())
            hash_.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                hash_.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            hash_.update(b"[")
            for one in value:
                add(one)
            hash_.update(b"]")
        else:
            hash_.update(repr(value).encode())

    add(value)
    return hash_.hexdigest()


if __name__ == "__main__":
    main()
