"""Loss functions: logits and target to a scalar."""

from segkit.losses.bce import BCELoss, bce_loss
from segkit.losses.class_weights import WEIGHTINGS
from segkit.losses.cross_entropy import CrossEntropyLoss, cross_entropy
from segkit.losses.dice import DiceLoss, dice_loss
from segkit.losses.focal import FocalLoss, focal_loss
from segkit.losses.global_loss import global_loss
from segkit.losses.lovasz import LovaszLoss, lovasz_loss
from segkit.losses.mse import MSELoss, mse_loss
from segkit.losses.pixels import PixelLoss, PixelScores
from segkit.losses.strips import loss_in_strips
from segkit.losses.topk import TopKLoss, topk_loss
from segkit.losses.tversky import TverskyLoss, tversky_loss
from segkit.losses.weighted_sum import WeightedSum

__all__ = [
    "WEIGHTINGS",
    "BCELoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "LovaszLoss",
    "MSELoss",
    "PixelLoss",
    "PixelScores",
    "TopKLoss",
    "TverskyLoss",
    "WeightedSum",
    "bce_loss",
    "cross_entropy",
    "dice_loss",
    "focal_loss",
    "global_loss",
    "loss_in_strips",
    "lovasz_loss",
    "mse_loss",
    "topk_loss",
    "tversky_loss",
]
