"""torchvision's MobileNetV2 (arXiv:1801.04381) and MobileNetV3 (arXiv:1905.02244) as backbones."""

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from segkit.models.backbones.surgery import (
    dilate,
    load_pretrained,
    torchvision_models,
    with_in_channels,
)
from segkit.models.layers import BatchNorm


class _Cut(NamedTuple):
    end: int  # number of modules of torchvision's `features` that are kept
    channels: tuple[int, int]
    norm: partial[BatchNorm]


CUTS = {
    # The 1280 channels of the last 1x1 convolution serve the classifier only.
    "mobilenet_v2": _Cut(end=18, channels=(24, 320), norm=partial(BatchNorm)),
    # With the 960 channels of the last convolution, as in torchvision's own segmentation models.
    "mobilenet_v3_large": _Cut(
        end=17, channels=(24, 960), norm=partial(BatchNorm, eps=0.001, momentum=0.01)
    ),
}
LOW_LEVEL_END = 4  # both networks: `features[:4]` ends at stride 4 with 24 channels


class MobileNet(nn.Module):
    """MobileNetV2 or MobileNetV3-large without its classifier, dilated after the fact.

    Keys of the state dict are torchvision's.

    Args:
        name: ``mobilenet_v2`` or ``mobilenet_v3_large``.
        weights: None for random start, ``imagenet`` for torchvision's IMAGENET1K_V1 (downloaded on
            first use), or the path of a state-dict file in torchvision's format.
        output_stride: Stride of the last features, 8 or 16.
        in_channels: Channels of the image; other than 3 adapts the pretrained first kernel.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        *,
        output_stride: int = 16,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if name not in CUTS:
            raise ValueError(f"name must be one of {', '.join(CUTS)}, got {name!r}")
        models = torchvision_models()
        cut = CUTS[name]
        features = models.get_model(name, weights=None, norm_layer=cut.norm).features
        features[0][0] = with_in_channels(features[0][0], in_channels)
        dilate(features[LOW_LEVEL_END : cut.end], stride=4, output_stride=output_stride)
        self.features = features[: cut.end]
        self.channels = cut.channels
        self.strides = (4, output_stride)
        load_pretrained(
            self,
            name,
            weights,
            first_conv="features.0.0.weight",
            leftover=("classifier.", *(f"features.{i}." for i in range(cut.end, len(features)))),
            download=lambda: models.get_model_weights(name).IMAGENET1K_V1.get_state_dict(
                check_hash=True, weights_only=True
            ),
        )

    def low_level_parts(self) -> list[nn.Module]:
        """What makes the features at stride 4."""
        return list(self.features[:LOW_LEVEL_END])

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> [features at stride 4, features at ``output_stride``]."""
        low_level = self.features[:LOW_LEVEL_END](image)
        return [low_level, self.features[LOW_LEVEL_END:](low_level)]
