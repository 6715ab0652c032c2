"""Curves of chosen classes, in strips: the counts of all classes' softmax, and little memory."""

import pytest
import torch
from torch import Tensor

from segkit.inference.held_bytes import HeldBytes
from segkit.metrics import PRCurves, rarest_classes
from segkit.metrics import pr_curve as module


def case(num_classes: int, size: tuple[int, int], images: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(images, num_classes, *size, generator=generator) * 3
    target = torch.randint(0, num_classes, (images, *size), generator=generator, dtype=torch.uint8)
    target[:, :2] = 255
    return logits, target


def reached(logits: Tensor, target: Tensor, shift: float, bins: int = 101) -> Tensor:
    """Image (C, 2, bins) whose probability is at least each threshold, from a float64 softmax.

    Class by class and threshold by threshold, with ``shift`` added to every probability.
    """
    probs, valid = logits.double().softmax(1) + shift, target != 255
    counts = torch.zeros(logits.shape[1], 2, bins, dtype=torch.int64)
    for class_id, plane in enumerate(probs.unbind(1)):
        for of_class in (0, 1):
            values = plane[valid & ((target == class_id) == bool(of_class))]
            for i in range(bins):
                counts[class_id, of_class, i] = (values * (bins - 1) >= i).sum()
    return counts


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("strip", "num_classes"), [(1, 7), (500, 7), (2**20, 7), (900, 17)])
def test_it_is_a_softmax_in_float64(
    strip: int,
    num_classes: int,
    memory_format: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STRIP", strip)
    logits, target = case(num_classes, (23, 31), images=2)
    curves = PRCurves(num_classes)
    curves.update(logits.to(memory_format=memory_format), target)
    found = curves.counts.flip(2).cumsum(2).flip(2)
    # float32 may take the other side of a threshold only where float64 nearly meets it.
    least, most = (reached(logits, target, shift) for shift in (-1e-6, 1e-6))
    assert (least <= found).all() and (found[..., 1:] <= most[..., 1:]).all()
    assert torch.equal(found[..., 0], reached(logits, target, 0.0)[..., 0])
    assert (most - least)[..., 1:].sum() <= 5


def test_chosen_classes_have_the_counts_that_they_have_among_all() -> None:
    logits, target = case(9, (40, 50))
    every, chosen = PRCurves(9), PRCurves(9, classes=[8, 0, 3])
    for curves in (every, chosen):
        curves.update(logits, target)
    assert torch.equal(chosen.counts, every.counts[[8, 0, 3]])
    assert torch.equal(chosen.curve(3).precision, every.curve(3).precision)
    with pytest.raises(ValueError, match=r"class 1 is not counted, only \[8, 0, 3\]"):
        chosen.curve(1)


def test_without_classes_nothing_is_counted() -> None:
    curves = PRCurves(9, classes=[])
    curves.update(*case(9, (4, 5)))
    assert curves.counts.shape == (0, 2, 101)


@pytest.mark.parametrize("classes", [[3], [-1], [1, 1]])
def test_classes_that_there_are_not_are_refused(classes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"classes must be different ids in \[0, 3\), got \["):
        PRCurves(3, classes=classes)


@pytest.mark.parametrize("num_classes", [21, 150])
def test_a_tenth_of_the_logits_is_enough_memory(num_classes: int) -> None:
    logits, target = case(num_classes, (512, 512))
    curves = PRCurves(num_classes, classes=[1, 2, 3])
    with HeldBytes() as held:
        curves.update(logits, target)
    # For 21 classes a strip is a twentieth of the image: exponentials, and bins of three classes.
    assert held.peak <= max(0.1 * logits.nbytes, 3 * 4 * module.STRIP)


def test_the_rarest_classes_that_there_are() -> None:
    assert rarest_classes([5, 0, 3, 5, 1], 3) == [4, 2, 0]
    assert rarest_classes([5, 0], 3) == [0]
    assert rarest_classes([1, 1], 0) == []
