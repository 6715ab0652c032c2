"""A small training state, for tests of what is kept of one."""

from typing import Any

import torch
from torch import Tensor, nn

from segkit.runs.checkpoint import CheckpointMetadata
from segkit.runtime.determinism import seed_step
from segkit.training.ema import ModelEMA
from segkit.training.monitor import Best, EarlyStopping, Monitor
from segkit.training.state import TrainState

METADATA = CheckpointMetadata(
    config={"data": {"root": "somewhere", "classes": ["a", "b"]}, "seed": 0},
    classes=["a", "b"],
    palette=[[i, 0, 0] for i in range(256)],
    ignore_index=255,
    mean=[0.5] * 3,
    std=[0.25] * 3,
    precision="fp32",
)


def make_state(num_classes: int = 2, seed: int = 0, *, with_average: bool = False) -> TrainState:
    """Everything that a run can have: momentum, dropout, a scaler, on request an average."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, num_classes, 1)
    )
    return TrainState(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3),
        Monitor(
            Best("val/miou", "max"),
            EarlyStopping("val/loss", "min", patience=3) if with_average else None,
        ),
        average=ModelEMA(model, 0.9) if with_average else None,
    )


def take_steps(state: TrainState, count: int) -> None:
    """Steps whose image and dropout depend on their number alone."""
    for _ in range(count):
        seed_step(0, state.step, 0)
        state.optimizer.zero_grad()
        image = torch.full((2, 3, 6, 6), 0.1 * (state.step + 1))
        loss = state.model(image).square().mean()
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            state.average.update(state.model)
        state.step += 1
        state.count({"train/loss": loss.item()})


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, tensors in any nest of builtins included."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
