"""Decoder of DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611)."""

import torch
from torch import Tensor, nn

from segkit.models.layers import ConvNormAct, upsample


class Decoder(nn.Module):
    """Brings the sharp edges of the low-level features to the upsampled ASPP features.

    Args:
        in_channels: Channels of the ASPP features.
        low_level_in_channels: Channels of the backbone's stride-4 features.
        low_level_channels: What those are reduced to, so that they do not outweigh the rest.
        channels: Channels of the two 3x3 convolutions and of the result.
        separable: Depthwise-separable 3x3 convolutions.
        norm: ``bn`` or ``gn``.
    """

    def __init__(
        self,
        in_channels: int,
        low_level_in_channels: int,
        low_level_channels: int = 48,
        channels: int = 256,
        *,
        separable: bool = False,
        norm: str = "bn",
    ) -> None:
        super().__init__()
        self.reduce = ConvNormAct(low_level_in_channels, low_level_channels, norm=norm)
        self.fuse = nn.Sequential(
            ConvNormAct(
                in_channels + low_level_channels, channels, 3, separable=separable, norm=norm
            ),
            ConvNormAct(channels, channels, 3, separable=separable, norm=norm),
        )

    def forward(self, features: Tensor, low_level: Tensor) -> Tensor:
        """(N, in_channels, h, w) and (N, low_level_in_channels, H, W) -> (N, channels, H, W)."""
        low_level = self.reduce(low_level)
        features = upsample(features, low_level.shape[2:])
        out: Tensor = self.fuse(torch.cat([features, low_level], dim=1))
        return out
