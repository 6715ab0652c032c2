"""Windows hold little more than their rows, and a CPU takes them before its memory runs out."""

import math
import tracemalloc

import pytest
import torch
from torch import Tensor, nn

from segkit.data.loader import Batch
from segkit.evaluation.measures import Measures
from segkit.inference import memory_need, predictor
from segkit.inference.held_bytes import HeldBytes
from segkit.inference.predictions import PredictedMask
from segkit.inference.predictor import Inference
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision
from segkit.runtime.log import log

CPU = Precision("fp32", torch.device("cpu"))
BYTES = Normalize((0.5,) * 3, (0.25,) * 3)
MIB = 2**20


def image_of(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


class Recorded(nn.Module):
    """A network without context that remembers the sizes of what it was given."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model, self.sizes = nn.Conv2d(3, classes, 1), list[tuple[int, ...]]()

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append(tuple(image.shape[2:]))
        return self.model(image)  # type: ignore[no-any-return]


def test_held_bytes_are_those_that_exist_at_once() -> None:
    x = torch.zeros(1000)
    with HeldBytes() as held:
        torch.relu(torch.relu(torch.relu(x)))  # the first is gone when the third is made
        assert (held.peak, held.now) == (8000, 0)
        kept = [x + 1, x[5:], x.mul_(2)]  # a view and a change in place are no memory
        assert held.now == 4000
    del kept
    assert held.now == 0


@pytest.mark.quick("stride1")
@pytest.mark.parametrize("stride", [None, (40, 40), (100, 100)])
def test_windows_hold_hardly_more_than_their_rows(
    stride: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes, (height, width), window = 30, (250, 1500), (100, 100)
    monkeypatch.setattr(predictor, "STRIP", 2**18)  # a twentieth of the rows here
    image = image_of(height, width)
    inference = Inference(Recorded(classes), BYTES, CPU, window=window, stride=stride)
    seen = 0
    with HeldBytes() as held:
        for rows, scores in inference.row_blocks(image):
            seen += rows.stop - rows.start
            assert scores.shape == (1, classes, rows.stop - rows.start, width)
            del scores
    assert seen == height
    assert held.peak <= 1.3 * classes * window[0] * width * 4


def test_an_image_that_would_not_fit_is_taken_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    # (3 + 4) channels of 4 bytes and a little more, times SPARE: 36.4 to 40 bytes a pixel.
    monkeypatch.setattr(predictor, "free_memory", lambda: 4 * MIB)
    model, image = Recorded(), image_of(400, 600)
    inference = Inference(model, BYTES, CPU)
    scores = inference(image)
    # 240,000 pixels need about 9 MiB; half of each side 2.3, and 200 rows of all columns 2.4.
    assert model.sizes[0] == (256, 256)  # what is measured
    assert set(model.sizes[1:]) == {(100, 150)} and inference.fallback == (100, 150)
    assert len(said) == 1
    assert "400 x 600 pixels at once would take about 0.0 GiB of memory, and 0.0 GiB are" in said[0]
    assert "in windows of 100 x 150 from here on, whose scores differ a little" in said[0]
    assert "window=[100,150] does so from the start" in said[0]
    chosen = Inference(model, BYTES, CPU, window=(100, 150))
    assert torch.equal(scores, chosen(image))
    # Later images: as large ones too, without a word and without another measurement.
    model.sizes.clear()
    inference(image)
    assert set(model.sizes) == {(100, 150)}
    model.sizes.clear()
    inference(image_of(250, 300))
    assert model.sizes == [(250, 300)]
    assert len(said) == 1


def test_what_fits_is_taken_whole_and_measured_at_most_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = [None, 2**40, 30 * MIB, 30 * MIB, 0]
    monkeypatch.setattr(predictor, "free_memory", lambda: free.pop(0))
    model, asked = Recorded(), len(free)
    inference = Inference(model, BYTES, CPU)
    for height in (300, 400, 500, 510):
        inference(image_of(height, 300))
    sizes = [(300, 300), (400, 300), (256, 256), (500, 300), (510, 300)]
    assert model.sizes == sizes and len(free) == asked - 4
    inference(image_of(505, 300))  # a larger one did fit: nothing is asked
    assert len(free) == 1 and inference.fallback is None


def test_a_network_that_takes_no_part_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            if image.shape[2] < 300:
                raise ValueError("too small")
            return image

    monkeypatch.setattr(predictor, "free_memory", lambda: 1)
    assert Inference(Picky(), BYTES, CPU)(image_of(300, 300)).shape == (1, 3, 300, 300)


def test_free_memory_counts_what_malloc_keeps_and_is_shared_by_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_need, "_kept_by_malloc", lambda: 7)
    monkeypatch.setattr(memory_need.machine, "free_memory", lambda: math.inf)
    assert memory_need.free_memory() is None
    monkeypatch.setattr(memory_need.machine, "free_memory", lambda: 4000.0)
    assert memory_need.free_memory() == 4007
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_need.free_memory() == 4007 // 4


def test_what_is_kept_of_an_image_is_small() -> None:
    measures = Measures(150, 255)
    size = (1, 20, 30)
    batch = Batch(torch.zeros(1, 3, 20, 30, dtype=torch.uint8), torch.ones(size).long(), ("name",))
    mask = PredictedMask(batch, torch.zeros(size, dtype=torch.int16))
    measures.update(mask)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(50):
        measures.update(mask)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    arrays = sum(image.counts.nbytes for image in measures.images[1:])
    assert arrays == 50 * 3 * 150 * 4
    assert max(grown, arrays) <= 50 * 4096
