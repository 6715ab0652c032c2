"""loader.balance: weights by the classes that an image shows, and the order drawn by them."""

from collections import Counter

import numpy as np
import pytest

from segkit.data.balance import draw_images, image_weights
from segkit.data.sampler import EpochBatchSampler, SampleKey

# Four images: class 0 in all, class 1 in one, class 2 in none; the last has nothing labelled.
SHOWS = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)


def test_repeat_factors_by_hand() -> None:
    # Shares 3/4 and 1/4: 1 / sqrt of them are 1.1547 and 2; an image takes its largest.
    expected = [1.1547005, 2.0, 1.1547005, 0.0]
    np.testing.assert_allclose(image_weights(SHOWS, "repeat_factor"), expected, rtol=1e-6)


def test_class_weights_by_hand() -> None:
    # Each of the three images of class 0 has a third of its draws, the second all of class 1.
    expected = [1 / 3, 1 + 1 / 3, 1 / 3, 0.0]
    np.testing.assert_allclose(image_weights(SHOWS, "class"), expected, rtol=1e-6)


@pytest.mark.parametrize("way", ["repeat_factor", "class"])
def test_images_that_show_the_same_come_equally_often(way: str) -> None:
    weights = image_weights(np.ones((5, 3), bool), way)
    np.testing.assert_allclose(weights, weights[0])
    for epoch in range(20):
        drawn = draw_images(weights, 5, np.random.default_rng(epoch))
        assert drawn.tolist() == [0, 1, 2, 3, 4]  # what an epoch without weights is


def test_each_image_comes_as_often_as_its_weight_says_or_once_more() -> None:
    weights = np.array([0.0, 3.0, 0.5, 1.0, 0.0, 0.7, 0.0])
    expected = 100 * weights / weights.sum()
    counts = np.zeros((300, len(weights)))
    for epoch in range(300):
        drawn = draw_images(weights, 100, np.random.default_rng(epoch))
        assert len(drawn) == 100
        counts[epoch] = np.bincount(drawn, minlength=len(weights))
        assert (counts[epoch] >= np.floor(expected)).all()
        assert (counts[epoch] <= np.ceil(expected)).all()
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.15)


@pytest.mark.parametrize("largest", [1e-300, 1.0, 1e300])
def test_rounding_never_reaches_an_image_that_is_not_to_come(largest: float) -> None:
    weights = np.array([0.1, 0.2, 0.7, 0.0]) * largest
    for seed in range(200):
        drawn = draw_images(weights, 7, np.random.default_rng(seed))
        assert drawn.min() >= 0 and drawn.max() <= 2


def keys(world_size: int, batch_size: int, start: int = 0) -> list[SampleKey]:
    """One epoch of all processes, step by step, rank by rank."""
    ranks = []
    for rank in range(world_size):
        sampler = EpochBatchSampler(
            9,
            batch_size,
            seed=4,
            rank=rank,
            world_size=world_size,
            weights=np.array([5.0, 1, 1, 1, 0, 0, 1, 2, 3]),
        )
        sampler.epoch, sampler.start = 2, start
        ranks.append(list(sampler))
    return [key for step in zip(*ranks, strict=True) for part in step for key in part if key.counts]


def test_a_weighted_epoch_is_one_order_for_any_number_of_processes_and_after_a_resume() -> None:
    whole = keys(1, 3)
    assert len(whole) == 9 and all(key.epoch == 2 for key in whole)
    assert keys(3, 1) == whole and keys(1, 5) == whole
    assert keys(1, 3, start=3) == whole[3:]
    counted = Counter(key.index for key in whole)
    assert counted[0] >= 3 and not counted[4] and not counted[5]


def test_an_image_that_comes_again_is_another_copy() -> None:
    whole = keys(1, 3)
    for index, count in Counter(key.index for key in whole).items():
        assert [key.copy for key in whole if key.index == index] == list(range(count))
