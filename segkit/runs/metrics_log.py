"""What a run writes for programs that draw: ``metrics.jsonl``, its table, TensorBoard's files."""

import json
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segkit.console import visible
from segkit.files import atomic_write
from segkit.metrics.pr_curve import Curve
from segkit.runs.metrics_csv import MetricsTable
from segkit.runtime.log import log


class RunLog:
    """Scalars to ``metrics.jsonl`` and ``metrics.csv``, and with images and text to TensorBoard.

    ``metrics.jsonl`` is always written; a line that does not fit on the disk is kept for the next
    time. TensorBoard is a convenience: if it cannot be imported or written, or fails in any other
    way, that is said once and the run goes on.

    Args:
        folder: The run folder; None writes nothing, as in all processes but the first.
        epoch: The last one that stays in ``metrics.jsonl``; a resumed run writes the later ones
            again, the same.
        purge_step: The first step that TensorBoard forgets; None forgets none.
    """

    def __init__(self, folder: Path | None, epoch: int = 0, purge_step: int | None = None) -> None:
        self.metrics = None if folder is None else folder / "metrics.jsonl"
        self.unwritten = ""
        self.writer: Any = None
        if folder is None or self.metrics is None:
            return
        if self.metrics.exists():
            keep_epochs(self.metrics, epoch)
        self.table = MetricsTable(folder)
        try:
            from torch.utils.tensorboard.writer import SummaryWriter

            put_before_now(folder / "tensorboard")
            hide_tensorboards_tracebacks()
            self.writer = SummaryWriter(folder / "tensorboard", purge_step=purge_step)
        except Exception as error:  # its import fails in many ways, with another protobuf say
            log.warning("TensorBoard is not written (%s); metrics.jsonl is", one_line(error))

    def epoch(self, values: Mapping[str, float | None]) -> None:
        """One line of ``metrics.jsonl``; what is not a finite number becomes null."""
        line = {
            name: None if isinstance(v, float) and not math.isfinite(v) else v
            for name, v in values.items()
        }
        if self.metrics is None:
            return
        self.unwritten += json.dumps(line, allow_nan=False) + "\n"
        self._append()
        self.table.add(line)

    def _append(self) -> None:
        """Whole or not at all: a part of it would be there twice after another try."""
        if self.metrics is None or not self.unwritten:
            return
        size = self.metrics.stat().st_size if self.metrics.exists() else 0
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(self.unwritten)
                file.flush()
                os.fsync(file.fileno())  # the checkpoint that comes next takes the line for written
            self.unwritten = ""
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.metrics, size)
            log.error(
                "error: %s: could not be written (%s). Training goes on, and tries again",
                self.metrics,
                error.strerror,
            )

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Curves; None leaves a gap."""
        for name, value in values.items():
            if value is not None:
                self._write("add_scalar", curve_name(name), value, step)

    def image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """uint8 (H, W, 3)."""
        self._write("add_image", name, image, step, dataformats="HWC")

    def text(self, name: str, text: str) -> None:
        """Shown as it is, in one width of letters."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown for code
        self._write("add_text", name, indented)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Of the finite ones, any shape."""
        finite = values.detach().float().flatten()
        finite = finite[finite.isfinite()].cpu()
        if finite.numel():
            self._write("add_histogram", name, finite, step)

    def pr_curve(self, name: str, curve: Curve, step: int) -> None:
        """Precision against recall, with a slider over the thresholds."""
        counts = (
            curve.true_positives,
            curve.false_positives,
            curve.true_negatives,
            curve.false_negatives,
        )
        self._write(
            "add_pr_curve_raw",
            name,
            *counts,
            curve.precision,
            curve.recall,
            step,
            num_thresholds=len(counts[0]),
        )

    def hparams(
        self, settings: Mapping[str, object], results: Mapping[str, float | None], step: int
    ) -> None:
        """Settings of the run and its final values, for TensorBoard's table of runs."""
        if self.writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        final = {
            f"val_best/{name.removeprefix('val/')}": value
            for name, value in results.items()
            if value is not None
        }
        # Not add_hparams, which makes a run of its own for them.
        given = {k: visible(v) if isinstance(v, str) else v for k, v in settings.items()}
        for summary in hparams(given, final):  # type: ignore[no-untyped-call]
            self._write("file_writer.add_summary", summary)
        for name, value in final.items():
            self._write("add_scalar", name, value, step)

    def flush(self) -> None:
        """Before a checkpoint: a killed run must not lose curves that it will not draw again."""
        self._write("flush")

    def close(self) -> None:
        self._append()
        self._write("close")

    def _write(self, method: str, *values: object, **options: object) -> None:
        if self.writer is None:
            return
        shown = [visible(value) if isinstance(value, str) else value for value in values]
        try:
            attrgetter(method)(self.writer)(*shown, **options)
        except Exception as error:  # the disk is full, say
            self.writer = None
            log.warning("TensorBoard stops here (%s); metrics.jsonl goes on", one_line(error))


GROUPS = (
    (r"lr", "train/lr"),
    (r"train/(grad_norm|skipped_steps)", r"watch/\1"),
    (r"([^/]+)", r"watch/\1"),
    (r"step/(.+)", r"within_epoch/\1"),
    (r"val/(iou|precision|recall|f1)/(.+)", r"val_\1/\2"),
    (r"val/(?!loss|miou|not_finite)(.+)", r"val_means/\1"),
)


def curve_name(name: str) -> str:
    """TensorBoard's name of a value: it groups by what stands before the first slash.

    It opens the first two groups in the order of letters: ``train``, with the losses and the
    learning rate, and ``val``, with loss and mean IoU. All else has groups that come later.
    """
    for pattern, drawn in GROUPS:
        if found := re.fullmatch(pattern, name, re.DOTALL):
            return found.expand(drawn)
    return name


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def put_before_now(folder: Path) -> None:
    """Rename event files from the future, as there are some after the clock was set back.

    TensorBoard reads them in the order of their names, which begin with the time, and would take
    what a resumed run draws again for older than what it replaces.
    """
    pattern = re.compile(r"(events\.out\.tfevents\.)(\d{10})(\..*)")
    names = [found for file in sorted(folder.glob("*")) if (found := pattern.fullmatch(file.name))]
    now = int(time.time())
    if names and int(names[-1][2]) >= now:
        for i, name in enumerate(names, now - len(names)):
            (folder / name[0]).rename(folder / f"{name[1]}{i:010d}{name[3]}")


def hide_tensorboards_tracebacks() -> None:
    """Its thread shows one when it cannot write, which :class:`RunLog` tells in a line."""
    show = threading.excepthook
    if getattr(show, "__module__", None) == __name__:
        return

    def hook(error: threading.ExceptHookArgs) -> None:
        if not type(error.thread).__module__.startswith("tensorboard"):
            show(error)

    threading.excepthook = hook


def keep_epochs(metrics: Path, last: int) -> None:
    """Cut what comes after epoch ``last`` off ``metrics.jsonl``, a half-written line too."""
    kept = []
    for line in metrics.read_bytes().splitlines():  # after a power cut there may be anything
        try:
            if json.loads(line)["epoch"] > last:
                break
        except (ValueError, TypeError, KeyError):
            break
        kept.append(line + b"\n")
    with atomic_write(metrics) as temporary, temporary.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
