"""Precision-recall curves: counts redone by hand, and the same whatever the batches."""

import torch

from segkit.metrics import PRCurves


def logits_of(probs: list[float]) -> torch.Tensor:
    """Two classes, one row of pixels whose second class has these probabilities."""
    p = torch.tensor(probs, dtype=torch.float64)
    return torch.stack([(1 - p).log(), p.log()]).view(1, 2, 1, -1)


def test_counts_by_hand() -> None:
    curves = PRCurves(2, bins=5)  # thresholds 0, 0.25, 0.5, 0.75, 1
    target = torch.tensor([[[1, 0, 1, 0, 255]]])
    curves.update(logits_of([0.9, 0.6, 0.3, 0.1, 0.99]), target)
    curve = curves.curve(1)
    assert curve.true_positives.tolist() == [2, 2, 1, 1, 0]
    assert curve.false_positives.tolist() == [2, 1, 1, 0, 0]
    assert curve.false_negatives.tolist() == [0, 0, 1, 1, 2]
    assert curve.true_negatives.tolist() == [0, 1, 1, 2, 2]
    assert curve.precision.tolist() == [0.5, 2 / 3, 0.5, 1, 1]
    assert curve.recall.tolist() == [1, 1, 0.5, 0.5, 0]


def test_weights_that_diverged_have_curves_as_well() -> None:
    curves = PRCurves(2, bins=3)
    curves.update(torch.full((1, 2, 1, 2), float("nan")), torch.tensor([[[0, 1]]]))
    assert curves.curve(1).recall.tolist() == [1, 0, 0]


def test_a_class_that_is_absent_has_recall_zero() -> None:
    curves = PRCurves(2, bins=3)
    curves.update(logits_of([0.9]), torch.tensor([[[0]]]))
    assert curves.curve(1).recall.tolist() == [0, 0, 0]


def test_batches_make_no_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, 6, generator=generator)
    target = torch.randint(0, 4, (4, 5, 6), generator=generator)
    whole, parts = PRCurves(3, ignore_index=3), PRCurves(3, ignore_index=3)
    whole.update(logits, target)
    for i in range(4):
        parts.update(logits[i : i + 1], target[i : i + 1])
    assert torch.equal(whole.counts, parts.counts)
    assert whole.counts.sum().item() == 3 * (target != 3).sum().item()
