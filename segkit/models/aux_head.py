"""A second, simple classifier of the deep features, for training alone.

It gives the backbone a gradient that does not pass through pyramid and decoder (Zhao et al. 2017,
arXiv:1612.01105, with weight 0.4; the head is that of FCN, as in torchvision).
"""

from torch import nn

from segkit.models.layers import ConvNormAct, init_convolutions


class AuxHead(nn.Sequential):
    """(N, in_channels, h, w) -> logits (N, num_classes, h, w).

    Args:
        in_channels: Channels of the backbone's last features.
        num_classes: Channels of the logits.
        dropout: Probability before the classifier.
        norm: ``bn`` or ``gn``.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, dropout: float = 0.1, norm: str = "bn"
    ) -> None:
        channels = max(1, in_channels // 4)
        classifier = nn.Conv2d(channels, num_classes, 1)
        super().__init__(
            ConvNormAct(in_channels, channels, 3, norm=norm), nn.Dropout(dropout), classifier
        )
        init_convolutions(self)
        # As the classifier of the network: the first loss is that of a fair guess.
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)  # type: ignore[arg-type]
