"""The average of the weights: by hand, against float64, and the same bits after a resume."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from segkit.errors import ConfigError
from segkit.models import DeepLabV3Plus
from segkit.training.ema import ModelEMA


def one_weight(value: float) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor(value))
    return module


def follow(values: list[float], decay: float) -> list[float]:
    """The averages after each of the values; the first is the start."""
    model = one_weight(values[0])
    average = ModelEMA(model, decay)
    found = []
    for value in values[1:]:
        nn.init.constant_(model.weight, value)
        average.update(model)
        found.append(average.model.weight.item())
    return found


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def train(model: nn.Module, averages: list[ModelEMA], first: int, last: int) -> None:
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    for step in range(first, last):
        image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(image.to(next(model.parameters()).device)).square().mean().backward()
        optimizer.step()
        for average in averages:
            average.update(model)


def floats(model: nn.Module) -> list[Tensor]:
    return [t.clone() for t in model.state_dict().values() if t.is_floating_point()]


def test_golden_at_full_decay() -> None:
    """Decay 0.1 is what the warm-up starts with, so it holds from the first update on."""
    # 0.1 * 0 + 0.9 * 10, 0.1 * 9 + 0.9 * 20, 0.1 * 18.9 + 0.9 * 0
    assert follow([0.0, 10.0, 20.0, 0.0], decay=0.1) == pytest.approx([9.0, 18.9, 1.89])


def test_golden_of_the_warm_up() -> None:
    # Decays 1/10, 2/11, 3/12: 0.9 * 11; 2/11 * 9.9 + 9/11 * 0; 0.25 * 1.8 + 0.75 * 1
    assert follow([0.0, 11.0, 0.0, 1.0], decay=0.999) == pytest.approx([9.9, 1.8, 1.2])


def test_the_start_is_forgotten_soon() -> None:
    """Without the warm-up 0.98 of it would be left after 20 updates."""
    assert follow([1000.0] + [0.0] * 20, decay=0.999)[-1] < 1e-4


def test_decay_zero_is_a_copy() -> None:
    assert follow([1.0, 2.0, 3.0], decay=0.0) == [2.0, 3.0]


def test_against_float64() -> None:
    model = network()
    average = ModelEMA(model, 0.9)
    expected = [tensor.double() for tensor in floats(model)]
    for step in range(30):
        train(model, [average], step, step + 1)
        decay = min(0.9, (1 + step) / (10 + step))
        new = [tensor.double() for tensor in floats(model)]
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, new, strict=True)]
    for mine, reference in zip(floats(average.model), expected, strict=True):
        assert_close(mine.double(), reference, rtol=1e-5, atol=1e-7)


def test_statistics_are_averaged_and_counts_copied() -> None:
    model = network()
    average = ModelEMA(model, 0.5)
    train(model, [average], 0, 5)
    assert average.model[1].num_batches_tracked == 5
    assert not torch.equal(average.model[1].running_mean, model[1].running_mean)


def test_what_is_frozen_keeps_its_bits() -> None:
    model = network()
    model[0].requires_grad_(False)
    average = ModelEMA(model, 0.99)
    train(model, [average], 0, 20)
    assert torch.equal(average.model[0].weight, model[0].weight)
    assert not torch.equal(average.model[3].weight, model[3].weight)


def test_the_average_is_a_model_of_its_own_for_evaluation() -> None:
    model = DeepLabV3Plus("tiny", 2, aspp_channels=8, decoder_channels=8, low_level_channels=8)
    model = model.to(memory_format=torch.channels_last)
    before = floats(model)
    average = ModelEMA(model, 0.9)
    average.update(model)
    weight = average.model.aspp.project[0].weight
    assert not any(module.training for module in average.model.modules())
    assert not any(p.requires_grad for p in average.model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(floats(model), before, strict=True))
    nn.init.zeros_(weight)
    assert model.aspp.project[0].weight.any()


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_resumed_average_has_the_same_bits(stop: int, tmp_path: Any) -> None:
    straight = network()
    reference = ModelEMA(straight, 0.95)
    train(straight, [reference], 0, 12)

    model = network()
    average = ModelEMA(model, 0.95)
    train(model, [average], 0, stop)
    torch.save((model.state_dict(), average.state_dict()), tmp_path / "state.pt")
    saved, state = torch.load(tmp_path / "state.pt", weights_only=True)
    model = copy.deepcopy(network())
    average = ModelEMA(model, 0.95)
    model.load_state_dict(saved)
    average.load_state_dict(state)
    train(model, [average], stop, 12)
    assert average.updates == reference.updates == 12
    for mine, theirs in zip(floats(average.model), floats(reference.model), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.ema_decay=.* below 1; 0\.999 averages"):
        ModelEMA(network(), decay)


@pytest.mark.gpu
def test_the_average_on_cuda_equals_that_on_the_cpu() -> None:
    model = network().cuda()
    on_cpu, on_cuda = ModelEMA(copy.deepcopy(model).cpu(), 0.9), ModelEMA(model, 0.9)
    for step in range(20):
        train(model, [on_cuda], step, step + 1)
        on_cpu.update(copy.deepcopy(model).cpu())
    assert on_cuda.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(floats(on_cuda.model), floats(on_cpu.model), strict=True):
        assert_close(mine.cpu(), theirs, rtol=1e-6, atol=1e-7)
