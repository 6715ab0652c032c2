"""DeepLabV3+: encoder, atrous pyramid and decoder (Chen et al. 2018, arXiv:1802.02611)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segkit.models.aspp import ASPP
from segkit.models.atrous import (
    ATROUS_RATES,
    feature_size,
    fitting_rates,
    scaled_size,
    start_unreached_taps_at_zero,
)
from segkit.models.aux_head import AuxHead
from segkit.models.backbones import BACKBONES
from segkit.models.decoder import Decoder
from segkit.models.layers import init_convolutions, upsample


class DeepLabV3Plus(nn.Module):
    """Image to logits at the size of the image, whatever that is.

    The parts are attributes: ``backbone``, ``aspp``, ``decoder``, ``classifier``.

    Args:
        backbone: What makes one, called with ``output_stride`` and ``in_channels`` (see
            ``segkit.models.backbones``); or a short name such as ``resnet50``, from random start;
            or a finished module.
        num_classes: Channels of the logits.
        output_stride: Image pixels per pixel of the last features: 16, or 8 for finer and slower.
        in_channels: Channels of the image.
        atrous_rates: Dilations of ASPP; None is (6, 12, 18), doubled at output stride 8, or
            smaller ones where ``train_crop`` has no room for these (see
            :func:`segkit.models.atrous.fitting_rates`).
        train_crop: Height and width in pixels of what training sees; None where it is not known.
            Taps of ASPP that it never shows the image to start at 0.
        aspp_channels: Channels of each ASPP branch and of its result.
        decoder_channels: Channels of the decoder's 3x3 convolutions.
        low_level_channels: Channels left of the stride-4 features.
        separable: Depthwise-separable 3x3 convolutions in ASPP and decoder, as in the paper: with
            MobileNetV2 the network is 1.7 times as fast on a CPU. False: dense ones.
        dropout: Probability at the end of ASPP, as in the authors' code.
        norm: ``bn`` or ``gn`` (GroupNorm, for tiny batches) in ASPP and decoder.
        freeze_bn: Every BatchNorm keeps its statistics, weight and bias, in train mode too.
        freeze_backbone: True: the backbone keeps its parameters and statistics, in train mode too.
            ``low_level``: its part up to stride 4 does, which no gradient has to reach then; a
            third of a training step on a CPU, and little lost after ImageNet.
        aux_weight: Of the loss of a second classifier, of the backbone's last features, in
            training; 0 has none. Nothing of it is computed elsewhere. PSPNet's is 0.4.
        input_scale: The network works on the image enlarged by this factor, 1 to 16: its
            strides are then smaller in pixels of the image, which small and thin objects need, and
            its cost grows by the square. Logits have the size of the image all the same.

    Raises:
        ValueError: For a value out of range, or a backbone that breaks the contract.
    """

    def __init__(
        self,
        backbone: Callable[..., nn.Module] | nn.Module | str,
        num_classes: int,
        *,
        output_stride: int = 16,
        in_channels: int = 3,
        atrous_rates: Sequence[int] | None = None,
        train_crop: Sequence[int] | None = None,
        aspp_channels: int = 256,
        decoder_channels: int = 256,
        low_level_channels: int = 48,
        separable: bool = True,
        dropout: float = 0.1,
        norm: str = "bn",
        freeze_bn: bool = False,
        freeze_backbone: bool | str = False,
        aux_weight: float = 0.0,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if output_stride not in ATROUS_RATES:
            raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
        if train_crop is not None and len(train_crop) != 2:
            raise ValueError(f"train_crop must be a height and a width, got {train_crop!r}")
        for name, value in (
            ("num_classes", num_classes),
            ("in_channels", in_channels),
            ("aspp_channels", aspp_channels),
            ("decoder_channels", decoder_channels),
            ("low_level_channels", low_level_channels),
            *(("atrous_rates", rate) for rate in atrous_rates or ()),
            *(("train_crop", side) for side in train_crop or ()),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")
        if not 0 <= aux_weight < float("inf"):
            raise ValueError(f"aux_weight must be a number of at least 0, got {aux_weight!r}")
        if not 1 <= input_scale <= 16:
            raise ValueError(f"input_scale must be a number from 1 to 16, got {input_scale!r}")
        check_freeze_backbone(freeze_backbone)
        if atrous_rates is not None:
            rates = tuple(atrous_rates)
        elif train_crop is not None:
            rates = fitting_rates(train_crop, output_stride, input_scale)
        else:
            rates = ATROUS_RATES[output_stride]

        self.backbone = _make_backbone(backbone, output_stride, in_channels)
        channels: tuple[int, ...] = self.backbone.channels  # type: ignore[assignment]
        self.aspp = ASPP(
            channels[-1], rates, aspp_channels, separable=separable, dropout=dropout, norm=norm
        )
        self.decoder = Decoder(
            aspp_channels,
            channels[0],
            low_level_channels,
            decoder_channels,
            separable=separable,
            norm=norm,
        )
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)
        init_convolutions(self.aspp)
        init_convolutions(self.decoder)
        if train_crop is not None:
            cells = feature_size(train_crop, output_stride, input_scale)
            start_unreached_taps_at_zero(self.aspp, cells)
        # Near-zero logits: the first loss is that of a fair guess, log(num_classes).
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]
        self.input_scale, self.aux_weight = input_scale, aux_weight
        # Made last: the other weights are those of a network without it.
        self.aux = AuxHead(channels[-1], num_classes, norm=norm) if aux_weight else None

        self.freeze_bn, self.freeze_backbone = freeze_bn, freeze_backbone
        self.set_frozen_backbone(freeze_backbone)

    def forward(
        self, image: Tensor, resize: bool = True, aux: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (N, num_classes, H, W) of an image, float (N, in_channels, H, W), H and W >= 1.

        They are float32 (float64 for a model of that type), whatever autocast says. Without
        ``resize`` they are those of the decoder, at stride 4 of what the network works on, for a
        loss that resizes them itself (see ``segkit.losses.weighted_sum.takes_low_resolution``).
        With ``aux`` those of the second classifier come, too, likewise resized or not.
        """
        features = self.backbone(self._enlarged(image))
        out = self.decoder(self.aspp(features[-1]), features[0])
        logits: Tensor = self.classifier(out)
        if not aux:
            return _resized(logits, image) if resize else logits
        assert self.aux is not None
        second: Tensor = self.aux(features[-1])
        return (_resized(logits, image), _resized(second, image)) if resize else (logits, second)

    def _enlarged(self, image: Tensor) -> Tensor:
        if self.input_scale == 1:
            return image
        return upsample(image, scaled_size(image.shape[2:], self.input_scale))

    def train(self, mode: bool = True) -> "DeepLabV3Plus":
        """Train or eval mode as usual, but what is frozen stays in eval mode."""
        super().train(mode)
        for layer in self._frozen():
            layer.eval()
        return self

    def set_frozen_backbone(self, freeze_backbone: bool | str) -> None:
        """Freeze another part of the backbone from now on; values as in the constructor.

        What is frozen no longer becomes trainable again, but not BatchNorm with ``freeze_bn``. An
        optimizer made while parts were frozen may lack their parameters, and
        DistributedDataParallel must be made anew.

        Raises:
            ValueError: For another value.
        """
        check_freeze_backbone(freeze_backbone)
        for layer in self._frozen():
            layer.requires_grad_(True)
        self.freeze_backbone = freeze_backbone
        for layer in self._frozen():
            layer.requires_grad_(False)
        self.train(self.training)

    def _frozen(self) -> list[nn.Module]:
        frozen: list[nn.Module] = []
        if self.freeze_backbone == "low_level":
            frozen += self.backbone.low_level_parts()  # type: ignore[operator]
        elif self.freeze_backbone:
            frozen.append(self.backbone)
        if self.freeze_bn:
            frozen += [layer for layer in self.modules() if isinstance(layer, _BatchNorm)]
        return frozen


