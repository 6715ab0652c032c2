"""Intervals and p values over images: by hand, by plain loops, and as often right as they say."""

import itertools
import math
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segkit.metrics import (
    ConfusionMatrix,
    class_counts,
    difference_intervals,
    iou_intervals,
    swap_p_values,
    trust,
    uncertainty,
)

BENCHMARK = Path(__file__).parents[2] / "benchmarks/intervals.py"


def random_matrices(images: int, num_classes: int = 3, seed: int = 0) -> list[ConfusionMatrix]:
    generator = torch.Generator().manual_seed(seed)
    matrices = []
    for _ in range(images):
        target, guess = torch.randint(0, num_classes, (2, 1, 8, 8), generator=generator)
        pred = torch.where(torch.rand(target.shape, generator=generator) < 0.6, target, guess)
        matrices.append(ConfusionMatrix(num_classes))
        matrices[-1].update(pred, target)
    return matrices


def counts_of(matrices: list[ConfusionMatrix]) -> Tensor:
    return torch.stack([class_counts(m.matrix) for m in matrices])


def merged(matrices: list[ConfusionMatrix]) -> list[float]:
    total = ConfusionMatrix(matrices[0].num_classes)
    for one in matrices:
        total.merge(one)
    scores = total.compute()
    return [math.nan if x is None else x for x in (scores["miou"], *scores["iou"])]


def test_counts_of_a_matrix() -> None:
    matrix = torch.tensor([[5, 1], [2, 7]])
    assert class_counts(matrix).tolist() == [[5, 7], [6, 9], [7, 8]]


def test_an_interval_by_hand() -> None:
    # Student's for three images and 80 %: 1.8856. IoU of all is 60 / 120; without the first image
    # 50 / 80, without the second 40 / 80, without the third 30 / 80.
    counts = torch.tensor([[[10], [20], [30]], [[20], [30], [30]], [[30], [35], [35]]])
    counts[:, 2] = counts[:, 0] + 40 - counts[:, 1]  # a union of 40 each
    without = [50 / 80, 40 / 80, 30 / 80]
    error = math.sqrt(2 / 3 * sum((x - statistics.mean(without)) ** 2 for x in without))
    half = 1.8856180831641267 * error / (0.5 * 0.5)
    expected = [1 / (1 + math.exp(half)), 1 / (1 + math.exp(-half))]
    for found in iou_intervals(counts, 0.8):
        assert found == pytest.approx(expected)
    better = counts + torch.tensor([[[4], [0], [0]]])  # unions of 36
    gains = [58 / 72 - 50 / 80, 48 / 72 - 40 / 80, 38 / 72 - 30 / 80]
    error = math.sqrt(2 / 3 * sum((x - statistics.mean(gains)) ** 2 for x in gains))
    gain, half = 72 / 108 - 60 / 120, 1.8856180831641267 * error
    for found in difference_intervals(counts, better, 0.8):
        assert found == pytest.approx((gain - half, gain + half))


def test_leaving_out_is_merging_the_others() -> None:
    matrices = random_matrices(6)
    scores, without, counted = uncertainty._leave_one_out(counts_of(matrices).double())
    assert scores.tolist() == pytest.approx(merged(matrices), abs=1e-15)
    assert counted.all()
    for i in range(6):
        others = matrices[:i] + matrices[i + 1 :]
        assert without[i].tolist() == pytest.approx(merged(others), abs=1e-15)


def test_a_class_counts_the_images_that_show_it() -> None:
    full = counts_of(random_matrices(6))
    three = full.clone()
    three[3:, :, 2] = 0  # class 2 is in the first three alone
    alone = iou_intervals(full[:3])
    found = iou_intervals(three)
    assert found[3] is not None
    assert found[3] == pytest.approx(alone[3])
    once = full.clone()
    once[1:, :, 2] = 0
    assert iou_intervals(once)[3] is None
    never = full.clone()
    never[:, :, 2] = 0
    assert [x is None for x in iou_intervals(never)] == [False, False, False, True]
    assert swap_p_values(never, never)[3] is None
    assert difference_intervals(never, full)[3] is None


def test_few_and_perfect_images() -> None:
    one = counts_of(random_matrices(1))
    assert iou_intervals(one) == [None] * 4
    assert difference_intervals(one, one) == [None] * 4
    assert swap_p_values(one, one) == [1.0] * 4
    perfect = torch.full((3, 3, 2), 10)
    assert iou_intervals(perfect) == [(1.0, 1.0)] * 3
    wrong = perfect.clone()
    wrong[:, 0] = 0
    assert iou_intervals(wrong) == [(0.0, 0.0)] * 3
    assert difference_intervals(wrong, perfect) == [(1.0, 1.0)] * 3
    ends = iou_intervals(counts_of(random_matrices(2)))[0]
    assert ends is not None
    assert 0 <= ends.low < ends.high <= 1
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match=f"level must be between 0 and 1, got {level}"):
            iou_intervals(perfect, level)


