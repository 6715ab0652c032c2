"""Doubted labels folded by class and sequence, and which of them are shown."""

import numpy as np
import pytest

from segkit.data.masks import voc_palette
from segkit.report.html.doubts import folded, sequence_of
from segkit.report.html.findings import Crop, Findings, worst_of_each
from segkit.report.image_result import Box, ImageResult
from segkit.report.label_errors import Region


def region(name: str, label: int, pred: int, pixels: int) -> Region:
    """The more pixels, the worse."""
    return Region(name, label, pred, Box(0, 0, 1, 1), pixels, 0.1, 0.9, 0.1)


def crop(of: Region) -> Crop:
    return Crop(of, Box(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("0016E5_07959", "0016E5"),
        ("Seq05VD_f00030", "Seq05VD"),
        ("sequence1/0001", "sequence1"),
        ("frankfurt/frankfurt_000000_000294", "frankfurt/frankfurt_000000"),
        ("frame12", "frame"),
        ("video-2.frame_7", "video-2.frame"),
        ("00012", ""),
        ("portrait", "portrait"),
    ],
)
def test_the_last_number_tells_frames_apart(name: str, sequence: str) -> None:
    assert sequence_of(name) == sequence


def test_doubts_are_folded_by_class_and_sequence() -> None:
    regions = [
        region("b_1", 2, 0, 60),
        region("a_1", 1, 0, 50),
        region("a_1", 2, 1, 40),
        region("a_2", 2, 0, 30),
        region("b_2", 2, 0, 20),
        region("b_2", 2, 1, 10),
    ]
    first, second = folded(regions, [crop(regions[0]), crop(regions[3])])
    assert (first.label, first.num_images, first.num_pixels) == (2, 4, 160)
    assert first.looks_like == [(0, 3), (1, 2)]
    assert [place for place, _ in first.crops] == [1, 2]
    assert [(fold.name, len(fold.regions), fold.num_images) for fold in first.sequences] == [
        ("b", 3, 2),
        ("a", 2, 2),
    ]
    assert [[place for place, _ in fold.crops] for fold in first.sequences] == [[1], [2]]
    assert (second.label, second.crops, len(second.sequences)) == (1, [], 1)


@pytest.mark.parametrize("names", [["a_1", "a_2"], ["x", "y", "z"], ["a_1", "b_1", "b_2"]])
def test_ids_that_tell_no_sequences_are_not_folded_by_them(names: list[str]) -> None:
    [doubts] = folded([region(name, 1, 0, 9) for name in names], [])
    assert [fold.name for fold in doubts.sequences] == [""]
    assert len(doubts.sequences[0].regions) == len(names)


def test_one_confusion_does_not_take_all_places() -> None:
    often = [region(f"v_{n:02}", 1, 0, 100 - n) for n in range(30)]
    rare = [region("w", 2, 0, 9), region("w", 3, 0, 8)]
    assert worst_of_each([*rare, *reversed(often)], 3) == [*often[:3], *rare]


def doubtful(number: int) -> ImageResult:
    """An image with a square of class 1 that looks like 2, larger from image to image; every
    fifth has a small one of class 2 that looks like 1 as well."""
    target, pred = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    target[:20, : 20 + number], pred[:20, : 20 + number] = 1, 2
    target[40:, :10], pred[40:, :10] = 2, 2
    target[40:, 30:40], pred[40:, 30:40] = 1, 1
    if number % 5 == 0:
        target[50:60, 50:60], pred[50:60, 50:60] = 2, 1
    sure = np.full(target.shape, 0.9, np.float32)
    own = np.where(pred == target, 0.9, 0.01).astype(np.float32)
    return ImageResult(f"{number:02}", np.zeros((64, 64, 3), np.uint8), target, pred, sure, own)


def test_what_is_shown_does_not_depend_on_order_or_processes() -> None:
    runs = []
    for orders in ([range(40)], [range(39, -1, -1)], [range(0, 40, 2), range(1, 40, 2)]):
        parts = [Findings(4, 255, voc_palette(), max_images=4) for _ in orders]
        for findings, order in zip(parts, orders, strict=True):
            for number in order:
                findings.update(doubtful(number))
        for other in parts[1:]:
            parts[0].merge(other)
        assert len(parts[0].crops) <= 16
        runs.append([(one.region.name, one.region.label) for one in parts[0].doubted()])
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 4
    # A quarter of the places for each pair at first; what is left goes to the worst again.
    assert [label for _, label in runs[0]].count(1) == 3
    assert [label for _, label in runs[0]].count(2) == 1
