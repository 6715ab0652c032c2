"""Metrics: logits or predictions and target to scores."""

from segkit.metrics.bootstrap import bootstrap_iou, class_counts, interval, p_value
from segkit.metrics.boundary import BoundaryIoU, BoundaryScores, trimap
from segkit.metrics.calibration import Calibration, CalibrationScores
from segkit.metrics.confusion import ConfusionMatrix, Scores
from segkit.metrics.pr_curve import PRCurves

__all__ = [
    "BoundaryIoU",
    "BoundaryScores",
    "Calibration",
    "CalibrationScores",
    "ConfusionMatrix",
    "PRCurves",
    "Scores",
    "bootstrap_iou",
    "class_counts",
    "interval",
    "p_value",
    "trimap",
]
