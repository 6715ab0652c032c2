"""Metrics: logits or predictions and target to scores."""

from segkit.metrics.confusion import ConfusionMatrix, Scores

__all__ = ["ConfusionMatrix", "Scores"]
