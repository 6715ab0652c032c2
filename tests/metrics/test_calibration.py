"""The expected calibration error, by hand and against torchmetrics."""

import json

import pytest
import torch

from segkit.metrics import Calibration


def score(confidence: list[float], right: list[bool], num_bins: int = 15) -> Calibration:
    calibration = Calibration(num_bins=num_bins)
    pred = torch.tensor([[[int(r) for r in right]]])
    calibration.update(pred, torch.tensor([[confidence]]), torch.ones_like(pred))
    return calibration


def test_four_pixels_in_two_bins() -> None:
    # Up to 0.5: one of two right, mean confidence 0.375. Above: both right, mean 0.75.
    scores = score([0.25, 0.5, 0.625, 0.875], [False, True, True, True], num_bins=2).compute()
    assert scores["ece"] == (2 * abs(0.5 - 0.375) + 2 * abs(1 - 0.75)) / 4
    assert scores["bins"] == [
        {"low": 0.0, "high": 0.5, "pixels": 2, "confidence": 0.375, "accuracy": 0.5},
        {"low": 0.5, "high": 1.0, "pixels": 2, "confidence": 0.75, "accuracy": 1.0},
    ]


def test_the_ends_of_the_range_have_a_bin() -> None:
    scores = score([0.0, 1.0, 1.0000001], [False, True, True], num_bins=4).compute()
    assert [one["pixels"] for one in scores["bins"]] == [1, 0, 0, 2]


@pytest.mark.parametrize("num_bins", [1, 2, 15, 100])
def test_bins_are_those_of_a_search(num_bins: int) -> None:
    ends = torch.arange(num_bins + 1) / num_bins
    tiny = torch.tensor(2.0**-149)
    above, below = (ends.nextafter(torch.tensor(side)) for side in (2.0, -1.0))
    values = torch.cat([ends, above, below, tiny[None], torch.linspace(0, 1, 9999)])
    values = values[(values >= 0) & (values <= 1 + 2**-16)]
    calibration = Calibration(num_bins=num_bins)
    ids = torch.ones(1, 1, len(values), dtype=torch.int64)
    calibration.update(ids, values.view(1, 1, -1), ids)
    bins = torch.bucketize(values, ends[1:-1])
    assert calibration.counts[0].tolist() == bins.bincount(minlength=num_bins).tolist()


@pytest.mark.slow
def test_against_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassCalibrationError  # takes 2 s

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 30, 40, generator=generator, dtype=torch.float64) * 2
    target = torch.randint(0, 5, (4, 30, 40), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    probs = logits.softmax(1)
    confidence, pred = probs.max(1)
    calibration = Calibration()
    for i in range(4):
        calibration.update(pred[i : i + 1], confidence[i : i + 1], target[i : i + 1])
    reference = MulticlassCalibrationError(5, n_bins=15, norm="l1", ignore_index=255)
    expected = reference(probs, target)
    ece = calibration.compute()["ece"]
    assert ece is not None
    assert ece > 0.05
    assert ece == pytest.approx(expected.item(), abs=1e-6)


def test_ignored_pixels_and_order_change_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(1, 1, 5000, generator=generator)
    pred = torch.randint(0, 2, (1, 1, 5000), generator=generator)
    target = torch.randint(0, 2, (1, 1, 5000), generator=generator)
    target[..., ::7] = 255
    whole, parts = Calibration(), Calibration()
    whole.update(pred, confidence, target)
    order = torch.randperm(5000, generator=generator)
    for part in order.split(617):
        other = confidence[..., part].masked_fill(target[..., part] == 255, 0.9)
        parts.update(pred[..., part], other, target[..., part])
    assert torch.equal(whole.counts, parts.counts)
    assert whole.counts[0].sum() == (target != 255).sum()


def test_without_pixels_there_is_no_score() -> None:
    scores = Calibration(num_bins=2).compute()
    assert scores["ece"] is None
    assert scores["bins"][0]["accuracy"] is None
    json.dumps(scores, allow_nan=False)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        Calibration(num_bins=0)
    with pytest.raises(ValueError, match=r"same shape, got \(1, 1, 2\), \(1, 2, 1\) and"):
        Calibration().update(torch.ones(1, 1, 2), torch.ones(1, 2, 1), torch.ones(1, 1, 2))
