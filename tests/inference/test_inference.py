"""Windows, seams, scales, ensembles, and what happens where memory runs out."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.data.loader import Batch
from segkit.errors import ConfigError, TrainingError
from segkit.inference import predictions as evaluation
from segkit.inference.predictions import predict_masks
from segkit.inference.predictor import Ensemble, Inference, gaussian_weight, tile_origins
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision
from segkit.runtime.log import log

CPU = Precision("fp32", torch.device("cpu"))
BYTES = Normalize((0.5,) * 3, (0.25,) * 3)


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def convolution(size: int = 1, classes: int = 4) -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv2d(3, classes, size, padding=size // 2)


def test_one_look_gives_the_logits_to_the_last_bit() -> None:
    model, image = convolution(3), photo(9, 7)
    scores = Inference(model, BYTES, CPU)(image)
    with torch.no_grad():
        assert torch.equal(scores, model(BYTES(image)))
    assert not scores.requires_grad


def test_windows_begin_so_that_they_cover_everything() -> None:
    assert tile_origins(10, 4, 3) == [0, 3, 6]
    assert tile_origins(11, 4, 3) == [0, 3, 6, 7]
    assert tile_origins(4, 4, 3) == [0]


@pytest.mark.parametrize("window", [(8, 8), (5, 11), (40, 9), (100, 100), (1, 1)])
@pytest.mark.parametrize("stride", [None, (1, 1), (4, 7)])
def test_of_a_network_without_context_windows_change_nothing(
    window: tuple[int, int], stride: tuple[int, int] | None
) -> None:
    if stride is not None:
        stride = min(stride[0], window[0]), min(stride[1], window[1])
    model, image = convolution(), photo(23, 31)
    whole = Inference(model, BYTES, CPU)(image).softmax(1)
    scores = Inference(model, BYTES, CPU, window=window, stride=stride)(image)
    torch.testing.assert_close(scores.softmax(1), whole)


def test_away_from_the_borders_of_windows_it_is_the_whole_image() -> None:
    model, image = convolution(5), photo(30, 30)
    whole = Inference(model, BYTES, CPU)(image).softmax(1)
    scores = Inference(model, BYTES, CPU, window=(16, 16), stride=(14, 14))(image).softmax(1)
    # Windows begin at 0 and 14 and overlap in 14 and 15. Two pixels at a border see the padding.
    near_seam = torch.zeros(30, dtype=torch.bool)
    near_seam[12:18] = True
    far = ~(near_seam[:, None] | near_seam)
    torch.testing.assert_close(scores[..., far], whole[..., far])
    assert not torch.allclose(scores[..., ~far], whole[..., ~far])


def test_bands_are_the_rows_in_order() -> None:
    inference = Inference(convolution(3), BYTES, CPU, window=(8, 10), stride=(3, 9))
    image = photo(21, 25)
    rows, scores = zip(*inference.row_blocks(image), strict=True)
    assert [r.start for r in rows] == [0, *(r.stop for r in rows[:-1])]
    assert rows[-1].stop == 21
    assert max(r.stop - r.start for r in rows) == 8  # the last window's
    assert torch.equal(torch.cat(scores, 2), inference(image))


class WindowMean(nn.Module):
    """Every pixel of a window has the same scores: the step between windows is plain to see."""

    def forward(self, image: Tensor) -> Tensor:
        mean = image.mean((1, 2, 3), keepdim=True)
        return torch.cat([mean, -mean], 1).expand(-1, -1, *image.shape[2:])


def test_there_is_no_step_at_the_seams() -> None:
    ramp = torch.linspace(0, 255, 96).to(torch.uint8).expand(1, 3, 96, 96).contiguous()
    steps = {}
    for stride in (32, 16):
        inference = Inference(WindowMean(), BYTES, CPU, window=(32, 32), stride=(stride, stride))
        probs = inference(ramp).softmax(1)[0, 0, 48]
        steps[stride] = probs.diff().abs().max().item()
    assert steps[32] > 0.25  # windows side by side
    assert steps[16] < steps[32] / 5


def test_the_weight_of_a_window() -> None:
    weight = gaussian_weight(16, 9)
    assert weight.shape == (16, 9)
    assert torch.equal(weight, weight.flip(0))
    torch.testing.assert_close(weight, weight.flip(1))
    assert weight[:, 4].argmax() in (7, 8)
    # Half a window from the middle are four standard deviations, less half a pixel.
    assert weight[0, 4] == pytest.approx(torch.exp(torch.tensor(-0.5 * (7.5 / 2) ** 2)).item())
    assert (weight > 0).all()


def test_a_mirror_image_is_mirrored_back() -> None:
    model, image = convolution(3), photo(12, 17)
    scores = Inference(model, BYTES, CPU, flip=True)(image)
    with torch.no_grad():
        straight, mirrored = model(BYTES(image)), model(BYTES(image).flip(3)).flip(3)
    torch.testing.assert_close(scores.softmax(1), (straight.softmax(1) + mirrored.softmax(1)) / 2)
    # Its own mirror image gets the mirrored scores.
    torch.testing.assert_close(
        Inference(model, BYTES, CPU, flip=True)(image.flip(3)).flip(3), scores
    )


def test_scales_are_averaged_as_probabilities() -> None:
    model, image = convolution(3), photo(12, 18)
    scores = Inference(model, BYTES, CPU, scales=[1.0, 1.5])(image)
    with torch.no_grad():
        large = F.interpolate(BYTES(image), (18, 27), mode="bilinear")
        back = F.interpolate(model(large), (12, 18), mode="bilinear")
        expected = (model(BYTES(image)).softmax(1) + back.softmax(1)) / 2
    torch.testing.assert_close(scores.softmax(1), expected)


def test_a_constant_image_is_the_same_at_every_scale_and_in_windows() -> None:
    model, image = convolution(), torch.full((1, 3, 33, 47), 77, dtype=torch.uint8)
    plain = Inference(model, BYTES, CPU)(image).softmax(1)
    for window in (None, (16, 16)):
        inference = Inference(model, BYTES, CPU, scales=[0.5, 0.75, 1.25], flip=True, window=window)
        torch.testing.assert_close(inference(image).softmax(1), plain)


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    models = [convolution(3), nn.Conv2d(3, 4, 1)]
    image = BYTES(photo(6, 8))
    with torch.no_grad():
        expected = sum(model(image).softmax(1) for model in models) / 2
        torch.testing.assert_close(Ensemble(models)(image).softmax(1), expected)
        torch.testing.assert_close(
            Ensemble(models[:1])(image).softmax(1), models[0](image).softmax(1)
        )


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_member_that_overflows_is_seen_in_the_mean(value: float, sigmoid: bool) -> None:
    """A sigmoid makes 1 of infinity, which looks like any other probability."""
    model = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        model.bias[1] = value
        scores = Ensemble([nn.Conv2d(3, 4, 1), model], [False, sigmoid])(BYTES(photo(6, 8)))
    assert scores[:, 1].isnan().all()


@pytest.mark.parametrize("options", [{}, {"window": (8, 8)}, {"flip": True}])
def test_a_network_that_was_trained_by_bce_answers_in_sigmoids(options: dict[str, Any]) -> None:
    """Softmax took its 0.7 of two classes for 0.84."""
    model, image = convolution(), photo(21, 13)
    inference = Inference(model, BYTES, CPU, sigmoid=True, **options)
    scores = inference(image)
    with torch.no_grad():
        logits = model(BYTES(image))
    torch.testing.assert_close(scores, logits, atol=1e-4, rtol=1e-4)  # so the loss is the same
    alone = logits.sigmoid()
    expected = alone / alone.sum(1, keepdim=True)
    torch.testing.assert_close(inference.comparable(scores).softmax(1), expected)
    one = next(predict_masks(inference, [Batch(image, torch.zeros(1, 21, 13).byte(), ("a",))]))
    assert torch.equal(one.pred.long(), logits.argmax(1))
    torch.testing.assert_close(one.confidence, expected.amax(1))
    torch.testing.assert_close(one.label_confidence, expected[:, 0])
    other = convolution(3)
    with torch.no_grad():
        both = Ensemble([model, other], [True, False])(BYTES(image)).softmax(1)
        torch.testing.assert_close(both, (expected + other(BYTES(image)).softmax(1)) / 2)


def test_scores_stay_finite_where_a_probability_is_rounded_to_0() -> None:
    model = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(model.weight)
    model.bias = nn.Parameter(torch.tensor([500.0, -500.0]))
    for inference in (
        Inference(model, BYTES, CPU, flip=True),
        Inference(model, BYTES, CPU, window=(4, 4)),
        Inference(Ensemble([model]), BYTES, CPU),
    ):
        scores = inference(photo(6, 6))
        assert scores.isfinite().all()
        assert (scores.max(1).indices == 0).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scales": []}, r"scales=\[\]: expected numbers above 0"),
        ({"scales": [1.0, 0.0]}, r"scales=\[1.0, 0.0\]: expected numbers above 0"),
        ({"scales": [float("nan")]}, "expected numbers above 0"),
        ({"stride": (1, 1)}, "stride is set and window is not"),
        ({"window": (4, 4), "stride": (4, 5)}, r"stride=\(4, 5\): expected at least 1"),
        ({"window": (4, 4), "stride": (0, 4)}, "at most window"),
        ({"window": (0, 4)}, r"window=\[0, 4\]: expected at least 1"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Inference(convolution(), BYTES, CPU, **options)  # type: ignore[arg-type]


class Greedy(nn.Module):
    """Memory runs out above so many pixels."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.sizes = limit, list[tuple[int, ...]]()
        self.model = convolution()

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append(tuple(image.shape[2:]))
        if image.shape[2] * image.shape[3] > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.25 GiB")
        return self.model(image)  # type: ignore[no-any-return]


