"""Files to batches: decode -> masks -> voc (or shapes) -> augment -> loader; check runs first.

A data set of your own needs no base class: :class:`SegmentationDataset` says what it must have.
Name it as ``data.dataset._target_`` with ``_partial_: true``; it is called with ``split=...``.
"""

from segkit.data.dataset import FileDataset, SegmentationDataset
from segkit.data.shapes import Shapes
from segkit.data.voc import VOCSegmentation

__all__ = ["FileDataset", "SegmentationDataset", "Shapes", "VOCSegmentation"]
