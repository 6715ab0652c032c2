"""How other people name the tensors of their DeepLab, and where ours differs."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How somebody names the tensors of a DeepLab.

    Attributes:
        source: Whose it is, for people.
        mark: Key that this layout has and no other.
        names: Pattern and replacement for the beginning of a key; the first that fits counts.
        unplaced: Pattern for the beginning of a key, and why it has no place here.
        adapt: Changes the renamed tensors in place; returns what to say about it.
        advice: How it was trained, as far as it matters for its use here.
    """

    source: str
    mark: str
    names: tuple[tuple[str, str], ...]
    unplaced: tuple[tuple[str, str], ...]
    adapt: Callable[[Tensors], list[str]]
    advice: str


def _nothing(tensors: Tensors) -> list[str]:
    return []


def _low_level_last(tensors: Tensors) -> list[str]:
    """VainF joins (low-level, ASPP), we (ASPP, low-level); and has one convolution after that."""
    reduce, fuse = "decoder.reduce.0.weight", "decoder.fuse.0.0.weight"
    if not {reduce, fuse} <= tensors.keys():  # their option for separable convolutions
        return []
    tensors[fuse] = tensors[fuse].roll(-len(tensors[reduce]), dims=1)
    channels = len(tensors[fuse])
    identity = nn.init.dirac_(tensors[fuse].new_empty(channels, channels, 3, 3))
    norm = nn.BatchNorm2d(channels)
    second = "decoder.fuse.1"
    tensors[f"{second}.0.weight"] = identity
    tensors |= {f"{second}.1.{name}": value for name, value in norm.state_dict().items()}
    tensors[f"{second}.1.running_var"] -= norm.eps  # which BatchNorm adds
    return [f"{second} starts as the identity: theirs has a single 3x3 convolution there"]


def _pooled_last(tensors: Tensors) -> list[str]:
    """mmsegmentation joins (pooled, branches), we (branches, pooled)."""
    project, pooled = "aspp.project.0.weight", "aspp.pooled.0.weight"
    if {project, pooled} <= tensors.keys():
        tensors[project] = tensors[project].roll(-len(tensors[pooled]), dims=1)
    return []


def _fold_biases(tensors: Tensors) -> list[str]:
    """A bias before BatchNorm only moves the mean: ``norm(x + b)`` is ``norm`` with mean - b."""
    folded = []
    for name in list(tensors):
        if not re.match(r"(aspp|decoder)\..*\.0\.bias$", name):
            continue
        mean = f"{name.removesuffix('.0.bias')}.1.running_mean"
        if mean in tensors:
            tensors[mean] = tensors[mean] - tensors.pop(name)
            folded.append(name)
    return [f"{len(folded)} biases before a BatchNorm went into its running mean"]


def _torchvision_aspp(start: str) -> tuple[tuple[str, str], ...]:
    """Names of torchvision's ASPP, which VainF has as well, below the pattern ``start``."""
    return (
        (rf"{start}\.convs\.4\.1\.", "aspp.pooled.0."),
        (rf"{start}\.convs\.4\.2\.", "aspp.pooled.1."),
        (rf"{start}\.convs\.([0-3])\.", r"aspp.branches.\1."),
        (rf"{start}\.project\.", "aspp.project."),
    )


TORCHVISION = Layout(
    source="torchvision's deeplabv3",
    mark="classifier.0.convs.0.0.weight",
    names=(
        *_torchvision_aspp(r"classifier\.0"),
        (r"backbone\.(\d+)\.", r"backbone.features.\1."),  # MobileNetV3
        (r"backbone\.", "backbone."),
    ),
    unplaced=(
        (r"classifier\.[1-9]", "DeepLabV3 has no decoder: its head is another"),
        (r"aux_classifier\.", "the head of the auxiliary loss"),
    ),
    adapt=_nothing,
    advice=(
        "trained with ImageNet's mean and std, model.separable=false and "
        "model.atrous_rates=[12,24,36]; the ResNets with model.output_stride=8, MobileNetV3 with "
        "16 (and dilated in one more layer than here)"
    ),
)

_VAINF = "VainF/DeepLabV3Plus-Pytorch"
_VAINF_BACKBONE = (
    # The features were cut in two, but their numbers go on.
    (r"backbone\.(low|high)_level_features\.", "backbone.features."),
    (r"backbone\.", "backbone."),
)
_VAINF_ADVICE = (
    "trained with model.separable=false, ImageNet's mean and std, and BatchNorm momentum 0.01 in "
    "the backbone; their MobileNetV2 pads before the expansion, so results differ at the "
    "image's border"
)

VAINF_PLUS = Layout(
    source=_VAINF,
    mark="classifier.aspp.convs.0.0.weight",
    names=(
        *_torchvision_aspp(r"classifier\.aspp"),
        (r"classifier\.project\.", "decoder.reduce."),
        (r"classifier\.classifier\.([01])\.", r"decoder.fuse.0.\1."),
        (r"classifier\.classifier\.3\.", "classifier."),
        *_VAINF_BACKBONE,
    ),
    unplaced=(),
    adapt=_low_level_last,
    advice=_VAINF_ADVICE,
)

# Other layers under names that ours has too: loaded in part, it would be worth nothing.
VAINF_XCEPTION = replace(
    VAINF_PLUS,
    mark="backbone.block1.rep.0.conv1.weight",
    unplaced=((r"backbone\.", "the Xception of 2017, ours is the aligned one of DeepLabV3+"),),
)

