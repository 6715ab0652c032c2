"""The folder ``plots/`` of a run: what it is fed, its curves, and how good it is, as PNG files."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from segkit.data.arrays import Image, Mask, Pixels
from segkit.data.loader import Samples
from segkit.files import atomic_write
from segkit.report.charts import ORANGE, Line, bar_chart, line_chart
from segkit.report.contact_sheet import Tile, contact_sheet
from segkit.report.images import picture
from segkit.runs.metrics_csv import read_epochs
from segkit.runs.metrics_log import one_line
from segkit.runtime.log import log

SHARE = 50  # pictures take at most so small a part of the time of a run: one fiftieth
PHOTOGRAPHS = ("training_images.png", "validation_images.png")
FEW = 64  # classes whose colours leave enough of 256 to photographs: a third of the bytes
FED = 6  # training images on the sheet
NARROW, SIDE = 120, 220  # the room of each in pixels, at least and at most
CURVES = ("train/loss", "val/loss", "val/miou", "lr")


class RunPlots(AbstractContextManager["RunPlots"]):
    """Draws a run while it trains. What cannot be drawn or written is said once, and never ends it.

    The first validation is drawn at once, later ones when that takes a small part of the time, and
    the last one always: at the end of the context.

    Args:
        folder: The run folder; None draws nothing, as in all processes but the first.
        classes: Names in index order.
        palette: RGB of each mask value, uint8 (256, 3).
        ignore_index: Mask value without a label.
    """

    def __init__(
        self,
        folder: Path | None,
        classes: Sequence[str],
        palette: NDArray[np.uint8],
        ignore_index: int,
    ) -> None:
        self.folder = None if folder is None else folder / "plots"
        self.classes, self.palette, self.ignore_index = classes, palette, ignore_index
        past = [] if folder is None else read_epochs(folder / "metrics.jsonl")
        self.epochs = [_curves(line) for line in past]
        self.images: dict[str, Image] = {}
        self.scores: Mapping[str, Any] = {}
        self.scored = 0  # the epoch that these are of
        self._waiting = False  # something is not drawn yet
        self._drawn_at, self._took = 0.0, 0.0
        self._warned = False

    def training_images(self, samples: Samples, epoch: int) -> None:
        """``training_images.png``: images from all over the split as ``epoch`` is fed with them.

        Args:
            samples: The training split with its transforms.
            epoch: From 0 on.
        """
        self._write("training_images.png", partial(self._sheet, samples, epoch))

    def image(self, name: str, drawn: Image) -> None:
        """An image of a validation, uint8 (H, W, 3), that becomes the file ``name``."""
        if self.folder is not None:
            self.images[name] = drawn

    def epoch(self, values: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
        """What an epoch brought.

        Args:
            values: By log name, ``epoch`` among them.
            scores: All scores of its validation; empty without one.
        """
        if self.folder is None:
            return
        self.epochs.append(_curves(values))
        if scores:
            self.scores, self.scored = scores, int(values["epoch"])
        self._waiting = True
        if scores and time.perf_counter() - self._drawn_at >= SHARE * self._took:
            self.draw()

    def __exit__(self, *exception: object) -> None:
        self.draw()

    def draw(self) -> None:
        """Draw what is not drawn yet."""
        if not self._waiting:
            return
        started = time.perf_counter()
        self._write("curves.png", self._curves)
        if self.scores:
            self._write("iou.png", self._bars)
        for name, drawn in self.images.items():
            self._write(name, partial(np.asarray, drawn))
        self._waiting, self._drawn_at = False, time.perf_counter()
        self._took = self._drawn_at - started

    def _sheet(self, samples: Samples, epoch: int) -> Image:
        count = min(FED, len(samples))
        chosen = np.linspace(0, len(samples) - 1, count).round().astype(int).tolist()
        tiles = [
            self._tile(samples.dataset.ids[index], *samples.read(epoch, index)) for index in chosen
        ]
        side = max(NARROW, *(max(tile.mask.shape) for tile in tiles))
        return contact_sheet(
            [tiles], self.classes, self.palette, self.ignore_index, side=min(side, SIDE)
        )

    def _tile(self, name: str, pixels: Pixels, mask: Mask) -> Tile:
        height, width = mask.shape
        return Tile(picture(pixels), mask, f"{name}: {height} x {width}")

    def _curves(self) -> Image:
        epochs = [int(line["epoch"] or 0) for line in self.epochs]
        train, val, miou, lr = ([line[name] for line in self.epochs] for name in CURVES)
        known = [i for i, value in enumerate(miou) if value is not None]
        mark = max(known, key=lambda i: miou[i] or 0.0, default=None)
        highest = "" if mark is None else f", highest {miou[mark]:.4f} in epoch {epochs[mark]}"
        charts = [
            line_chart("loss", epochs, [Line("train", train), Line("validation", val, ORANGE)]),
            line_chart(f"validation mIoU{highest}", epochs, [Line("miou", miou)], mark=mark),
            line_chart("learning rate", epochs, [Line("lr", lr)]),
        ]
        return np.concatenate(charts, axis=1)

    def _bars(self) -> Image:
        miou = self.scores["miou"]
        mean = "" if miou is None else f", mean {100 * miou:.1f}"
        title = f"validation IoU in percent after epoch {self.scored}{mean}"
        return bar_chart(title, self.classes, self.scores["iou"], self.palette)

    def _write(self, name: str, draw: Callable[[], Image]) -> None:
        if self.folder is None:
            return
        try:
            with atomic_write(self.folder / name) as path:
                image = PIL.Image.fromarray(draw())
                if name in PHOTOGRAPHS and len(self.classes) <= FEW:
                    image = image.quantize(256, PIL.Image.Quantize.FASTOCTREE)
                image.save(path)
        except Exception as error:  # the disk is full, say, or a font lacks
            if not self._warned:
                log.warning(
                    "%s: not drawn (%s); the run goes on", self.folder / name, one_line(error)
                )
            self._warned = True


def _curves(line: Mapping[str, Any]) -> dict[str, float | None]:
    """What is drawn of a line of ``metrics.jsonl``."""
    return {name: line.get(name) for name in ("epoch", *CURVES)}
