"""Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.models.layers import ConvNormAct


class ASPP(nn.Module):
    """The same features seen through several fields of view, and as a mean over the image.

    Args:
        in_channels: Channels of the backbone's last features.
        atrous_rates: Dilation of each 3x3 branch; a 1x1 branch and the pooled one come on top.
        channels: Channels of every branch and of the result.
        separable: Depthwise-separable 3x3 branches.
        dropout: Probability after the projection.
        norm: ``bn`` or ``gn``.
    """

    def __init__(
        self,
        in_channels: int,
        atrous_rates: Sequence[int],
        channels: int = 256,
        *,
        separable: bool = False,
        dropout: float = 0.1,
        norm: str = "bn",
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                ConvNormAct(in_channels, channels, norm=norm),
                *(
                    ConvNormAct(
                        in_channels, channels, 3, dilation=rate, separable=separable, norm=norm
                    )
                    for rate in atrous_rates
                ),
            ]
        )
        self.pooled = ConvNormAct(in_channels, channels, norm=norm)
        self.project = ConvNormAct((len(self.branches) + 1) * channels, channels, norm=norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, channels, h, w)."""
        # A mean, not AdaptiveAvgPool2d: it exports at any size and is deterministic on CUDA.
        pooled = self.pooled(features.mean((2, 3), keepdim=True))  # (N, channels, 1, 1)
        views = [branch(features) for branch in self.branches]
        views.append(pooled.expand(-1, -1, *features.shape[2:]))
        out: Tensor = self.dropout(self.project(torch.cat(views, dim=1)))
        return out
