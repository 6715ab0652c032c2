"""Reading files of tensors safely, and copying them into a model by name."""

import pickle
import re
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.errors import CheckpointError
from segkit.files import refuse_special
from segkit.models.claims import check_archive, check_legacy, check_tensors

SHOWN_REASONS = 8


@dataclass(frozen=True)
class LoadReport:
    """What a model took from a state dict. ``str()`` of it is for people.

    Args:
        taken: Names of the tensors that fit.
        skipped: One plain sentence for each that did not.
        total: Number of tensors that the model has.
        source: Configuration of the model that they are of, where it is known.
        trained_on: A check sum for each image that they were trained on, where that is known.
    """

    taken: list[str]
    skipped: list[str]
    total: int
    source: dict[str, Any] | None = field(default=None, kw_only=True)
    trained_on: list[str] = field(default_factory=list, kw_only=True)

    def __str__(self) -> str:
        text = f"took {len(self.taken)} of {self.total} tensors"
        return f"{text}; skipped: {self.reasons()}" if self.skipped else text

    def reasons(self) -> str:
        """The first few of ``skipped`` as one line, and how many more there are."""
        more = len(self.skipped) - SHOWN_REASONS
        text = "; ".join(self.skipped[:SHOWN_REASONS])
        return f"{text}; and {more} more" if more > 0 else text


def read_tensors(path: Path | str) -> dict[str, Any]:
    """The dict in a file written by ``torch.save``, on the CPU, without running code from it.

    Raises:
        CheckpointError: If there is no such file, it is a folder, not to be read, empty, a Git LFS
            pointer, cut off or damaged, no file of PyTorch, compressed or larger than it seems,
            holds objects other than tensors and builtins, or no dict.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, expected a file of weights")
    refuse_special(path, CheckpointError)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise CheckpointError(f"{path}: empty file")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; run 'git lfs pull'")
    if head.startswith(b"PK\x03\x04"):
        check_archive(path)
    elif path.suffix != ".safetensors":
        check_legacy(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd files; the error says it better
            content = _load(path)
    except Exception as error:  # damaged bytes raise nearly anything; none of it helps the reader
        raise CheckpointError(f"{path}: {_plain_reason(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected named tensors")
    check_tensors(path, content)
    return content


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors" and find_spec("safetensors") is not None:
        from safetensors.torch import load_file  # PyTorch 2.10 cannot read it

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _plain_reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        # PyTorch's own text advises weights_only=False, which would run the code in the file.
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            return (
                f"refused, because it holds code ({found[1]}) and not only tensors; "
                "save the state_dict() of the model instead"
            )
        return "not a file written by torch.save"
    return f"not readable as tensors ({type(error).__name__}: {str(error).partition(chr(10))[0]})"


def strip_prefixes(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Keys without the leading ``module.`` (DDP) and ``_orig_mod.`` (compile), however nested.

    Only at the beginning of a key: a layer called ``x.module.y`` keeps its name.
    """
    return {re.sub(r"^((module|_orig_mod)\.)+", "", str(k)): v for k, v in state_dict.items()}


def match_tensors(
    model: nn.Module, state_dict: dict[str, Any], model_name: str = "the model"
) -> LoadReport:
    """What :func:`load_matching` would take, without copying anything."""
    own = model.state_dict()
    taken, skipped = [], []
    for name, tensor in own.items():
        given = state_dict.get(name)
        if not isinstance(given, Tensor):
            skipped.append(f"{name} is not in the file")
        elif given.shape != tensor.shape:
            skipped.append(f"{name} is {_size(given)} in the file, {_size(tensor)} in {model_name}")
        elif tensor.is_floating_point() and not given.is_floating_point():
            kinds = f"{given.dtype} in the file, {tensor.dtype} in {model_name}"
            skipped.append(f"{name} is {kinds}")
        else:
            taken.append(name)
    skipped += [f"{name} is not in {model_name}" for name in state_dict if name not in own]
    return LoadReport(taken, skipped, total=len(own))


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def copy_tensors(model: nn.Module, state_dict: dict[str, Any], names: list[str]) -> None:
    """Copy the tensors called ``names`` into ``model``; device and dtype stay the model's."""
    own = model.state_dict()  # shares memory with the parameters and buffers
    for name in names:
        own[name].copy_(state_dict[name])


def load_matching(model: nn.Module, state_dict: dict[str, Any]) -> LoadReport:
    """Copy every tensor whose name and shape match, and say which were taken and which not.

    Raises:
        CheckpointError: If not a single one matches; the model is unchanged then.
    """
    report = match_tensors(model, state_dict)
    # Counters of steps fit any model, and are no reason to believe that this one was meant.
    if all(name.endswith("num_batches_tracked") for name in report.taken):
        raise CheckpointError(
            f"none of the {len(state_dict)} entries of the file fits the model's "
            f"{report.total} tensors: {report.reasons()}"
        )
    copy_tensors(model, state_dict, report.taken)
    return report
