"""What segkit asks of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segkit.data.arrays import Pixels
from segkit.data.labels import check_labels
from segkit.data.levels import Range
from segkit.data.stored import Stored
from segkit.errors import DataError


@runtime_checkable
class SegmentationDataset(Protocol):
    """A sequence of images with their masks; any class with these four members will do.

    Attributes (``palette``, uint8 (256, 3), may be added to choose the colours of images;
    ``channels``, if they are not three, and ``bits=16`` of images that are uint16; and
    ``warnings``, sentences that the check repeats):
        ids: One name per item, unique; names the files of predictions.
        classes: One name per class, in index order.
    """

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def classes(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Pixels, NDArray[np.integer[Any]]]:
        """The image, uint8 (H, W, 3) RGB, and its mask, integer (H, W).

        Mask values are class ids or ``ignore_index``. Called from several worker processes.
        """


class IncompleteSplit(DataError):
    """Some of a split cannot be used.

    Args:
        problems: A text of each kind.
        rest: A data set of what is there, whose contents can be looked at nevertheless.
    """

    def __init__(self, problems: Sequence[str], rest: SegmentationDataset | None = None) -> None:
        super().__init__("\n".join(problems))
        self.problems, self.rest = list(problems), rest


@runtime_checkable
class FileDataset(Protocol):
    """A data set that also tells where an item comes from, so that a check of it can be cached."""

    @property
    def fingerprint(self) -> str:
        """All settings, besides the files, that :meth:`SegmentationDataset.read` depends on."""

    def files(self, index: int) -> tuple[Path, Path]:
        """The files of image and mask."""


class Examined(NamedTuple):
    """An item, and what its files hold."""

    image: Pixels
    mask: NDArray[np.uint8]
    stored: Stored
    labels: Stored


@runtime_checkable
class ExaminedDataset(SegmentationDataset, FileDataset, Protocol):
    """A data set that also shows what its files hold, so that a check can compare them.

    Attributes:
        value_range: The numbers in images that become 0 and 255; None is all of their type.
        indices_count: Masks with a palette are read by their indices, so palettes must agree.
    """

    value_range: Range | None
    indices_count: bool

    def examine(self, index: int) -> Examined:
        """What :meth:`SegmentationDataset.read` gives, and what it was made of."""


def can_examine(dataset: SegmentationDataset) -> TypeGuard[ExaminedDataset]:
    """Whether what it examines is what it reads: not where a subclass has a ``read`` of its own."""
    if not isinstance(dataset, ExaminedDataset):
        return False
    kinds = type(dataset).__mro__
    owners = [
        next((kind for kind in kinds if name in vars(kind)), None) for name in ("read", "examine")
    ]
    return owners[0] is owners[1]


def check_pair(
    image: Pixels,
    mask: NDArray[np.integer[Any]],
    num_classes: int,
    ignore_index: int,
    *,
    name: str,
    channels: int = 3,
    bits: int | None = None,
) -> None:
    """Raise a DataError unless image and mask fit together and hold what the contract says."""
    kind = f"uint{bits}" if bits else "uint8 or uint16"
    if image.dtype.name not in kind.split() or image.ndim != 3 or image.shape[2] != channels:
        raise DataError(
            f"{name}: the image is {image.dtype} {image.shape}; expected {kind} (H, W, {channels})"
        )
    if mask.dtype.kind not in "iu" or mask.ndim != 2:
        raise DataError(f"{name}: the mask is {mask.dtype} {mask.shape}; expected integer (H, W)")
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{name}: the mask is {mask.shape[1]} x {mask.shape[0]} (width x height), its image "
            f"{image.shape[1]} x {image.shape[0]}; expected equal sizes. Resize neither blindly: "
            "find the mask that was drawn on this image"
        )
    check_labels(mask, num_classes, ignore_index, name=name)
