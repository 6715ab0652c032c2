"""The parts of gpu.py: each returns what was seen in a line, and perhaps a table below it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from bench import HERE, ROOT, SMALL, Bench, Failed

GIB = 4.0  # what the parts about memory may take
# A usual network on usual crops, three times as much as GIB holds.
LARGE = {
    "data.root": "large",
    "data.dataset.num_train": "64",
    "data.dataset.num_val": "4",
    "data.dataset.height": "256",
    "data.dataset.width": "256",
    "augment": "standard",
    "augment.crop_size": "[256,256]",
    "model/backbone": "resnet50",
    "model.backbone.weights": "null",
    "model.aspp_channels": "256",
    "model.decoder_channels": "256",
    "optimizer.lr": "1e-4",
    "loader.batch_size": "64",
    "trainer.precision": "fp32",
    "trainer.max_epochs": "1",
}


def end_to_end(bench: Bench) -> str:
    bench.train("whole", *bench.settings)
    summary = json.loads((bench.folder / "whole/summary.json").read_text())
    best, last = summary["best_score"], bench.last_epoch("whole")
    if best < 0.85 and bench.device == "cuda":
        raise Failed(f"the best mIoU is {best:.4f}, expected at least 0.85")
    bench.python(ROOT / "evaluate.py", "checkpoint=whole", f"device={bench.device}")
    again = json.loads((bench.folder / "whole/eval/val-best/metrics.json").read_text())["miou"]
    if abs(again - best) > 1e-3:
        raise Failed(f"evaluate.py finds mIoU {again:.4f}, the training found {best:.4f}")
    return (
        f"mIoU {best:.4f} (evaluate.py: {again:.4f}) in {summary['seconds']:.0f} s, at the end "
        f"{last['images_per_second']:.0f} images/s"
    )


def tests(bench: Bench) -> str:
    files = [path for path in (ROOT / "tests").glob("*.py") if "mark.gpu" in path.read_text()]
    options = ("-m", "gpu", "-n0", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark")
    said = bench.python("-m", "pytest", *options, *sorted(files))
    return said.strip().splitlines()[-1].strip("= ")


def killed(bench: Bench) -> str:
    precision = "fp16" if bench.device == "cuda" else "fp32"
    overrides = (f"trainer.device={bench.device}", f"trainer.precision={precision}")
    options = ("--kills", 4, "--", *overrides, "trainer.deterministic=true")
    said = bench.python(HERE / "kills.py", *options)
    return f"{precision}: {said.strip().splitlines()[-1]}"


def deterministic(bench: Bench) -> str:
    both = (*bench.settings, "loss=[ce,dice]", "trainer.max_epochs=2", "trainer.deterministic=true")
    for run in ("first", "second"):
        bench.train(run, *both)
    bench.same("first", "second")
    network = ("resnet50", 512) if bench.device == "cuda" else ("tiny", 64)
    options = ("--device", bench.device, "--backbone", network[0], "--size", network[1])
    said = bench.python(HERE / "deterministic.py", *options).strip().splitlines()
    return f"two runs end with the same bits; price: {said[-1]} ({said[-2]})"


def precision(bench: Bench) -> str:
    names, overrides = ["fp32", "bf16"], [*SMALL]
    if bench.device == "cuda":
        names.append("fp16")
        more = {
            "data.root": "timed",
            "data.dataset.num_train": "320",
            "data.dataset.num_val": "16",
            "data.dataset.height": "384",
            "data.dataset.width": "384",
            "augment": "light",
            "augment.crop_size": "null",
            "loader.batch_size": "16",
            "loader.num_workers": "12",
            # It compares with fp32, whose memory would be counted too.
            "trainer.check_precision": "false",
        }
        unwanted = ("trainer.precision", "trainer.max_epochs")
        overrides = [f"{k}={v}" for k, v in (LARGE | more).items() if k not in unwanted]
    options = ("--device", bench.device, "--epochs", 4, "--precisions", *names)
    said = bench.python(HERE / "precision.py", *options, "--", *overrides)
    table = [line for line in said.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    speeds = (f"{row[0]} {row[-4]} images/s, {row[-1]} MiB" for row in rows)
    return "; ".join(speeds) + "\n" + "\n".join(table)


def out_of_memory(bench: Bench) -> str:
    said = bench.train("too_large", *listed(LARGE), gib=GIB, status=1)
    ways = (
        {"loader.batch_size": "8"},
        {"augment.crop_size": "[160,160]"},
        {"trainer.precision": "bf16", "loader.batch_size": "12"},
    )
    message = said[said.find("error: out of memory") :]
    if missing := {next(iter(way)) for way in ways if next(iter(way)) not in message}:
        raise Failed(f"no way out by {', '.join(sorted(missing))} in\n{said[-3000:]}")
    for number, way in enumerate(ways):
        bench.train(f"fits_{number}", *listed(LARGE | way), gib=GIB)
    fitting = " or ".join(" ".join(listed(way)) for way in ways)
    return f"64 images do not fit into {GIB:g} GiB; what the message names does: {fitting}"


def listed(settings: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def batch_size_auto(bench: Bench) -> str:
    said = bench.train("auto", *listed(LARGE | {"loader.batch_size": "auto"}), gib=GIB)
    found = re.search(r"batch_size=auto: (\d+)", said)
    if found is None or not 1 < int(found[1]) < int(LARGE["loader.batch_size"]):
        raise Failed(f"expected a size that {GIB:g} GiB limit; it said\n{said[-3000:]}")
    peak, steps = (bench.last_epoch("auto")[name] for name in ("memory_mib", "step"))
    return f"{found[1]} images in {GIB:g} GiB; {steps} steps took {peak:.0f} MiB of tensors"


def torchrun(bench: Bench) -> str:
    settings = (*bench.settings, "trainer.max_epochs=2", "trainer.deterministic=true")
    bench.train("alone", *settings)
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")
    place = ("out_dir=torchrun", f"trainer.device={bench.device}", "trainer.sync_bn=true")
    bench.python(*start, ROOT / "train.py", *settings, *place)
    bench.same("alone", "torchrun")
    return "one process, trainer.sync_bn=true: the same bits as without torchrun"


@dataclass(frozen=True)
class Part:
    """A part of the whole, and how many seconds it may take."""

    run: Callable[[Bench], str]
    limit: int
    needs_cuda: bool = False


PARTS = {
    "end_to_end": Part(end_to_end, 120),
    "tests": Part(tests, 150, needs_cuda=True),
    "killed": Part(killed, 150),
    "deterministic": Part(deterministic, 100),
    "precision": Part(precision, 150),
    "out_of_memory": Part(out_of_memory, 120, needs_cuda=True),
    "batch_size_auto": Part(batch_size_auto, 60, needs_cuda=True),
    "torchrun": Part(torchrun, 80),
}
