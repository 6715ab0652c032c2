"""torchvision's residual networks (He et al. 2016, arXiv:1512.03385) as backbones."""

from torch import Tensor, nn

from segkit.models.backbones.surgery import (
    dilate,
    load_pretrained,
    torchvision_models,
    with_in_channels,
)
from segkit.models.layers import BatchNorm

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101")


class ResNet(nn.Module):
    """ResNet-18, -34, -50 or -101 without its classifier, dilated after the fact.

    The low-level features are those of ``layer1`` at stride 4. Keys of the state dict are
    torchvision's.

    Args:
        name: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``.
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
        if name not in NAMES:
            raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
        models = torchvision_models()
        net = models.get_model(name, weights=None, norm_layer=BatchNorm)
        self.conv1 = with_in_channels(net.conv1, in_channels)
        self.bn1, self.relu, self.maxpool = net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4
        dilate([*net.layer2, *net.layer3, *net.layer4], stride=4, output_stride=output_stride)
        features: int = net.fc.in_features
        self.channels = (features // 8, features)
        self.strides = (4, output_stride)
        load_pretrained(
            self,
            name,
            weights,
            first_conv="conv1.weight",
            leftover=("fc.",),
            download=lambda: models.get_model_weights(name).IMAGENET1K_V1.get_state_dict(
                check_hash=True, weights_only=True
            ),
        )

    def low_level_parts(self) -> list[nn.Module]:
        """What makes the features at stride 4."""
        return [self.conv1, self.bn1, self.layer1]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> [features at stride 4, features at ``output_stride``]."""
        out = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        low_level = self.layer1(out)
        return [low_level, self.layer4(self.layer3(self.layer2(low_level)))]
