"""One epoch of training and one pass of evaluation."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate as running_sums
from typing import Any

import pytest
import torch
from composed import config
from omegaconf import DictConfig
from states import assert_same
from torch import Tensor, nn

from segkit.config.schema import TrainConfig, to_settings
from segkit.data.loader import Batch
from segkit.errors import ConfigError, TrainingError
from segkit.losses import BCELoss, CrossEntropyLoss, DiceLoss, WeightedSum
from segkit.models import DeepLabV3Plus
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision
from segkit.schedules import Poly
from segkit.training.ema import ModelEMA
from segkit.training.loop import MAX_SKIPPED_IN_A_ROW, train_one_epoch
from segkit.training.monitor import Best, Monitor
from segkit.training.optimizer import backbone_factor, param_groups
from segkit.training.plan import EpochPlan
from segkit.training.state import TrainState
from segkit.training.step import TrainStep, refuse_other_ignored
from segkit.training.validation import Prediction, evaluate

CPU = Precision("fp32", torch.device("cpu"))
NORMALIZE = Normalize((0.5,) * 3, (0.25,) * 3)
STEP = TrainStep(CrossEntropyLoss(), NORMALIZE, CPU, Poly(power=1.0))
PLAN = EpochPlan(epoch=1, max_epochs=1, num_images=4, batch_size=1)


@dataclass(frozen=True)
class AsGiven(EpochPlan):
    """An epoch of batches of any sizes; ``used`` are the images after each number of them."""

    used: tuple[int, ...] = ()

    @property
    def images_per_epoch(self) -> int:
        return self.num_images

    def images_after(self, num_batches: int) -> int:
        return self.used[num_batches]


def make_batch(names: str, size: tuple[int, int] = (8, 8), ignored: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(sum(map(ord, names)))
    shape = (len(names), *size)
    image = torch.randint(0, 256, (shape[0], 3, *size), generator=generator, dtype=torch.uint8)
    target = torch.randint(0, 3, shape, generator=generator, dtype=torch.uint8)
    if ignored:
        target[:, :2] = 255
    return Batch(image, target, tuple(names))


def make_state(model: nn.Module, *, fp16: bool = False) -> TrainState:
    groups = param_groups(model, 1.0, False, lr=0.1)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=fp16)
    return TrainState(model, optimizer, scaler, Monitor(Best("val/miou", "max")))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 1)


def train(
    state: TrainState,
    batches: Sequence[Batch],
    loss_fn: nn.Module | None = None,
    *,
    step: TrainStep = STEP,
    plan: EpochPlan = PLAN,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    steps: list[dict[str, float]] = []
    used = tuple(running_sums(map(len, batches), initial=state.images))
    values = train_one_epoch(
        state,
        batches,
        step if loss_fn is None else replace(step, loss_fn=loss_fn),
        AsGiven(**vars(plan), used=used),
        on_step=steps.append,
    )
    return values, steps


def weights(state: TrainState) -> list[Tensor]:
    return [p.detach().clone() for p in state.model.parameters()]


def test_param_groups_by_place_and_decay() -> None:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.head = nn.Conv2d(4, 2, 1)
    model.head.weight.requires_grad_(False)
    conv, norm = model.backbone
    groups = param_groups(model, backbone_lr_factor=0.1, decay_norm_and_bias=False, lr=0.5)
    assert [(g["params"], g["lr"], g.get("weight_decay")) for g in groups] == [
        ([conv.weight], 0.05, None),
        ([conv.bias, norm.weight, norm.bias], 0.05, 0.0),
        ([model.head.bias], 0.5, 0.0),
    ]
    assert all(g["base_lr"] == g["lr"] for g in groups)
    all_decay = param_groups(model, backbone_lr_factor=0.1, decay_norm_and_bias=True, lr=0.5)
    assert [len(g["params"]) for g in all_decay] == [4, 1]  # type: ignore[arg-type]
    assert not any("weight_decay" in g for g in all_decay)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["model/backbone=tiny"], 1.0),
        (["model/backbone=mobilenet_v2"], 0.1),
        (["model/backbone=mobilenet_v2", "model.backbone.weights=null"], 1.0),
        (["model/backbone=tiny", "init_from=."], 0.1),
        (["model/backbone=tiny", "init_from=.", "init_parts=[aspp]"], 1.0),
        (["model/backbone=mobilenet_v2", "trainer.backbone_lr_factor=0.5"], 0.5),
        (["model/backbone=tiny", "trainer.backbone_lr_factor=0.1"], 0.1),
    ],
)
def test_a_trained_backbone_learns_slowly(given: list[str], expected: float) -> None:
    """One that starts at random must not."""
    cfg = config("train", *given)
    assert isinstance(cfg, DictConfig), cfg
    assert backbone_factor(to_settings(TrainConfig, cfg)) == expected


def test_one_step_is_gradient_descent_by_hand() -> None:
    state = make_state(linear())
    batch = make_batch("ab")
    model = linear()
    loss = CrossEntropyLoss()(model(NORMALIZE(batch.image)), batch.target.long())
    loss.backward()
    values, steps = train(state, [batch])
    for p, q in zip(state.model.parameters(), model.parameters(), strict=True):
        assert q.grad is not None
        torch.testing.assert_close(p, q - 0.1 * q.grad)
    norm = torch.cat([q.grad.flatten() for q in model.parameters() if q.grad is not None]).norm()
    assert values["train/loss"] == loss.item()
    assert values["train/grad_norm"] == pytest.approx(norm.item())
    assert steps == [
        {"train/loss": loss.item(), "train/grad_norm": values["train/grad_norm"], "lr": 0.1}
    ]
    assert (state.epoch, state.step, state.images) == (0, 1, 2)


def test_schedule_and_terms_are_reported() -> None:
    state = make_state(linear())
    terms = {
        "ce": {"weight": 1.0, "loss": CrossEntropyLoss()},
        "dice": {"weight": 2.0, "loss": DiceLoss()},
    }
    values, steps = train(state, [make_batch(name) for name in "abcd"], WeightedSum(terms))  # type: ignore[arg-type]
    assert [step["lr"] for step in steps] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    for step in [*steps, values]:
        total = step["train/loss/ce"] + 2 * step["train/loss/dice"]
        assert step["train/loss"] == pytest.approx(total)
    mean = sum(step["train/loss"] for step in steps) / 4
    assert values["train/loss"] == pytest.approx(mean)
    assert values["lr"] == steps[-1]["lr"]
    assert values["images_per_second"] > 0


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_accumulation_equals_one_big_batch(accumulate: int) -> None:
    """Without BatchNorm and with as many valid pixels in each batch; a shorter last group too."""
    batches = [make_batch(name) for name in "abcd"]
    step, joint = replace(STEP, schedule=Poly()), replace(PLAN, batch_size=accumulate)
    split = make_state(linear())
    values, steps = train(split, batches, step=step, plan=replace(PLAN, accumulate=accumulate))
    joined = make_state(linear())
    groups = [batches[i : i + accumulate] for i in range(0, 4, accumulate)]
    big = [
        Batch(
            torch.cat([b.image for b in group]),
            torch.cat([b.target for b in group]),
            tuple(name for b in group for name in b.ids),
        )
        for group in groups
    ]
    big_values, _ = train(joined, big, step=step, plan=joint)
    assert split.step == joined.step == len(steps) == math.ceil(4 / accumulate)
    for p, q in zip(weights(split), weights(joined), strict=True):
        torch.testing.assert_close(p, q)
    assert values["train/loss"] == pytest.approx(big_values["train/loss"])


def test_clipping_bounds_the_step_and_logs_the_norm_before() -> None:
    free, clipped = make_state(linear()), make_state(linear())
    before = weights(free)
    batch = make_batch("a")
    values, _ = train(free, [batch])
    norm = values["train/grad_norm"]
    step = replace(STEP, clip_grad_norm=norm / 2)
    assert train(clipped, [batch], step=step)[0]["train/grad_norm"] == norm
    for start, p, q in zip(before, weights(free), weights(clipped), strict=True):
        torch.testing.assert_close(q - start, (p - start) / 2, rtol=1e-4, atol=1e-7)


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.5), nn.Conv2d(8, 3, 1))


def values_without_speed(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name != "images_per_second"}


@pytest.mark.parametrize("done", [2, 4])
def test_the_rest_of_an_epoch_ends_as_the_whole(done: int) -> None:
    """Also if nothing is left but the validation."""
    batches = [make_batch(name) for name in "abcd"]
    plan = replace(PLAN, accumulate=2)
    whole, first, second = (make_state(with_dropout()) for _ in range(3))
    expected, _ = train(whole, batches, plan=plan)
    train(first, batches[:done], plan=plan)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    values, steps = train(second, batches[done:], plan=plan)
    assert len(steps) == (4 - done) // 2
    assert values_without_speed(values) == values_without_speed(expected)
    assert_same(second.state_dict(), whole.state_dict())


def test_dropout_depends_on_seed_and_step_alone() -> None:
    losses = []
    for seed, drawn_before in ((0, 0), (0, 5), (1, 0)):
        state = make_state(with_dropout())
        torch.rand(drawn_before)
        _, steps = train(state, [make_batch("a")] * 2, step=replace(STEP, seed=seed))
        losses.append([step["train/loss"] for step in steps])
    assert losses[0] == losses[1] != losses[2]


def test_the_schedule_goes_by_the_images_so_that_the_batch_size_may_change() -> None:
    # 10 images in steps of 4 are 3 steps in each of 2 epochs, of 2 images 5.
    fours = EpochPlan(epoch=1, max_epochs=2, num_images=10, batch_size=4)
    twos = replace(fours, batch_size=2)

    def factors(plan: EpochPlan) -> list[float]:
        at = [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4)]
        schedule = Poly(power=1.0)
        return [replace(plan, epoch=1 + done).lr_factor(schedule, images) for done, images in at]

    assert factors(fours) == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6])
    assert factors(twos) == pytest.approx([1, 0.8, 0.6, 0.5, 0.3])


def test_every_step_enters_the_average() -> None:
    model = linear()
    state = replace(make_state(model), average=ModelEMA(model, 0.9))
    assert state.average is not None
    expected = weights(state)
    for n, name in enumerate("abc"):
        train(state, [make_batch(name)])
        decay = min(0.9, (1 + n) / (10 + n))
        expected = [
            decay * e + (1 - decay) * p for e, p in zip(expected, weights(state), strict=True)
        ]
    for mine, theirs in zip(state.average.model.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_after_each_step_the_state_can_be_saved() -> None:
    state = make_state(linear())
    seen: list[tuple[int, int, int]] = []
    batches = [make_batch("ab"), make_batch("cd"), make_batch("e")]
    train_one_epoch(
        state,
        batches,
        STEP,
        AsGiven(**vars(replace(PLAN, accumulate=2)), used=(0, 2, 4, 5)),
        on_step=lambda values: seen.append((state.step, state.images, state.sums["train/loss"][1])),
    )
    assert seen == [(1, 4, 1), (2, 5, 2)]
    assert all(p.grad is None for p in state.model.parameters())


class NotANumber(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.mean() * float("nan")


def test_a_loss_that_is_nan_stops_before_the_weights_change() -> None:
    state = make_state(linear())
    train(state, [make_batch("a")])
    before = weights(state)
    terms = {
        "ce": {"weight": 1.0, "loss": CrossEntropyLoss()},
        "mine": {"weight": 1.0, "loss": NotANumber()},
    }
    batches = [make_batch("bc"), make_batch("d")]
    with pytest.raises(TrainingError, match=r"^step 2: train/loss/mine is nan. Batch: b, c, d\. "):
        train(state, batches, WeightedSum(terms), plan=replace(PLAN, accumulate=2))  # type: ignore[arg-type]
    assert all(torch.equal(p, q) for p, q in zip(before, weights(state), strict=True))
    assert state.step == 1


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float("inf")


class BadLayer(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        weight: Tensor = BadBackward.apply(self.weight)
        out: Tensor = self._conv_forward(input, weight, self.bias)
        return out


def test_a_gradient_that_is_not_finite_stops_and_names_its_layer() -> None:
    torch.manual_seed(0)
    state = make_state(nn.Sequential(nn.Conv2d(3, 4, 1), BadLayer(4, 3, 1)))
    before = weights(state)
    with pytest.raises(TrainingError, match=r"^step 1: the gradient of 1\.weight .* Batch: a, b\."):
        train(state, [make_batch("ab")], step=replace(STEP, clip_grad_norm=1.0))
    assert all(torch.equal(p, q) for p, q in zip(before, weights(state), strict=True))


class OverflowOnce(nn.Module):
    """The loss's gradient overflows at any scale above ``limit``, as in fp16."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = logits.clone()
        logits.register_hook(  # type: ignore[no-untyped-call]
            lambda g: g * float("inf") if g.abs().max() > self.limit else g
        )
        return CrossEntropyLoss()(logits, target)  # type: ignore[no-any-return]


