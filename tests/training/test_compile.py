"""``trainer.compile``: normalisation, network and loss are one graph, with the numbers of eager."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.data.loader import Batch
from segkit.losses import BCELoss, CrossEntropyLoss, DiceLoss, FocalLoss, MSELoss, WeightedSum
from segkit.models import DeepLabV3Plus
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision
from segkit.schedules import Poly
from segkit.training.loop import train_one_epoch
from segkit.training.monitor import Best, Monitor
from segkit.training.optimizer import param_groups
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState
from segkit.training.step import TrainStep

# Up to torch 2.10 or so Dynamo looks at the gradient of what has none, and PyTorch warns of that.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor", "ignore:.* should not be instantiated"
)
CPU = Precision("fp32", torch.device("cpu"))


def batch(seed: int, size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
    target = torch.randint(0, 3, (size, 32, 32), generator=generator, dtype=torch.uint8)
    return Batch(image, target, tuple(f"{seed}_{i}" for i in range(size)))


def network(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return DeepLabV3Plus("tiny", 3, aspp_channels=8, decoder_channels=8, dropout=0, **settings)


def trio() -> nn.Module:
    kinds = {"ce": CrossEntropyLoss(), "focal": FocalLoss(), "dice": DiceLoss()}
    return WeightedSum({name: {"weight": 1.0, "loss": loss} for name, loss in kinds.items()})


def make_step(loss_fn: nn.Module, precision: Precision = CPU, **more: Any) -> TrainStep:
    return TrainStep(loss_fn, Normalize((0.5,) * 3, (0.2,) * 3), precision, Poly(), **more)


@pytest.fixture(autouse=True)
def fresh_graphs() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "trio": trio,
    "smooth": lambda: CrossEntropyLoss([1.0, 2.0, 3.0], label_smoothing=0.1),
    "bce": BCELoss,
    "mse": MSELoss,
}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("trio", "bf16"),
        *(pytest.param(name, "fp32", marks=SLOW) for name in LOSSES),
        pytest.param("smooth", "bf16", marks=SLOW),
    ],
)
def test_one_graph_without_a_break(name: str, precision: str) -> None:
    step, one = make_step(LOSSES[name](), Precision(precision, torch.device("cpu"))), batch(0)
    model = torch.compile(network(freeze_backbone="low_level"), backend="eager")
    constants = step.normalize.constants(one.image.device)
    found = torch._dynamo.explain(step.whole)(model, one.image, one.target, *constants)  # type: ignore[no-untyped-call]
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def test_steps_are_those_of_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a shorter last batch, accumulated batches, and a part that is trained from then on."""
    compiled: list[Any] = []

    def compile(function: Any) -> Any:
        compiled.append(function)
        return torch._dynamo.optimize("eager")(function)  # type: ignore[no-untyped-call]

    monkeypatch.setattr("torch.compile", compile)
    found: list[list[Tensor]] = []
    losses: list[dict[str, float]] = []
    for compiles in (False, True):
        model = network(freeze_backbone="low_level")
        groups = param_groups(model, 1.0, False, 0.05)
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        state = TrainState(model, optimizer, scaler, Monitor(Best("val/miou", "max")))
        step = make_step(trio(), compile=compiles)
        plan = EpochPlan(1, 3, 5, 2)
        for accumulate in (1, 2, 1):
            batches = [batch(0), batch(1), batch(2, size=1)]
            train = partial(train_one_epoch, on_step=lambda values: losses.append(values))
            train(state, batches, step, replace(plan, accumulate=accumulate))
            state.finish_epoch()
            model.set_frozen_backbone(False)
        found.append([p.detach().clone() for p in model.parameters()])
    assert len(compiled) == 1
    half = len(losses) // 2
    for eager, graph in zip(losses[:half], losses[half:], strict=True):
        assert graph == pytest.approx(eager, rel=1e-4)
        assert "train/loss/dice" in graph
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
