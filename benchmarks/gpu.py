"""Everything that is to be learnt on a machine with one CUDA device, in one call of eight minutes.

    python benchmarks/gpu.py --out FOLDER [--wheels WHEELS] [--data CAMVID] [--weights WEIGHTS]

FOLDER gets gpu.md (a table for each part), gpu.json (the same for programs) and gpu.log (all that
was said). The first two are written anew, whole, after every row, so a call that is cut off leaves
what it has seen. Each part of gpu_parts/ runs in a process of its own; where one dies in a case,
the row says so with the end of the log, and a new process goes on with the next case. A part has a
budget, and all parts have one together; what is cut off or left out says so. The exit status is 1
unless all was done. ``--device cpu --quick`` tries the script, at tiny sizes, without what only
CUDA can do.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from gpu_parts import PARTS, Options, Part, Row
from gpu_parts.process import PartProcess

HERE = Path(__file__).resolve().parent
IN_A_ROW = 3  # failures after which a part is given up


@dataclass
class Result:
    """What is known of a part.

    Attributes:
        rows: One for each thing that was seen; ``case`` comes first, ``note`` says what was not,
            and an ``outcome`` of failed that all of the part is.
        tails: Ends of the log where a process died.
        outcome: done; or failed, cut off, not run, with the reason.
    """

    part: str
    title: str
    rows: list[Row] = field(default_factory=list)
    tails: list[str] = field(default_factory=list)
    outcome: str = "in progress"
    seconds: float = 0.0


@dataclass
class Bench:
    """Where the parts run, and until when.

    Attributes:
        options: What the parts are to do.
        out: Folder of the three files.
        scratch: Where the processes run; emptied afterwards.
        until: End of all parts, by ``time.monotonic``.
        start: How processes are started, fork or spawn.
    """

    options: Options
    out: Path
    scratch: Path
    until: float
    start: str = "fork"
    results: list[Result] = field(default_factory=list)

    def run(self, name: str, part: Part) -> Result:
        """All cases of a part, unless the time is over before."""
        result = Result(name, part.title)
        self.results.append(result)
        started = time.monotonic()
        # Of a machine that does other work no part is asked to be quick.
        until = self.until if self.options.quick else min(started + part.seconds, self.until)
        if part.needs_cuda and self.options.device != "cuda":
            result.rows, result.outcome = [{"case": "all", "note": "needs CUDA"}], "done"
        elif until - started < 1:
            result.outcome = "not run: the time of all parts together was over"
        else:
            self._cases(part, result, until)
        result.seconds = round(time.monotonic() - started, 1)
        self.write()
        print(f"{name}: {result.outcome}, {len(result.rows)} rows, {result.seconds} s", flush=True)
        return result

    def _cases(self, part: Part, result: Result, until: float) -> None:
        """One process for all cases, and after each that it does not survive one for the rest."""
        first, failed = 0, 0
        while True:
            process = PartProcess(
                part.module or f"gpu_parts.{result.part}", self.options, first,
                self.scratch, self.out / "gpu.log", partial(self._add, result), self.start,
            )  # fmt: skip
            ended = process.wait(until)
            if ended == "status 0":
                bad = result.tails or any(row.get("outcome") == "failed" for row in result.rows)
                result.outcome = "failed: see the notes" if bad else "done"
                return
            if process.case is not None:
                result.rows.append({"case": process.case, "note": process.error or ended})
            if ended == "cut off":
                result.outcome = "cut off: its time was over"
                return
            result.tails.append(f"{process.case or 'start'}: {ended}\n{process.tail()}")
            failed = 1 if process.finished else failed + 1
            if process.case is None or failed == IN_A_ROW:
                result.outcome = f"failed: given up after {process.error or ended}"
                return
            first = process.number + 1

    def _add(self, result: Result, row: Row) -> None:
        result.rows.append(row)
        self.write()

    def write(self) -> None:
        """gpu.json and gpu.md, each whole."""
        content = json.dumps([asdict(result) for result in self.results], indent=1)
        replace(self.out / "gpu.json", content)
        overview = [
            {"part": r.part, "outcome": r.outcome, "seconds": r.seconds} for r in self.results
        ]
        sections = ["# One call on a device\n", *table(overview)]
        for result in self.results:
            sections += [f"\n## {result.part}\n", f"{result.title}\n", *table(result.rows)]
            sections += [f"\n```\n{tail}\n```" for tail in result.tails]
        replace(self.out / "gpu.md", "\n".join(sections))


def table(rows: list[Row]) -> list[str]:
    """Lines of Markdown; the columns are those of all rows, the notes come last."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "note"))
    names += ["note"] * any("note" in row for row in rows)
    if not names:
        return ["nothing was seen"]
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for row in rows:
        lines.append(f"| {' | '.join(shown(row.get(name)) for name in names)} |")
    return lines


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "-" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def replace(path: Path, text: str) -> None:
    """Write a file whole, or leave the one that is there."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def install(wheels: Path, site: Path, log: Path) -> None:
    """Unpack all wheels of a folder into another, with nothing from anywhere else."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"--wheels {wheels}: no *.whl in it")
    options = ["--quiet", "--no-index", "--find-links", str(wheels), "--no-deps", "--no-compile"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), *files]
    with log.open("a") as said:
        if subprocess.run(command, stdout=said, stderr=subprocess.STDOUT).returncode:
            raise SystemExit(f"--wheels {wheels}: pip cannot install them; see {log}")


def prepare_imports(paths: list[str]) -> None:
    """Import what most parts need, once for all of them, without touching the device."""
    sys.path[1:1] = paths
    # For what the parts start by its name, as train.py.
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *inherited])
    # PyTorch asks the driver's library for devices then, which a fork survives.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    try:
        importlib.import_module("gpu_parts.training")
        importlib.import_module("torch._dynamo")  # which the first step of an optimizer imports
    except ImportError as error:
        raise SystemExit(f"{error}; --wheels FOLDER brings what this machine lacks") from error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", default=os.environ.get("OUT"), help="folder; default: $OUT")
    parser.add_argument("--wheels", type=folder, help="folder of wheels that this machine lacks")
    parser.add_argument("--data", type=folder, help="CamVid, or a part of it, in VOC layout")
    parser.add_argument("--weights", type=folder, help="folder with mobilenet_v2.pth")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--seconds", type=float, default=480, help="for all parts together")
    parser.add_argument("--start", default="fork", choices=("fork", "spawn"), help="of a process")
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    if not args.out:
        parser.error("--out, or the environment variable OUT, must name a folder")
    out = Path(args.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.log").write_text("")
    options = Options(args.device, args.quick, args.data, args.weights)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        site, scratch = Path(temporary, "site"), Path(temporary, "scratch")
        scratch.mkdir()
        if args.wheels is not None:
            install(args.wheels, site, out / "gpu.log")
        prepare_imports([str(site), str(HERE.parent)])
        bench = Bench(options, out, scratch, until, args.start)
        for name in args.parts:
            result = bench.run(name, PARTS[name])
            if name == "machine" and result.outcome != "done":
                raise SystemExit(f"{result.rows[-1]['note']}; {out / 'gpu.md'} says more")
    raise SystemExit(any(result.outcome != "done" for result in bench.results))


def folder(path: str) -> Path:
    """An argument that names a folder, absolute."""
    if not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {path}")
    return Path(path).absolute()


if __name__ == "__main__":
    main()
