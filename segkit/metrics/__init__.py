"""Metrics: logits or predictions and target to scores."""

from segkit.metrics.best_class import best_class
from segkit.metrics.boundary import BoundaryIoU, BoundaryScores, trimap
from segkit.metrics.calibration import Calibration, CalibrationScores
from segkit.metrics.confusion import ConfusionMatrix, Scores
from segkit.metrics.joint import JointCounts
from segkit.metrics.pr_curve import PRCurves, rarest_classes
from segkit.metrics.uncertainty import (
    Interval,
    class_counts,
    difference_intervals,
    iou_intervals,
    swap_p_values,
    trust,
)

__all__ = [
    "BoundaryIoU",
    "BoundaryScores",
    "Calibration",
    "CalibrationScores",
    "ConfusionMatrix",
    "Interval",
    "JointCounts",
    "PRCurves",
    "Scores",
    "best_class",
    "class_counts",
    "difference_intervals",
    "iou_intervals",
    "rarest_classes",
    "swap_p_values",
    "trimap",
    "trust",
]
