"""A small residual network that learns from random start on a CPU."""

from torch import Tensor, nn
from torch.nn import functional as F

from segkit.models.backbones.surgery import dilate
from segkit.models.layers import ConvNormAct, StridedPointwise, init_convolutions, make_norm


class Tiny(nn.Module):
    """Ten dense 3x3 convolutions: two in the stem, then residual blocks at stride 4, 8 and 16.

    Dense convolutions of few channels are what a CPU computes best; 0.4 million parameters with
    the default width.

    Args:
        width: Channels at stride 4; twice and three times as many at stride 8 and 16.
        norm: ``bn`` or ``gn``.
        output_stride: Stride of the last features, 8 or 16.
        in_channels: Channels of the image.
    """

    def __init__(
        self,
        width: int = 32,
        norm: str = "bn",
        *,
        output_stride: int = 16,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if width < 1 or in_channels < 1:
            raise ValueError(
                f"width and in_channels must be at least 1, got {width} and {in_channels}"
            )
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, width // 2 or 1, 3, stride=2, norm=norm),
            ConvNormAct(width // 2 or 1, width, 3, stride=2, norm=norm),
        )
        self.stride4 = ResidualBlock(width, width, stride=1, norm=norm)
        self.stride8 = ResidualBlock(width, 2 * width, stride=2, norm=norm)
        self.stride16 = nn.Sequential(
            ResidualBlock(2 * width, 3 * width, stride=2, norm=norm),
            ResidualBlock(3 * width, 3 * width, stride=1, norm=norm),
        )
        init_convolutions(self)
        dilate([self.stride8, *self.stride16], stride=4, output_stride=output_stride)
        self.channels = (width, 3 * width)
        self.strides = (4, output_stride)

    def low_level_parts(self) -> list[nn.Module]:
        """What makes the features at stride 4."""
        return [self.stem, self.stride4]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> [features at stride 4, features at ``output_stride``]."""
        low_level = self.stride4(self.stem(image))
        return [low_level, self.stride16(self.stride8(low_level))]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        stride: Stride of the first convolution and the shortcut.
        norm: ``bn`` or ``gn``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, out_channels, 3, stride=stride, norm=norm)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = make_norm(norm, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                StridedPointwise(in_channels, out_channels, stride),
                make_norm(norm, out_channels),
            )

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), rounded up."""
        return F.relu(self.norm2(self.conv2(self.conv1(input))) + self.shortcut(input))
