"""Videos and cameras: frames in, frames out. The only file that decodes or encodes them."""

import math
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# FFmpeg's own lines on a damaged file would stand between ours, which name the file.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from segkit.data.arrays import Image
from segkit.errors import DataError
from segkit.files import atomic_write, refuse_special
from segkit.runtime.log import log
from segkit.text import display_path

# OpenCV 4 has these at the top, 5 in a module of its own.
cv2_logging = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
SILENT = 0
USUAL_FPS = 25.0  # for a camera or file that does not say its own
IN_BROWSERS, ANYWHERE = "avc1", "mp4v"  # H.264, MPEG-4 Part 2: OpenCV's names of the codecs
CLOSE = 24  # of 255: how far the mean colour of a frame may be off through a codec
CONVERT = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart")


class Video:
    """A video file or a camera that is open.

    Attributes:
        path: The file, or the number of the camera.
        fps: Frames per second.
        count: How many frames the file says that it has; None if it does not, or is a camera.

    Raises:
        DataError: No such camera, or no video.
    """

    def __init__(self, path: Path | int) -> None:
        self.path = path
        if isinstance(path, Path):
            refuse_special(path)
        if isinstance(path, Path) and not path.is_file():
            raise DataError(f"{path}: no such file")
        with _quiet():
            self._capture = cv2.VideoCapture(path if isinstance(path, int) else str(path))
        if not self._capture.isOpened():
            if isinstance(path, int):
                raise DataError(
                    f"camera {path}: cannot be opened; is it there, and free? There is no file or "
                    "folder of this name either"
                )
            if path.stat().st_size == 0:
                raise DataError(f"{path}: is empty (0 bytes). Get it again from its source")
            raise DataError(
                f"{path}: cannot be opened as a video. Get it again from its source, or convert it "
                "to MP4"
            )
        fps, count = (self._capture.get(p) for p in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else USUAL_FPS
        known = isinstance(path, Path) and math.isfinite(count) and count > 0
        self.count = int(count) if known else None

    def frames(self, limit: int | None = None) -> Iterator[Image]:
        """The frames, uint8 (H, W, 3) RGB, at most ``limit`` of them.

        Raises:
            DataError: There is none.
        """
        found = 0
        while limit is None or found < limit:
            ok, frame = self._capture.read()
            if not ok:
                break
            found += 1
            yield np.ascontiguousarray(frame[..., ::-1])
        name = f"camera {self.path}" if isinstance(self.path, int) else str(self.path)
        if found == 0:
            raise DataError(f"{name}: holds no frame that can be decoded")

    def missing(self, found: int) -> bool:
        """Whether ``found`` frames are fewer than the file's head can have meant.

        Some formats only estimate their number, from the duration.
        """
        return self.count is not None and found < 0.99 * self.count - 1

    def close(self) -> None:
        self._capture.release()


@contextmanager
def open_video(path: Path | int) -> Iterator[Video]:
    """A :class:`Video` that is closed at the end."""
    video = Video(path)
    try:
        yield video
    finally:
        video.close()


@contextmanager
def write_video(path: Path, fps: float) -> Iterator[Callable[[Image], None]]:
    """A function that appends a frame, uint8 (H, W, 3) RGB, to an MP4 file that becomes ``path``.

    In H.264, which browsers play, if OpenCV has an encoder for it; else in MPEG-4 Part 2, with a
    line that says how to convert it. The codecs take even sizes only: where a side is odd, its last
    row or column is repeated. The file appears at the end, and not if anything is raised.

    Raises:
        DataError: The file cannot be written, or holds fewer frames than were given.
    """
    codecs: list[str] = []
    with atomic_write(path) as temporary, _writing(temporary, path.parent, fps, codecs) as write:
        yield write
    if codecs == [ANYWHERE]:
        target = path.with_suffix(".h264.mp4")
        words = ["ffmpeg", "-i", display_path(path), *CONVERT, display_path(target)]
        log.info(
            "%s: browsers do not play it, since OpenCV has no H.264 encoder here. FFmpeg does: %s",
            display_path(path),
            shlex.join(words),
        )


@contextmanager
def _writing(
    path: Path, folder: Path, fps: float, codecs: list[str]
) -> Iterator[Callable[[Image], None]]:
    """The function of :func:`write_video`; ``codecs`` gets the one that the first frame chooses."""
    writer: cv2.VideoWriter | None = None
    count = 0

    def write(frame: Image) -> None:
        nonlocal writer, count
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            height, width = frame.shape[:2]
        if writer is None:
            codecs.append(IN_BROWSERS if can_write(IN_BROWSERS, path, fps, frame) else ANYWHERE)
            writer = _open_writer(codecs[0], path, fps, frame)
            if not writer.isOpened():
                raise DataError(f"{folder}: no video can be written there")
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
        count += 1

    try:
        yield write
    finally:
        if writer is not None:
            writer.release()
    # OpenCV does not tell of a full disk.
    with _quiet():
        written = cv2.VideoCapture(str(path))
        found = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
    if found != count:
        raise DataError(f"{folder}: of {count} frames {found} could be written; is the disk full?")


def can_write(codec: str, path: Path, fps: float, frame: Image) -> bool:
    """Whether a video of ``frame`` alone, written to ``path`` and read back, shows that frame.

    An encoder may be there and refuse a size, or write what nobody can read. Compared are sums over
    the frame, which no lossy codec changes by much.
    """
    with _quiet():
        writer = _open_writer(codec, path, fps, frame)
        if not writer.isOpened():
            return False
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
        reader = cv2.VideoCapture(str(path))
        ok, found = reader.read()
        reader.release()
    if not ok or found.shape != frame.shape:
        return False
    return bool(abs(found[..., ::-1].mean((0, 1)) - frame.mean((0, 1))).max() < CLOSE)


def _open_writer(codec: str, path: Path, fps: float, frame: Image) -> cv2.VideoWriter:
    height, width = frame.shape[:2]
    with _quiet():
        return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without OpenCV's own lines; what they say is in ours."""
    before = cv2_logging.getLogLevel()
    cv2_logging.setLogLevel(SILENT)
    try:
        yield
    finally:
        cv2_logging.setLogLevel(before)
