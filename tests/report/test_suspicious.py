"""Planted label errors come out on top, and the sums are those of a literal loop."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from report_pages import answers, squares

from segkit.report.image_result import Box, ImageResult
from segkit.report.label_errors import SuspiciousLabels, write_suspicious

C = 4


def look(labels: SuspiciousLabels, name: str, target: NDArray[np.uint8], *planes: Any) -> None:
    labels.update(ImageResult(name, np.zeros((*target.shape, 3), np.uint8), target, *planes))


def plain(
    target: NDArray[np.uint8], pred: NDArray[np.uint8], sure: float, own: float
) -> tuple[Any, ...]:
    """Target, prediction, probabilities: one confidence where the two agree, one where not."""
    same = target == pred
    confidence = np.where(same, 0.8, sure).astype(np.float32)
    return target, pred, confidence, np.where(same, 0.8, own).astype(np.float32)


def block(sure: float = 0.9, own: float = 0.05) -> tuple[Any, ...]:
    """30 x 40 pixels of class 0, of which the network takes 10 x 12 for class 2."""
    target, pred = np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint8)
    target[:5] = 2  # so that class 2 has a threshold: 0.8
    pred[:5] = 2
    pred[12:22, 20:32] = 2
    return plain(target, pred, sure, own)


def test_a_region_by_hand() -> None:
    labels = SuspiciousLabels(C)
    look(labels, "one", *block())
    [region] = labels.regions()
    # A seam of one pixel is cut off: 0.005 of the diagonal of 50 pixels is less.
    assert (region.label, region.pred, region.pixels) == (0, 2, 8 * 10)
    assert region.box == Box(12, 20, 22, 32)
    assert region.share == 80 / 1200
    assert region.confidence == pytest.approx(0.9, abs=1e-7)
    assert region.label_confidence == pytest.approx(0.05, abs=1e-7)
    assert region.score == pytest.approx(math.log(0.9 / 0.05) * math.log(81))
    assert labels.images() == [("one", region.score, 1)]


def test_thresholds_are_mean_self_confidences() -> None:
    rng = np.random.default_rng(0)
    labels = SuspiciousLabels(C)
    sums, counts = [0.0] * C, [0] * C
    for number in range(3):
        target = rng.choice(np.array([0, 1, 3, 255], np.uint8), (9, 11))
        own = rng.random((9, 11), np.float32)
        look(labels, str(number), target, target % C, own, own)
        for y in range(9):
            for x in range(11):
                if target[y, x] != 255:
                    sums[target[y, x]] += float(own[y, x])
                    counts[target[y, x]] += 1
    expected = [s / n if n else None for s, n in zip(sums, counts, strict=True)]
    assert expected[2] is None
    assert labels.thresholds() == pytest.approx(expected, abs=1e-7)


def test_a_network_that_is_not_sure_doubts_nothing() -> None:
    labels = SuspiciousLabels(C)
    look(labels, "one", *block(sure=0.79, own=0.2))
    assert labels.regions() == [] and labels.images() == []


def test_seams_along_borders_are_no_label_errors() -> None:
    target = np.zeros((40, 40), np.uint8)
    target[10:30, 10:30] = 1
    pred = np.zeros_like(target)
    pred[8:30, 8:30] = 1  # two pixels further
    labels = SuspiciousLabels(C)
    look(labels, "one", *plain(target, pred, 0.99, 0.0))
    assert labels.regions() == []


def test_ignored_pixels_are_neither_judged_nor_counted() -> None:
    target, pred, confidence, own = block()
    target[12:22, 20:32] = 255
    own[target == 255] = np.nan
    labels = SuspiciousLabels(C)
    look(labels, "one", target, pred, confidence, own)
    assert labels.candidates == []
    assert labels.sums[0].tolist() == [1200 - 200 - 120, 0, 200, 0]


def test_a_class_that_no_mask_shows_doubts_nothing() -> None:
    target, pred, confidence, own = block()
    target[:5] = pred[:5] = 0
    labels = SuspiciousLabels(C)
    look(labels, "one", target, pred, confidence, own)
    assert labels.thresholds()[2] is None and labels.regions() == []


def test_neighbouring_pairs_are_two_regions() -> None:
    target, pred, confidence, own = block()
    target[12:22, 26:32] = 1
    target[24:30], pred[24:30] = 1, 1
    labels = SuspiciousLabels(C)
    look(labels, "one", target, pred, confidence, own)
    assert sorted((r.label, r.pred, r.pixels) for r in labels.regions()) == [
        (0, 2, 8 * 4),
        (1, 2, 8 * 4),
    ]


def planted(num_images: int = 40, errors: int = 5) -> tuple[list[tuple[Any, ...]], set[str]]:
    """Images of squares, some with one square labelled as the next class, and which those are."""
    rng = np.random.default_rng(1)
    images, names = [], set()
    for number in range(num_images):
        truth = squares(rng)
        pred, confidence, own = answers(truth, C, rng, wrong=0.15)
        target = truth.copy()
        if number % (num_images // errors) == 0:
            wrong = truth == 3
            target[wrong] = 1
            own[wrong] = (1 - confidence[wrong]) / 2
            names.add(f"image {number}")
        images.append((f"image {number}", target, pred, confidence, own))
    return images, names


def test_planted_label_errors_come_out_on_top() -> None:
    """Of 40 images with a network that is wrong for 15 % of the blocks, but not sure there."""
    images, names = planted()
    labels = SuspiciousLabels(C)
    for image in images:
        look(labels, *image)
    top = labels.regions()[: len(names)]
    assert {region.name for region in top} == names
    assert {(region.label, region.pred) for region in top} == {(1, 3)}
    assert {name for name, _, _ in labels.images()[: len(names)]} == names


def test_neither_order_nor_processes_change_the_result() -> None:
    images, _ = planted(12, 3)
    alone, first, second = (SuspiciousLabels(C, keep=9) for _ in range(3))
    for image in images:
        look(alone, *image)
    for number, image in enumerate(reversed(images)):
        look((first, second)[number % 2], *image)
    first.merge(second)
    assert len(alone.candidates) == 9  # memory does not grow
    assert first.regions() == alone.regions()
    assert first.thresholds() == alone.thresholds()


def test_the_file_has_one_line_for_each_region(tmp_path: Path) -> None:
    labels = SuspiciousLabels(C)
    look(labels, "a,b", *block())
    write_suspicious(tmp_path / "s.csv", labels.regions(), ["sky", "sea", "sand", "bird"])
    with (tmp_path / "s.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["image"], row["label"], row["prediction"]) == ("a,b", "sky", "sand")
    assert [row[key] for key in Box._fields] == ["12", "20", "22", "32"]
