"""The files that are made of predicted masks, each whole or not there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from segkit.config.schema import OUTPUTS
from segkit.data.arrays import Image, Mask, Pixels
from segkit.data.masks import write_mask
from segkit.errors import ConfigError, DataError
from segkit.files import CSVTable, atomic_write
from segkit.inference.model import Probabilities
from segkit.metrics.boundary import near_other_label
from segkit.report.color_key import shown_classes, with_color_key
from segkit.report.images import color, picture, write_image
from segkit.text import did_you_mean, display_path

BACKGROUND = "background"  # need not be a class, unless it is to be cut away
FILMED = ("overlay", "color")  # what of a video is a video again; the rest are files per frame


class PredictionOutputs:
    """Writes what is asked for, each kind in a folder of its own that mirrors the sources'.

    Args:
        folder: For all files.
        kinds: ``index``: palette PNG; ``overlay``: the image under half-transparent colours;
            ``color``: RGB PNG; ``cutout``: PNG that is transparent where the background is;
            ``probs``: npz with ``probs`` float16 (C, H, W) and ``classes``. None is ``index`` of
            images and ``overlay`` of videos.
        classes: Names in index order.
        palette: RGB of each class, uint8 (256, 3).
        opacity: Share of the colours in an overlay, 0 to 1.
        background: Name of the class that an overlay leaves as it is and a cutout cuts away.
        outlines: Draw the borders of the classes in an overlay in their full colours.
        legend: Names and colours below an overlay: of the classes that an image shows; of all in a
            video, whose frames have one size, unless that takes more than half as much again.

    Attributes:
        earlier: Results of earlier runs in ``folder`` that nothing has replaced so far.

    Raises:
        ConfigError: For what cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str] | None,
        classes: Sequence[str],
        palette: Image,
        *,
        opacity: float = 0.5,
        background: str = BACKGROUND,
        outlines: bool = False,
        legend: bool = True,
    ) -> None:
        if not 0 <= opacity <= 1:
            raise ConfigError(f"opacity={opacity}: expected a number from 0 to 1")
        if kinds is not None and not kinds:
            raise ConfigError("write=[]: nothing to write; give write=[index], or leave write out")
        cuts = "cutout" in (kinds or ())
        if background not in classes and (cuts or background != BACKGROUND):
            raise ConfigError(
                f"{'write=cutout needs the class to cut away: ' * cuts}background={background} is "
                f"no class{did_you_mean(background, classes)}"
            )
        if len(classes) > 256 and "index" in (kinds or ["index"]):
            raise ConfigError(
                f"write=index: a palette PNG holds 256 classes, the model has {len(classes)}; "
                "give write=[probs]"
            )
        self.kinds = None if kinds is None else list(dict.fromkeys(kinds))
        self.folder, self.classes, self.palette = folder, classes, palette
        self.opacity, self.outlines, self.legend = opacity, outlines, legend
        self.background = classes.index(background) if background in classes else None
        found = (file for kind in OUTPUTS for file in (folder / kind).rglob("*"))
        self.earlier = {file for file in found if file.is_file()}

    def leftovers(self) -> str | None:
        """A sentence about the results that this run has not written; None if there are none."""
        if not self.earlier:
            return None
        kinds = ", ".join(sorted({f.relative_to(self.folder).parts[0] for f in self.earlier}))
        return (
            f"results of an earlier run are still in {display_path(self.folder)}: "
            f"{len(self.earlier)} in {kinds}, such as {display_path(min(self.earlier))}. "
            "For those of this run alone delete these folders and predict again, or give another "
            "out_dir"
        )

    @property
    def with_probs(self) -> bool:
        return "probs" in (self.kinds or ())

    def write(
        self, name: str, pixels: Pixels, mask: Mask, probs: Probabilities | None, *kinds: str
    ) -> None:
        """The files of one image; ``kinds`` other than those of the whole run."""
        for kind in kinds or self.kinds or ("index",):
            suffix = ".npz" if kind == "probs" else ".png"
            result = self.folder / kind / f"{name}{suffix}"
            with atomic_write(result) as path:
                if kind == "index":
                    write_mask(path, mask, self.palette)
                elif kind == "probs":
                    assert probs is not None
                    np.savez_compressed(
                        path, probs=probs.astype(np.float16), classes=np.array(self.classes)
                    )
                else:
                    drawn = self.draw(kind, pixels, mask)
                    if kind == "overlay":
                        drawn = self._with_legend(drawn, shown_classes([mask], len(self.classes)))
                    write_image(path, drawn)
            self.earlier.discard(result)

    @contextmanager
    def open_videos(self, name: str, fps: float) -> Iterator[Callable[..., None]]:
        """A function that takes the frames of a video like :meth:`write`, without the name.

        It also takes how often a frame is to be shown. The videos appear at the end, and not if
        anything is raised. What is no video becomes files ``<name>/<number>``.
        """
        from segkit.predict.video import write_video  # OpenCV takes a while to import

        kinds = list(self.kinds or ["overlay"])
        frames = 0
        films = {kind: self.folder / kind / f"{name}.mp4" for kind in kinds if kind in FILMED}
        with ExitStack() as stack:
            videos = {
                kind: stack.enter_context(write_video(path, fps)) for kind, path in films.items()
            }
            others = [kind for kind in kinds if kind not in videos]

            def write(
                pixels: Pixels, mask: Mask, probs: Probabilities | None, times: int = 1
            ) -> None:
                nonlocal frames
                frames += 1
                for kind, add in videos.items():
                    drawn = self.draw(kind, pixels, mask)
                    if kind == "overlay":
                        whole = self._with_legend(drawn, range(len(self.classes)))
                        drawn = whole if 2 * len(whole) <= 3 * len(drawn) else drawn
                    for _ in range(times):
                        add(drawn)
                if others:
                    self.write(f"{name}/{frames:06d}", pixels, mask, probs, *others)

            yield write
        self.earlier.difference_update(films.values())

    def draw(self, kind: str, pixels: Pixels, mask: Mask) -> Image:
        """An image uint8 (H, W, 3), or with alpha (H, W, 4) for a cutout."""
        pixels = picture(pixels)
        if kind == "cutout":
            alpha = np.where(mask == self.background, 0, 255).astype(np.uint8)
            return np.dstack([pixels, alpha])
        colors = color(mask, self.palette)
        if kind == "color":
            return colors
        mixed = pixels.astype(np.float32)  # large images do not bear float64, the default
        mixed += self.opacity * (colors - mixed)
        drawn = np.rint(mixed).astype(np.uint8)
        if self.outlines:
            drawn = np.where(_borders(mask)[..., None], colors, drawn)
        if self.background is not None:
            drawn = np.where((mask == self.background)[..., None], pixels, drawn)
        return drawn

    def _with_legend(self, drawn: Image, shown: Iterable[int]) -> Image:
        if not self.legend:
            return drawn
        coloured = [i for i in shown if i != self.background]
        return with_color_key(drawn, coloured, self.classes, self.palette)


