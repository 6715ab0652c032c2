"""A step of a fused optimizer never waits for the device, and still changes no weight for a NaN.

Counted on the CPU, which computes the same: every operation and method by which the host reads a
number of the device. What only the CPU looks at is left out. The scores of an image are computed on
made-up CUDA tensors, which have no numbers that could be read.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from states import assert_same
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from segkit.data.loader import Batch
from segkit.errors import TrainingError
from segkit.inference.predictor import Inference
from segkit.losses import CrossEntropyLoss, DiceLoss, FocalLoss, WeightedSum, loss_in_strips
from segkit.metrics import ConfusionMatrix, PRCurves
from segkit.models import DeepLabV3Plus
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision
from segkit.schedules import Poly
from segkit.training.ema import ModelEMA
from segkit.training.loop import MAX_SKIPPED_IN_A_ROW, train_one_epoch
from segkit.training.monitor import Best, Monitor
from segkit.training.optimizer import make_optimizer, param_groups, ready_for_kernels
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState
from segkit.training.step import TrainStep

CPU = Precision("fp32", torch.device("cpu"))
NORMALIZE = Normalize((0.5,) * 3, (0.25,) * 3)
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups, **more: torch.optim.SGD(groups, lr=0.05, momentum=0.9, **more),
    "adamw": lambda groups, **more: torch.optim.AdamW(groups, lr=0.001, **more),
}
WAITING = {
    f"aten.{name}.default"
    for name in ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "is_nonzero")
} | {"aten.equal.default", "aten._unique2.default"}


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a device, in the time that it lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        by_mask = name.startswith("aten.index.") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING or by_mask:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What the host reads of tensors inside."""
    monkeypatch.setattr("segkit.losses.pixels.check_class_ids", lambda *args: None)
    monkeypatch.setattr("segkit.losses.softmax.nll_by_softmax", lambda *args: None)
    monkeypatch.setattr("segkit.losses.softmax.cleared_one_by_one", lambda *args: False)
    with monkeypatch.context() as patch, Waits() as mode:
        for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            method = getattr(Tensor, name)

            def counted(self: Tensor, *args: Any, method: Any = method, name: str = name) -> Any:
                mode.counts[name] += 1
                return method(self, *args)

            patch.setattr(Tensor, name, counted)
        yield mode.counts


def network() -> nn.Module:
    torch.manual_seed(0)
    return DeepLabV3Plus("tiny", 3, aspp_channels=8, decoder_channels=8)


def start(
    kind: str = "adamw",
    *,
    fused: bool = True,
    scaler: bool = False,
    ema: bool = False,
    model: nn.Module | None = None,
) -> TrainState:
    model = network() if model is None else model
    optimizer = MAKERS[kind](param_groups(model, 1.0, False, 0.001), fused=fused)
    grad_scaler = torch.amp.GradScaler("cpu", enabled=scaler, init_scale=2.0**10)
    average = ModelEMA(model, 0.9) if ema else None
    return TrainState(model, optimizer, grad_scaler, Monitor(Best("val/miou", "max")), average)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, 24, 24), generator=generator, dtype=torch.uint8)
    target = torch.randint(0, 3, (2, 24, 24), generator=generator, dtype=torch.uint8)
    return Batch(image, target, (f"{seed}_a", f"{seed}_b"))


def losses() -> WeightedSum:
    kinds = {"ce": CrossEntropyLoss(), "focal": FocalLoss(), "dice": DiceLoss()}
    return WeightedSum({name: {"weight": 1.0, "loss": loss} for name, loss in kinds.items()})


def run(
    state: TrainState,
    batches: Sequence[Batch],
    loss_fn: nn.Module | None = None,
    *,
    accumulate: int = 1,
    **more: Any,
) -> dict[str, float]:
    """The next steps of a long epoch; the first one of each call is looked at before it is made."""
    loss_fn = losses() if loss_fn is None else loss_fn
    step = TrainStep(loss_fn, NORMALIZE, CPU, Poly(), clip_grad_norm=1.0)
    plan = EpochPlan(1, 1, 100, 2, accumulate=accumulate, start=state.images)
    return train_one_epoch(state, batches, step, plan, **more)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("scaler", [False, True])
