"""The state of a run, and the files that hold it."""

import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import segkit
from segkit.errors import CheckpointError
from segkit.models.weights import LoadReport, load_matching, read_tensors, strip_prefixes

FORMAT = 1
ENTRIES = {"format", "state", "about", "scores"}


@dataclass
class Best:
    """The best value so far of what the run monitors; ``epoch`` is 0 before the first."""

    monitor: str
    mode: str
    score: float | None = None
    epoch: int = 0

    def improves(self, score: float | None) -> bool:
        """Whether ``score`` is better. The first always is; later None (class absent) never."""
        if self.epoch == 0:
            return True
        if score is None or self.score is None:
            return score is not None
        return score > self.score if self.mode == "max" else score < self.score


@dataclass
class TrainState:
    """Everything that goes on changing during a run, in one place.

    Attributes:
        epoch: Finished epochs.
        step: Finished optimizer steps.
        batch: Batches already used of the epoch in progress; 0 between epochs.
        skipped_steps: Steps that the fp16 scaler left out because a gradient overflowed.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    best: Best
    epoch: int = 0
    step: int = 0
    batch: int = 0
    skipped_steps: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and builtins only."""
        on_cuda = any(p.is_cuda for p in self.model.parameters())
        return {
            "model": strip_prefixes(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": asdict(self.best),
            "epoch": self.epoch,
            "step": self.step,
            "batch": self.batch,
            "skipped_steps": self.skipped_steps,
            "rng": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if on_cuda else [],
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state`` was taken, random numbers included."""
        unwrapped = getattr(self.model, "_orig_mod", self.model)
        unwrapped.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.best = Best(**state["best"])
        for name in ("epoch", "step", "batch", "skipped_steps"):
            setattr(self, name, state[name])
        torch.set_rng_state(state["rng"]["cpu"])
        # On another number of devices there is no same stream to go on with.
        if len(state["rng"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself, so that nothing else is needed to use it.

    Attributes:
        config: The run's resolved configuration as builtins.
        classes: Names in index order.
        palette: RGB of each mask value, 256 triples.
        ignore_index: Mask value without a label.
        mean: Of the normalisation, per channel, for values in [0, 1].
        std: Likewise.
        precision: fp32, bf16 or fp16: what the scores were computed with.
    """

    config: dict[str, Any]
    classes: list[str]
    palette: list[list[int]]
    ignore_index: int
    mean: list[float]
    std: list[float]
    precision: str
    threads: int = field(default_factory=torch.get_num_threads)
    device: str = "cpu"


def save_checkpoint(
    path: Path, state: TrainState, about: Description, scores: dict[str, Any]
) -> None:
    """Write ``path`` whole or not at all, even if the machine stops in between.

    Raises:
        CheckpointError: It could not be written; what was at ``path`` before is still there.
    """
    content = {
        "format": FORMAT,
        "segkit": segkit.__version__,
        "torch": str(torch.__version__),  # TorchVersion itself would need unpickling of code
        "state": state.state_dict(),
        "about": asdict(about),
        "scores": scores,
    }
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        with zipfile.ZipFile(temporary) as archive:
            if damaged := archive.testzip():
                raise CheckpointError(f"{path}: {damaged} came out damaged; is the disk sound?")
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        # torch.save reports a full disk as a RuntimeError
        raise CheckpointError(
            f"{path}: could not be written ({str(error).partition(chr(10))[0]}); is the disk "
            "full? What was there before is untouched"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut; Windows has no such call."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read; ``state`` is what :meth:`TrainState.load_state_dict` takes."""

    path: Path
    state: dict[str, Any]
    about: Description
    scores: dict[str, Any]


def find_checkpoint(path: Path | str) -> Path:
    """The file meant by a file or by a run folder (its best checkpoint, else its last)."""
    path = Path(path)
    if not path.is_dir():
        return path
    for name in ("best.pt", "last.pt"):
        for file in (path / "checkpoints" / name, path / name):
            if file.is_file():
                return file
    raise CheckpointError(
        f"{path}: no checkpoints/best.pt or checkpoints/last.pt in this folder; "
        "give a run folder that train.py wrote, or a .pt file"
    )


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a file (or a run folder's best checkpoint) that :func:`save_checkpoint` wrote.

    Raises:
        CheckpointError: Not there, damaged, holds code, or no checkpoint of segkit.
    """
    path = find_checkpoint(path)
    content = read_tensors(path)
    if not content.keys() >= ENTRIES:
        raise CheckpointError(
            f"{path}: no checkpoint of segkit (its entries: {', '.join(map(str, content))[:80]}); "
            "to start from foreign weights use train.py with model.backbone.weights=PATH"
        )
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {content['format']}; segkit {segkit.__version__} reads "
            f"format {FORMAT}. Use the segkit that wrote it, {content.get('segkit')}"
        )
    try:
        about = Description(**content["about"])
    except TypeError as error:
        raise CheckpointError(f"{path}: its description does not fit ({error})") from error
    return Checkpoint(path, content["state"], about, content["scores"])


def init_from(model: nn.Module, path: Path | str) -> LoadReport:
    """Copy the tensors of an earlier checkpoint that match by name and shape into ``model``.

    Takes checkpoints of segkit (other classes or head allowed) and plain state dicts.

    Raises:
        CheckpointError: Unreadable, or nothing matches.
    """
    path = find_checkpoint(path)
    content = read_tensors(path)
    weights = content["state"]["model"] if content.keys() >= ENTRIES else content
    try:
        return load_matching(model, strip_prefixes(weights))
    except CheckpointError as error:
        raise CheckpointError(f"init_from={path}: {error}") from error
