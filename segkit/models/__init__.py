"""Models: a batch of images to logits of the same size."""

from segkit.models.deeplabv3plus import DeepLabV3Plus

__all__ = ["DeepLabV3Plus"]
