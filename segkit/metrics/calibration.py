"""Whether a network is right as often as it is sure (Guo et al. 2017, arXiv:1706.04599)."""

from typing import TypedDict

import torch
from torch import Tensor

from segkit.metrics.confusion import ratio
from segkit.metrics.counting import occurrences

# Confidences are summed as whole multiples of this, which from 0.5 on is what float32 resolves.
UNIT = 2.0**-24


class Bin(TypedDict):
    """The pixels with a confidence above ``low`` and up to ``high``."""

    low: float
    high: float
    pixels: int
    confidence: float | None  # mean; None without pixels
    accuracy: float | None  # share of the pixels that are right


class CalibrationScores(TypedDict):
    """Plain numbers, ready for strict JSON."""

    ece: float | None  # expected calibration error; None without pixels
    bins: list[Bin]


class Calibration:
    """Expected calibration error over the pixels that are not ignored, in bins of equal width.

    The mean of ``|accuracy - confidence|`` over the bins, weighted by their pixels. Integers only,
    so the result depends neither on the order of the images nor on the number of processes.

    Args:
        ignore_index: Target value of the pixels that are not counted.
        num_bins: Number of bins.

    Attributes:
        counts: int64 (3, num_bins): pixels, pixels that are right, sum of confidences in ``UNIT``.
        outside: int64 (): labelled pixels whose confidence is no number in [0, 1], as NaN is.
    """

    def __init__(self, ignore_index: int = 255, num_bins: int = 15) -> None:
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, got {num_bins}")
        self.ignore_index, self.num_bins = ignore_index, num_bins
        self.counts = torch.zeros(3, num_bins, dtype=torch.int64)
        self.outside = torch.zeros((), dtype=torch.int64)

    def update(self, pred: Tensor, confidence: Tensor, target: Tensor) -> None:
        """Count images.

        Args:
            pred: Class ids, integer (N, H, W).
            confidence: Probability of these ids, float (N, H, W) in [0, 1].
            target: Class ids or ``ignore_index``, integer (N, H, W).
        """
        if not pred.shape == confidence.shape == target.shape:
            raise ValueError(
                "prediction, confidence and target must have the same shape, got "
                f"{tuple(pred.shape)}, {tuple(confidence.shape)} and {tuple(target.shape)}"
            )
        self.counts = self.counts.to(target.device)
        sure = confidence.float()
        bins = self._bins(sure)
        is_share = (confidence >= 0) & (confidence <= 1 + 2**-16)  # a softmax may round up
        ignored = target == self.ignore_index
        self.outside = self.outside.to(target.device) + (~is_share & ~ignored).sum()
        bins.masked_fill_(ignored | ~is_share, self.num_bins)
        units = (sure.masked_fill(~is_share, 0.0) / UNIT).round_().long().flatten()
        sums = torch.zeros(self.num_bins + 1, dtype=torch.int64, device=target.device)
        sums.scatter_add_(0, bins.flatten().long(), units)
        # Wrong ones first, then those that are right.
        bins.add_(pred == target, alpha=self.num_bins + 1)
        wrong, right = occurrences(bins, 2 * (self.num_bins + 1)).view(2, -1)
        self.counts += torch.stack([wrong + right, right, sums])[:, : self.num_bins]

    def compute(self) -> CalibrationScores:
        """The error, and what each bin says: a reliability diagram.

        Raises:
            ValueError: For confidences outside of [0, 1], NaN among them.
        """
        if outside := int(self.outside):
            raise ValueError(
                f"the confidence of {outside} pixels is no number in [0, 1]; expected probabilities"
            )
        pixels, right, units = self.counts.tolist()
        bins = [
            Bin(
                low=i / self.num_bins,
                high=(i + 1) / self.num_bins,
                pixels=n,
                confidence=ratio(units[i] * UNIT, n),
                accuracy=ratio(right[i], n),
            )
            for i, n in enumerate(pixels)
        ]
        gaps = sum(abs(r - u * UNIT) for r, u in zip(right, units, strict=True))
        return CalibrationScores(ece=ratio(gaps, sum(pixels)), bins=bins)

    def _bins(self, confidence: Tensor) -> Tensor:
        """int32, ``low < confidence <= high``; of no meaning outside of [0, 1]."""
        highs = torch.arange(1, self.num_bins, device=confidence.device) / self.num_bins
        if confidence.device.type != "cpu":
            return torch.bucketize(confidence.contiguous(), highs, out_int32=True)
        # A search is needed only near the ends of bins, where a product may be rounded over them.
        places = confidence * self.num_bins
        bins = places.nan_to_num().floor_().clamp_(0, self.num_bins - 1)
        doubtful = (places - bins - 0.5).abs_() > 0.499
        doubtful &= places < self.num_bins - 0.5  # the last bin has no end that could be missed
        found = torch.bucketize(confidence[doubtful], highs)
        bins[doubtful] = found.float()
        return bins.int()
