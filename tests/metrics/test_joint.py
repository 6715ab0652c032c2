"""One pass counts what a confusion matrix, the boundary IoU and trimaps count one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from segkit.metrics import BoundaryIoU, ConfusionMatrix, JointCounts, joint, trimap
from segkit.metrics.boundary import near_other_label
from segkit.metrics.counting import occurrences


def patches(
    num_classes: int, size: tuple[int, int], seed: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Prediction and target (2, H, W) of patches and some noise, with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 1, -(-size[0] // 5), -(-size[1] // 4))
    planes = []
    for _ in range(2):
        coarse = torch.randint(0, num_classes, shape, generator=generator).float()
        plane = F.interpolate(coarse, size, mode="nearest")[:, 0].long()
        noise = torch.rand(plane.shape, generator=generator) < 0.02
        planes.append((plane + noise) % num_classes)
    pred, target = planes
    target[torch.rand(target.shape, generator=generator) < 0.01] = ignore_index
    target[0, :3] = ignore_index
    return pred, target


def brute_force(labels: Tensor, radius: int, edges: bool) -> Tensor:
    """Which pixels (H, W) have another label around them, by looking at every square."""
    height, width = labels.shape
    found = torch.zeros(height, width, dtype=torch.bool)
    for y in range(height):
        for x in range(width):
            rows = slice(max(y - radius, 0), y + radius + 1)
            columns = slice(max(x - radius, 0), x + radius + 1)
            outside = min(y, x, height - 1 - y, width - 1 - x) < radius
            found[y, x] = bool((labels[rows, columns] != labels[y, x]).any()) or (edges and outside)
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 12),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 9999),
)
def test_near_pixels_are_those_of_a_literal_search(
    height: int, width: int, radius: int, num_labels: int, edges: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_labels, (1, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.5] = 0
    found = near_other_label(labels, radius, edges=edges)
    assert torch.equal(found[0], brute_force(labels[0], radius, edges))


@pytest.mark.parametrize("widths", [(), (5,), (3, 1, 8)])
@pytest.mark.parametrize(("num_classes", "ignore_index"), [(1, 255), (4, 255), (4, 2), (150, -100)])
@pytest.mark.parametrize("limits", [(2**18, 2**22), (1, 2**22), (70, 0)])
def test_it_is_what_they_count_one_by_one(
    num_classes: int,
    ignore_index: int,
    widths: tuple[int, ...],
    limits: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joint, "PIXELS", limits[0])
    monkeypatch.setattr(joint, "MOST_NUMBERS", limits[1])
    counts = JointCounts(num_classes, ignore_index, dilation_ratio=0.07, trimap_widths=widths)
    matrix = ConfusionMatrix(num_classes, ignore_index)
    boundary = BoundaryIoU(num_classes, ignore_index, 0.07)
    trimaps = {width: ConfusionMatrix(num_classes, ignore_index) for width in widths}
    for seed, size in enumerate([(23, 31), (8, 40)]):
        pred, target = patches(num_classes, size, seed, ignore_index)
        before = matrix.matrix
        matrix.update(pred, target)
        boundary.update(pred, target)
        for width in widths:
            trimaps[width].update(pred, trimap(target, width, ignore_index))
        small = pred.short()
        own = counts.update(small, target)
        assert torch.equal(small, pred.short())  # it is written to a file later
        assert torch.equal(own, matrix.matrix - before)
    assert torch.equal(counts.matrix.matrix, matrix.matrix)
    assert torch.equal(counts.boundary.counts, boundary.counts)
    assert counts.trimaps.keys() == trimaps.keys()
    for width in widths:
        assert torch.equal(counts.trimaps[width].matrix, trimaps[width].matrix)


def test_what_is_no_class_is_refused_and_not_counted() -> None:
    counts = JointCounts(3, trimap_widths=[2])
    pred, target = torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4).long()
    target[0, 0, 0], pred[0, 0, 1] = 7, 3
    with pytest.raises(ValueError, match="the target of 1 pixels is no class id in"):
        counts.update(pred, target)
    target[0, 0, 0] = 255
    with pytest.raises(ValueError, match="the prediction of 1 pixels is no class id in"):
        counts.update(pred, target)
    with pytest.raises(ValueError, match=r"got \(1, 4, 3\) and \(1, 4, 4\)"):
        counts.update(pred[..., :3], target)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        JointCounts(3, trimap_widths=[0])
    assert counts.matrix.matrix.sum() == counts.boundary.counts.sum() == 0


def test_occurrences_are_the_same_where_bincount_would_wait() -> None:
    numbers = torch.tensor([[3, 0, 3], [1, 3, 0]])
    assert occurrences(numbers, 5).tolist() == [2, 1, 0, 3, 0]
    # Only shapes can be followed on a device that has no numbers.
    assert occurrences(numbers.to("meta"), 5).shape == (5,)


@pytest.mark.parametrize("count", [62, 63, 64, 70])
def test_many_trimaps_count_the_pixels_of_each(count: int) -> None:
    """The bands of more than 63 widths used to be added in eight bits."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, (1, 9, 9), generator=generator)
    target = target.repeat_interleave(12, 1).repeat_interleave(12, 2).to(torch.uint8)
    pred = target.flip(2)
    counts = JointCounts(2, 255, trimap_widths=[*range(1, count + 1)])
    counts.update(pred, target)
    for width in (1, 5, count):
        alone = ConfusionMatrix(2)
        alone.update(pred, trimap(target, width))
        assert torch.equal(counts.trimaps[width].matrix, alone.matrix)
