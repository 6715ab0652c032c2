"""The confusion matrix and every score read off it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segkit.metrics import ConfusionMatrix, Scores


def scores_of(pred: list[int], target: list[int], num_classes: int) -> Scores:
    matrix = ConfusionMatrix(num_classes)
    matrix.update(torch.tensor([pred]), torch.tensor([target]))
    return matrix.compute()


def random_pair(num_classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions and target (6, 7, 9), right in about half of the pixels, a tenth ignored."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, num_classes, (6, 7, 9), generator=generator)
    guess = torch.randint(0, num_classes, target.shape, generator=generator)
    pred = torch.where(torch.rand(target.shape, generator=generator) < 0.5, target, guess)
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    return pred, target


def test_two_pixels() -> None:
    # Target 0 1, prediction 0 0: IoU of 0 is 1 of 2 pixels, of 1 it is 0 of 1.
    scores = scores_of([0, 0], [0, 1], num_classes=2)
    assert scores["iou"] == [1 / 2, 0.0]
    assert scores["miou"] == 1 / 4
    assert scores["precision"] == [1 / 2, None]
    assert scores["recall"] == [1.0, 0.0]
    assert scores["f1"] == [2 / 3, 0.0]
    assert scores["mean_f1"] == 1 / 3
    assert scores["pixel_accuracy"] == scores["mean_accuracy"] == 1 / 2
    assert scores["fw_iou"] == 1 / 4
    assert scores["support"] == [1, 1]
    assert scores["num_classes_averaged"] == 2


def test_absent_class_has_no_iou_and_no_part_in_the_mean() -> None:
    scores = scores_of([0, 1, 1], [0, 1, 1], num_classes=3)
    assert scores["iou"] == [1.0, 1.0, None]
    assert (scores["miou"], scores["num_classes_averaged"]) == (1.0, 2)


def test_class_that_is_only_predicted_counts_as_zero() -> None:
    scores = scores_of([0, 0, 1, 2], [0, 0, 1, 255], num_classes=3)
    assert scores["iou"] == [1.0, 1.0, None]  # predicted under an ignored pixel only
    scores = scores_of([0, 0, 1, 2], [0, 0, 1, 1], num_classes=3)
    assert scores["iou"] == [1.0, 1 / 2, 0.0]
    assert (scores["miou"], scores["num_classes_averaged"]) == (1 / 2, 3)
    assert scores["recall"] == [1.0, 1 / 2, None]
    assert scores["mean_accuracy"] == 3 / 4
    assert scores["precision"] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("target", [None, [255, 255]])
def test_no_pixel_gives_none_everywhere(target: list[int] | None) -> None:
    matrix = ConfusionMatrix(2)
    if target is not None:
        matrix.update(torch.tensor([[0, 1]]), torch.tensor([target]))
    scores = matrix.compute()
    assert json.loads(json.dumps(scores, allow_nan=False)) == {
        **dict.fromkeys(["miou", "mean_accuracy", "mean_f1", "pixel_accuracy", "fw_iou"]),
        **{name: [None, None] for name in ("iou", "precision", "recall", "f1")},
        "support": [0, 0],
        "num_classes_averaged": 0,
    }


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 4), st.sampled_from([255, -100, 1]))
def test_is_the_loop(data: st.DataObject, num_classes: int, ignore_index: int) -> None:
    ids = st.integers(0, num_classes - 1)
    pairs = data.draw(st.lists(st.tuples(ids, ids | st.just(ignore_index)), max_size=12))
    pred, target = ([pair[i] for pair in pairs] for i in (0, 1))
    matrix = ConfusionMatrix(num_classes, ignore_index)
    matrix.update(
        torch.tensor([pred], dtype=torch.int64), torch.tensor([target], dtype=torch.int64)
    )
    scores = matrix.compute()
    valid = [(p, t) for p, t in pairs if t != ignore_index]
    ious = []
    for c in range(num_classes):
        both = either = 0
        for p, t in valid:
            both += p == c and t == c
            either += p == c or t == c
        ious.append(both / either if either else None)
        assert scores["support"][c] == sum(t == c for _, t in valid)
        for d in range(num_classes):
            assert matrix.matrix[c, d] == sum(t == c and p == d for p, t in valid)
    assert scores["iou"] == ious
    defined = [iou for iou in ious if iou is not None]
    assert scores["num_classes_averaged"] == len(defined)
    assert scores["miou"] == (pytest.approx(sum(defined) / len(defined)) if defined else None)


@pytest.mark.slow
def test_is_torchmetrics_where_no_class_is_absent() -> None:
    from torchmetrics.classification import (  # takes 2 s, which no other test needs
        MulticlassAccuracy,
        MulticlassF1Score,
        MulticlassJaccardIndex,
        MulticlassPrecision,
    )

    pred, target = random_pair()
    matrix = ConfusionMatrix(5)
    matrix.update(pred, target)
    scores = matrix.compute()
    for metric, name, average in [
        (MulticlassJaccardIndex, "miou", "macro"),
        (MulticlassJaccardIndex, "iou", "none"),
        (MulticlassJaccardIndex, "fw_iou", "weighted"),
        (MulticlassAccuracy, "pixel_accuracy", "micro"),
        (MulticlassAccuracy, "mean_accuracy", "macro"),
        (MulticlassAccuracy, "recall", "none"),
        (MulticlassPrecision, "precision", "none"),
        (MulticlassF1Score, "f1", "none"),
        (MulticlassF1Score, "mean_f1", "macro"),
    ]:
        expected = metric(num_classes=5, ignore_index=255, average=average)(pred, target)
        assert scores[name] == pytest.approx(expected.tolist(), rel=1e-6), name  # type: ignore[literal-required]


def test_does_not_depend_on_batches_or_their_order() -> None:
    pred, target = random_pair()
    whole = ConfusionMatrix(5)
    whole.update(pred, target)
    for size in (1, 2, 4):
        parts = ConfusionMatrix(5)
        for start in reversed(range(0, len(pred), size)):
            parts.update(pred[start : start + size], target[start : start + size])
        assert parts.compute() == whole.compute()
        assert parts.matrix.dtype == torch.int64


def test_merge_is_one_matrix_over_all() -> None:
    pred, target = random_pair()
    whole, left, right = (ConfusionMatrix(5) for _ in range(3))
    whole.update(pred, target)
    left.update(pred[:2], target[:2])
    right.update(pred[2:], target[2:])
    left.merge(right)
    assert left.matrix.equal(whole.matrix)
    assert right.matrix.sum() == (target[2:] != 255).sum()  # the merged one is left alone
    with pytest.raises(ValueError, match=r"is \(5, 255\) here, \(4, 255\) in the other"):
        left.merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match=r"is \(5, 255\) here, \(5, 0\) in the other"):
        left.merge(ConfusionMatrix(5, ignore_index=0))


def test_reset_forgets() -> None:
    matrix = ConfusionMatrix(5)
    matrix.update(*random_pair())
    matrix.reset()
    assert matrix.compute() == ConfusionMatrix(5).compute()


def test_names_of_classes_do_not_matter() -> None:
    pred, target = random_pair()
    new_of_old = torch.tensor([3, 0, 4, 1, 2])
    matrix, renamed = ConfusionMatrix(5), ConfusionMatrix(5)
    matrix.update(pred, target)
    renamed.update(new_of_old[pred], torch.where(target == 255, 255, new_of_old[target % 255]))
    assert renamed.matrix[new_of_old][:, new_of_old].equal(matrix.matrix)
    assert renamed.compute()["miou"] == pytest.approx(matrix.compute()["miou"], rel=1e-15)


def test_ignored_pixels_may_be_predicted_as_anything() -> None:
    pred, target = random_pair()
    matrix, other = ConfusionMatrix(5), ConfusionMatrix(5)
    matrix.update(pred, target)
    for anything in (0, 4, 99, -1):
        other.reset()
        other.update(torch.where(target == 255, anything, pred), target)
        assert other.compute() == matrix.compute()
    assert sum(matrix.compute()["support"]) == (target != 255).sum()


def test_takes_logits_ids_and_single_images() -> None:
    pred, target = random_pair()
    logits = torch.nn.functional.one_hot(pred, 5).movedim(-1, 1).to(torch.bfloat16)
    matrix = ConfusionMatrix(5)
    matrix.update(pred, target)
    by_logits, by_image = ConfusionMatrix(5), ConfusionMatrix(5)
    by_logits.update(logits.requires_grad_(), target.to(torch.uint8))
    for p, t in zip(pred.to(torch.uint8), target.to(torch.int32), strict=True):
        by_image.update(p, t)
    assert by_logits.matrix.equal(matrix.matrix)
    assert by_image.matrix.equal(matrix.matrix)


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long(), r"\(N, 3, H, W\), got \(1, 2, 4, 4"),
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4).long(), r"\(N, 3, H, W\), got \(1, 4, 4\)"),
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 5).long(), r"\(1, 4, 4\) and \(1, 4, 5\)"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4).long(), r"\(2, 3, 4, 4\) and \(1, 4, 4\)"),
        (torch.zeros(4).long(), torch.zeros(4).long(), r"got torch\.int64 \(4,\)"),
        (torch.zeros(1, 4, 4).bool(), torch.zeros(1, 4, 4).long(), r"got torch\.bool \(1, 4, 4\)"),
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4), r"integer dtype, got torch\.float32"),
    ],
)
def test_wrong_input_is_refused(pred: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3).update(pred, target)


@pytest.mark.parametrize("bad", [3, 254, -1])
def test_ids_that_are_no_class_are_refused_and_not_counted(bad: int) -> None:
    matrix = ConfusionMatrix(3)
    good, wrong = torch.tensor([[0, 1, 2]]), torch.tensor([[0, bad, bad]])
    message = r"of 2 pixels is no class id in \[0, 3\) where the target is not ignore_index=255"
    with pytest.raises(ValueError, match="the target " + message):
        matrix.update(good, wrong)
    with pytest.raises(ValueError, match="the prediction " + message):
        matrix.update(wrong, good)
    assert matrix.matrix.sum() == 0
    matrix.compute()


def test_ids_that_another_device_counted_as_no_class_are_refused_in_the_end() -> None:
    matrix, other = ConfusionMatrix(3), ConfusionMatrix(3)
    other.outside[1] = 2  # where a look at each batch would wait for the device
    matrix.merge(other)
    with pytest.raises(ValueError, match="the prediction of 2 pixels is no class id"):
        matrix.compute()


@pytest.mark.parametrize(
    ("num_classes", "ignore_index"), [(0, 255), (2.0, 255), (True, 255), (2, None)]
)
def test_impossible_settings_are_refused(num_classes: int, ignore_index: int) -> None:
    with pytest.raises(ValueError, match=r"(num_classes|ignore_index) must be"):
        ConfusionMatrix(num_classes, ignore_index)