def test_steps_that_the_scaler_skips_are_counted_and_left_out_of_the_mean_norm() -> None:
    state = make_state(linear(), fp16=True)
    # The gradient of a mean over 64 pixels is near 1/64: 2**16 and 2**15 times that is too large.
    batches = [make_batch("a")] * 6
    values, steps = train(state, batches, OverflowOnce(150.0))
    skipped = [step for step in steps if "train/grad_norm" not in step]
    assert state.skipped_steps == values["train/skipped_steps"] == len(skipped)
    assert 0 < len(skipped) < 6
    assert state.step == 6
    assert math.isfinite(values["train/grad_norm"])
    assert state.scaler.get_scale() == 2.0**16 / 2 ** len(skipped)


def test_gradients_that_overflow_at_any_scale_stop_the_run() -> None:
    state = make_state(linear(), fp16=True)
    before = weights(state)
    with pytest.raises(TrainingError, match="overflow fp16 at any scale"):
        train(state, [make_batch("a")] * (MAX_SKIPPED_IN_A_ROW + 1), OverflowOnce(-1.0))
    assert all(torch.equal(p, q) for p, q in zip(before, weights(state), strict=True))


IMAGES = [
    make_batch(name, size, ignored=True)
    for name, size in [
        ("a", (33, 40)),
        ("b", (33, 40)),
        ("c", (20, 24)),
        ("d", (33, 40)),
        ("e", (33, 40)),
    ]
]


