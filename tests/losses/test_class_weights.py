"""Class weights out of pixel counts."""

import math
import statistics

import numpy as np
import pytest
import torch

from segkit.losses import WEIGHTINGS
from segkit.losses.class_weights import MAX_WEIGHT, balanced, enet, median_frequency


def test_balanced_by_hand() -> None:
    assert balanced([60, 30, 30]) == [120 / 180, 120 / 90, 120 / 90]


def test_balanced_classes_have_the_same_say() -> None:
    counts = [700, 200, 100]
    total = [weight * count for weight, count in zip(balanced(counts), counts, strict=True)]
    assert total == pytest.approx([1000 / 3] * 3)


def test_median_frequency_by_hand() -> None:
    assert median_frequency([80, 20, 10]) == [20 / 80, 1.0, 20 / 10]


def test_median_frequency_is_the_reference() -> None:
    counts = np.array([1000, 400, 300, 150, 90])
    frequency = counts / counts.sum()
    expected = np.median(frequency) / frequency
    assert median_frequency(counts) == pytest.approx(expected.tolist(), rel=1e-12)


def test_the_median_is_that_of_the_classes_that_occur() -> None:
    assert statistics.median([80, 20]) == 50
    assert median_frequency([80, 0, 20, 0]) == [50 / 80, 0.0, 50 / 20, 0.0]


def test_enet_by_hand() -> None:
    weights = enet([75, 25])
    assert weights == pytest.approx([1 / math.log(1.77), 1 / math.log(1.27)], rel=1e-12)


@pytest.mark.parametrize("weighting", [balanced, median_frequency])
def test_weights_of_rare_classes_are_capped(weighting: object) -> None:
    assert callable(weighting)
    assert weighting([10**6, 10**6, 1])[2] == MAX_WEIGHT


@pytest.mark.parametrize("name", WEIGHTINGS)
class TestEveryWeighting:
    def test_absent_classes_weigh_nothing_and_rare_ones_more(self, name: str) -> None:
        often, absent, rare = WEIGHTINGS[name]([300, 0, 100])
        assert absent == 0.0
        assert 0.0 < often < rare

    def test_takes_lists_arrays_and_tensors(self, name: str) -> None:
        counts = [5_000_000_000, 7, 12]
        expected = WEIGHTINGS[name](counts)
        assert all(type(weight) is float for weight in expected)
        assert WEIGHTINGS[name](np.array(counts)) == expected
        assert WEIGHTINGS[name](torch.tensor(counts)) == expected

    @pytest.mark.parametrize("counts", [[], [0, 0], [3, -1]])
    def test_refuses_counts_that_say_nothing(self, name: str, counts: list[int]) -> None:
        with pytest.raises(ValueError, match="labelled pixels of each class"):
            WEIGHTINGS[name](counts)
