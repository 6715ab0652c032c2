"""The parts of ``benchmarks/gpu.py``, one a file, each run in a process of its own.

A part is a module with ``cases(options)``: names, and functions without arguments that yield rows.
A row is a mapping of columns to values. A case that raises :class:`Unavailable` says why not; any
other exception is a failure, after which a new process goes on with the next case.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    data: str | None = None
    weights: str | None = None

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


PARTS = {
    "machine": Part("Device and versions.", 40),
    "gpu_tests": Part("The tests that are marked `gpu`.", 90, needs_cuda=True),
    "steps": Part(
        "A training step on a batch that stays on the device: segkit, segkit's loop with smp's "
        "model, and a bare loop with smp's model and losses, turn by turn. Medians.",
        110,
    ),
    "shares": Part(
        "Shares of the device's busy time in a step of segkit, by the profiler; busy time and wall "
        "time of a step; how much of the latter the device idles; kernels, and waits for the "
        "device, per step.",
        30,
    ),
    "factors": Part(
        "A step with one thing changed, turn by turn; above 1 it is faster with it.", 45
    ),
    "fused_loss": Part(
        "loss.fused=true: relative error of value and gradient to float64, and value and gradient "
        "beside segkit's other way and F.interpolate + F.cross_entropy (CE only).",
        35,
        needs_cuda=True,
    ),
    "compiled": Part("trainer.compile=true beside false, turn by turn.", 60),
    "loading": Part(
        "An epoch from files: the loader alone, the training with it, and how much of that waits.",
        40,
    ),
    "validation": Part("Validation of 200 images beside the network alone.", 25),
    "deterministic": Part(
        "trainer.deterministic=true: whether two runs end with the same bits, and what it costs.",
        30,
    ),
    "processes": Part(
        "Two processes on the one device, by gloo, beside one process with both halves of the "
        "batch: relative differences of loss and weights after three steps.",
        30,
    ),
    "whole_run": Part("train.py from its start to its end.", 60),
}
