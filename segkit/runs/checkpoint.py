"""The files that hold the state of a run."""

import errno
import os
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

import segkit
from segkit.errors import CheckpointError
from segkit.models.weights import read_tensors
from segkit.runs.description import CheckpointMetadata, described
from segkit.runs.plain import expect, in_short, is_text
from segkit.runs.saved_state import check_scores, check_state
from segkit.runtime.log import log

FORMAT = 1
ENTRIES = {"format", "state", "about", "scores"}
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


class Stateful(Protocol):
    """What a run's state is to a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...


def save_checkpoint(
    path: Path,
    state: Stateful | dict[str, Any],
    metadata: CheckpointMetadata,
    scores: dict[str, Any],
    *,
    also: Sequence[Path] = (),
    previous: Path | None = None,
) -> None:
    """Write ``path`` whole or not at all, even if the machine stops in between.

    Args:
        path: The file.
        state: A training state; or as builtins and tensors, ``epoch`` and ``model`` at the least.
        metadata: What the file says of itself.
        scores: All scores of the last validation.
        also: Further names for the same content, as ``best.pt``.
        previous: Where the file that was at ``path`` goes.

    Raises:
        CheckpointError: It could not be written; what was there before still is.
    """
    content = {
        "format": FORMAT,
        "segkit": segkit.__version__,
        "torch": str(torch.__version__),  # TorchVersion itself would need unpickling of code
        "state": state if isinstance(state, dict) else state.state_dict(),
        "about": asdict(metadata),
        "scores": scores,
    }
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        with zipfile.ZipFile(temporary) as archive:
            if damaged := archive.testzip():
                raise CheckpointError(f"{path}: {damaged} came out damaged; is the disk sound?")
        for name in also:  # all that takes room comes before the first file is replaced
            _second_name(temporary, _temporary(name))
        for name in also:
            _temporary(name).replace(name)
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        if "DataLoader worker" in str(error):
            raise  # PyTorch tells of a loader process that died wherever the program happens to be
        raise CheckpointError(
            f"{path}: could not be written ({_reason(error)}). What was there before is untouched"
        ) from error
    finally:
        for name in (path, *also):
            with suppress(OSError):
                _temporary(name).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Why a file could not be written. torch.save makes a RuntimeError of what the system says."""
    first: BaseException | None = error
    while first is not None and not isinstance(first, OSError):
        first = first.__cause__ or first.__context__
    if first is not None and first.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return first.strerror or str(first)
    text = str(error) if first is None else first.strerror or str(first)
    return f"{text.partition(chr(10))[0]}; is the disk full?"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _second_name(file: Path, name: Path) -> None:
    """Let ``name`` be the same content: a second name of the file, or else a copy."""
    name.unlink(missing_ok=True)
    try:
        os.link(file, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, name)
        with name.open("rb+") as copy:
            os.fsync(copy.fileno())


def remove_temporaries(folder: Path) -> None:
    """Delete what a run left that was killed while it saved."""
    for file in folder.glob(".*.pt.tmp"):
        file.unlink(missing_ok=True)


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
    """A checkpoint that was read; ``state`` is what the state of a run goes on from."""

    path: Path
    state: dict[str, Any]
    metadata: CheckpointMetadata
    scores: dict[str, Any]
    written_at: int = 0  # nanoseconds


