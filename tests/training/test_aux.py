"""``model.aux_weight``: the loss of a second classifier joins that of the network, in training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from accumulated import CPU, Standing, images, joined
from loss_cases import NUM_CLASSES
from torch import Tensor, nn

from segkit.data.loader import Batch
from segkit.losses import CrossEntropyLoss, DiceLoss, WeightedSum
from segkit.models import DeepLabV3Plus
from segkit.schedules import Poly
from segkit.training.loop import train_one_epoch
from segkit.training.monitor import Best, Monitor
from segkit.training.optimizer import param_groups
from segkit.training.state import TrainState
from segkit.training.step import TrainStep


def network(aux_weight: float = 0.4) -> DeepLabV3Plus:
    torch.manual_seed(0)
    model = DeepLabV3Plus(
        "tiny",
        NUM_CLASSES,
        aspp_channels=8,
        decoder_channels=8,
        dropout=0,
        freeze_bn=True,
        aux_weight=aux_weight,
    ).double()
    if model.aux is not None:
        model.aux[1].p = 0.0
    return model


def duo() -> WeightedSum:
    terms = {"ce": CrossEntropyLoss(), "dice": DiceLoss()}
    return WeightedSum({name: {"weight": 1.0, "loss": loss} for name, loss in terms.items()})


def make_step(loss_fn: nn.Module, **more: Any) -> TrainStep:
    return TrainStep(loss_fn, lambda image: image.double() / 255, CPU, Poly(), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [duo, CrossEntropyLoss])
def test_the_loss_is_the_sum_of_both(make: Any) -> None:
    model, batch, loss_fn = network(), joined(images(2)), make()
    step = make_step(loss_fn)
    logits, second = model(batch.image.double() / 255, aux=True)
    own, other = (make()(one, batch.target.long()) for one in (logits, second))
    torch.testing.assert_close(step.loss(model, batch), own + 0.4 * other)
    if isinstance(loss_fn, WeightedSum):
        assert loss_fn.last_terms["aux"] == other
        assert loss_fn.last_terms["ce"] == CrossEntropyLoss()(logits, batch.target.long())


def epoch(batches: list[Batch], accumulate: int) -> list[Tensor]:
    model = network()
    optimizer = torch.optim.SGD(param_groups(model, 1.0, False, lr=1.0), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainState(model, optimizer, scaler, Monitor(Best("val/miou", "max")))
    plan = Standing(epoch=1, max_epochs=1, num_images=6, batch_size=1, accumulate=accumulate)
    values = train_one_epoch(state, batches, make_step(duo()), plan)
    assert {"train/loss/ce", "train/loss/dice", "train/loss/aux"} <= values.keys()
    return [p.detach().clone() for p in model.parameters()]


def test_accumulated_batches_make_the_step_of_one() -> None:
    three = images(3)
    for p, q in zip(epoch([joined(three)], 1), epoch(three, 3), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings(  # of Dynamo, torch 2.10
    "ignore:The .grad attribute of a Tensor", "ignore:.* should not be instantiated"
)
def test_one_graph_with_it() -> None:
    from segkit.models.normalize import Normalize

    torch._dynamo.reset()
    step = replace(make_step(duo(), compile=True), normalize=Normalize((0.5,) * 3, (0.2,) * 3))
    one, model = joined(images(2)), network().float()
    constants = step.normalize.constants(one.image.device)
    found = torch._dynamo.explain(step.whole)(model, one.image, one.target, *constants)  # type: ignore[no-untyped-call]
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
    torch._dynamo.reset()
