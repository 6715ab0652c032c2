"""Convolutional networks of timm (github.com/huggingface/pytorch-image-models) as backbones."""

import difflib
import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import CheckpointError, ConfigError
from segkit.models.backbones.surgery import load_pretrained, torchvision_models
from segkit.models.layers import BatchNorm, SafeConv2d

LOWEST = (1, 0, 30)  # before, not all its networks can be made on the meta device


class Timm(nn.Module):
    """A classifier of timm without its head, dilated by timm.

    The low-level features are those of the last stage at stride 4. Keys of the state dict are
    those of timm's feature extractor, below ``net``.

    Args:
        name: Network of timm, as ``convnext_tiny``; with a tag, as ``convnext_tiny.in12k``, it
            names its weights too.
        weights: None for random start, ``imagenet`` for timm's weights of this name (downloaded on
            first use), or the path of a state-dict file with timm's keys.
        output_stride: Stride of the last features, 8 or 16.
        in_channels: Channels of the image; other than 3 adapts the pretrained first kernel.

    Raises:
        ConfigError: If timm is not installed, or too old.
        ValueError: For a name that timm does not know, or of a network that cannot be dilated or
            takes images of one size only.
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
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        check_name(name)
        self.strides = (4, output_stride)
        self.multiple = 1
        # Gradients tell what the features depend on, whatever the caller wants of them.
        with torch.inference_mode(False), torch.enable_grad():
            self.net = _dilated(name, output_stride, in_channels)
            _replace_layers(self.net)
            strides = _strides(self.net)
            self.indices = (len(strides) - 1 - strides[::-1].index(4), len(strides) - 1)
            low_level, last = self._try(name, in_channels)
            self.channels = (low_level.shape[1], last.shape[1])
            self.low_level_names = _dependencies(self.net, low_level)
        if weights is not None:
            _load(self.net, name, weights)

    def low_level_parts(self) -> list[nn.Module]:
        """What makes the features at stride 4."""
        return [self.net.get_submodule(name) for name in self.low_level_names]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> [features at stride 4, features at ``output_stride``]."""
        if self.multiple > 1:
            size = [self._enlarged(side) for side in image.shape[2:]]
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        features: list[Tensor] = self.net(image)
        return [features[index] for index in self.indices]

    def _enlarged(self, side: int) -> int:
        # Not -(-side // n) * n, which exporters get wrong: they round towards 0.
        return (side + self.multiple - 1) // self.multiple * self.multiple

    @staticmethod
    def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
        """PyTorch's own function would lose what follows in timm's layers, the activation."""
        layers: Any = import_module("timm.layers")
        converted: nn.Module = layers.convert_sync_batchnorm(model)
        return converted

    def _try(self, name: str, in_channels: int) -> list[Tensor]:
        """Features of a small image; ``multiple`` is right afterwards.

        Sizes round up. A network that cuts the image into patches would leave out the rest of it,
        another part at each stride: it gets an image enlarged to what its strides divide.
        """
        step = self.strides[-1]
        image = torch.zeros(1, in_channels, 2 * step + 1, 3 * step + 1)
        found: object = None
        self.net.eval()
        for self.multiple in (1, step, 32):
            sides = [self._enlarged(side) for side in image.shape[2:]]
            expected = [tuple(-(-side // stride) for side in sides) for stride in self.strides]
            try:
                features: list[Tensor] = self(image)
            except (AssertionError, RuntimeError, ValueError) as error:
                found = " ".join(str(error).split())[:200] or "an error"
                continue
            found = [tuple(f.shape[2:]) for f in features]
            if found == expected:
                self.net.train()
                return features
        raise ValueError(
            f"{name}: takes images of certain sizes only, and cannot be a backbone here: an image "
            f"of {image.shape[2]} x {image.shape[3]} gave {found}; {_advice()}"
        )


def check_name(name: str) -> None:
    """Raise unless timm is there and knows the network, and the tag of its weights.

    Raises:
        ConfigError: If timm is not installed, or too old.
        ValueError: For another name; with those that are near it.
    """
    if find_spec("timm") is None:
        raise ConfigError(
            "model/backbone=timm needs timm, which is not installed: pip install timm"
        )
    torchvision_models()  # which timm imports
    import timm

    if tuple(map(int, re.findall(r"\d+", timm.__version__)[:3])) < LOWEST:
        raise ConfigError(
            f"model/backbone=timm needs timm {'.'.join(map(str, LOWEST))} or later, and "
            f"{timm.__version__} is installed: pip install -U timm"
        )
    architecture, _, tag = name.partition(".")
    architectures = timm.list_models()
    options, what = architectures, "network"
    if architecture in architectures:
        if not tag or name in (options := timm.list_models(architecture, include_tags=True)):
            return
        what = f"weights of {architecture}"
    near = difflib.get_close_matches(name, options, n=4) or options[: 4 if tag else 0]
    raise ValueError(
        f"timm {timm.__version__} has no {what} called {name!r}"
        + (f"; did you mean {', '.join(near)}?" if near else f"; {_advice()}")
    )


def _advice() -> str:
    return "networks that can: convnext_tiny, efficientnet_b0, mobilenetv3_large_100, regnety_008"


def _dilated(name: str, output_stride: int, in_channels: int) -> nn.Module:
    """A feature extractor of timm whose last features are at ``output_stride``."""
    import timm

    try:
        net: nn.Module = timm.create_model(
            name, features_only=True, in_chans=in_channels, output_stride=output_stride
        )
        found = _strides(net)
    # An argument that it does not take, or an assertion that it is 32
    except (TypeError, AssertionError, RuntimeError) as error:
        with torch.device("meta"):
            found = _strides(timm.create_model(name, num_classes=0))
        raise ValueError(_refusal(name, found, output_stride)) from error
    if 4 not in found or found[-1] != output_stride:
        raise ValueError(_refusal(name, found, output_stride))
    return net


def _refusal(name: str, strides: list[int], output_stride: int) -> str:
    listed = ", ".join(map(str, strides)) or "unknown"
    return (
        f"{name}: timm cannot give it output_stride={output_stride}: the strides of its features "
        f"are {listed}, expected 4 and, by dilation, {output_stride} at last; {_advice()}"
    )


def _strides(net: nn.Module) -> list[int]:
    """The strides of a network's features, in the order of the data."""
    info: Any = getattr(net, "feature_info", ())
    if hasattr(info, "reduction"):
        return list(info.reduction())
    return [one["reduction"] for one in info]


def _replace_layers(net: nn.Module) -> None:
    """Make layers of ``net`` like those of :mod:`segkit.models.layers`, in place.

    Parameters and keys stay; only what the layers compute in corner cases changes.
    """
    layers: Any = import_module("timm.layers")

    class BatchNormAct(layers.BatchNormAct2d):  # type: ignore[misc]
        """Takes one single value per channel in train mode, too: see BatchNorm."""

        def forward(self, x: Tensor) -> Tensor:
            if self.training and x.numel() == x.shape[1]:
                x = F.batch_norm(
                    x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
                )
                return self.act(self.drop(x))  # type: ignore[no-any-return]
            return super().forward(x)  # type: ignore[no-any-return]

    for layer in net.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm
        elif type(layer) is layers.BatchNormAct2d:
            layer.__class__ = BatchNormAct
        elif type(layer) is nn.Conv2d and layer.groups > 1 and max(layer.dilation) > 1:
            layer.__class__ = SafeConv2d


def _dependencies(net: nn.Module, feature: Tensor) -> list[str]:
    """Names of the largest modules all of whose parameters ``feature`` depends on."""
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
    needed = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}

    def largest(module: nn.Module, name: str) -> list[str]:
        own = [id(p) in needed for p in module.parameters()]
        if own and all(own):
            return [name]
        children = module.named_children() if any(own) else ()
        return [x for key, child in children for x in largest(child, f"{name}.{key}".strip("."))]

    return largest(net, "")


def _load(net: nn.Module, name: str, weights: str) -> None:
    """Fill ``net``; see :func:`~segkit.models.backbones.surgery.load_pretrained`."""
    import timm

    if weights == "imagenet" and name not in timm.list_pretrained() + timm.list_models(
        pretrained=True, include_tags=False
    ):
        near = difflib.get_close_matches(name, timm.list_pretrained(), n=4)
        raise CheckpointError(
            f"timm has no weights of {name}; model.backbone.weights=null trains from random start"
            + (f"; with weights there are {', '.join(near)}" if near else "")
        )
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
    own = net.state_dict()
    known = {key.replace("_", "."): key for key in own}  # a feature extractor has stages_0
    first = net.pretrained_cfg.get("first_conv") or ()  # type: ignore[union-attr,operator]
    kernels = [f"{key}.weight" for key in ([first] if isinstance(first, str) else first)]
    kernels = [known[x] for key in kernels if (x := key.replace("_", ".")) in known]

    def download() -> dict[str, Any]:
        try:
            # The random numbers that a second network takes are none of the run's.
            with torch.random.fork_rng(devices=[]):
                tensors: dict[str, Any] = timm.create_model(name, pretrained=True).state_dict()
            return tensors
        except Exception as error:  # of huggingface_hub and its HTTP client nearly anything
            text = str(error).strip().partition("\n")[0].rstrip(".")
            raise OSError(text or type(error).__name__) from error

    load_pretrained(
        net,
        name,
        weights,
        first_conv=kernels,
        leftover=tuple(key for key in whole if key.replace("_", ".") not in known),
        download=download,
        origin="timm",
    )
