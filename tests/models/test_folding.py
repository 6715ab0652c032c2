"""BatchNorm folded into convolutions: the same function, or the network as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.models import DeepLabV3Plus
from segkit.models.folding import folded

BACKBONES = ("mobilenet_v2", "mobilenet_v3_large", "resnet18", "resnet50", "tiny", "xception")


def with_statistics(model: nn.Module) -> nn.Module:
    """As after a training: no norm is the identity."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.running_mean is None or module.running_var is None:
                continue
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_it_is_the_same_function_without_norms(backbone: str) -> None:
    torch.manual_seed(0)
    model = with_statistics(
        DeepLabV3Plus(backbone, 3, aspp_channels=16, decoder_channels=16, separable=True)
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = folded(model, 3)
    assert num_norms(fast) == 0 < num_norms(model)
    image = torch.randn(1, 3, 80, 96)
    expected, found = model.double()(image.double()), fast(image).double()
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    model.float()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1.0)
    for parameter, value in ((conv.weight, 2.0), (conv.bias, 1.0), (norm.weight, 3.0)):
        assert parameter is not None
        parameter.fill_(value)
    norm.bias.fill_(5.0)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.fill_(4.0), norm.running_var.fill_(8.0)
    fast: Any = folded(nn.Sequential(conv, norm).eval(), 1)
    # ((2 x + 1) - 4) / sqrt(8 + 1) * 3 + 5 = 2 x + 2
    assert (fast[0].weight.item(), fast[0].bias.item()) == (2.0, 2.0)
    assert type(fast[1]) is nn.Identity


@torch.no_grad()
def test_a_separable_convolution_as_one_module() -> None:
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 4, 1))
    model = with_statistics(nn.Sequential(pair, nn.BatchNorm2d(4), nn.ReLU()))
    fast, image = folded(model, 3), torch.randn(2, 3, 8, 8)
    assert num_norms(fast) == 0
    torch.testing.assert_close(fast(image), model(image), rtol=1e-5, atol=1e-6)


class Block(nn.Module):
    """A convolution and a norm, used as it is told."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.use = use

    def forward(self, image: Tensor) -> Tensor:
        return self.use(self, image)


class Scaled(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    return model


def shared() -> nn.Module:
    conv = nn.Conv2d(3, 3, 1)
    return nn.Sequential(conv, nn.BatchNorm2d(3), conv)


def no_copy() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model.extra = torch.ones(1, requires_grad=True) * 2  # no leaf
    return model


def not_finite() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    nn.init.constant_(model[0].weight, float("nan"))
    return model


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "none": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()),
    "another norm": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Scaled(3)),
    "no statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)
    ),
    "norm first": lambda: Block(lambda block, x: block.conv(block.norm(x).relu())),
    "something between": lambda: Block(lambda block, x: block.norm(block.conv(x).relu())),
    "both read": lambda: Block(lambda block, x: block.norm(block.conv(x)) + block.conv(x)),
    "one size": lambda: Block(lambda block, x: block.norm(block.conv(x.view(1, 3, 8, 8)))),
    "hooked": hooked,
    "shared": shared,
    "no copy": no_copy,
    "not finite": not_finite,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_would_be_another_function_stays(name: str) -> None:
    torch.manual_seed(0)
    model = with_statistics(OTHERS[name]())
    assert folded(model, 3) is model


def test_the_random_numbers_of_a_training_stay() -> None:
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    assert folded(model, 3) is not model
    assert torch.equal(torch.rand(2), expected)
