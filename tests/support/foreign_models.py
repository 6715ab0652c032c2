"""DeepLabs laid out as other people's sources lay them out: their names, shapes and order."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.segmentation.deeplabv3 import ASPP


def randomize(model: nn.Module) -> nn.Module:
    """Statistics, weights and biases of every BatchNorm that do something; in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.bias.data):
                tensor.normal_(std=0.1, generator=generator)
            for tensor in (layer.running_var, layer.weight.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def block(in_channels: int, out_channels: int, size: int = 1, **settings: Any) -> list[nn.Module]:
    settings = {"padding": size // 2, "bias": False, **settings}
    conv = nn.Conv2d(in_channels, out_channels, size, **settings)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


def resize(input: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(input, like.shape[2:], mode="bilinear", align_corners=False)


class Body(nn.Module):
    """A ResNet as torchvision's, VainF's and mmsegmentation's models call its parts."""

    def __init__(self, name: str, stride: int, *, deep_stem: bool = False) -> None:
        super().__init__()
        dilated = [False, stride == 8, True]
        net = models.get_model(name, weights=None, replace_stride_with_dilation=dilated)
        if deep_stem:
            convs = [block(3, 32, 3, stride=2), block(32, 32, 3), block(32, 64, 3)]
            self.stem = nn.Sequential(*(layer for conv in convs for layer in conv))
        else:
            self.conv1, self.bn1, self.relu = net.conv1, net.bn1, net.relu
        self.maxpool = net.maxpool
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.stem(image) if hasattr(self, "stem") else F.relu(self.bn1(self.conv1(image)))
        low_level = self.layer1(self.maxpool(stem))
        return low_level, self.layer4(self.layer3(self.layer2(low_level)))


# --- VainF/DeepLabV3Plus-Pytorch: network/_deeplab.py, network/modeling.py -----------------------


class VainfHead(nn.Module):
    def __init__(self, in_channels: int, low_level: int, num_classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(*block(low_level, 48))
        self.aspp = ASPP(in_channels, [6, 12, 18], 256)
        self.classifier = nn.Sequential(*block(304, 256, 3), nn.Conv2d(256, num_classes, 1))

    def forward(self, low_level: Tensor, features: Tensor) -> Tensor:
        low_level, out = self.project(low_level), self.aspp(features)
        logits: Tensor = self.classifier(torch.cat([low_level, resize(out, low_level)], 1))
        return logits


class Vainf(nn.Module):
    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        if name == "mobilenet_v2":
            features = models.mobilenet_v2(weights=None).features
            self.backbone = nn.ModuleDict(
                {"low_level_features": features[:4], "high_level_features": features[4:-1]}
            )
            self.classifier = VainfHead(320, 24, num_classes)
        else:
            self.backbone = Body(name, 16)
            self.classifier = VainfHead(2048, 256, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return resize(self.classifier(*self.backbone(image)), image)


# --- bubbliiiing/deeplabv3-plus-pytorch: nets/deeplabv3_plus.py, nets/mobilenetv2.py -------------


class BubbliiiingASPP(nn.Module):
    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch1 = nn.Sequential(*block(in_channels, 256, bias=True))
        for i, rate in enumerate((6, 12, 18), start=2):
            atrous = block(in_channels, 256, 3, padding=rate, dilation=rate, bias=True)
            self.add_module(f"branch{i}", nn.Sequential(*atrous))
        self.branch5_conv, self.branch5_bn, _ = block(in_channels, 256, bias=True)
        self.conv_cat = nn.Sequential(*block(1280, 256, bias=True))

    def forward(self, features: Tensor) -> Tensor:
        views = [self.get_submodule(f"branch{i}")(features) for i in range(1, 5)]
        pooled = F.relu(self.branch5_bn(self.branch5_conv(features.mean((2, 3), keepdim=True))))
        out: Tensor = self.conv_cat(torch.cat([*views, pooled.expand_as(views[0])], 1))
        return out


class FlatBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.conv = nn.Sequential(
            *([] if expand == 1 else [*block(in_channels, hidden)[:2], nn.ReLU6()]),
            *(depthwise, nn.BatchNorm2d(hidden), nn.ReLU6()),
            *block(hidden, out_channels)[:2],
        )
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.conv(input)
        return out + input if self.shortcut else out


class BubbliiiingMobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*block(3, 32, 3, stride=2)[:2], nn.ReLU6())]
        channels = 32
        stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
        for expand, width, count, stride in [*stages, (6, 160, 3, 2), (6, 320, 1, 1)]:
            for i in range(count):
                layers.append(FlatBlock(channels, width, 1 if i else stride, expand))
                channels = width
        self.features = nn.Sequential(*layers)


class Bubbliiiing(nn.Module):
    def __init__(self, backbone: nn.Module, low_level: int, features: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = BubbliiiingASPP(features)
        self.shortcut_conv = nn.Sequential(*block(low_level, 48, bias=True))
        self.cat_conv = nn.Sequential(
            *block(304, 256, 3, bias=True),
            nn.Dropout(0.5),
            *block(256, 256, 3, bias=True),
            nn.Dropout(0.1),
        )
        self.cls_conv = nn.Conv2d(256, classes, 1)

    def head(self, low_level: Tensor, features: Tensor) -> Tensor:
        """Logits from features that are as large as the low-level ones: nothing is resized."""
        out = torch.cat([self.aspp(features), self.shortcut_conv(low_level)], 1)
        logits: Tensor = self.cls_conv(self.cat_conv(out))
        return logits


# --- mmsegmentation: decode_heads/{aspp,sep_aspp}_head.py, mmcv's ConvModule ---------------------


class ConvModule(nn.Module):
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__()
        self.conv, self.bn, _ = block(*arguments, **settings)

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(input)))


class Separable(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, rate: int = 1) -> None:
        super().__init__()
        around = {"padding": rate, "dilation": rate, "groups": in_channels}
        self.depthwise_conv = ConvModule(in_channels, in_channels, 3, **around)
        self.pointwise_conv = ConvModule(in_channels, out_channels)

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.pointwise_conv(self.depthwise_conv(input))
        return out


class MmsegHead(nn.Module):
    def __init__(self, num_classes: int, channels: int = 512) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(2048, channels))
        self.aspp_modules = nn.ModuleList(
            [ConvModule(2048, channels), *(Separable(2048, channels, r) for r in (12, 24, 36))]
        )
        self.bottleneck = ConvModule(5 * channels, channels, 3)
        self.c1_bottleneck = ConvModule(256, 48)
        self.sep_bottleneck = nn.Sequential(
            Separable(channels + 48, channels), Separable(channels, channels)
        )

    def forward(self, low_level: Tensor, features: Tensor) -> Tensor:
        pooled = resize(self.image_pool(features), features)
        out = torch.cat([pooled, *(view(features) for view in self.aspp_modules)], 1)
        low_level = self.c1_bottleneck(low_level)
        out = torch.cat([resize(self.bottleneck(out), low_level), low_level], 1)
        logits: Tensor = self.conv_seg(self.sep_bottleneck(out))
        return logits


class Mmseg(nn.Module):
    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.backbone = Body(name, 8, deep_stem=True)
        self.decode_head = MmsegHead(num_classes)
        self.auxiliary_head = nn.ModuleDict(
            {
                "conv_seg": nn.Conv2d(256, num_classes, 1),
                "convs": nn.Sequential(ConvModule(1024, 256, 3)),
            }
        )


def on_meta(make: Callable[[], nn.Module]) -> dict[str, Any]:
    """The state dict of a model as names and shapes alone."""
    with torch.device("meta"):
        return make().state_dict()
