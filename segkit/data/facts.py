"""What one look at an item tells about it: all that the check judges, and its cache keeps."""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.data.arrays import Pixels
from segkit.data.dataset import (
    Examined,
    ExaminedDataset,
    FileDataset,
    SegmentationDataset,
    can_examine,
    check_pair,
)
from segkit.data.decode import is_turned
from segkit.data.levels import Range, to_bytes
from segkit.data.orientation import turned
from segkit.data.stored import Stored


@dataclass(frozen=True)
class Facts:
    """Of an image and its mask.

    Attributes:
        pixels: Labelled pixels of each class.
        ignored: Pixels without a label.
        turn: What its EXIF orientation led to: 1 turned, 2 left alone, 0 nothing to do.
        levels: For an image with other numbers than 8 bits: the least and the largest number, the
            largest that its type holds (0: no limit), how many different ones there are, how many
            are left in ``data.bits``, pixels below and above ``data.range``, and pixels in all.
        bands: Bands of the image that nothing looks at.
        white_is_zero: The mask is a TIFF that shows its 0 as white.
        palette: For a palette mask whose indices count: a check sum of all its colours, then index
            and colour, as ``[index, 0xRRGGBB]``, of each one that labelled pixels have.
    """

    pixels: list[int]
    ignored: int
    turn: int = 0
    levels: list[float] = field(default_factory=list)
    bands: int = 0
    white_is_zero: int = 0
    palette: list[Any] = field(default_factory=list)

    @classmethod
    def from_json(cls, content: Any, num_classes: int) -> "Facts | None":
        """Facts that :meth:`to_json` made; None for anything else."""
        try:
            facts = cls(**content)
            numbers: list[Any] = [facts.ignored, facts.turn, facts.bands, facts.white_is_zero]
            numbers += [*facts.pixels, *facts.levels, *facts.palette[:1]]
            numbers += [number for pair in facts.palette[1:] for number in pair]
        except TypeError:
            return None
        sound = all(isinstance(number, int | float) for number in numbers)
        sound &= len(facts.pixels) == num_classes and len(facts.levels) in (0, 8)
        return facts if sound and all(len(pair) == 2 for pair in facts.palette[1:]) else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look(dataset: SegmentationDataset, index: int, ignore_index: int) -> Facts:
    """Read an item and check it.

    Raises:
        DataError: It cannot be used.
    """
    name = f"{dataset.ids[index]}"
    if not can_examine(dataset):
        image, mask = dataset.read(index)
        pixels, ignored = _count(dataset, image, mask, ignore_index, name)
        turn = None
        if isinstance(dataset, FileDataset):
            turn = is_turned(dataset.files(index)[0], mask.shape)
        return Facts(pixels, ignored, _turn(turn))
    return facts_of(dataset.examine(index), dataset, name, ignore_index)


def facts_of(item: Examined, dataset: ExaminedDataset, name: str, ignore_index: int) -> Facts:
    """:func:`look` at an item that is read; ``name`` is what errors call it."""
    image, mask, stored, labels = item
    pixels, ignored = _count(dataset, image, mask, ignore_index, name)
    varies = stored.alpha is not None and stored.alpha.min() != stored.alpha.max()
    return Facts(
        pixels,
        ignored,
        _turn(turned(stored, mask.shape)),
        _levels(stored, dataset.value_range, name, getattr(dataset, "bits", 8)),
        stored.unused + int(varies) if image.shape[2] == 3 else 0,
        int(labels.white_is_zero),
        used_palette(labels, mask != ignore_index) if dataset.indices_count else [],
    )


def _count(
    dataset: SegmentationDataset,
    image: Pixels,
    mask: NDArray[np.integer[Any]],
    ignore_index: int,
    name: str,
) -> tuple[list[int], int]:
    num_classes = len(dataset.classes)
    kind = {"channels": getattr(dataset, "channels", 3), "bits": getattr(dataset, "bits", 8)}
    check_pair(image, mask, num_classes, ignore_index, name=name, **kind)
    columns = np.where(mask == ignore_index, num_classes, mask.astype(np.int64))
    *pixels, ignored = np.bincount(columns.ravel(), minlength=num_classes + 1).tolist()
    return pixels, ignored


def _turn(turned: bool | None) -> int:
    return 0 if turned is None else (1 if turned else 2)


def _levels(stored: Stored, value_range: Range | None, name: str, bits: int) -> list[float]:
    if stored.palette is not None or (stored.numbers.dtype == np.uint8 and value_range is None):
        return []
    values, counts = np.unique(stored.numbers, return_counts=True)
    kept = np.unique(to_bytes(values, stored.white, value_range, name, bits))
    low, high = (0, 0) if value_range is None else value_range
    clipped = [0, 0]
    if value_range is not None:
        clipped = [int(counts[values < low].sum()), int(counts[values > high].sum())]
    ends = [values[0].item(), values[-1].item()]
    return [*ends, stored.white or 0, len(values), len(kept), *clipped, int(counts.sum())]


def used_palette(labels: Stored, labelled: NDArray[np.bool_] | None = None) -> list[Any]:
    """What :class:`Facts` keep of the palette of a mask.

    Nothing if the colours say nothing: a ramp of greys, or one colour for several indices.

    Args:
        labels: What its file holds.
        labelled: Pixels that count, bool (H, W); None is all.
    """
    if labels.palette is None:
        return []
    indices = labels.numbers.ravel() if labelled is None else labels.numbers[labelled]
    used = np.flatnonzero(np.bincount(indices, minlength=1))
    if not used.size or used[-1] >= len(labels.palette):
        return []
    colors = labels.palette[used].astype(np.int64)
    packed = colors @ np.array([1 << 16, 1 << 8, 1])
    if len(np.unique(packed)) < len(used) or (colors == used[:, None]).all():
        return []
    pairs: Sequence[list[int]] = np.column_stack([used, packed]).tolist()
    return [zlib.crc32(labels.palette.tobytes()), *pairs]