def find_checkpoint(path: Path | str) -> Path:
    """The file meant by a file or by a run folder (its best checkpoint, else its last)."""
    path = Path(path)
    if not path.is_dir():
        return path
    for name in (BEST, LAST, PREVIOUS):
        for file in (path / "checkpoints" / name, path / name):
            if file.is_file():
                return file
    raise CheckpointError(
        f"{path}: no checkpoints/best.pt or checkpoints/last.pt in this folder; "
        "give a run folder that train.py wrote, or a .pt file"
    )


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The state to go on from in a run folder: ``last.pt``, or the newest that can be read.

    Says in the log which files are damaged. None if there is no checkpoint.

    Raises:
        CheckpointError: All that are there are damaged.
    """
    order = [LAST, PREVIOUS]  # then the others, of which some are the same
    files = sorted(
        (folder / "checkpoints").glob("*.pt"),
        key=lambda f: order.index(f.name) if f.name in order else len(order),
    )
    found: list[Checkpoint] = []
    problems = []
    for file in files:
        try:
            found.append(read_checkpoint(file))
        except CheckpointError as error:
            problems.append(str(error))
            log.warning("warning: %s", error)
        if found and file.name == LAST:
            break
    if problems and not found:
        raise CheckpointError(
            f"{folder}: none of its {len(problems)} checkpoints can be read; start anew in another "
            "folder, by out_dir=FOLDER without resume"
        )
    best = max(found, key=lambda c: int(c.state.get("step", 0)), default=None)
    if best is not None and problems:
        log.warning("%s is taken instead, at step %d", best.path, best.state.get("step", 0))
    return best


def best_file(checkpoint: Checkpoint) -> Path | None:
    """The file, beside a checkpoint, of the epoch that was the best so far when it was written.

    None if there was no such epoch, or if its file is gone: ``best.pt`` may be a later one.
    """
    best, own = checkpoint.state["best"], checkpoint.path
    for path in (own, own.with_name(BEST), own.with_name(f"epoch_{best['epoch']}.pt")):
        try:
            state = (checkpoint if path == own else read_checkpoint(path)).state
        except CheckpointError:
            continue
        is_end = (state["epoch"], state["images"]) == (best["epoch"], 0)
        if is_end and state["best"]["score"] == best["score"]:  # of this run, not one before
            return path
    return None


def is_after(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether a file holds a later state of a run; False if it is not there or damaged."""
    try:
        return bool(read_checkpoint(path).state["step"] > checkpoint.state["step"])
    except CheckpointError:
        return False


def copy_checkpoint(source: Path, path: Path) -> None:
    """Let ``path`` be the same checkpoint as ``source``, whole or not at all.

    Raises:
        CheckpointError: It could not be written.
    """
    try:
        _second_name(source, _temporary(path))
        _temporary(path).replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: could not be written ({_reason(error)})") from error


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a file (or a run folder's best checkpoint) that :func:`save_checkpoint` wrote.

    Raises:
        CheckpointError: Not there, damaged, holds code, no checkpoint of segkit, or an entry is
            not what it should be.
    """
    path = find_checkpoint(path)
    written_at = path.stat().st_mtime_ns if path.exists() else 0
    content = read_tensors(path)
    if not content.keys() >= ENTRIES:
        raise CheckpointError(
            f"{path}: no checkpoint of segkit (its entries: {', '.join(map(str, content))[:80]}); "
            "to start from foreign weights use train.py with init_from=PATH, or for those of a "
            "backbone alone model.backbone.weights=PATH"
        )
    check_format(path, content)
    for name in ("segkit", "torch"):
        expect(path, name, content.get(name), is_text, "a version")
    metadata = described(path, content["about"])
    check_state(path, content["state"], len(metadata.classes))
    check_scores(path, "scores", content["scores"], len(metadata.classes))
    return Checkpoint(path, content["state"], metadata, content["scores"], written_at)


def check_format(path: Path, content: dict[str, Any]) -> None:
    found, written = content["format"], in_short(content.get("segkit")).strip("'")
    if type(found) is not int or found != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {in_short(found)}; segkit {segkit.__version__} reads "
            f"format {FORMAT}. Use the segkit that wrote it, {written}"
        )


def model_weights(state: dict[str, Any], which: str = "auto") -> dict[str, Any]:
    """The weights in a state: ``raw``, ``ema``, or ``auto``: those that were validated.

    Raises:
        CheckpointError: Those are not in it.
    """
    is_average = weights_kind(state, which) == "ema" and "kept" not in state
    weights: dict[str, Any] = state["average"]["model"] if is_average else state["model"]
    return weights


def weights_kind(state: dict[str, Any], which: str = "auto") -> str:
    """Which of its weights :func:`model_weights` takes, ``raw`` or ``ema``.

    Raises:
        CheckpointError: Those are not in it.
    """
    if kept := state.get("kept"):  # a file of one kind alone
        if which not in ("auto", kept):
            raise CheckpointError(f"weights={which}: this file holds the {kept} weights alone")
        return str(kept)
    if which == "ema" and not state.get("average"):
        raise CheckpointError("weights=ema: this run kept no average of its weights; use raw")
    return "ema" if which != "raw" and state.get("average") else "raw"
