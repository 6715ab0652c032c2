"""What happens to one image or video after the other."""

import time
from pathlib import Path

from segkit.config.schema import PredictConfig
from segkit.data.arrays import Mask, Pixels
from segkit.errors import DataError
from segkit.inference.model import Probabilities, SegmentationModel
from segkit.predict.outputs import Areas, PredictionOutputs
from segkit.predict.sources import Source
from segkit.predict.stopwatch import Stopwatch
from segkit.runtime.log import progress
from segkit.runtime.signals import Stopped, StopSignals
from segkit.text import display_path

BENCHMARK_IMAGES = 50  # at least so many are measured; images are computed again to get there
WARM_UP = 3  # of each size, not measured


class Work:
    """Reads, predicts and writes one source after the other, and counts meanwhile.

    Args:
        model: What predicts.
        outputs: Where masks and videos go.
        areas: Where the areas of the classes go.
        stop: What may ask to stop.
        settings: The configuration.
        num_sources: How many there are.

    Attributes:
        images: Images and frames that were predicted.
        watch: How long reading, predicting and writing them took.
    """

    def __init__(
        self,
        model: SegmentationModel,
        outputs: PredictionOutputs,
        areas: Areas,
        stop: StopSignals,
        settings: PredictConfig,
        num_sources: int,
    ) -> None:
        self.model, self.outputs, self.areas, self.stop = model, outputs, areas, stop
        self.benchmark, self.max_frames = settings.benchmark, settings.max_frames
        self.repeats = -(-BENCHMARK_IMAGES // num_sources) if settings.benchmark else 1
        self.images = 0
        self.watch = Stopwatch()
        self.warm: set[tuple[int, ...]] = set()

    def predict(self, source: Source) -> None:
        """Everything for one source.

        Raises:
            DataError: It cannot be read, or its results cannot be written.
            Stopped: A signal came in the middle of a video file.
        """
        if source.is_video:
            self._video(source)
        else:
            self._image(source)

    def _image(self, source: Source) -> None:
        assert isinstance(source.path, Path)
        with self.watch("read"):
            pixels = self.model.to_pixels(source.path)
        mask, probs = self._compute(pixels, self.repeats, str(source.path))
        with self.watch("write"):
            self.outputs.write(source.name, pixels, mask, probs)
            self.areas.add(str(source.path), mask)

    def _video(self, source: Source) -> None:
        """A video file, or a camera until somebody stops it."""
        from segkit.predict.video import open_video  # OpenCV takes a while to import

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
                mask, probs = self._compute(pixels, 1, f"{source.path}, frame {number}")
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

    def _compute(
        self, pixels: Pixels, repeats: int, name: str
    ) -> tuple[Mask, Probabilities | None]:
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
        """How much was done, for people."""
        images = f"{self.images} image{'s' * (self.images != 1)}"
        return f"{images} predicted; written to {display_path(folder)}"
