"""The loss of an image, read off strips of it."""

import pytest
import torch
from loss_cases import UNEVEN, Make, batch, every_loss, sum_of
from torch import Tensor, nn

from segkit.losses import CrossEntropyLoss, DiceLoss, WeightedSum, loss_in_strips, strips


@pytest.mark.parametrize("rows", [1, 4, 6])
@every_loss
def test_is_the_loss_of_the_whole(make: Make, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, (logits, target) = make(UNEVEN, 255), batch()
    monkeypatch.setattr(strips, "STRIP", rows * logits[:, :, 0].numel())
    expected = loss(logits.double(), target)
    terms = dict(getattr(loss, "last_terms", {}))
    found = loss_in_strips(loss, logits.double(), target)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for name, value in terms.items():
        torch.testing.assert_close(loss.last_terms[name], value, rtol=1e-12, atol=0)
    target.fill_(255)
    assert loss_in_strips(loss, logits, target) == 0


class Watched(nn.Module):
    """A loss that is not ours, and notes the sizes it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.heights: list[int] = []

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.heights.append(logits.shape[2])
        return logits.mean()


@pytest.mark.parametrize("within_sum", [False, True])
def test_a_foreign_loss_gets_the_whole(within_sum: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP", 1)
    foreign = Watched()
    loss_in_strips(sum_of(dice=DiceLoss(), own=foreign) if within_sum else foreign, *batch())
    assert foreign.heights == [6]


def test_no_map_is_larger_than_a_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    softmax = torch.nn.functional.softmax

    def watched(scores: Tensor, dim: int) -> Tensor:
        sizes.append(scores.numel())
        return softmax(scores, dim)

    monkeypatch.setattr(torch.nn.functional, "softmax", watched)
    monkeypatch.setattr(strips, "STRIP", 2000)
    loss = WeightedSum({"ce": {"weight": 1, "loss": CrossEntropyLoss()}})
    loss_in_strips(loss, torch.randn(1, 21, 64, 10), torch.randint(0, 21, (1, 64, 10)))
    assert len(sizes) == 9  # 64 rows by 9, and the row that the loss is read off
    assert max(sizes) <= 2000


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="with the same N, H and W"):
        loss_in_strips(CrossEntropyLoss(), torch.zeros(1, 2, 4, 4), torch.zeros(1, 5, 4).long())
