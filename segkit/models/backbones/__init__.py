"""Backbones: image to features.

A backbone is an ``nn.Module`` whose constructor takes ``output_stride`` and ``in_channels`` as
keywords, whose ``forward`` maps an image (N, in_channels, H, W) to a list of features, the first
at stride 4 and the last at ``output_stride``, and whose attributes ``channels`` and ``strides``
(tuples of int) tell the truth about that list. Nothing is registered: any class like this will do.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from segkit.models.backbones.mobilenet import CUTS, MobileNet
from segkit.models.backbones.resnet import NAMES, ResNet
from segkit.models.backbones.timm import Timm
from segkit.models.backbones.tiny import Tiny
from segkit.models.backbones.xception import Xception

# Short names for Python users; the config names the classes themselves.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "tiny": Tiny,
    **{name: partial(ResNet, name) for name in NAMES},
    **{name: partial(MobileNet, name) for name in CUTS},
    "xception": Xception,
}

__all__ = ["BACKBONES", "MobileNet", "ResNet", "Timm", "Tiny", "Xception"]
