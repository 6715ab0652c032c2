"""Masks of pictures and videos: ``python predict.py checkpoint=RUN_OR_FILE source=PATH``.

PATH is a picture, a folder, a quoted glob pattern, a video, or the number of a camera. What cannot
be read is named and left out, and makes the exit status 1 at the end.
"""

import segkit  # isort: skip  # noqa: F401  (first: sets what other libraries read from environment)
from segkit.ending import ending  # isort: skip

if __name__ == "__main__":
    ending.begin()  # Ctrl-C while the libraries are imported ends in a line, too

import time
from pathlib import Path
from typing import Any

from segkit.cli import check_command_line, run

if __name__ == "__main__":
    check_command_line("predict")  # before the imports that take seconds: a wrong key ends at once

import torch
from omegaconf import DictConfig

from segkit.data.decode import Pixels
from segkit.errors import DataError
from segkit.inference.model import Mask, Probabilities, SegmentationModel, open_model
from segkit.predict.outputs import Areas, Outputs
from segkit.predict.sources import Source, find_sources
from segkit.predict.stopwatch import Stopwatch
from segkit.predict.video import open_video
from segkit.runtime.device import set_up
from segkit.runtime.log import log, log_to_console, progress
from segkit.runtime.signals import Stopped, StopSignals, exit_code
from segkit.text import bullet_list, display_path

BENCHMARK_IMAGES = 50  # at least so many are measured; pictures are computed again to get there
WARM_UP = 3  # of each size, not measured


def predict(cfg: DictConfig) -> dict[str, Any]:
    """Do what ``cfg`` says; returns how much was done, and with ``benchmark`` how fast."""
    log_to_console()
    folder = Path(cfg.out_dir)
    sources = find_sources(cfg.source, folder)
    model = open_model(cfg)
    device = model.inference.precision.device
    set_up(device)
    kinds = None if cfg.write is None else list(cfg.write)
    outputs = Outputs(
        folder,
        kinds,
        model.classes,
        model.palette,
        opacity=cfg.opacity,
        background=cfg.background,
    )
    problems: list[str] = []
    try:
        with StopSignals() as stop, Areas(folder / "areas.csv", model.classes) as areas:
            repeats = -(-BENCHMARK_IMAGES // len(sources)) if cfg.benchmark else 1
            work = Work(model, outputs, areas, stop, cfg.benchmark, repeats, cfg.max_frames)
            for source in progress(sources, "predict", len(sources), "files"):
                try:
                    if source.is_video:
                        work.predict_video(source)
                    else:
                        work.picture(source)
                except DataError as error:
                    log.warning("left out: %s", error)
                    problems.append(str(error))
                if stop.received is not None:
                    raise Stopped(stop.received)
    except Stopped as stopped:
        log.info("stopped; %s", work.summary(folder))
        raise SystemExit(exit_code(stopped.number)) from None
    log.info("%s", work.summary(folder))
    speed = work.watch.summary("predict") if cfg.benchmark and work.images else None
    if speed is not None:
        precision = model.inference.precision.name
        where = f"{device}, {precision}, {torch.get_num_threads()} threads"
        log.info("%s", work.watch.text(where))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(sources)} could not be read or written"
            f"{', the others were predicted' * (len(problems) < len(sources))}:\n"
            f"{bullet_list(problems)}"
        )
    return {"sources": len(sources), "images": work.images, "benchmark": speed}


class Work:
    """What happens to one source after the other, and what is counted meanwhile.

    Attributes:
        images: Pictures and frames that were predicted.
        watch: How long reading, predicting and writing them took.
    """

    def __init__(
        self,
        model: SegmentationModel,
        outputs: Outputs,
        areas: Areas,
        stop: StopSignals,
        benchmark: bool,
        repeats: int,
        max_frames: int | None,
    ) -> None:
        self.model, self.outputs, self.areas, self.stop = model, outputs, areas, stop
        self.benchmark, self.repeats, self.max_frames = benchmark, repeats, max_frames
        self.images = 0
        self.watch = Stopwatch()
        self.warm: set[tuple[int, ...]] = set()

    def picture(self, source: Source) -> None:
        assert isinstance(source.path, Path)
        with self.watch("read"):
            pixels = self.model.to_pixels(source.path)
        mask, probs = self.look(pixels, self.repeats, str(source.path))
        with self.watch("write"):
            self.outputs.write(source.name, pixels, mask, probs)
            self.areas.add(str(source.path), mask)

    def predict_video(self, source: Source) -> None:
        """A video file, or a camera until somebody stops it."""
        with (
            open_video(source.path) as video,
            self.outputs.open_videos(source.name, video.fps) as write,
        ):
            live = isinstance(source.path, int)
            frames = progress(video.frames(self.max_frames), source.name, video.count, "frames")
            number = shown = 0
            started = time.perf_counter()
            while True:
                with self.watch("read"):
                    pixels = next(frames, None)
                if pixels is None:
                    break
                pixels = self.model.to_pixels(pixels, str(source.path))
                number += 1
                mask, probs = self.look(pixels, 1, f"{source.path}, frame {number}")
                # A camera's frames come as fast as they are computed; its video keeps its pace.
                now = round((time.perf_counter() - started) * video.fps) + 1
                times = now - shown if live else 1
                shown += times
                with self.watch("write"):
                    write(pixels, mask, probs, times)
                    self.areas.add(str(source.path), mask, number)
                if self.stop.received is not None:
                    if live:
                        break
                    raise Stopped(self.stop.received)  # a part of a video would pass for the whole
        if self.max_frames is None and video.missing(number):
            raise DataError(
                f"{source.path}: only {number} of its {video.count} frames can be decoded; what "
                "was written ends there"
            )

    def look(self, pixels: Pixels, repeats: int, name: str) -> tuple[Mask, Probabilities | None]:
        """Mask and, if they are to be written, probabilities."""
        self.images += 1
        with_probs = self.outputs.with_probs
        if self.benchmark and pixels.shape not in self.warm:
            self.warm.add(pixels.shape)
            for _ in range(WARM_UP):
                self.model.compute(pixels, with_probs=with_probs, name=name)
        for _ in range(repeats):
            with self.watch("predict"):
                result = self.model.compute(pixels, with_probs=with_probs, name=name)
        return result

    def summary(self, folder: Path) -> str:
        images = f"{self.images} image{'s' * (self.images != 1)}"
        return f"{images} predicted; written to {display_path(folder)}"


if __name__ == "__main__":
    run("predict", predict)