def _resized(logits: Tensor, image: Tensor) -> Tensor:
    # Said here, since autocast resizes in float32 on some devices and in some modes only.
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return upsample(wide, image.shape[2:])


def gives_low_resolution(network: nn.Module) -> bool:
    """Whether a network, wrapped or compiled or not, takes ``resize=False``."""
    return isinstance(_unwrapped(network), DeepLabV3Plus)


def aux_weight_of(network: nn.Module) -> float:
    """What the loss of a network's second classifier counts; 0 where it has none."""
    inner = _unwrapped(network)
    return inner.aux_weight if isinstance(inner, DeepLabV3Plus) else 0.0


def _unwrapped(network: nn.Module) -> nn.Module:
    # DistributedDataParallel holds it as `module`, torch.compile as `_orig_mod`.
    while (inner := getattr(network, "module", getattr(network, "_orig_mod", None))) is not None:
        network = inner
    return network


def check_freeze_backbone(value: bool | str) -> None:
    if value not in (False, True, "low_level"):
        raise ValueError(f"freeze_backbone must be false, true or low_level, got {value!r}")


def _make_backbone(
    backbone: Callable[..., nn.Module] | nn.Module | str, output_stride: int, in_channels: int
) -> nn.Module:
    if isinstance(backbone, str):
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        backbone = BACKBONES[backbone]
    if not isinstance(backbone, nn.Module):
        backbone = backbone(output_stride=output_stride, in_channels=in_channels)
    name = type(backbone).__name__
    for attribute in ("channels", "strides"):
        if not hasattr(backbone, attribute):
            raise ValueError(
                f"backbone {name} lacks the attribute `{attribute}`: a tuple with one whole number "
                "for each of the features that it returns"
            )
    strides: tuple[int, ...] = backbone.strides  # type: ignore[assignment]
    if strides[0] != 4 or strides[-1] != output_stride:
        raise ValueError(
            f"backbone {name} has strides {tuple(strides)}, expected 4 first and "
            f"output_stride={output_stride} last"
        )
    return backbone