def _borders(mask: Mask) -> NDArray[np.bool_]:
    """Where another class is near, bool (H, W): nearer in small images."""
    radius = max(1, round(max(mask.shape) / 600))
    labels = torch.from_numpy(mask.astype(np.int32))[None]
    near: NDArray[np.bool_] = near_other_label(labels, radius, edges=False)[0].numpy()
    return near


class Areas(AbstractContextManager["Areas"]):
    """``areas.csv``: how many pixels, and what percentage, each class has in each image.

    One row per image, or per frame of a video. The file appears at the end, and if the end comes
    early it holds what was counted until then; without any there is none.

    Raises:
        ConfigError: Nothing can be written there.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path, self.classes = path, classes

    def __enter__(self) -> "Areas":
        self._writing = atomic_write(self.path)
        try:
            with ExitStack() as stack:
                temporary = stack.enter_context(self._writing)
                # Names of files are bytes, which need be no text.
                self._file: IO[str] = temporary.open(
                    "w", newline="", encoding="utf-8", errors="surrogateescape"
                )
                stack.pop_all()
        except (OSError, DataError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            raise ConfigError(
                f"out_dir={self.path.parent}: cannot be written to "
                f"({getattr(cause, 'strerror', cause)}); give out_dir=FOLDER, one that can"
            ) from error
        self._rows = CSVTable(self._file)
        columns = [f"{name} {unit}" for name in self.classes for unit in ("pixels", "percent")]
        self._rows.add(["source", "frame", "pixels", *columns])
        self._counted = False
        return self

    def add(self, source: str, mask: NDArray[Any], frame: int | None = None) -> None:
        counts = np.bincount(mask.ravel(), minlength=len(self.classes)).tolist()
        cells = [cell for n in counts for cell in (n, f"{100 * n / mask.size:.4f}")]
        self._rows.add([source, "" if frame is None else frame, mask.size, *cells])
        self._counted = True

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        self._file.close()
        if self._counted:  # what was counted until an early end stays
            self._writing.__exit__(None, None, None)
        else:
            self._writing.__exit__(kind, *exception)
