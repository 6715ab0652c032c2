"""How the class scores of an image are computed: whole or in windows, once or at several scales."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.errors import ConfigError, TrainingError
from segkit.inference.held_bytes import HeldBytes
from segkit.inference.memory_need import free_memory
from segkit.metrics.counting import row_strips
from segkit.models.folding import folded
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision
from segkit.runtime.finite import all_finite, refuse_logits
from segkit.runtime.log import log
from segkit.runtime.memory import is_out_of_memory

Size = tuple[int, int]

SMALLEST_WINDOW = 64  # of what is tried where memory ran out
STRIP = 2**22  # scores of windows that are in memory beside their rows
PLENTY = 2**14  # bytes a pixel that no network takes: with more nothing has to be foreseen
TRIED = 256  # side of the part whose memory is measured
SPARE = 1.3  # what operators need inside is not seen


class Inference:
    """A model in eval mode with all that happens around it, image by image.

    Not batch by batch: the sums of a convolution are split differently for another batch size,
    which changes the last bits of the logits, and scores must not depend on it.

    Without windows and with one scale the scores are the logits. With several views of a pixel
    (scales, mirror images, overlapping windows) the probabilities of its views are averaged, and
    the scores are their logarithm, which softmax takes back to them. Of a network that was trained
    to answer for each class alone the probabilities are sigmoids, and the scores their logit.

    An image that does not fit into the memory whole is taken in windows, and so are later ones
    that are as large. That is said once; ``fallback`` is their size then. On a CPU it is foreseen:
    asked for too much, the system would kill the process without a word.

    Args:
        model: What maps (1, 3, H, W) to logits (1, C, H, W).
        normalize: Bytes to floats.
        precision: Number format of the forward pass; everything after it is float32.
        scales: Factors of the image's size, as in DeepLab's test-time augmentation (Chen et al.
            2017, arXiv:1606.00915), each above 0. With windows they are factors of each window.
        flip: Predict the mirror image too.
        window: Height and width of the windows; None takes images whole.
        stride: From one window to the next; None is two thirds of the window.
        source: What the model is called in messages.
        window_key: What the size of the windows is called there.
        sigmoid: The loss of the training was BCE, so the logits are those of sigmoids.

    Raises:
        ConfigError: For a value out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        normalize: Normalize,
        precision: Precision,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: Size | None = None,
        stride: Size | None = None,
        source: str = "the network",
        window_key: str = "window",
        sigmoid: bool = False,
    ) -> None:
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ConfigError(f"scales={list(scales)}: expected numbers above 0")
        if window is None and stride is not None:
            raise ConfigError("stride is set and window is not: give both or neither")
        if window is not None and min(window) < 1:
            raise ConfigError(f"window={list(window)}: expected at least 1")
        pairs = zip(stride or (), window or (), strict=False)
        if any(not 1 <= step <= side for step, side in pairs):
            raise ConfigError(
                f"stride={stride}: expected at least 1 and at most window={window}; "
                "with a larger one pixels between windows would be left out"
            )
        self.model, self.normalize, self.precision = model.eval(), normalize, precision
        if precision.device.type == "cpu":
            self.model = folded(self.model, len(normalize.mean))
        self.scales, self.flip, self.window, self.stride = tuple(scales), flip, window, stride
        self.source, self.window_key, self.sigmoid = source, window_key, sigmoid
        self.fallback: Size | None = None
        self._too_large = math.inf  # pixels of the smallest image that did not fit whole
        self._fitted = 0  # pixels of the largest image that did
        self._cost: tuple[float, int] | None = None  # bytes a pixel, and classes

    def comparable(self, scores: Tensor) -> Tensor:
        """Scores of which softmax makes probabilities, in any case: sigmoids over their sum."""
        return F.logsigmoid(scores) if self.sigmoid else scores

    @torch.no_grad()
    def __call__(
        self, image: Tensor, name: str = "the image", finite: list[Tensor] | None = None
    ) -> Tensor:
        """Scores float32 (1, C, H, W) of an image, all at once; see :meth:`row_blocks`."""
        row_blocks = [scores for _, scores in self.row_blocks(image, name, finite)]
        return row_blocks[0] if len(row_blocks) == 1 else torch.cat(row_blocks, dim=2)

    @torch.no_grad()
    def row_blocks(
        self, image: Tensor, name: str = "the image", finite: list[Tensor] | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """The rows of the image from top to bottom, and their scores (1, C, rows, W).

        With windows hardly more is in memory than the rows that one of them covers.

        Args:
            image: uint8 (1, 3, H, W).
            name: What messages call the image.
            finite: Gets a bool scalar on the device for each time that the model computes: whether
                its logits are finite. Without it they are looked at after the last rows, which
                waits for the device.

        Raises:
            TrainingError: Memory ran out and smaller windows are no way out.
            CheckpointError: The logits are not finite, and there is no ``finite``.
        """
        flags: list[Tensor] = [] if finite is None else finite
        height, width = image.shape[2:]
        window = self.window or (self.fallback if height * width >= self._too_large else None)
        if window is None and image.device.type == "cpu" and height * width > self._fitted:
            window = self._foreseen(image)
        while True:
            if window is None:
                row_blocks = self._whole(image, flags)
            else:
                row_blocks = self._in_windows(image, window, flags)
            try:
                first = next(row_blocks)  # all windows are of one size: the others will fit too
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                window = self._smaller(window, (height, width), error)
            if image.device.type == "cuda":
                torch.cuda.empty_cache()
        yield first
        yield from row_blocks
        if finite is None:
            refuse_logits(flags, name, self.source, self.precision.name)

    def _smaller(self, window: Size | None, size: Size, error: RuntimeError) -> Size:
        """The windows to try where memory ran out with ``window``, or with the whole image."""
        tried = window or size
        half = (-(-tried[0] // 2), -(-tried[1] // 2))
        if self.window is not None or min(half) < SMALLEST_WINDOW:
            raise TrainingError(
                f"{tried[0]} x {tried[1]} pixels at once do not fit into the memory of "
                f"{self.precision.device}; give a smaller {self.window_key}, or compute on the CPU"
            ) from error
        self.fallback, self._too_large = half, min(self._too_large, size[0] * size[1])
        log.warning(
            "warning: out of memory with %d x %d pixels at once: images of %d x %d and more are "
            "taken in windows of %d x %d from here on. %s=[%d,%d] does so from the start, with the "
            "same scores on every machine",
            *tried,
            *size,
            *half,
            self.window_key,
            *half,
        )
        return half

    def _foreseen(self, image: Tensor) -> Size | None:
        """Windows for an image that would not fit into the free memory whole; None if it would."""
        size: Size = (image.shape[2], image.shape[3])
        free = free_memory()
        if free is None or size[0] * size[1] * PLENTY <= free:
            return None
        if self._cost is None:
            self._cost = self._try(image[:, :, :TRIED, :TRIED])
        per_pixel, num_classes = self._cost
        need = per_pixel * size[0] * size[1]
        if need <= free:
            return None
        window = size
        while min(window) >= 2 * SMALLEST_WINDOW:
            window = (-(-window[0] // 2), -(-window[1] // 2))
            rows = 1.3 * 4 * num_classes * window[0] * size[1]  # their probabilities
            if per_pixel * window[0] * window[1] + rows <= free:
                break
        if window == size:
            return None
        self.fallback, self._too_large = window, min(self._too_large, size[0] * size[1])
        log.warning(
            "warning: %d x %d pixels at once would take about %.1f GiB of memory, and %.1f GiB are "
            "free: images of %d x %d and more are taken in windows of %d x %d from here on, whose "
            "scores differ a little from those of whole images. %s=[%d,%d] does so from the start, "
            "with the same scores on every machine",
            *size,
            need / 2**30,
            free / 2**30,
            *size,
            *window,
            self.window_key,
            *window,
        )
        return window

    def _try(self, part: Tensor) -> tuple[float, int]:
        """Bytes a pixel that a part of an image takes at most, and the number of classes."""
        try:
            with HeldBytes() as held:
                num_classes = self._views(part, []).shape[1]
        except Exception:  # who cannot take so small a part says nothing of the whole
            return 0.0, 0
        return SPARE * held.peak / (part.shape[2] * part.shape[3]), num_classes

    def _whole(self, image: Tensor, flags: list[Tensor]) -> Iterator[tuple[slice, Tensor]]:
        scores = self._views(image, flags)
        self._fitted = max(self._fitted, image.shape[2] * image.shape[3])
        yield slice(0, image.shape[2]), scores

    def _in_windows(
        self, image: Tensor, window: Size, flags: list[Tensor]
    ) -> Iterator[tuple[slice, Tensor]]:
        stride = self.stride or (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
        height, width = (min(w, s) for w, s in zip(window, image.shape[2:], strict=True))
        tops = tile_origins(image.shape[2], height, stride[0])
        lefts = tile_origins(image.shape[3], width, stride[1])
        weight = gaussian_weight(height, width, image.device)
        sums: Tensor | None = None  # of weighted probabilities, for the rows of these windows
        weights = weight.new_zeros(height, image.shape[3])
        for top, following in pairwise([*tops, image.shape[2]]):
            for left in lefts:
                columns = slice(left, left + width)
                scores = self._views(image[:, :, top : top + height, columns], flags)
                if sums is None:
                    sums = scores.new_zeros(1, scores.shape[1], height, image.shape[3])
                for rows in row_strips(slice(0, height), scores.shape[1] * width, STRIP):
                    probs = self._probabilities(scores[:, :, rows])
                    sums[:, :, rows, columns] += probs.mul_(weight[rows])
                weights[:, columns] += weight
                del scores, probs
            assert sums is not None
            # What lies above the next row of windows is complete; the rest moves up.
            done = following - top
            for rows in row_strips(slice(0, done), sums.shape[1] * sums.shape[3], STRIP):
                found = self._scores(sums[:, :, rows] / weights[rows])
                yield slice(top + rows.start, top + rows.stop), found
            for kept in (sums[0], weights[None]):  # (C, height, W), (1, height, W)
                for first in range(0, height - done, done):  # what is written was read before
                    last = min(first + done, height - done)
                    kept[:, first:last] = kept[:, first + done : last + done]
                kept[:, height - done :] = 0

    def _views(self, image: Tensor, flags: list[Tensor]) -> Tensor:
        """Scores of an image, or of a window of one, over all its views."""
        normalized = self.normalize(image)
        if self.scales == (1.0,) and not self.flip:
            return self._logits(normalized, flags)
        size = image.shape[2:]
        total: Tensor | None = None
        for scale in self.scales:
            scaled = normalized
            if scale != 1.0:
                shape = [max(1, round(side * scale)) for side in size]
                scaled = F.interpolate(
                    normalized, shape, mode="bilinear", align_corners=False, antialias=scale < 1
                )
            for mirrored in (False, True)[: 1 + self.flip]:
                logits = self._logits(scaled.flip(3) if mirrored else scaled, flags)
                logits = logits.flip(3) if mirrored else logits
                if logits.shape[2:] != size:
                    logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
                probs = self._probabilities(logits)
                total = probs if total is None else total.add_(probs)
        assert total is not None
        return self._scores(total.div_(len(self.scales) * (1 + self.flip)))

    def _probabilities(self, scores: Tensor) -> Tensor:
        return scores.sigmoid() if self.sigmoid else scores.softmax(1)

    def _scores(self, probs: Tensor) -> Tensor:
        if not self.sigmoid:
            return log_probs_(probs)
        limits = torch.finfo(probs.dtype)
        return probs.clamp_(limits.tiny, 1 - limits.eps / 2).logit_()

    def _logits(self, image: Tensor, flags: list[Tensor]) -> Tensor:
        with self.precision.autocast():
            logits: Tensor = self.model(image)
        flags.append(all_finite(logits))
        return logits.float()


class Ensemble(nn.Module):
    """Several models of the same classes as one: the mean of their probabilities, as logarithms.

    They are NaN at a pixel where the logits of any model are not finite.

    Args:
        models: Its members.
        sigmoids: For each, whether its logits are those of sigmoids; None: of none.
    """

    def __init__(self, models: Sequence[nn.Module], sigmoids: Sequence[bool] | None = None) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.sigmoids = list(sigmoids or [False] * len(models))

    def forward(self, image: Tensor) -> Tensor:
        """Scores float32 (N, C, H, W) of an image, float (N, 3, H, W)."""
        total = image.new_zeros(())
        for model, sigmoid in zip(self.models, self.sigmoids, strict=True):
            logits = model(image).float()
            total = total + probabilities(logits, sigmoid)
        return log_probs_(total / len(self.models))


def pair(sides: Sequence[int] | None) -> Size | None:
    """A height and a width of a configuration."""
    return None if sides is None else (sides[0], sides[1])


def probabilities(logits: Tensor, sigmoid: bool = False) -> Tensor:
    """Softmax in float32, or sigmoids over their sum; NaN for a logit that is not finite.

    Softmax makes 0 of -inf, and a sigmoid makes 1 of inf.
    """
    logits = logits.float()
    probs = (F.logsigmoid(logits) if sigmoid else logits).softmax(1)
    return probs.masked_fill_(~logits.isfinite(), math.nan)


def log_probs_(probs: Tensor) -> Tensor:
    """Logarithms, in place, that stay finite where a probability is rounded to 0."""
    return probs.clamp_(min=torch.finfo(probs.dtype).tiny).log_()


def tile_origins(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover ``size`` pixels; the last one ends with them."""
    return [*range(0, size - window, stride), size - window]


def gaussian_weight(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """How much each pixel of a window counts, (height, width): most in the middle.

    A Gaussian with an eighth of the window as standard deviation, as in nnU-Net (Isensee et al.
    2021): what a network sees at the border of a window is less than what it sees in the middle.
    Made on the device: a copy to it would wait for all that is computed there.
    """

    def bell(size: int) -> Tensor:
        offset = torch.arange(size, device=device) - (size - 1) / 2
        return torch.exp(-0.5 * (offset / (size / 8)) ** 2)

    return bell(height)[:, None] * bell(width)
