"""The largest score and its class are those of ``max``, whatever the layout of the memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.metrics import best_class
from segkit.metrics.best_class import STRIP, best_and_exps

VALUES = [0.0, -0.0, 1.0, 1.0000001, -3.5, 1e-45, -1e-45, 3e38, -3e38, 2e-30, 2.0000002e-30]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 5), st.booleans())
def test_it_is_max(data: st.DataObject, num_classes: int, last: bool) -> None:
    values = data.draw(st.lists(st.sampled_from(VALUES), min_size=60, max_size=60))
    scores = torch.tensor(values).view(1, -1)[:, : num_classes * 12].reshape(1, num_classes, 3, 4)
    if last:
        scores = scores.to(memory_format=torch.channels_last)
    found, expected = best_class(scores), scores.max(1)
    assert torch.equal(found[0], expected.values)
    assert found[1].dtype == torch.int64 and torch.equal(found[1], expected.indices)
    ids, exps = best_and_exps(scores)
    assert torch.equal(ids, expected.indices)
    assert torch.equal(exps, (scores - expected.values[:, None]).exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_of_several_strips(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 60, 90, 110, generator=generator).to(dtype)
    assert scores.numel() > STRIP
    for part in (scores, scores[..., 3:], scores[:, :, ::2], scores.transpose(2, 3)):
        found, expected = best_class(part), part.max(1)
        assert torch.equal(found[0], expected.values) and torch.equal(found[1], expected.indices)


def test_nan_is_seen_in_the_value() -> None:
    scores = torch.zeros(1, 3, 1, 2)
    scores[0, 1, 0, 0] = float("nan")
    assert best_class(scores)[0].isnan().tolist() == [[[True, False]]]
