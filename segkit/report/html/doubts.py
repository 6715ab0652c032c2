"""Doubted labels, folded by the class that the mask says, and by the video or sequence."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from segkit.report.html.findings import Crop
from segkit.report.label_errors import Region

LIKENESSES = 3  # classes that a summary names

NUMBER = re.compile(r"(?:[\W_]+[A-Za-z]{0,6})?\d+$")
"""What tells the frames of a sequence apart: ``_00030``, ``_f00030``, ``/0001``, ``12``."""


@dataclass
class Fold:
    """Regions that belong together.

    Attributes:
        name: Of the sequence; empty if that is not told apart.
        regions: All of them, worst first.
        crops: Those that are shown, each with its place among all that are, from 1.
    """

    name: str = ""
    regions: list[Region] = field(default_factory=list)
    crops: list[tuple[int, Crop]] = field(default_factory=list)

    @property
    def num_images(self) -> int:
        return len({region.name for region in self.regions})

    @property
    def num_pixels(self) -> int:
        return sum(region.pixels for region in self.regions)


@dataclass
class ClassDoubts(Fold):
    """Regions of one label.

    Attributes:
        label: Class id that the mask says.
        sequences: The same regions by sequence, one with an empty name if that tells nothing.
    """

    label: int = 0
    sequences: list[Fold] = field(default_factory=list)

    @property
    def looks_like(self) -> list[tuple[int, int]]:
        """Class id and regions of what the model says instead, the most frequent first."""
        return Counter(region.pred for region in self.regions).most_common(LIKENESSES)


def sequence_of(name: str) -> str:
    """An image's id without its last number: ``0016E5_07959`` and ``0016E5_07961`` are one."""
    return NUMBER.sub("", name)


def folded(regions: Sequence[Region], crops: Sequence[Crop]) -> list[ClassDoubts]:
    """Regions and crops, both worst first, by label and sequence: the one of the worst comes first.

    Sequences are told apart where there are several, and at least twice as many images as
    sequences: otherwise the ids' numbers say nothing of videos.
    """
    images = {region.name for region in regions}
    sequences = {sequence_of(name) for name in images}
    is_telling = 1 < len(sequences) <= len(images) / 2
    shown = {crop.region: (place, crop) for place, crop in enumerate(crops, start=1)}
    classes: dict[int, ClassDoubts] = {}
    parts: dict[tuple[int, str], Fold] = {}
    for region in regions:
        of_class = classes.setdefault(region.label, ClassDoubts(label=region.label))
        name = sequence_of(region.name) if is_telling else ""
        if (region.label, name) not in parts:
            parts[region.label, name] = Fold(name)
            of_class.sequences.append(parts[region.label, name])
        for fold in (of_class, parts[region.label, name]):
            fold.regions.append(region)
            fold.crops += [shown[region]] if region in shown else []
    return list(classes.values())