def test_where_memory_runs_out_windows_are_taken_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    model, image = Greedy(100 * 130), photo(200, 260)
    inference = Inference(model, BYTES, CPU)
    expected = Inference(model.model, BYTES, CPU)(image).softmax(1)
    torch.testing.assert_close(inference(image).softmax(1), expected)
    assert model.sizes[:2] == [(200, 260), (100, 130)]
    assert inference.fallback == (100, 130)
    assert len(said) == 1
    assert "out of memory with 200 x 260 pixels at once" in said[0]
    assert "window=[100,130] does so from the start" in said[0]
    followed = Inference(model.model, BYTES, CPU, window=(100, 130))(image)
    torch.testing.assert_close(followed.softmax(1), expected)
    # Later images that are as large are not tried whole again, smaller ones are.
    model.sizes.clear()
    inference(image)
    assert set(model.sizes) == {(100, 130)}
    model.sizes.clear()
    inference(photo(65, 200))
    assert model.sizes == [(65, 200)]
    assert len(said) == 1


def test_windows_are_halved_until_they_fit() -> None:
    model, image = Greedy(64 * 64), photo(256, 256)
    scores = Inference(model, BYTES, CPU)(image)
    assert scores.shape == (1, 4, 256, 256)
    assert model.sizes[:3] == [(256, 256), (128, 128), (64, 64)]