def joined(size: int) -> list[Batch]:
    """IMAGES in batches of at most ``size`` neighbours that are equally large."""
    batches: list[Batch] = []
    for one in IMAGES:
        last = batches[-1] if batches else None
        if last is not None and len(last) < size and last.image.shape[2:] == one.image.shape[2:]:
            batches[-1] = Batch(
                torch.cat([last.image, one.image]),
                torch.cat([last.target, one.target]),
                last.ids + one.ids,
            )
        else:
            batches.append(one)
    return batches


def test_scores_and_loss_do_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    model = DeepLabV3Plus("tiny", 3, aspp_channels=16, decoder_channels=16)
    results = []
    for size in (1, 2, 7):
        seen: list[str] = []
        logits: list[Tensor] = []

        def on_image(
            image: Prediction, seen: list[str] = seen, logits: list[Tensor] = logits
        ) -> None:
            seen.extend(image.batch.ids)
            logits.append(image.logits)
            assert image.pred.shape == image.batch.target.shape == (1, *image.logits.shape[2:])

        matrix, loss, _ = evaluate(
            model,
            joined(size),
            STEP,
            num_classes=3,
            ignore_index=255,
            on_image=on_image,
        )
        assert seen == list("abcde")
        results.append((matrix, loss, logits))
    valid = sum(int((one.target != 255).sum()) for one in IMAGES)
    for matrix, loss, logits in results:
        assert matrix.matrix.sum() == valid
        assert torch.equal(matrix.matrix, results[0][0].matrix)
        assert loss == results[0][1]
        assert all(torch.equal(p, q) for p, q in zip(logits, results[0][2], strict=True))


