"""The trial of a reduced precision: sound models pass, a wrong layer is named."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.errors import TrainingError
from segkit.losses import CrossEntropyLoss
from segkit.models import DeepLabV3Plus
from segkit.runtime.device import Precision
from segkit.training.precision_check import MAX_ERROR, check_precision

BF16 = Precision("bf16", torch.device("cpu"))
CHANNELS = 32


def batch(size: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 3, size, size, generator=generator)
    target = torch.randint(0, 4, (3, size, size), generator=generator)
    return image.to(memory_format=torch.channels_last), target


def network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1), nn.Conv2d(CHANNELS, 4, 1)
    model = nn.Sequential(first, nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True), *layers, last)
    model.append(nn.Upsample(scale_factor=2))
    return model.to(memory_format=torch.channels_last)


def check(model: nn.Module, precision: Precision = BF16) -> str:
    return check_precision(model, CrossEntropyLoss(), *batch(), precision)


class Spoilt(torch.autograd.Function):
    """The identity, with a gradient that is wrong by a factor."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class SpoiltConv(nn.Conv2d):
    """Its weight gradient is wrong by a factor in bfloat16, and right in float32."""

    def __init__(self, factor: float) -> None:
        super().__init__(CHANNELS, CHANNELS, 3, padding=1)
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            weight = Spoilt.apply(weight, self.factor)
        out: Tensor = self._conv_forward(input, weight, self.bias)
        return out


@pytest.mark.quick("tiny", "gn-mobilenet_v2")
@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2"])
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_our_own_models_pass_with_a_wide_margin(backbone: str, norm: str) -> None:
    torch.manual_seed(0)
    model = DeepLabV3Plus(backbone, 4, separable=True, norm=norm, aspp_channels=64)
    text = check(model.to(memory_format=torch.channels_last))
    assert "bf16 agrees with float32 on the first batch: loss 1.3" in text  # ln 4 = 1.386
    error = float(text.partition("largest error of a layer ")[2].partition(" %")[0]) / 100
    assert 0 < error < MAX_ERROR / 5


@pytest.mark.parametrize("factor", [1e3, 1.1, 0.0, -1.0, float("nan"), float("inf")])
def test_a_wrong_gradient_is_found_and_its_layer_named(factor: float) -> None:
    model = network(SpoiltConv(1.0), SpoiltConv(factor))
    with pytest.raises(TrainingError, match=r"bf16 computes the gradient of the weight of layer 4"):
        check(model)
    check(network(SpoiltConv(1.0)))


def test_a_wrong_gradient_of_the_input_is_found() -> None:
    class Wrong(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            factor = 2.0 if torch.is_autocast_enabled("cpu") else 1.0
            return super().forward(Spoilt.apply(input, factor))

    with pytest.raises(TrainingError, match="gradient of input 0 of layer 3"):
        check(network(Wrong(CHANNELS, CHANNELS, 1)))


def test_a_wrong_output_is_found() -> None:
    class Wrong(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * (1.2 if torch.is_autocast_enabled("cpu") else 1.0)

    with pytest.raises(TrainingError, match=r"of layer 3 wrongly: it differs .* by 20 %"):
        check(network(Wrong(CHANNELS, CHANNELS, 1)))


def test_what_is_no_layer_of_its_own_is_found_if_not_finite() -> None:
    class Holder(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            factor = float("nan") if torch.is_autocast_enabled("cpu") else 1.0
            return Spoilt.apply(input, factor)  # type: ignore[no-any-return]

    with pytest.raises(TrainingError, match=r"the gradient of 0\.weight is not finite"):
        check(network(Holder()))


def test_a_loss_that_is_off_is_found() -> None:
    class Shift(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                input = input + 100 * torch.linspace(0, 1, 4).view(-1, 1, 1)
            return input

    model = network()
    model.append(Shift())
    with pytest.raises(
        TrainingError, match=r"the loss of the first batch is \S+, in float32 1\.\d"
    ):
        check(model)


def test_dilated_depthwise_convolutions_in_bfloat16_on_the_cpu() -> None:
    """oneDNN's AVX-512 kernel for plain layers of this kind; ours leave bfloat16 instead."""
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2, groups=CHANNELS, bias=False)
    model = network(layer)
    torch.manual_seed(1)
    image = torch.randn(2, CHANNELS, 24, 24).to(memory_format=torch.channels_last)
    slope = torch.randn_like(image)
    exact = torch.autograd.grad(layer(image), layer.weight, slope)[0]
    with BF16.autocast():
        output = layer(image)
    tried = torch.autograd.grad(output, layer.weight, slope.bfloat16())[0]
    if (tried - exact).norm() < 0.01 * exact.norm():
        pytest.skip("this machine's kernel computes the gradient right")
    with pytest.raises(TrainingError, match="the gradient of the weight of layer 3"):
        check(model)


def test_everything_is_as_before_afterwards() -> None:
    model = network(SpoiltConv(1.0), nn.Dropout2d(0.5), nn.Dropout(0.5).eval())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    rng = torch.get_rng_state()
    check(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(torch.get_rng_state(), rng)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_everything_is_as_before_after_a_failure() -> None:
    model = network(SpoiltConv(5.0), nn.Dropout(0.5))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    with pytest.raises(TrainingError):
        check(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert model[4].training
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_layers_keyword_arguments_and_odd_outputs_are_no_obstacle() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, input: Tensor, *, shift: float) -> tuple[Tensor, float]:
            return input * self.scale, shift

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.unused = Pair(), nn.Linear(2, 2)
            self.inner = Named()

        def forward(self, input: Tensor) -> Tensor:
            out, shift = self.pair(input, shift=1.0)
            result: Tensor = self.inner(out, factor=shift)
            return result

    class Named(Pair):
        def forward(self, input: Tensor, *, factor: float) -> Tensor:  # type: ignore[override]
            return input * self.scale * factor

    model = network(Calls())
    model[0].requires_grad_(False)
    assert "agrees" in check(model)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_our_own_models_pass_on_cuda(name: str) -> None:
    device = torch.device("cuda", 0)
    torch.manual_seed(0)
    model = DeepLabV3Plus("mobilenet_v2", 4, separable=True)
    model = model.to(device).to(memory_format=torch.channels_last)
    image, target = (tensor.to(device) for tensor in batch(96))
    rng = torch.cuda.get_rng_state(device)
    text = check_precision(model, CrossEntropyLoss(), image, target, Precision(name, device))
    assert f"{name} agrees" in text
    assert torch.equal(torch.cuda.get_rng_state(device), rng)