VAINF_V3 = Layout(
    source=_VAINF,
    mark="classifier.classifier.0.convs.0.0.weight",
    names=(*_torchvision_aspp(r"classifier\.classifier\.0"), *_VAINF_BACKBONE),
    unplaced=((r"classifier\.classifier\.[1-9]", "DeepLabV3 has no decoder: its head is another"),),
    adapt=_nothing,
    advice=_VAINF_ADVICE,
)

BUBBLIIIING = Layout(
    source="bubbliiiing/deeplabv3-plus-pytorch",
    mark="aspp.branch1.0.weight",
    names=(
        (r"aspp\.branch1\.", "aspp.branches.0."),
        (r"aspp\.branch2\.", "aspp.branches.1."),
        (r"aspp\.branch3\.", "aspp.branches.2."),
        (r"aspp\.branch4\.", "aspp.branches.3."),
        (r"aspp\.branch5_conv\.", "aspp.pooled.0."),
        (r"aspp\.branch5_bn\.", "aspp.pooled.1."),
        (r"aspp\.conv_cat\.", "aspp.project."),
        (r"shortcut_conv\.", "decoder.reduce."),
        (r"cat_conv\.([01])\.", r"decoder.fuse.0.\1."),
        (r"cat_conv\.4\.", "decoder.fuse.1.0."),
        (r"cat_conv\.5\.", "decoder.fuse.1.1."),
        (r"cls_conv\.", "classifier."),
        # MobileNetV2: one flat list per block, ReLUs counted; the first block does not expand.
        (r"backbone\.features\.1\.conv\.([01])\.", r"backbone.features.1.conv.0.\1."),
        (r"backbone\.features\.1\.conv\.3\.", "backbone.features.1.conv.1."),
        (r"backbone\.features\.1\.conv\.4\.", "backbone.features.1.conv.2."),
        (r"backbone\.features\.(\d+)\.conv\.([01])\.", r"backbone.features.\1.conv.0.\2."),
        (r"backbone\.features\.(\d+)\.conv\.3\.", r"backbone.features.\1.conv.1.0."),
        (r"backbone\.features\.(\d+)\.conv\.4\.", r"backbone.features.\1.conv.1.1."),
        (r"backbone\.features\.(\d+)\.conv\.6\.", r"backbone.features.\1.conv.2."),
        (r"backbone\.features\.(\d+)\.conv\.7\.", r"backbone.features.\1.conv.3."),
        (r"backbone\.", "backbone."),
    ),
    unplaced=(),
    adapt=_fold_biases,
    advice=(
        "trained with model.separable=false on images divided by 255 and nothing else: "
        "data.mean=[0,0,0] data.std=[1,1,1]; theirs upsamples with align_corners=True, so edges "
        "move by a fraction of a pixel"
    ),
)

MMSEGMENTATION = Layout(
    source="mmsegmentation",
    mark="decode_head.sep_bottleneck.0.depthwise_conv.conv.weight",
    names=(
        (r"decode_head\.image_pool\.1\.conv\.", "aspp.pooled.0."),
        (r"decode_head\.image_pool\.1\.bn\.", "aspp.pooled.1."),
        (r"decode_head\.aspp_modules\.(\d)\.conv\.", r"aspp.branches.\1.0."),
        (r"decode_head\.aspp_modules\.(\d)\.bn\.", r"aspp.branches.\1.1."),
        (r"decode_head\.aspp_modules\.(\d)\.depthwise_conv\.conv\.", r"aspp.branches.\1.0."),
        (r"decode_head\.aspp_modules\.(\d)\.depthwise_conv\.bn\.", r"aspp.branches.\1.1."),
        (r"decode_head\.aspp_modules\.(\d)\.pointwise_conv\.conv\.", r"aspp.branches.\1.3."),
        (r"decode_head\.aspp_modules\.(\d)\.pointwise_conv\.bn\.", r"aspp.branches.\1.4."),
        (r"decode_head\.bottleneck\.conv\.", "aspp.project.0."),
        (r"decode_head\.bottleneck\.bn\.", "aspp.project.1."),
        (r"decode_head\.c1_bottleneck\.conv\.", "decoder.reduce.0."),
        (r"decode_head\.c1_bottleneck\.bn\.", "decoder.reduce.1."),
        (r"decode_head\.sep_bottleneck\.([01])\.depthwise_conv\.conv\.", r"decoder.fuse.\1.0."),
        (r"decode_head\.sep_bottleneck\.([01])\.depthwise_conv\.bn\.", r"decoder.fuse.\1.1."),
        (r"decode_head\.sep_bottleneck\.([01])\.pointwise_conv\.conv\.", r"decoder.fuse.\1.3."),
        (r"decode_head\.sep_bottleneck\.([01])\.pointwise_conv\.bn\.", r"decoder.fuse.\1.4."),
        (r"decode_head\.conv_seg\.", "classifier."),
        (r"backbone\.", "backbone."),
    ),
    unplaced=((r"auxiliary_head\.", "the head of the auxiliary loss"),),
    adapt=_pooled_last,
    advice=(
        "trained with ImageNet's mean and std, model.output_stride=8 "
        "model.aspp_channels=512 model.decoder_channels=512; their ResNetV1c begins with three 3x3 "
        "convolutions (stem) and their ASPP ends with a 3x3 one, which are other layers than here"
    ),
)

LAYOUTS = (TORCHVISION, VAINF_XCEPTION, VAINF_PLUS, VAINF_V3, BUBBLIIIING, MMSEGMENTATION)
