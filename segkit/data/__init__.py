"""Files to batches: decode -> masks -> voc, folders, shapes -> augment -> loader; check first.

A data set of your own needs no base class: :class:`SegmentationDataset` says what it must have.
Name it as ``data.dataset._target_`` with ``_partial_: true``; it is called with ``split=...``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segkit.data.dataset import FileDataset, SegmentationDataset
from segkit.data.folders import FolderSegmentation
from segkit.data.shapes import Shapes
from segkit.data.voc import VOCSegmentation

if TYPE_CHECKING:
    from segkit.data.scale_rotate_crop import RandomScaleRotateCrop

__all__ = [
    "FileDataset",
    "FolderSegmentation",
    "RandomScaleRotateCrop",
    "SegmentationDataset",
    "Shapes",
    "VOCSegmentation",
]


def __getattr__(name: str) -> Any:
    """The transform, whose import of OpenCV takes a moment: only for those who ask for it."""
    if name == "RandomScaleRotateCrop":
        from segkit.data.scale_rotate_crop import RandomScaleRotateCrop

        return RandomScaleRotateCrop
    raise AttributeError(f"module 'segkit.data' has no attribute {name!r}")
