"""Bootstrap intervals and paired differences, by hand and against plain loops."""

import math

import pytest
import torch
from torch import Tensor

from segkit.metrics import (
    ConfusionMatrix,
    bootstrap,
    bootstrap_iou,
    class_counts,
    interval,
    p_value,
)


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


def test_counts_of_a_matrix() -> None:
    matrix = torch.tensor([[5, 1], [2, 7]])
    assert class_counts(matrix).tolist() == [[5, 7], [6, 9], [7, 8]]


def test_two_images_have_three_splits() -> None:
    # Image 1: class 0 all right (4 pixels). Image 2: 4 pixels of class 0, all taken for class 1.
    counts = torch.tensor([[[4, 0], [4, 0], [4, 0]], [[0, 0], [4, 0], [0, 4]]])
    drawn = bootstrap_iou(counts, resamples=4000)
    # Image 1 twice: class 1 is in no mask, so the mean is that of class 0, 1. Image 2 twice: 0 for
    # both. One of each: 4 of 8 for class 0 and 0 for class 1.
    assert set(drawn[:, 0].tolist()) == {1.0, 0.25, 0.0}
    for value, share in ((1.0, 0.25), (0.25, 0.5), (0.0, 0.25)):
        # Within four standard deviations of a share among 4000.
        assert abs((drawn[:, 0] == value).double().mean() - share) < 4 * math.sqrt(0.25 / 4000)
    assert drawn[drawn[:, 0] == 1.0][:, 2].isnan().all()
    assert interval(drawn[:, 0]) == (0.0, 1.0)


@pytest.mark.parametrize("at_once", [2**22, 40])
def test_against_confusion_matrices_merged_in_a_loop(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "WEIGHTS", at_once)
    matrices = random_matrices(7)
    drawn = bootstrap_iou(counts_of(matrices), resamples=12, seed=3)
    generator = torch.Generator().manual_seed(3)
    for row in drawn:
        total = ConfusionMatrix(3)
        for i in torch.randint(7, (7,), generator=generator).tolist():
            total.merge(matrices[i])
        scores = total.compute()
        assert row.tolist() == pytest.approx([scores["miou"], *scores["iou"]], abs=1e-15)


def test_the_same_seed_draws_the_same_images() -> None:
    counts = counts_of(random_matrices(9))
    assert torch.equal(bootstrap_iou(counts, 50, seed=1), bootstrap_iou(counts, 50, seed=1))
    assert not torch.equal(bootstrap_iou(counts, 50, seed=1), bootstrap_iou(counts, 50, seed=2))


def test_the_interval_covers_the_score_as_often_as_it_says() -> None:
    # One class, 100 target and 100 predicted pixels in each image, 0 to 100 of them hits: of very
    # many images the IoU is 50 / (200 - 50).
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(200):
        counts = torch.full((25, 3, 1), 100)
        counts[:, 0, 0] = torch.randint(0, 101, (25,), generator=generator)
        found = interval(bootstrap_iou(counts, 200, seed)[:, 0], 0.8)
        assert found is not None
        covered += found[0] <= 1 / 3 <= found[1]
    assert 0.7 <= covered / 200 <= 0.85  # percentile intervals are a little narrow for 25 images


def test_percentiles() -> None:
    values = torch.arange(101, dtype=torch.float64)
    assert interval(values, 0.9) == pytest.approx((5.0, 95.0))
    assert interval(torch.tensor([1.0, math.nan, 1.0])) == (1.0, 1.0)
    assert interval(torch.tensor([math.nan])) is None
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        interval(values, 95)


def test_p_values() -> None:
    assert p_value(torch.ones(99)) == 2 * 1 / 100  # never 0: the split that was seen counts
    assert p_value(torch.zeros(99)) == 1.0
    assert p_value(torch.tensor([-1.0, 1.0, 1.0, 1.0, math.nan])) == 2 * 2 / 5
    assert p_value(torch.tensor([math.nan])) is None


def test_pairing_sees_what_intervals_apart_do_not() -> None:
    # Hard and easy images; the second model is a little better on every one of them.
    first = torch.tensor([[[h], [100], [100]] for h in range(10, 90, 4)])
    second = first + torch.tensor([[[3], [0], [0]]])
    drawn = [bootstrap_iou(counts, 500)[:, 0] for counts in (first, second)]
    one, two = (interval(values) for values in drawn)
    assert one is not None
    assert two is not None
    assert two[0] < one[1]
    value = p_value(drawn[1] - drawn[0])
    assert value is not None
    assert value < 0.01