def test_where_no_window_fits_it_says_what_to_do() -> None:
    with pytest.raises(TrainingError, match=r"75 x 75 pixels at once do not fit into the memory"):
        Inference(Greedy(10), BYTES, CPU)(photo(150, 150))
    chosen = Inference(Greedy(64 * 64), BYTES, CPU, window=(128, 128))
    with pytest.raises(TrainingError, match=r"128 x 128 .* give a smaller window,"):
        chosen(photo(150, 150))
    smaller = Inference(Greedy(64 * 64), BYTES, CPU, window=(64, 64))
    assert smaller(photo(150, 150)).shape == (1, 4, 150, 150)


def test_other_errors_are_not_mistaken_for_it() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        Inference(nn.Conv2d(5, 2, 1), BYTES, CPU)(photo(8, 8))


@pytest.mark.parametrize("numbers", [2**20, 160, 1])
@pytest.mark.parametrize("window", [None, (8, 8)])
def test_masks_and_confidences_of_the_bands(
    numbers: int, window: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "NUMBERS", numbers)
    image = torch.cat([photo(21, 13), photo(21, 13, seed=1)])
    batch = Batch(image, torch.zeros(2, 21, 13, dtype=torch.uint8), ("a", "b"))
    inference = Inference(convolution(3), BYTES, CPU, window=window)
    found = list(predict_masks(inference, [batch]))
    assert [one.batch.ids for one in found] == [("a",), ("b",)]
    for i, one in enumerate(found):
        probs = inference(image[i : i + 1]).softmax(1).max(1)
        assert one.pred.dtype == torch.int16  # a quarter of the memory of PyTorch's own ids
        assert torch.equal(one.pred.long(), probs.indices)
        assert one.confidence is not None
        torch.testing.assert_close(one.confidence, probs.values)


LARGE = """
import segkit
import torch
torch.set_num_threads(1)
from segkit.data.loader import Batch
from segkit.inference.predictions import predict_masks
from segkit.inference.predictor import Inference
from segkit.evaluation.measures import Measures
from segkit.runtime.memory import keep_freed_memory, peak_memory_mib
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision

keep_freed_memory()
torch.manual_seed(0)
image = torch.randint(0, 256, (1, 3, 4000, 4000), dtype=torch.uint8)
target = torch.randint(0, 21, (1, 40, 40), dtype=torch.uint8)
target = target.repeat_interleave(100, 1).repeat_interleave(100, 2)
measures = Measures(21, 255, trimap_widths=[5])
inference = Inference(
    torch.nn.Conv2d(3, 21, 1),
    Normalize((0.5,) * 3, (0.25,) * 3),
    Precision("fp32", torch.device("cpu")),
    window=(513, 513),
)
for mask in predict_masks(inference, [Batch(image, target, ("large",))]):
    measures.update(mask)
assert int(measures.matrix.matrix.sum()) == 4000 * 4000
assert int(measures.calibration.counts[0].sum()) == 4000 * 4000
print(round(peak_memory_mib(torch.device("cpu"))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_16_megapixels_of_21_classes_take_less_than_2_gb() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2000  # MiB; the scores of the whole image alone would take 1282
