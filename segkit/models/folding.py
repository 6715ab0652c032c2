"""BatchNorm inside the convolution before it: in eval mode the same function in fewer passes."""

import copy
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from segkit.models.layers import BatchNorm, SafeConv2d, StridedPointwise

# Others may do more than their base class does.
CONVOLUTIONS = (nn.Conv2d, SafeConv2d, StridedPointwise)
NORMS = (nn.BatchNorm2d, BatchNorm)
TOLERANCE = 1e-4  # of the largest logit; rounding stays far below


@torch.no_grad()
def folded(model: nn.Module, channels: int) -> nn.Module:
    """A copy whose convolutions do what the BatchNorm after them did, with one pass less over maps.

    That a norm follows a convolution is read off the order in which a module holds them, and then
    tried: the model itself is returned where the copy computes something else, where nothing is to
    be folded, and where it cannot be copied or tried.

    Args:
        model: In eval mode, on the CPU; maps float32 (1, channels, H, W) to logits.
        channels: Of its images.
    """
    if not any(True for _ in _pairs(model)):
        return model
    image = torch.randn(1, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    try:
        expected = model(image)
        copied = copy.deepcopy(model)
        for parent, conv, name, norm in [*_pairs(copied)]:
            mean, var = norm.running_mean, norm.running_var
            assert mean is not None and var is not None  # of those pairs
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias
            )
            setattr(parent, name, nn.Identity())
        found = copied(image)
        is_same = (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
    except Exception:  # of somebody else's code
        return model
    return copied if is_same else model  # not where they are NaN


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Conv2d, str, nn.BatchNorm2d]]:
    """(parent, convolution, name of the norm, norm) of what may be folded."""
    uses = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for parent in model.modules():
        for (_, before), (name, norm) in pairwise(parent.named_children()):
            conv = _last(before)
            if (
                isinstance(conv, nn.Conv2d)
                and isinstance(norm, nn.BatchNorm2d)
                and type(conv) in CONVOLUTIONS
                and type(norm) in NORMS
                and norm.running_mean is not None
                and norm.num_features == conv.out_channels
                and uses[conv] == uses[norm] == 1
                and not any(one._forward_hooks or one._forward_pre_hooks for one in (conv, norm))
            ):
                yield parent, conv, name, norm


def _last(module: nn.Module) -> nn.Module:
    """What computes the result of a chain of modules, as of the two of a separable convolution."""
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    return module