def test_an_image_without_labels_has_no_loss() -> None:
    """It used to count as one of 0, which is better than any."""
    torch.manual_seed(0)
    model = DeepLabV3Plus("tiny", 3, aspp_channels=16, decoder_channels=16)
    blank = replace(IMAGES[1], target=torch.full_like(IMAGES[1].target, 255), ids=("blank",))
    found = []
    for split in (IMAGES[:1], [IMAGES[0], blank], [blank]):
        found.append(evaluate(model, split, STEP, num_classes=3, ignore_index=255)[1])
    assert found[0] == found[1]
    assert found[2] is None


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), BCELoss()])
def test_one_window_over_the_whole_image_has_its_loss(loss: nn.Module) -> None:
    torch.manual_seed(0)
    model = DeepLabV3Plus("tiny", 3, aspp_channels=16, decoder_channels=16)
    step = replace(STEP, loss_fn=loss)
    losses = [
        evaluate(model, IMAGES[:2], step, num_classes=3, ignore_index=255, window=window)[1]
        for window in (None, (500, 500))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_evaluation_changes_nothing() -> None:
    torch.manual_seed(0)
    model = DeepLabV3Plus("tiny", 3, aspp_channels=16, decoder_channels=16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    matrix, _, _ = evaluate(model, IMAGES[:1], STEP, num_classes=3, ignore_index=255)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    matrix.merge(matrix)  # a tensor of inference mode could not be changed any more


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_training_on_cuda_learns(name: str) -> None:
    precision = Precision(name, torch.device("cuda", 0))
    torch.manual_seed(0)
    model = DeepLabV3Plus("tiny", 3).to(precision.device)
    optimizer = torch.optim.AdamW(param_groups(model, 1.0, False, 1e-3), lr=1e-3)
    state = TrainState(model, optimizer, precision.grad_scaler(), Monitor(Best("val/miou", "max")))
    batch = make_batch("abcdefgh", (64, 64))
    batch.target[:] = (batch.image[:, 0] > 127).to(torch.uint8)
    losses: list[float] = []
    train_one_epoch(
        state,
        [batch] * 30,
        TrainStep(CrossEntropyLoss(), NORMALIZE, precision, Poly()),
        EpochPlan(epoch=1, max_epochs=1, num_images=240, batch_size=8),
        on_step=lambda values: losses.append(values["train/loss"]),
    )
    assert losses[-1] < losses[0] - 0.2
    assert state.skipped_steps <= 3


def test_a_loss_that_leaves_out_another_label_than_the_data_is_refused() -> None:
    """A file of one's own may lack the key: ignored pixels were trained on without a word."""
    for loss in (CrossEntropyLoss(), WeightedSum({"a": {"weight": 1.0, "loss": DiceLoss()}})):
        refuse_other_ignored(loss, 255)
        with pytest.raises(
            ConfigError, match=r"of the value 255, .* label have 0, data\.ignore_ind"
        ):
            refuse_other_ignored(loss, 0)
    with pytest.raises(ConfigError, match="CrossEntropyLoss leaves out pixels of the value -100"):
        refuse_other_ignored(nn.CrossEntropyLoss(), 255)
    refuse_other_ignored(nn.MSELoss(), 255)  # it knows of none
