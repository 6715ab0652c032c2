"""Boundary IoU and trimaps, by hand and against the authors' way of computing them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from segkit.metrics import BoundaryIoU, ConfusionMatrix, trimap
from segkit.metrics.boundary import near_other_label


def ids(*rows: str) -> Tensor:
    """A mask (1, H, W) drawn with digits; a dot is ignored."""
    return torch.tensor([[[255 if c == "." else int(c) for c in row] for row in rows]])


def near(labels: Tensor, radius: int, *, edges: bool) -> list[str]:
    found = near_other_label(labels.to(torch.int16), radius, edges=edges)[0]
    return ["".join("x" if pixel else "-" for pixel in row) for row in found.tolist()]


def test_pixels_near_another_label() -> None:
    square = ids("000000", "000000", "001100", "001100", "000000", "000000")
    assert near(square, 1, edges=False) == [
        "------",
        "-xxxx-",
        "-xxxx-",
        "-xxxx-",
        "-xxxx-",
        "------",
    ]
    assert near(square, 2, edges=False) == ["xxxxxx"] * 6
    assert near(ids("000", "000", "000"), 1, edges=True) == ["xxx", "x-x", "xxx"]
    assert near(ids("000", "000", "000"), 1, edges=False) == ["---"] * 3
    assert near(ids("00000", "00000"), 9, edges=True) == ["xxxxx"] * 2
    assert near(ids("00001"), 9, edges=False) == ["xxxxx"]


def eroded(mask: Tensor, times: int) -> Tensor:
    """Erosion by a 3x3 square, repeated, (N, H, W); what lies outside of the image is 0."""
    hole = F.pad(1.0 - mask.float(), (1, 1, 1, 1), value=1.0)  # one ring is enough: it spreads
    for _ in range(times):
        hole = F.max_pool2d(hole, 3, stride=1, padding=1)
    return hole[..., 1:-1, 1:-1] == 0


def reference_counts(pred: Tensor, target: Tensor, num_classes: int, width: int) -> Tensor:
    """Class by class as Cheng et al. write it: a mask without its erosion, for both."""
    valid = target != 255
    counts = torch.zeros(3, num_classes, dtype=torch.int64)
    for c in range(num_classes):
        true, found = (target == c) & valid, (pred == c) & valid
        true_border, found_border = (mask & ~eroded(mask, width) for mask in (true, found))
        parts = (true_border & found_border, true_border, found_border)
        counts[:, c] = torch.stack([part.sum() for part in parts])
    return counts


def test_a_square_that_is_one_column_too_wide() -> None:
    # 10 x 10 pixels, diagonal 14.1: 0.02 of it is below one pixel, so d = 1.
    target, pred = torch.zeros(1, 10, 10, dtype=torch.int64), torch.zeros(1, 10, 10).long()
    target[0, 3:7, 3:7] = 1
    pred[0, 3:7, 3:8] = 1
    score = BoundaryIoU(2)
    score.update(pred, target)
    # Rings of the square: 16 - 4 = 12 pixels, and of the rectangle 20 - 6 = 14. Both hold the
    # columns 3 to 6 but for the 2 x 2 inside and the right column's middle: 4 + 4 + 2 = 10.
    assert score.counts[:, 1].tolist() == [10, 12, 14]
    both, true, found = score.counts[:, 0].tolist()
    # Of the background: the frame of the image (36) and the ring around the object.
    assert true == 36 + (6 * 6 - 4 * 4)
    assert found == 36 + (6 * 7 - 4 * 5)
    # The rings around (20 and 22) share three sides: 6 above, 6 below, 4 at the left.
    assert both == 36 + 16
    assert score.compute()["iou"] == [52 / (56 + 58 - 52), 10 / 16]
    assert score.compute()["miou"] == (52 / 62 + 10 / 16) / 2


@pytest.mark.parametrize(
    ("size", "ratio", "width"),
    [((9, 12), 0.02, 1), ((9, 12), 0.1, 2), ((20, 30), 0.1, 4), ((7, 9), 0.9, 10)],
)
def test_it_is_the_authors_erosion(size: tuple[int, int], ratio: float, width: int) -> None:
    assert width == max(1, round(ratio * math.hypot(*size)))
    generator = torch.Generator().manual_seed(0)
    # Patches, not noise: there every pixel is at a border.
    target, pred = (
        F.interpolate(
            torch.randint(0, 4, (3, 1, 3, 4), generator=generator).float(), size, mode="nearest"
        )[:, 0].long()
        for _ in range(2)
    )
    target[target == 3] = 255
    score = BoundaryIoU(4, dilation_ratio=ratio)
    score.update(pred, target)
    assert torch.equal(score.counts, reference_counts(pred, target, 4, width))


def test_a_perfect_prediction_is_perfect_at_ignored_borders_too() -> None:
    target = ids("000.111", "000.111", "000.111")
    score = BoundaryIoU(3, dilation_ratio=0.2)
    for under in (0, 1, 2):
        score.update(target.masked_fill(target == 255, under), target)
    assert score.compute() == {"miou": 1.0, "iou": [1.0, 1.0, None]}


def test_nothing_counted_has_no_score() -> None:
    score = BoundaryIoU(2)
    score.update(ids("01"), ids(".."))
    assert score.compute() == {"miou": None, "iou": [None, None]}


@given(st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_with_a_border_as_wide_as_the_image_it_is_the_iou(radius: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target, pred = (torch.randint(0, 3, (2, 6, 8), generator=generator) for _ in range(2))
    matrix, score = ConfusionMatrix(3), BoundaryIoU(3, dilation_ratio=1 + radius)
    matrix.update(pred, target)
    score.update(pred, target)
    assert score.compute()["iou"] == matrix.compute()["iou"]


def test_a_trimap_keeps_the_pixels_along_borders() -> None:
    target = ids("0000111122")
    assert torch.equal(trimap(target, 1), ids("...01..12."))
    assert torch.equal(trimap(target, 2), ids("..00111122"))
    # What is ignored makes a border, as in VOC, and stays ignored.
    assert torch.equal(trimap(ids("0000..1111"), 1), ids("...0..1..."))
    assert torch.equal(trimap(ids("000000"), 2), ids("......"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_a_trimap_keeps_the_dtype(dtype: torch.dtype) -> None:
    target = ids("0011").to(dtype)
    assert trimap(target, 1).dtype == dtype
    assert target.tolist() == [[[0, 0, 1, 1]]]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="dilation_ratio must be above 0, got 0"):
        BoundaryIoU(2, dilation_ratio=0)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        trimap(ids("01"), 0)