def test_unlabelled_images_say_nothing() -> None:
    counts = counts_of(random_matrices(5))
    more = torch.cat([counts, torch.zeros(4, 3, 3, dtype=torch.int64)])
    assert iou_intervals(more) == iou_intervals(counts)
    other = counts_of(random_matrices(5, seed=1))
    assert swap_p_values(counts, other, 10**4) == swap_p_values(
        more, torch.cat([other, more[5:]]), 10**4
    )


def test_all_swaps_against_a_plain_loop() -> None:
    first, second = random_matrices(5), random_matrices(5, seed=1)
    seen = [b - a for a, b in zip(merged(first), merged(second), strict=True)]
    counts = torch.zeros(4)
    for swaps in itertools.product([False, True], repeat=5):
        pairs = list(zip(first, second, swaps, strict=True))
        a = merged([two if swap else one for one, two, swap in pairs])
        b = merged([one if swap else two for one, two, swap in pairs])
        differences = torch.tensor(b) - torch.tensor(a)
        counts += differences.abs() >= torch.tensor(seen).abs() - 1e-6
    found = swap_p_values(counts_of(first), counts_of(second), resamples=32)
    assert found == (counts / 32).tolist()
    assert min(x for x in found if x is not None) >= 2 / 2**5


@pytest.mark.parametrize("at_once", [2**22, 40])
def test_swaps_at_random_are_near_all_of_them(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertainty, "WEIGHTS", at_once)
    one, two = counts_of(random_matrices(12)), counts_of(random_matrices(12, seed=1))
    exact = swap_p_values(one, two, resamples=2**12)
    near = swap_p_values(one, two, resamples=2000)
    assert near == pytest.approx(exact, abs=0.05)
    assert near == swap_p_values(one, two, resamples=2000)
    assert near != swap_p_values(one, two, resamples=2000, seed=1)


def test_p_values_are_never_0_and_1_for_the_same_model() -> None:
    one = counts_of(random_matrices(40))
    worse = one - torch.tensor([[[1], [0], [0]]])
    assert swap_p_values(one, one) == [1.0] * 4
    assert swap_p_values(one, worse, resamples=99) == [1 / 100] * 4


def test_pairing_sees_what_intervals_apart_do_not() -> None:
    # Hard and easy images; the second model is a little better on every one of them.
    first = torch.tensor([[[h], [100], [100]] for h in range(10, 90, 4)])
    second = first + torch.tensor([[[3], [0], [0]]])
    (one, *_), (two, *_) = iou_intervals(first), iou_intervals(second)
    (gain, *_), (p, *_) = difference_intervals(first, second), swap_p_values(first, second)
    assert one is not None
    assert two is not None
    assert gain is not None
    assert p is not None
    assert two.low < one.high
    assert gain.low > 0
    assert p < 0.01


def test_what_is_said_of_few_images() -> None:
    low, high = uncertainty.COVERAGE[5]
    assert trust(1) == "1 image says nothing about others"
    assert trust(7) == (
        f"few images, 7: {low:.0f} to {high:.0f} % of 95 % intervals held the true value in "
        "simulations; take it for a rough idea"
    )
    assert "few" not in trust(50)
    assert sorted(uncertainty.COVERAGE) == list(uncertainty.COVERAGE)


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARK))


@pytest.mark.parametrize(
    ("kind", "measured"), [("street", 0.955), ("objects", 0.889), ("binary", 0.941)]
)
def test_they_are_right_as_often_as_they_say(
    benchmark: dict[str, Any], kind: str, measured: float
) -> None:
    """For five images, where percentiles of a bootstrap hold 0.83, 0.51 and 0.82."""
    random = torch.Generator().manual_seed(0)
    many = benchmark["two_models"](benchmark[kind], 20_000, random)[0]
    truth = uncertainty.iou_of_sums(many.sum(0))[0].item()
    covered = found = outside = 0
    for _ in range(150):
        first, second = benchmark["two_models"](benchmark[kind], 5, random)
        covered += benchmark["holds"](iou_intervals(first)[0], truth)
        outside += not benchmark["holds"](difference_intervals(first, second)[0], 0.0)
        p, *_ = swap_p_values(first, second, 100)
        found += p is not None and p < 0.07  # the least for five images is 2 / 32
    # Within some three standard deviations of 150.
    assert covered / 150 >= measured - 0.06
    assert outside / 150 <= 0.05 + 0.06
    assert found / 150 <= 2 / 32 + 0.06


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, 30])
def test_p_values_are_right_as_often_as_they_say(benchmark: dict[str, Any], count: int) -> None:
    random = torch.Generator().manual_seed(1)
    found = 0
    for seed in range(1000):
        first, second = benchmark["two_models"](benchmark["street"], count, random)
        p, *_ = swap_p_values(first, second, 200, seed)
        found += p is not None and p <= 0.05
    assert found / 1000 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 1000)
    assert found / 1000 >= 0.02
