"""The blocks that ASPP, decoder and the tiny backbone are made of."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that also takes one single value per channel in train mode.

    There a batch has no variance and ``nn.BatchNorm2d`` raises: the pooled branch of ASPP meets it
    with a batch of one, the last block of a backbone with an image below its stride. The running
    statistics are used instead, and left as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W); shape and dtype stay."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class StridedPointwise(nn.Conv2d):
    """1x1 convolution with a stride, as of a shortcut, that never runs as one.

    With fewer than 16 channels in channels_last, oneDNN's AVX-512 kernel for the weight's gradient
    writes beyond its memory, and the process dies, at once or later. To leave the other pixels out
    first is the same computation. Parameters and state-dict keys are those of ``nn.Conv2d``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; there is no bias.
        stride: Every how many rows and columns count.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), rounded up."""
        rows, columns = self.stride  # of now: an output stride may have taken it back to 1
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


class SafeConv2d(nn.Conv2d):
    """Convolution that leaves bfloat16 on the CPU where it is grouped and dilated.

    oneDNN's AVX-512 kernel computes garbage weight gradients for those layers in channels_last,
    silently. Such a layer computes in float32 there and returns bfloat16 like its neighbours.
    Parameters and state-dict keys are those of ``nn.Conv2d``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W); the dtype is what ``nn.Conv2d`` would return."""
        if input.device.type == "cpu" and self.groups > 1 and max(self.dilation) > 1:
            autocast = torch.is_autocast_enabled("cpu")
            dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
            if dtype == torch.bfloat16:
                bias = None if self.bias is None else self.bias.float()
                with torch.autocast("cpu", enabled=False):
                    out: Tensor = self._conv_forward(input.float(), self.weight.float(), bias)
                return out.to(dtype)
        return super().forward(input)


def upsample(features: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, (N, C, h, w) to (N, C, *size), in the precision that the features have.

    Autocast would make them float32, of twice the size, that the next convolution rounds to the
    same bits.
    """
    # Not in float32: a graph that is exported has no need of the context.
    reduced = features.dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(features.device.type, enabled=False) if reduced else nullcontext():
        wide = F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
    pixels_first = wide.requires_grad and wide.is_contiguous(memory_format=torch.channels_last)
    if pixels_first and not torch.compiler.is_compiling():
        # Of a slice, as concatenating makes it, PyTorch computes the same gradient 8 times slower.
        wide.register_hook(_channels_last)  # type: ignore[no-untyped-call]
    return wide


def _channels_last(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)


def make_norm(norm: str, channels: int) -> nn.Module:
    """Normalisation layer over ``channels``: ``bn``, or ``gn`` in groups of about 16 channels.

    GroupNorm (Wu and He 2018, arXiv:1803.08494) does not depend on the batch, so it suits batches
    of one to four images.

    Raises:
        ValueError: For any other ``norm``.
    """
    if norm == "bn":
        return BatchNorm(channels)
    if norm == "gn":
        # No group of a single channel: on the pooled 1x1 map it would normalise to zero.
        groups = next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    raise ValueError(f"norm must be 'bn' or 'gn', got {norm!r}")


class ConvNormAct(nn.Sequential):
    """Convolution, normalisation, ReLU; or the depthwise-separable form of the three.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd; the padding keeps the size at stride 1.
        stride: Step of the convolution.
        dilation: Distance between the taps of the kernel.
        separable: A depthwise convolution, then a 1x1 one, each with normalisation and ReLU, as in
            DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611). A 1x1 convolution stays as it is.
        norm: ``bn`` or ``gn``, see :func:`make_norm`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        separable: bool = False,
        norm: str = "bn",
    ) -> None:
        layers: list[nn.Module] = []
        padding = dilation * (kernel_size // 2)
        if separable and kernel_size > 1:
            layers += [
                SafeConv2d(
                    in_channels,
                    in_channels,
                    kernel_size,
                    stride=stride,
                    padding=padding,
                    dilation=dilation,
                    groups=in_channels,
                    bias=False,
                ),
                make_norm(norm, in_channels),
                nn.ReLU(inplace=True),
            ]
            kernel_size, stride, padding, dilation = 1, 1, 0, 1
        layers += [
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=padding,
                dilation=dilation,
                bias=False,
            ),
            make_norm(norm, out_channels),
            nn.ReLU(inplace=True),
        ]
        super().__init__(*layers)


def init_convolutions(module: nn.Module) -> None:
    """Kaiming-normal weights for every convolution in ``module``; its norms keep their ones.

    Scaled by the fan in: the fan out that PyTorch counts for a depthwise layer takes all its
    channels for one sum, and the weights would come out far too small.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
