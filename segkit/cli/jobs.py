"""The jobs of a sweep: what tells them apart, where they write, and the table of all of them.

A job may run in another process or on another machine. Each leaves a small file in the folder of
the sweep, out of which the process that started them makes ``sweep.csv`` at the end.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from segkit.console import say
from segkit.files import write_csv, write_json
from segkit.runs.finished import FinishedRun
from segkit.text import display_path

LONGEST = 100  # characters of a folder's name
TABLE = "sweep.csv"
COLUMNS = ("monitor", "score", "best_epoch", "seconds", "folder", "problem")


def differing(argv: Sequence[str]) -> dict[str, str]:
    """Key -> value of what the job that runs now does not share with all others.

    Args:
        argv: The command line of the sweep, as Hydra got it.
    """
    parser = OverridesParser.create()
    words = [word for word in argv[1:] if "=" in word and not word.startswith("-")]
    typed = parser.parse_overrides(words)
    shared = {o.key_or_group for o in typed if not o.is_sweep_override()}
    own = parser.parse_overrides(list(HydraConfig.get().overrides.task))
    return {
        o.key_or_group: str(o.input_line).partition("=")[2].strip("'\"")
        for o in own
        if o.key_or_group not in shared
    }


def job_name(differs: Mapping[str, str]) -> str:
    """``job 1: loss=ce seed=2``."""
    overrides = " ".join(f"{key}={value}" for key, value in differs.items())
    return f"job {HydraConfig.get().job.num}{f': {overrides}' if overrides else ''}"


def job_folder(differs: Mapping[str, str]) -> Path:
    """The run folder of the job that runs now, ``1_loss-ce_seed-2`` in that of the sweep.

    There is no ``=`` or comma in it: Hydra would want quotes around ``checkpoint=`` and its path.
    """
    words = [str(HydraConfig.get().job.num), *(f"{k}-{v}" for k, v in differs.items())]
    plain = (re.sub(r"[^A-Za-z0-9_.+]+", "-", word).strip("-") for word in words)
    return Path(HydraConfig.get().sweep.dir) / "_".join(plain)[:LONGEST].rstrip("-_.")


def leave_note(differs: Mapping[str, str], result: object, problem: str | None = None) -> None:
    """Write down how the job that runs now has ended, for :func:`write_table`.

    Args:
        differs: As :func:`differing` gives it.
        result: What the script returned.
        problem: Why it failed; None if it did not.
    """
    note: dict[str, Any] = {"job": HydraConfig.get().job.num, "differs": dict(differs)}
    note["problem"] = problem
    if isinstance(result, FinishedRun):
        note |= {"monitor": result.monitor, "score": result.score, "folder": str(result.folder)}
        note |= {"best_epoch": result.best_epoch, "seconds": round(result.seconds, 1)}
    elif isinstance(result, Mapping) and "miou" in result:
        note |= {"monitor": "miou", "score": result["miou"]}
    folder = Path(HydraConfig.get().sweep.dir)
    with suppress(OSError):  # the job itself has succeeded
        write_json(folder / f".job-{note['job']}.json", note)


def take_notes(folder: Path) -> list[dict[str, Any]]:
    """What the jobs have left in the folder of the sweep, in their order; it is deleted there."""
    notes = []
    for path in folder.glob(".job-*.json"):
        notes.append(json.loads(path.read_text(encoding="utf-8")))
        path.unlink()
    return sorted(notes, key=lambda note: int(note["job"]))


def write_table(folder: Path) -> None:
    """Write ``sweep.csv`` into the folder of the sweep, and print it."""
    notes = take_notes(folder)
    if not notes:
        return
    keys = list(dict.fromkeys(key for note in notes for key in note["differs"]))
    rows = [
        [note["job"], *(note["differs"].get(k, "") for k in keys), *map(note.get, COLUMNS)]
        for note in notes
    ]
    path = folder / TABLE
    write_csv(path, ["job", *keys, *COLUMNS], rows)
    lines = [["job", *keys, _monitors(notes), "epoch", "folder"]]
    for note in notes:
        score = "failed" if note["problem"] else _number(note.get("score"))
        place = display_path(Path(note["folder"])) if "folder" in note else ""
        values = [note["differs"].get(key, "") for key in keys]
        lines.append([str(note["job"]), *values, score, str(note.get("best_epoch") or ""), place])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(map(str.ljust, line, widths)).rstrip())
    say(f"written to {display_path(path)}")


def _monitors(notes: Sequence[Mapping[str, Any]]) -> str:
    """What the scores are, if all are the same."""
    names = {note["monitor"] for note in notes if "monitor" in note}
    return names.pop() if len(names) == 1 else "score"


def _number(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"
