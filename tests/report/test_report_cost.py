"""What a report does for each image, and what it leaves for the end: counted, not timed."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_pages import answers, squares
from scipy import ndimage

from segkit.data.masks import voc_palette
from segkit.metrics.objects import NEIGHBOURS, objects_of_classes
from segkit.report import label_errors
from segkit.report.html import findings as module
from segkit.report.html.findings import Findings
from segkit.report.html.thumbnails import kept, thumbnail
from segkit.report.image_result import Box, ImageResult
from segkit.report.label_errors import Region, SuspiciousLabels

C = 4


def images(count: int) -> list[ImageResult]:
    """Images of squares, each with a label that the network knows better."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        target = squares(rng)
        pred, confidence, own = answers(target, C, rng, wrong=0.01 * (1 + number % 9))
        target[60:80, 50:90], own[60:80, 50:90] = (pred[60, 50] + 1) % 3, 0.01
        pred[60:80, 50:90], confidence[60:80, 50:90] = pred[60, 50], 0.97
        image = rng.integers(0, 256, (*target.shape, 3)).astype(np.uint8)
        made.append(ImageResult(f"{number:03}", image, target, pred, confidence, own))
    return made


def test_what_is_shown_alone_is_encoded_and_kept_pixels_do_not_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: Counter[str] = Counter()

    def counted(pixels: ImageResult, *settings: Any) -> Any:
        made[pixels.name] += 1
        return thumbnail(pixels, *settings)

    monkeypatch.setattr(module, "thumbnail", counted)
    findings = Findings(C, 255, voc_palette(), max_images=3)
    held = []
    for answer in images(60):
        findings.update(answer)
        cards = (*findings.worst, *findings.best, *findings.worst_of.values())
        held.append(len({card.name for card in cards}))
        assert len(findings.crops) <= module.SPARE * 3
    assert not made
    assert max(held) <= 2 * 3 + C
    cards, crops = findings.cards([0.5] * C), findings.doubted()
    assert len(cards) == len(crops) == 3
    assert made.total() == len(cards) + len(crops)
    assert all(card.image.size and card.pixels is None for card in (*cards, *crops))


def test_no_view_keeps_a_whole_image_alive() -> None:
    answer = images(1)[0]
    small = kept(answer.part(Box(0, 0, 8, 9)), C)
    for array in (small.image, small.target, small.pred):
        assert array.base is None or array.base.nbytes <= 8 * 9 * 3
    assert kept(answer, C).pred.dtype == np.uint8
    assert max(kept(answer, C, side=64).image.shape) == 64
    wide = ImageResult("a", answer.image, answer.target, answer.pred.astype(np.int64) + 300)
    assert (kept(wide, 400).pred == wide.pred).all()


def test_regions_are_sorted_when_there_are_twice_as_many_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sorts: list[int] = []

    def counted(count: int, items: list[Region], **settings: Any) -> list[Region]:
        sorts.append(len(items))
        return sorted(items, **settings)[:count]

    monkeypatch.setattr(label_errors.heapq, "nsmallest", counted)
    few, every = SuspiciousLabels(C, keep=20), SuspiciousLabels(C, keep=10**6)
    numbers = [len(few.update(answer)) for answer in images(40)]
    for answer in images(40):
        every.update(answer)
    assert sum(numbers) > 400
    assert len(sorts) <= sum(numbers) / 20  # each makes room for as many as are kept
    assert max(sorts) <= 2 * 20 + max(numbers)
    assert few.candidates == every.candidates[:20]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 9999))
def test_objects_of_all_classes_are_those_of_each(
    height: int, width: int, num_values: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 1, 255], np.uint8)[:num_values], (height, width))
    right = rng.random((height, width)) < 0.5
    expected = []
    for value in np.unique(mask):
        areas, count = ndimage.label(mask == value, NEIGHBOURS)
        for number in range(1, count + 1):
            area = areas == number
            expected.append([int(value), int(area.sum()), int((area & right).sum())])
    assert sorted(objects_of_classes(mask, right).tolist()) == sorted(expected)
