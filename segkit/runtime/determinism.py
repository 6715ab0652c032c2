"""The same bits in every run on one machine, and in a resumed run.

With ``trainer.deterministic=true`` PyTorch takes deterministic algorithms where it has them and
raises where it has none. What our networks and losses are made of, on CUDA (PyTorch 2.10 to 2.15):

- Bilinear ``F.interpolate``: its kernel adds atomically; in this mode ``F.interpolate`` indexes
  instead, and the backward of that sorts first: slower, and more memory.
- ``gather`` and ``scatter_add`` of the losses: likewise over sorted indices in this mode.
- ``MaxPool2d``: each input collects from its windows in a fixed order, in any mode.
- Pooling to 1x1 is a mean, also as ``AdaptiveAvgPool2d(1)``; pooling to other sizes raises.
- Convolutions: cuDNN's deterministic algorithms, none chosen by racing them.
- Matrix products: need a cuBLAS workspace of a fixed size, which the environment sets.
- Cross-entropy is ``log_softmax`` and ``gather`` here; the sum inside ``nll_loss2d`` raises.
- Confusion matrix: ``bincount`` without weights; integers have the same sum in any order.

``tests/runtime/test_determinism.py`` reads the operations off the graphs of all networks and
losses.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from segkit.errors import TrainingError

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_WORKSPACES = (":4096:8", ":16:8")  # the deterministic ones; the first is the faster


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make what the network draws in an optimizer step, as dropout, a function of these three.

    So a resumed run needs no saved random state, and each process draws its own.

    Args:
        seed: The configuration's ``seed``, at least 0.
        step: Optimizer steps before, over all resumes.
        rank: Number of the process, from 0.
    """
    value = int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
    # Not torch.manual_seed: for each kind of device that is not in use it writes down the call
    # stack, a millisecond in every step.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)


def make_deterministic(wanted: bool = True) -> None:
    """Let PyTorch compute with deterministic algorithms only, from now on in this process.

    Or, if not ``wanted``, with all of them again: a sweep runs its jobs in one process.

    Call it before anything is computed on CUDA: cuBLAS reads the environment once.

    Raises:
        TrainingError: The environment asks for a cuBLAS workspace that is not deterministic.
    """
    first, *_ = CUBLAS_WORKSPACES
    workspace = os.environ.setdefault(CUBLAS_VARIABLE, first) if wanted else first
    if workspace not in CUBLAS_WORKSPACES:
        raise TrainingError(
            f"trainer.deterministic=true: the environment sets {CUBLAS_VARIABLE}={workspace}, "
            f"expected {' or '.join(CUBLAS_WORKSPACES)}; unset it, or set one of these"
        )
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = False


@contextmanager
def fastest_convolutions(wanted: bool) -> Iterator[None]:
    """While it lasts cuDNN tries its algorithms on each new shape, and keeps the fastest.

    Worth it where one shape comes again and again; never with ``trainer.deterministic=true``.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = wanted and not cudnn.deterministic
    try:
        yield
    finally:
        cudnn.benchmark = before


@contextmanager
def explain_nondeterminism() -> Iterator[None]:
    """Around forward and backward: what has no deterministic form ends in a message, not a trace.

    Raises:
        TrainingError: With the operation and the way out.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None:
            raise
        raise TrainingError(
            f"trainer.deterministic=true: {found[1]} has no deterministic form in PyTorch "
            f"{torch.__version__} on this device. Every network and loss of segkit has one; where "
            "a part is your own, replace the operation, or train with trainer.deterministic=false"
        ) from error
