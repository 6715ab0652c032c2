"""What every loss reads: the scores and labels of the pixels that are not ignored.

A loss puts its sums over pixels through :func:`segkit.losses.processes.all_reduce_sum`, so that it
is one number of the global batch when several processes train. Shapes: N images, C classes, H x W
pixels.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from segkit.losses.class_sums import ClassSums, checked_per_class
from segkit.losses.processes import all_reduce_sum
from segkit.losses.settings import checked_index
from segkit.losses.softmax import Softmax, SumOfMargins, of_true_class

TARGET_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


class PixelScores:
    """Checked, cleaned logits and target of one step, made once and read by every loss term.

    Scores become float32 (float64 stays) and are constant at ignored pixels, so that whatever stood
    there, NaN included, reaches neither a value nor a gradient. What several terms need (above all
    the one ``log_softmax``) is computed on first use and kept.

    Args:
        logits: Raw scores, any float dtype, (N, C, H, W).
        target: Class ids in ``[0, C)`` or ``ignore_index``, (N, H, W), of one of TARGET_DTYPES.
        ignore_index: Target value of the pixels to leave out; may be a class id.

    Attributes:
        num_classes: C.
        dtype: float32 or float64, of all scores.
        target: int64 (N, H, W), 0 at ignored pixels.
        valid: bool (N, H, W), False at ignored pixels.

    Raises:
        ValueError: For shapes that do not fit and wrong dtypes; on the CPU also for a target value
            that is no class. On other devices that look would wait for the device in every step;
            there the kernels that read the target stop the process. A compiled graph does not look
            either.
    """

    def __init__(self, logits: Tensor, target: Tensor, ignore_index: int = 255) -> None:
        check_shapes_and_dtypes(logits, target)
        self.num_classes = logits.shape[1]
        target = target.long()
        self._ignored = target == ignore_index
        self.valid = ~self._ignored
        self.target = target.masked_fill(self._ignored, 0)
        if self.target.device.type == "cpu" and not torch.compiler.is_compiling():
            check_class_ids(self.target, self.num_classes, ignore_index)
        self._raw = as_float(logits)
        self.dtype = self._raw.dtype
        # Plain attributes: before Python 3.12 a cached_property takes a lock, at which
        # torch.compile would cut its graph.
        self._logits: Tensor | None = None
        self._softmax: tuple[Tensor, Tensor] | None = None

    @property
    def logits(self) -> Tensor:
        """0 at ignored pixels, (N, C, H, W)."""
        if self._logits is None:
            self._logits = self._raw.masked_fill(self._ignored.unsqueeze(1), 0.0)
        return self._logits

    @property
    def nll(self) -> Tensor:
        """``-log p_t``, with ``p_t`` the probability of the true class; 0 if ignored, (N, H, W)."""
        return self._nll_and_probs()[0]

    @property
    def probs(self) -> Tensor:
        """Softmax, 0 at ignored pixels, (N, C, H, W)."""
        return self._nll_and_probs()[1]

    def sum_of_log_probs(self, class_weights: Tensor | None = None) -> Tensor:
        """``sum_c w_c log p_c``, 0 at ignored pixels, (N, H, W).

        Args:
            class_weights: ``w``, of :meth:`per_class`; None is 1 for each class.
        """
        if class_weights is None:
            class_weights = self._raw.new_ones(self.num_classes)
        inputs = (self._raw, self.target, self._ignored, class_weights)
        if self._softmax is None:
            nll, probs, over = Softmax.apply(*inputs)
            self._softmax = nll, probs
            return over  # type: ignore[no-any-return]
        # Another term has taken the softmax: log p_c is (z_c - z_t) + log p_t.
        margins: Tensor = SumOfMargins.apply(*inputs)
        return margins - class_weights.sum() * self.nll

    def _nll_and_probs(self) -> tuple[Tensor, Tensor]:
        if self._softmax is None:
            nll, probs, _ = Softmax.apply(self._raw, self.target, self._ignored, None)
            self._softmax = nll, probs
        return self._softmax

    def of_true_class(self, scores: Tensor) -> Tensor:
        """The entry of each pixel's true class: (N, C, H, W) -> (N, H, W)."""
        return of_true_class(scores, self.target)

    def per_class(self, values: Tensor, name: str) -> Tensor:
        """One setting per class with the dtype and device of the logits, its length checked."""
        return checked_per_class(values, name, self.num_classes).to(self._raw)

    def of_class(self, values: Tensor) -> Tensor:
        """The value of each pixel's true class: (C,) -> (N, H, W)."""
        # Six times faster than values[target] on the CPU.
        return values.index_select(0, self.target.flatten()).view_as(self.target)

    def weights(self, class_weights: Tensor | None = None) -> Tensor:
        """Weight of each pixel: that of its true class (1 without weights), 0 where ignored."""
        if class_weights is None:
            return self.valid.to(self.dtype)
        return self.of_class(self.per_class(class_weights, "class_weights")) * self.valid

    def mean(self, values: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Weighted mean of (N, H, W) values, divided by the sum of the weights as torch does."""
        weights = self.weights(class_weights)
        return ratio_of_sums(weights * values, weights)

    def sum_per_class(self, values: Tensor) -> Tensor:
        """Sum of (N, H, W) values over the valid pixels of each true class, float64 (C,)."""
        values = torch.where(self.valid, values, 0.0).to(sum_dtype(values))
        # One bin per image row and class, not per class: the device's atomic adds rarely meet, and
        # the sorted sums that PyTorch takes instead in its deterministic mode stay short.
        rows = values.new_zeros((*values.shape[:2], self.num_classes))
        return rows.scatter_add(2, self.target, values).sum((0, 1))


class PixelLoss(nn.Module, ABC):
    """A loss that reads :class:`PixelScores`, so that :class:`WeightedSum` can share them.

    Args:
        ignore_index: Target value of the pixels that have no part in the loss.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = checked_index("ignore_index", ignore_index)

    @abstractmethod
    def on(self, pixels: PixelScores) -> Tensor:
        """The loss as a scalar, read off checked and cleaned scores."""

    def of_sums(self, sums: ClassSums) -> Tensor:
        """The same, read off sums per class; for the losses that fused kernels can compute.

        Must put the same sums through ``all_reduce_sum`` as :meth:`on`, in the same order.
        """
        raise NotImplementedError(f"{type(self).__name__} is no function of sums per class")

    def amount(self, target: Tensor) -> Tensor | None:
        """For a mean over pixels: what it divides by, a scalar; see :func:`sum_of_weights`.

        Args:
            target: Class ids or ``ignore_index``, integer (N, H, W).

        Returns:
            None if it is another function of sums over pixels. Where batches are accumulated, a
            first pass over all of them computes these then.
        """
        return None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, H, W) and integer target (N, H, W) as a float32 scalar.

        Float64 logits give a float64 scalar. No valid pixel gives 0 with a zero gradient.
        """
        with full_precision(logits):
            return self.on(PixelScores(logits, target, self.ignore_index))


def check_shapes_and_dtypes(logits: Tensor, target: Tensor) -> None:
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "logits must be (N, C, H, W) and target (N, H, W) with the same N, H and W, "
            f"got logits {tuple(logits.shape)} and target {tuple(target.shape)}"
        )
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floats, got {logits.dtype}")
    if target.dtype not in TARGET_DTYPES:
        wanted = ", ".join(str(dtype) for dtype in TARGET_DTYPES)
        raise ValueError(f"target must hold class ids as {wanted}, got {target.dtype}")


def check_class_ids(target: Tensor, num_classes: int, ignore_index: int) -> None:
    if target.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(target))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"target holds {low if low < 0 else high}, which is neither a class id in "
            f"[0, {num_classes}) nor ignore_index={ignore_index}"
        )


def as_float(logits: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def full_precision(logits: Tensor) -> torch.autocast:
    """A context with autocast off: sums over a million pixels need float32."""
    return torch.autocast(logits.device.type, enabled=False)


def ratio(value: Tensor, amount: Tensor) -> Tensor:
    """``value / amount``, and 0 with a zero gradient where the amount is 0."""
    return value / amount.masked_fill(amount == 0, math.inf)


def ratio_of_sums(values: Tensor, amounts: Tensor) -> Tensor:
    """Sum of the values over the sum of the amounts, both over the pixels of all processes."""
    value, amount = all_reduce_sum(torch.stack((values.sum(), amounts.sum())))
    return ratio(value, amount)


def sum_of_weights(
    target: Tensor, ignore_index: int, class_weights: Tensor | None = None
) -> Tensor:
    """That of the pixels of a target (N, H, W) that are not ignored; their number without weights.

    Ids that are no class are the loss's to refuse.
    """
    valid = target != ignore_index
    if class_weights is None:
        return valid.sum(dtype=count_dtype(target))
    known = target.long().clamp(0, len(class_weights) - 1)
    return (class_weights.to(target.device)[known] * valid).sum(dtype=count_dtype(target))


def sum_dtype(values: Tensor) -> torch.dtype:
    """float64 for long sums, where the device has it."""
    return values.dtype if values.device.type == "mps" else torch.float64


def count_dtype(target: Tensor) -> torch.dtype:
    """Likewise for sums of weights over the pixels of a target."""
    return torch.float32 if target.device.type == "mps" else torch.float64