def test_no_step_but_the_first_waits(
    kind: str, scaler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_fn = WeightedSum({"ce": {"weight": 1.0, "loss": CrossEntropyLoss()}})
    state = start(kind, scaler=scaler, ema=True)
    per_step: list[Counter[str]] = []
    with waits(monkeypatch) as counts:

        def note() -> None:
            per_step.append(counts.copy())
            counts.clear()

        run(state, [batch(i) for i in range(6)], loss_fn, accumulate=2, between_steps=note)
    # Each step reads the values of the one before it, which were sent when that was computed.
    assert per_step[1:] == [Counter(), Counter({"tolist": 1})]
    assert sum(counts.values()) == 1  # the last one, before what comes after the epoch


def test_many_terms_do_not_wait_either(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    with waits(monkeypatch) as counts:
        run(
            start(), [batch(i) for i in range(4)], between_steps=lambda: seen.append(counts.total())
        )
    assert seen[3] - seen[2] == seen[2] - seen[1] == 1


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("scaler", [False, True])
def test_all_bits_are_those_of_steps_that_were_looked_at_first(kind: str, scaler: bool) -> None:
    found = []
    for size in (1, 5):  # with one in each call all are looked at
        state = start(kind, scaler=scaler, ema=True)
        steps: list[tuple[int, dict[str, float]]] = []
        loss_fn, means = OverflowAt(*[3] * scaler), {}
        for first in range(0, 5, size):
            means = run(
                state,
                [batch(first + i) for i in range(size)],
                loss_fn,
                on_step=lambda values, of=state, to=steps: to.append((of.step, values)),  # type: ignore[misc]
            )
        means.pop("images_per_second")
        found.append((steps, means, state.state_dict()))
    assert [number for number, _ in found[0][0]] == [1, 2, 3, 4, 5]
    assert_same(*found)


class NaNAt(nn.Module):
    """Cross-entropy, but NaN in the call of one number, from 0."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self.bad, self.calls = bad, 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        loss: Tensor = CrossEntropyLoss()(logits, target)
        return loss * float("nan") if self.calls - 1 == self.bad else loss


class NaNImage(nn.Module):
    """A network that computes NaN, in its statistics too, for one of its calls."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self.inner, self.bad, self.calls = network(), bad, 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(image * float("nan") if self.calls - 1 == self.bad else image)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("scaler", [False, True])
@pytest.mark.parametrize("bad", [0, 1, 3])
def test_a_bad_step_changes_no_weight_and_none_comes_after_it(
    kind: str, scaler: bool, bad: int
) -> None:
    good = start(kind, scaler=scaler, ema=True, model=NaNImage(-1))
    if bad:
        run(good, [batch(i) for i in range(bad)])
    state = start(kind, scaler=scaler, ema=True, model=NaNImage(bad))
    with pytest.raises(TrainingError, match=rf"^step {bad + 1}: .* is nan. Batch: {bad}_a, "):
        run(state, [batch(i) for i in range(6)])
    for p, q in zip(good.model.parameters(), state.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert good.average and state.average
    for p, q in zip(good.average.model.buffers(), state.average.model.buffers(), strict=True):
        assert q.isfinite().all()
        assert torch.equal(p, q) or bad == 0  # then nothing has trained the other one either


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_save_never_holds_what_comes_after_a_bad_step(bad: int) -> None:
    state = start()
    saved: list[int] = []

    def save() -> None:
        state.state_dict()
        saved.append(state.step)

    with pytest.raises(TrainingError, match=rf"^step {bad + 1}: "):
        run(state, [batch(i) for i in range(5)], NaNAt(bad), between_steps=save)
    assert saved == [*range(1, bad + 1)]


class OverflowAt(nn.Module):
    """Cross-entropy whose gradient is infinite in some calls, as where fp16 overflows."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.bad, self.calls = bad, 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        if self.calls - 1 in self.bad:
            logits = logits.clone()
            logits.register_hook(lambda g: g * float("inf"))  # type: ignore[no-untyped-call]
        loss: Tensor = CrossEntropyLoss()(logits, target)
        return loss


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("skipped", [(0,), (2,), (0, 1, 3)])
def test_a_step_that_the_scaler_skips_is_none_of_the_optimizer(
    kind: str, skipped: tuple[int, ...]
) -> None:
    """The first step among them: a fused SGD that skips it would begin with any numbers."""
    junk = [torch.full((4096,), torch.nan) for _ in range(64)]
    del junk
    state = start(kind, scaler=True)
    means = run(state, [batch(i) for i in range(5)], OverflowAt(*skipped))
    assert state.skipped_steps == means["train/skipped_steps"] == len(skipped)
    assert state.scaler.get_scale() == 2.0 ** (10 - len(skipped))
    assert all(p.isfinite().all() and p.abs().max() < 100 for p in state.model.parameters())
    counts = [one.get("step") for one in state.optimizer.state.values()]
    assert kind == "sgd" or {float(count) for count in counts} == {5 - len(skipped)}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("setting", ["lr", "weight_decay"])
def test_a_setting_beyond_float32_ends_the_run_before_it_touches_a_weight(
    setting: str, kind: str, fused: bool
) -> None:
    state = start(kind, fused=fused)
    before = copy.deepcopy(state.model.state_dict())
    for group in state.optimizer.param_groups:
        group[setting] = group["base_" + setting] = (
            1e39  # as lr, whose schedule starts from base_lr
        )
    expected = rf"step 1: {setting}=1e\+39 .* overflows float32\. Try a lower optimizer\.{setting}$"
    with pytest.raises(TrainingError, match=expected):
        run(state, [batch(0)])
    for name, value in state.model.named_parameters():
        assert torch.equal(value, before[name])


def test_overflow_at_any_scale_ends_the_run() -> None:
    state = start(scaler=True)
    number = MAX_SKIPPED_IN_A_ROW + 3
    with pytest.raises(TrainingError, match=f"^step {MAX_SKIPPED_IN_A_ROW + 1}: .* at any scale"):
        run(state, [batch(0)] * number, OverflowAt(*range(number)))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_of_the_other_kind_of_optimizer_goes_on(kind: str, before: bool) -> None:
    """And its step counts lie where the next step reads them."""
    saved = start(kind, fused=before)
    run(saved, [batch(i) for i in range(2)])
    resumed = start(kind, fused=not before)
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    run(saved, [batch(2)])
    run(resumed, [batch(2)])
    assert all(group["fused"] is not before for group in resumed.optimizer.param_groups)
    for p, q in zip(saved.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-3)  # AdamW makes rounding a step of lr
    counts = [one.get("step") for one in resumed.optimizer.state.values()]
    assert kind == "sgd" or {float(count) for count in counts} == {3}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_is_fused_unless_something_else_is_asked(kind: Any) -> None:
    def made(device: str, maker: Any = kind, **given: Any) -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device):
            groups = [{"params": [nn.Parameter(torch.zeros(2))]}]
            asked = partial(maker, lr=0.1, **given)
            return make_optimizer(asked, groups, torch.device(device)).defaults.get("fused")

    assert made("cuda") is True and made("cpu") is True
    assert made("cuda", fused=False) is False and not made("cuda", foreach=True)
    assert not made("mps") and not made("cuda", torch.optim.RMSprop)


@pytest.mark.parametrize("fused", [True, False])
def test_momenta_that_a_checkpoint_lacks_start_anew(fused: bool) -> None:
    saved = start("sgd", fused=fused)
    run(saved, [batch(0)])
    state = copy.deepcopy(saved.state_dict())
    first, second = list(state["optimizer"]["state"])[:2]
    state["optimizer"]["state"][first]["momentum_buffer"] = None
    del state["optimizer"]["state"][second]
    resumed = start("sgd", fused=fused)
    resumed.load_state_dict(state)
    run(resumed, [batch(1)])
    params = [p for group in resumed.optimizer.param_groups for p in group["params"]]
    for p in params[first], params[second]:
        momentum = resumed.optimizer.state[p]["momentum_buffer"]
        assert momentum.isfinite().all() and momentum.abs().sum() > 0


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("fused", [True, False])
def test_averages_follow_another_order_of_the_weights_in_memory(kind: str, fused: bool) -> None:
    """Fused kernels took the average of another element for that of a weight, without a word."""
    generator = torch.Generator().manual_seed(0)
    value, *grads = torch.randn(4, 4, 3, 5, 5, generator=generator)

    def made(order: torch.memory_format) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        p = nn.Parameter(value.clone(memory_format=order))
        return p, MAKERS[kind]([{"params": [p], "lr": 0.1}], fused=fused)

    def steps(p: nn.Parameter, optimizer: torch.optim.Optimizer, grads: list[Tensor]) -> None:
        for grad in grads:
            order = torch.channels_last if p.stride()[1] == 1 else torch.contiguous_format
            p.grad = grad.to(memory_format=order)
            optimizer.step()

    expected, first = made(torch.contiguous_format)
    steps(expected, first, grads[:2])
    state, kept = copy.deepcopy(first.state_dict()), expected.detach().clone()
    steps(expected, first, grads[2:])
    found, second = made(torch.channels_last)
    with torch.no_grad():
        found.copy_(kept)
    second.load_state_dict(state)
    ready_for_kernels(second)
    steps(found, second, grads[2:])
    assert found.stride() != expected.stride()
    torch.testing.assert_close(found, expected)


def test_step_counts_go_beside_the_parameters_of_a_fused_optimizer() -> None:
    saved = start("adamw", fused=False)
    run(saved, [batch(0)])
    params = [p for group in saved.optimizer.param_groups for p in group["params"]]
    for fused, device in ((True, "meta"), (False, "cpu")):
        for group in saved.optimizer.param_groups:
            group["fused"], group["params"] = fused, [p.to("meta") for p in params]
            for here, there in zip(params, group["params"], strict=True):
                saved.optimizer.state[there] = {"step": saved.optimizer.state[here]["step"]}
        ready_for_kernels(saved.optimizer)
        placed = [
            saved.optimizer.state[p]["step"] for p in saved.optimizer.param_groups[0]["params"]
        ]
        assert {step.device.type for step in placed} == {device}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_step_on_cuda_waits(name: str, accumulate: int) -> None:
    """As PyTorch itself sees it: its mode ``error`` raises where an operation would wait."""
    precision = Precision(name, torch.device("cuda", 0))
    model = network().to(precision.device)
    optimizer = MAKERS["adamw"](param_groups(model, 1.0, False, 0.001), fused=True)
    scaler = precision.grad_scaler()
    state = TrainState(model, optimizer, scaler, Monitor(Best("val/miou", "max")))
    step = TrainStep(losses().to(precision.device), NORMALIZE, precision, Poly(), clip_grad_norm=1)
    plan = EpochPlan(1, 1, 24, 2, accumulate=accumulate)
    made: list[int] = []

    def between() -> None:
        made.append(state.step)
        first_is_made = bool(state.sums.get("train/grad_norm"))
        torch.cuda.set_sync_debug_mode("error" if first_is_made else "default")

    try:
        train_one_epoch(
            state, [batch(i).pin_memory() for i in range(12)], step, plan, between_steps=between
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made[-1] == 12 // accumulate


@pytest.mark.parametrize("window", [None, (24, 32)])
def test_the_scores_of_an_image_wait_for_nothing(
    monkeypatch: pytest.MonkeyPatch, window: tuple[int, int] | None
) -> None:
    cuda = torch.device("cuda", 0)
    # Without a device autocast says so, and is off.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args: True)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        with cuda:
            model = network()
        inference = Inference(model, NORMALIZE, Precision("bf16", cuda), window=window)
        curves, matrix = PRCurves(3, classes=[0, 2]), ConfusionMatrix(3)
        image = torch.zeros(1, 3, 40, 48, dtype=torch.uint8, device=cuda)
        target = torch.zeros(1, 40, 48, dtype=torch.uint8, device=cuda)
        with Waits() as mode:
            for _ in range(2):  # in the first one counts move to the device
                moved: list[str] = []
                finite: list[Tensor] = []
                with Copies(moved):
                    logits = inference(image, finite=finite)
                    matrix.update(logits.max(1).indices, target)
                    loss = loss_in_strips(losses(), logits, target)
                    curves.update(logits, target)
                    torch.stack([loss, torch.stack(finite).all().to(loss)])
        assert logits.device == cuda and not mode.counts and not moved


class Copies(TorchDispatchMode):
    """Lists the copies between devices; that to a device waits too, unless its memory is pinned."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (*args, out) if isinstance(t, Tensor)]
        if "copy" in str(func) and len({t.device for t in tensors}) > 1:
            self.found.append(str(func))
        return out


def test_the_state_between_two_steps_resumes_to_the_same_bits() -> None:
    batches = [batch(i) for i in range(4)]
    whole = start("sgd", ema=True)
    kept: list[Any] = []

    def save() -> None:
        if whole.step == 2:
            kept.append(copy.deepcopy(whole.state_dict()))

    run(whole, batches, between_steps=save)
    rest = start("sgd", ema=True)
    rest.load_state_dict(kept[0])
    run(rest, batches[2:])
    assert_same(whole.state_dict(), rest.state_dict())
