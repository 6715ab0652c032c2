"""The aligned Xception of DeepLabV3+ (Chollet 2017, arXiv:1610.02357; arXiv:1802.02611)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.models.backbones.surgery import load_pretrained, with_in_channels
from segkit.models.layers import BatchNorm, SafeConv2d, init_convolutions

# bubbliiiing's release of the ImageNet weights that YudeWang converted.
IMAGENET = (
    "https://github.com/bubbliiiing/deeplabv3-plus-pytorch/releases/download/v1.0/"
    "xception_pytorch_imagenet.pth"
)
# What the synchronised BatchNorm of that time kept beside its statistics.
SCRATCH = ("_tmp_running_mean", "_tmp_running_var", "_running_iter")


class Xception(nn.Module):
    """Xception-65: every pooling is a strided separable convolution, so that dilation can undo it.

    The low-level features are those of the second block before its stride, 256 channels at stride
    4, not yet rectified. Keys of the state dict are those of bubbliiiing/deeplabv3-plus-pytorch,
    whose weights were trained on images divided by 255 and nothing else.

    Args:
        weights: None for random start, ``imagenet`` for bubbliiiing's file (downloaded on first
            use), or the path of a state-dict file with these keys.
        output_stride: Stride of the last features, 8 or 16.
        in_channels: Channels of the image; other than 3 adapts the pretrained first kernel.

    Raises:
        ValueError: For another ``output_stride``, or less than one channel.
    """

    def __init__(
        self, weights: str | None = None, *, output_stride: int = 16, in_channels: int = 3
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
        rate = 16 // output_stride
        self.conv1 = with_in_channels(
            nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), in_channels
        )
        self.bn1 = BatchNorm(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(64)
        self.block1 = Block(64, 128, stride=2)
        self.block2 = Block(128, 256, stride=2)
        self.block3 = Block(256, 728, stride=2 // rate)
        for i in range(4, 20):
            self.add_module(f"block{i}", Block(728, 728, dilation=rate))
        # Of stride 2 in the classifier; undone without dilation, as the weights were trained.
        self.block20 = Block(728, 1024, middle_channels=728, dilation=rate)
        self.conv3 = SeparableConv(1024, 1536, dilation=rate, activate=True)
        self.conv4 = SeparableConv(1536, 1536, dilation=rate, activate=True)
        self.conv5 = SeparableConv(1536, 2048, dilation=rate, activate=True)
        init_convolutions(self)
        self.channels = (256, 2048)
        self.strides = (4, output_stride)
        norms = [name for name, layer in self.named_modules() if isinstance(layer, BatchNorm)]
        load_pretrained(
            self,
            "xception",
            weights,
            first_conv="conv1.weight",
            leftover=("fc.", *(f"{norm}.{name}" for norm in norms for name in SCRATCH)),
            download=_download,
        )

    def low_level_parts(self) -> list[nn.Module]:
        """What makes the features at stride 4."""
        begin = [self.block2.sepconv1, self.block2.sepconv2]
        return [self.conv1, self.bn1, self.conv2, self.bn2, self.block1, *begin]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> [features at stride 4, features at ``output_stride``]."""
        out = F.relu(self.bn1(self.conv1(image)), inplace=True)
        out = self.block1(F.relu(self.bn2(self.conv2(out)), inplace=True))
        low_level = self.block2.before_stride(out)
        out = self.block2.from_stride(low_level, out)
        for i in range(3, 21):
            out = self.get_submodule(f"block{i}")(out)
        return [low_level, self.conv5(self.conv4(self.conv3(out)))]


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1 one, each with normalisation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        stride: Stride of the depthwise convolution.
        dilation: Dilation of the depthwise convolution.
        activate: ReLU after each normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.depthwise = SafeConv2d(
            in_channels,
            in_channels,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        self.bn1 = BatchNorm(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = BatchNorm(out_channels)
        self.activate = activate

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), rounded up."""
        out = self.bn1(self.depthwise(input))
        if self.activate:
            out = F.relu(out, inplace=True)
        out = self.bn2(self.pointwise(out))
        return F.relu(out, inplace=True) if self.activate else out


class Block(nn.Module):
    """Three separable convolutions, each behind a ReLU, beside a shortcut.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        middle_channels: Channels after the first convolution; None is ``out_channels``.
        stride: Stride of the third convolution and the shortcut.
        dilation: Dilation of all three convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        middle_channels: int | None = None,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        middle = middle_channels or out_channels
        self.sepconv1 = SeparableConv(in_channels, middle, dilation=dilation)
        self.sepconv2 = SeparableConv(middle, out_channels, dilation=dilation)
        self.sepconv3 = SeparableConv(out_channels, out_channels, stride=stride, dilation=dilation)
        self.skip: nn.Module | None = None
        if stride > 1 or in_channels != out_channels:
            self.skip = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.skipbn = BatchNorm(out_channels)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), rounded up."""
        return self.from_stride(self.before_stride(input), input)

    def before_stride(self, input: Tensor) -> Tensor:
        """What the second convolution returns: (N, out_channels, H, W)."""
        out: Tensor = self.sepconv2(F.relu(self.sepconv1(F.relu(input)), inplace=True))
        return out

    def from_stride(self, out: Tensor, input: Tensor) -> Tensor:
        """The rest of the block, from :meth:`before_stride` of ``input`` on."""
        out = self.sepconv3(F.relu(out))
        if self.skip is None:
            # The weights were trained with a ReLU in place, which reached the shortcut as well.
            return out + F.relu(input)
        shortcut: Tensor = self.skipbn(self.skip(input))
        return out + shortcut


def _download() -> dict[str, Any]:
    tensors: dict[str, Any] = torch.hub.load_state_dict_from_url(
        IMAGENET, map_location="cpu", weights_only=True
    )
    return tensors
