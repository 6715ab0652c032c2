"""The parts of ``benchmarks/gpu.py``, one a file, each run in a process of its own.

A part is a module with ``cases(options)``: names, and functions without arguments that yield rows.
A row is a mapping of columns to values. A case that raises :class:`Unavailable` says why not; any
other exception is a failure, after which a new process goes on with the next case.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Cases = Mapping[str, Callable[[], Iterator[Row]]]


class Unavailable(Exception):
    """Why a case cannot be run here, though nothing has failed."""


@dataclass(frozen=True)
class Options:
    """What the parts are to do.

    Attributes:
        device: cuda or cpu.
        quick: At tiny sizes, to try the script.
        data: Folder of a data set in VOC layout; None: there is none.
        weights: Folder with weights of backbones; None: there is none.
    """

    device: str = "cuda"
    quick: bool = False
    data: Path | None = None
    weights: Path | None = None

    @property
    def backbones(self) -> tuple[str, ...]:
        return ("tiny",) if self.quick else ("mobilenet_v2", "resnet50", "resnet101")

    @property
    def precisions(self) -> tuple[str, ...]:
        if self.quick:
            return ("fp32",)
        return ("bf16", "fp32", "fp16") if self.device == "cuda" else ("bf16", "fp32")

    @property
    def batch_size(self) -> int:
        return 2 if self.quick else 16

    @property
    def size(self) -> int:
        """Height and width of images in pixels."""
        return 32 if self.quick else 512

    def need_cuda(self) -> None:
        if self.device != "cuda":
            raise Unavailable("needs CUDA")


@dataclass(frozen=True)
class Part:
    """A part: what it is about, and how many seconds it may take.

    Attributes:
        module: Where its cases are; empty: the file of its name.
    """

    title: str
    seconds: float
    needs_cuda: bool = False
    module: str = ""


# About 480 seconds are used; the least telling parts come last, so that they are what is cut off.
PARTS = {
    "machine": Part("What the numbers were seen on.", 30),
    "gpu_tests": Part("The tests that are marked `gpu`.", 90, needs_cuda=True),
    "steps": Part(
        "A training step on a batch that stays on the device, in turn: segkit with its own model, "
        "segkit with smp's model, and a bare loop with smp's model and losses. Medians of wall "
        "time, peaks of memory; in the ratios above 1 segkit is faster.",
        115,
    ),
    "shares": Part(
        "Where the device's busy time goes in a step of segkit (CE+focal+dice, EMA), by the "
        "profiler; busy time beside the wall time of a step that is not profiled; kernels and "
        "waits of a step. Below each row its longest kernels.",
        25,
    ),
    "factors": Part("A step of segkit with one thing changed, in turn, in bf16.", 60),
    "fused_loss": Part(
        "loss.fused: relative errors against float64; value and gradient by the kernels, by the "
        "resize and the loss (full), and with CE by the resize and nn.CrossEntropyLoss (F).",
        30,
        needs_cuda=True,
    ),
    "compiled": Part("trainer.compile=true beside false, in turn.", 70),
    "loading": Part(
        "An epoch from files, with the fastest network: what the loader alone gives, what the "
        "training takes, and the share of it that waits for the loader.",
        35,
    ),
    "validation": Part("Validation of 200 images, in turn with the network alone.", 20),
    "deterministic": Part(
        "trainer.deterministic=true: whether two runs end with the same bits, and its price.", 35
    ),
    "processes": Part(
        "Two processes on the one device, each with half of a batch, beside one process with all "
        "of it: relative differences of the first loss, and of what three steps change, in float32 "
        "without TF32.",
        40,
    ),
    "whole_run": Part("train.py as it is started.", 75),
}
