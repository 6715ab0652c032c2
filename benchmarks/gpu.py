"""Every check and timing that needs a CUDA device, in one call of less than nine minutes.

    python benchmarks/gpu.py --out FOLDER

After each part it writes gpu.md (a table, and the tables that parts printed), gpu.json (the same
for programs) and gpu.log (all that was said). A part that fails or takes too long is recorded with
the end of what it said, and the others go on; the exit status is 1 then. ``--parts`` picks some.
``--device cpu`` tries this script itself, with small runs and without what only CUDA can do.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import Bench, Failed
from gpu_parts import PARTS, Part

MACHINE = """
import json, platform, torch
cuda = torch.cuda.is_available()
name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
print(json.dumps({
    "device": name, "cuda": torch.version.cuda if cuda else None, "torch": str(torch.__version__),
    "cudnn": torch.backends.cudnn.version() if cuda else None, "python": platform.python_version(),
}))
"""


@dataclass(frozen=True)
class Result:
    """What became of a part; ``seen`` may go on after its first line."""

    part: str
    outcome: str
    seconds: float
    seen: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the three files")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--seconds", type=float, default=520, help="for all parts together")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.seconds
    results: list[Result] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        bench = Bench(args.device, Path(temporary), args.out.absolute() / "gpu.log", until=end)
        machine = json.loads(bench.python("-c", MACHINE).splitlines()[-1])
        for name in args.parts:
            started = time.monotonic()
            outcome, seen = attempt(PARTS[name], bench, end, has_cuda=machine["cuda"] is not None)
            results.append(Result(name, outcome, time.monotonic() - started, seen))
            print(f"{name}: {outcome}, {seen}", flush=True)
            write(args.out, machine, results)
    raise SystemExit(any(result.outcome == "failed" for result in results))


def attempt(part: Part, bench: Bench, end: float, *, has_cuda: bool) -> tuple[str, str]:
    """Outcome of a part, and what was seen."""
    if not has_cuda and (part.needs_cuda or bench.device == "cuda"):
        return "not run", "PyTorch sees no CUDA device"
    if part.needs_cuda and bench.device != "cuda":
        return "not run", "only CUDA can do this"
    bench.until = min(time.monotonic() + part.limit, end)
    if bench.until <= time.monotonic():
        return "not run", "the time was over"
    try:
        return "passed", part.run(bench)
    except Failed as failure:
        return "failed", str(failure)
    except Exception as error:  # a file that is missing, say; the other parts know nothing of it
        return "failed", f"{type(error).__name__}: {error}"


def write(out: Path, machine: dict[str, str], results: list[Result]) -> None:
    """gpu.json and gpu.md with the parts so far."""
    content = {"machine": machine, "parts": [asdict(result) for result in results]}
    (out / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")
    lines = [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    lines += ["| part | outcome | seconds | seen |", "| --- | --- | --- | --- |"]
    more = []
    for result in results:
        first, _, rest = result.seen.partition("\n")
        lines.append(f"| {result.part} | {result.outcome} | {result.seconds:.0f} | {first} |")
        if rest:
            shown = rest if rest.startswith("|") else f"```\n{rest.strip()}\n```"
            more += ["", f"## {result.part}", "", shown]
    (out / "gpu.md").write_text("\n".join([*lines, *more]) + "\n")


if __name__ == "__main__":
    main()
