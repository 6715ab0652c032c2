"""Labels that are probably wrong: confident learning (Northcutt et al. 2021, arXiv:1911.00068).

A pixel's label is doubted where the network is at least as sure of another class as it is, on
average, of that class where it is the label. Pixels of one mistake are not independent, so what is
judged and ranked is a region: connected pixels that share their label and their prediction.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from segkit.files import write_csv
from segkit.metrics.boundary import near_other_label
from segkit.metrics.objects import NEIGHBOURS
from segkit.report.image_result import Box, ImageResult, Probabilities

TINY = 1e-6  # a smaller probability is not one that can be relied on
UNIT = 2.0**-24  # probabilities are summed as whole multiples of it, so in any order


@dataclass(frozen=True)
class Region:
    """Connected pixels of one label and of one prediction that differs from it.

    Attributes:
        name: The image's id.
        label: Class that the mask says.
        pred: Class that the network says.
        box: Around the region.
        pixels: In its inner part, which has lost the seam along its border.
        share: The same as a share of the image.
        confidence: Mean probability of ``pred`` over them.
        label_confidence: Mean probability of ``label`` over them.
    """

    name: str
    label: int
    pred: int
    box: Box
    pixels: int
    share: float
    confidence: float
    label_confidence: float

    @cached_property
    def score(self) -> float:
        """How sure and how large: the higher the more a look is worth.

        The ratio of the probabilities tells mistakes of labels from those of a network, which
        leaves the label some chance where it confuses classes. Size counts by its logarithm: its
        pixels are not independent. Chosen by planted errors; see ``benchmarks/label_errors.py``.
        """
        odds = self.confidence / max(self.label_confidence, TINY)
        return math.log(odds) * math.log1p(self.pixels)

    @cached_property
    def rank(self) -> tuple[float, str, Box]:
        """What sorts regions, worst first and in the same order every time."""
        return (-self.score, self.name, self.box)


class SuspiciousLabels:
    """Looks at the images of a split one by one and keeps the regions to doubt.

    Memory does not grow with the split: of all regions those with the highest scores are kept, and
    the others are sorted out whenever there are twice as many.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value of the pixels that are not judged.
        seam: Width that is cut off each region's border, as a share of the image's diagonal.
            Labels and predictions differ by some pixels along most borders; that is no mistake.
        keep: How many regions are kept at most.

    Attributes:
        sums: int64 (2, C): pixels of each label, sum of their own class's probability in ``UNIT``.
    """

    def __init__(
        self, num_classes: int, ignore_index: int = 255, *, seam: float = 0.005, keep: int = 20_000
    ) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.seam, self.keep = seam, keep
        self.sums = np.zeros((2, num_classes), np.int64)
        self._found: list[Region] = []

    @property
    def candidates(self) -> list[Region]:
        """The regions that are kept, in the order of their ranks."""
        self._found = heapq.nsmallest(self.keep, self._found, key=lambda region: region.rank)
        return self._found

    def update(self, result: ImageResult) -> list[Region]:
        """Look at one image; without probabilities nothing of it is doubted.

        Returns:
            Its regions, those to doubt first if the thresholds will allow it.
        """
        if result.confidence is None or result.label_confidence is None:
            return []
        valid = result.target != self.ignore_index
        labels, units = result.target[valid], np.rint(result.label_confidence[valid] / UNIT)
        self.sums[0] += np.bincount(labels, minlength=self.num_classes)
        # Sums of whole numbers below 2**53 are exact in float64 too: images up to 2**29 pixels.
        self.sums[1] += np.bincount(labels, units, self.num_classes).astype(np.int64)
        found = self._regions(result, (result.confidence, result.label_confidence))
        self._add(found)
        return found

    def merge(self, other: "SuspiciousLabels") -> None:
        """Add what another process found."""
        self.sums = self.sums + other.sums
        self._add(other.candidates)

    def thresholds(self) -> list[float | None]:
        """Mean probability of each class where it is the label; None where it never is."""
        return [float(s) * UNIT / int(n) if n else None for n, s in self.sums.T]

    def regions(self) -> list[Region]:
        """The regions to doubt, worst first."""
        limits = self.thresholds()
        return sorted((r for r in self.candidates if _doubted(r, limits)), key=lambda r: r.rank)

    def images(self) -> list[tuple[str, float, int]]:
        """Name, sum of the scores, and number of regions of each image with one, worst first."""
        scores: dict[str, list[float]] = defaultdict(list)
        for region in self.regions():
            scores[region.name].append(region.score)
        rows = [(name, sum(values), len(values)) for name, values in scores.items()]
        return sorted(rows, key=lambda row: (-row[1], row[0]))

    def _add(self, regions: Iterable[Region]) -> None:
        self._found.extend(regions)
        if len(self._found) > 2 * self.keep:
            self._found = self.candidates

    def _regions(
        self, result: ImageResult, probabilities: tuple[Probabilities, Probabilities]
    ) -> list[Region]:
        target, pred = result.target, result.pred
        # One number for each pair of label and other prediction, -1 where there is none.
        differ = (target != self.ignore_index) & (pred != target)
        pairs = np.where(differ, target.astype(np.int32) * self.num_classes + pred, -1)
        radius = max(1, round(self.seam * float(np.hypot(*target.shape))))
        # Inner pixels have no other pair around them. So those of two pairs never touch, and
        # connected ones are of one pair.
        near = near_other_label(torch.from_numpy(pairs)[None], radius, edges=False)[0].numpy()
        inner = differ & ~near
        areas, count = ndimage.label(inner, NEIGHBOURS)
        where = areas[inner]
        pixels = np.bincount(where, minlength=count + 1)
        means = [
            np.bincount(where, values[inner], count + 1) / np.maximum(pixels, 1)
            for values in probabilities
        ]
        regions = []
        for number, (rows, columns) in enumerate(ndimage.find_objects(areas), start=1):
            part = areas[rows, columns] == number
            label, other = divmod(int(pairs[rows, columns][part][0]), self.num_classes)
            box = Box(rows.start, columns.start, rows.stop, columns.stop)
            regions.append(
                Region(
                    result.name,
                    label,
                    other,
                    box.grown(radius, target.shape),
                    int(pixels[number]),
                    int(pixels[number]) / target.size,
                    *(float(mean[number]) for mean in means),
                )
            )
        return sorted(regions, key=lambda region: region.rank)


def write_suspicious(path: Path, regions: Sequence[Region], classes: Sequence[str]) -> None:
    """One line for each region, worst first."""
    header = ["image", "label", "prediction", *Box._fields, "pixels", "confidence"]
    write_csv(
        path,
        [*header, "label_confidence", "score"],
        (
            (
                *(r.name, classes[r.label], classes[r.pred], *r.box, r.pixels),
                *(r.confidence, r.label_confidence, r.score),
            )
            for r in regions
        ),
    )


def _doubted(region: Region, thresholds: list[float | None]) -> bool:
    limit = thresholds[region.pred]
    # A class that is nowhere the label has no threshold: a missing label cannot be told from a
    # class that the network makes up.
    return limit is not None and region.confidence >= limit
