"""The search for a batch size, and the advice where one did not fit, on a made-up device."""

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripts import SMALL, quick_call
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segkit.data.loader import Batch
from segkit.errors import TrainingError
from segkit.losses import CrossEntropyLoss
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.memory import CudaMemory, is_out_of_memory
from segkit.schedules import Poly
from segkit.training.batch_size import (
    MARGIN,
    MemoryModel,
    largest_batch_size,
    out_of_memory_advice,
    untouched,
)
from segkit.training.dry_run import DryRun
from segkit.training.forward import Forward
from segkit.training.loop import StepSettings
from segkit.training.monitor import Best
from segkit.training.state import TrainState

GIB = 2.0**30


@dataclass
class Device:
    """Memory whose steps take ``fixed + per_image * images``, by default in units."""

    capacity: float
    fixed: float
    per_image: float
    taken: float = 0.0
    tried: list[int] = field(default_factory=list)
    message: str | None = None  # of a library that does not raise torch's own error

    def try_step(self, num_images: int) -> None:
        assert self.taken == 0.0, "a try must find the memory free"
        self.tried.append(num_images)
        needed = self.fixed + self.per_image * num_images
        self.taken = min(needed, self.capacity)
        if needed > self.capacity:
            if self.message is None:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
            raise RuntimeError(self.message)

    def free(self) -> None:
        self.taken = 0.0

    def peak(self) -> float:
        return self.taken


def search(device: Device, limit: int = 10_000) -> int:
    return largest_batch_size(device.try_step, limit=limit, memory=device)


# --- search ----------------------------------------------------------------------------------


def test_golden_search() -> None:
    """90 of 100 units may be taken: (90 - 10) / 7 = 11.4 images."""
    device = Device(capacity=100, fixed=10, per_image=7)
    assert search(device) == 11
    assert device.tried == [2, 4, 8, 16, 12, 10, 11]
    assert device.taken == 0


@given(
    fixed=st.floats(0, 80),
    per_image=st.floats(0.01, 10),
    limit=st.integers(1, 3000),
)
def test_the_result_is_the_largest_that_fits(fixed: float, per_image: float, limit: int) -> None:
    device = Device(100, fixed, per_image)
    found = search(device, limit)
    allowed = (1 - MARGIN) * 100
    assert 1 <= found <= limit
    assert fixed + per_image * found <= allowed
    assert found == limit or fixed + per_image * (found + 1) > allowed
    assert len(device.tried) <= 2 * math.log2(found) + 3
    assert max(device.tried) <= limit


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 64])
def test_all_images_at_once_where_they_fit(limit: int) -> None:
    assert search(Device(100, 1, 0.0), limit) == limit


def test_a_single_image() -> None:
    device = Device(100, fixed=20, per_image=60)
    assert search(device) == 1
    assert device.tried == [2, 1]


@pytest.mark.parametrize("fixed", [45.0, 60.0, 1000.0])  # 95 fits, but with too little to spare
def test_not_even_one_image(fixed: float) -> None:
    device = Device(100 * GIB, fixed * GIB, 50 * GIB)
    text = r"batch_size=auto: not even one image fits into the 100\.0 GiB there are, 10% of it"
    with pytest.raises(TrainingError, match=text):
        search(device)
    assert device.taken == 0


@pytest.mark.parametrize(
    "message",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried",
        "MPS backend out of memory (MPS allocated: 5.05 GB)",
    ],
)
def test_out_of_memory_in_other_words(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert search(Device(100, 10, 7, message=message)) == 11


def test_other_errors_are_not_swallowed() -> None:
    device = Device(100, 10, 7, message="mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        search(device)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_trial_steps_leave_nothing_behind() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)]
    model = nn.Sequential(*layers)
    model[1].eval()
    optimizer = torch.optim.AdamW([{"params": model.parameters(), "base_lr": 0.5}], lr=0.5)

    def step(num_images: int) -> None:
        model.train()
        optimizer.zero_grad()
        model(torch.randn(num_images, 3, 8, 8)).square().mean().backward()
        optimizer.step()

    def state() -> tuple[object, ...]:
        return copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    def check(before: tuple[object, ...], rng: torch.Tensor) -> None:
        # Exactly, sizes and dtypes included.
        torch.testing.assert_close(state(), before, rtol=0, atol=0)
        assert torch.equal(torch.get_rng_state(), rng)
        assert all(p.grad is None for p in model.parameters())

    before, rng = state(), torch.get_rng_state()
    with untouched(model, optimizer, torch.device("cpu")):
        step(2)
        step(3)
    check(before, rng)
    assert [layer.training for layer in model] == [True, False, True, True]

    step(2)  # the same with an optimizer that has a state
    before, rng = state(), torch.get_rng_state()
    model.zero_grad()
    with pytest.raises(ZeroDivisionError), untouched(model, optimizer, torch.device("cpu")):
        step(2)
        raise ZeroDivisionError
    check(before, rng)


def test_what_is_put_back_lies_in_the_cpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    put_back: list[dict[str, Any]] = []
    with FakeTensorMode(), torch.device("cuda"):
        model = nn.Linear(2, 2)
        # torch 2.10 reads the value of the step otherwise, which a fake has not.
        optimizer = torch.optim.AdamW(model.parameters(), capturable=True)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert optimizer.state[model.weight]["exp_avg"].device.type == "cuda"
        monkeypatch.setattr(optimizer, "load_state_dict", put_back.append)
        with untouched(model, optimizer, torch.device("cpu")):
            pass
    (kept,) = put_back
    values = [value for of_one in kept["state"].values() for value in of_one.values()]
    assert len(values) == 6  # step and two averages, of weight and bias
    assert {value.device.type for value in values} == {"cpu"}


# --- advice ----------------------------------------------------------------------------------


def test_memory_model_is_the_line_through_two_steps() -> None:
    device = Device(100, fixed=10, per_image=7)
    model = MemoryModel.measured(device.try_step, device)
    assert model == MemoryModel(10, 7)
    assert device.tried == [1, 2]
    assert device.taken == 0
    assert model.images_in(100) == pytest.approx(80 / 7)
    assert model.images_in(5) == 0
    assert MemoryModel(10, 0).images_in(100) == math.inf


@pytest.mark.parametrize("fixed", [0.0, 60.0])  # two do not fit; not even one does
def test_memory_that_cannot_be_measured(fixed: float) -> None:
    device = Device(100, fixed, per_image=60)
    assert MemoryModel.measured(device.try_step, device) is None
    assert device.taken == 0


def test_golden_advice() -> None:
    """0.9 * 20 - 2 = 16 GiB for images of 2 GiB: 8 of the 32.

    So the crop's sides become half. In bf16 an image takes 1.2 GiB: 13 of them.
    """
    model = MemoryModel(2 * GIB, 2 * GIB)
    assert out_of_memory_advice(32, (512, 768), "fp32", 20 * GIB, model) == (
        "out of memory: a step with loader.batch_size=32, images of 512x768 pixels and "
        "trainer.precision=fp32 does not fit into 20.0 GiB. Measured: 2.0 GiB and 2.0 GiB per "
        "image. What fits with 10% to spare: loader.batch_size=8 (trainer.accumulate makes up for "
        "it) or 'augment.crop_size=[256,384]' or trainer.precision=bf16 loader.batch_size=13 "
        "(an estimate)"
    )


def test_advice_without_a_measurement_is_called_a_guess() -> None:
    # Half of what there is fits, less the margin: 0.45 * 8 images, sides by sqrt(0.45).
    text = out_of_memory_advice(8, (512, 512), "fp16", 10 * GIB, None)
    assert "Not measured, a guess" in text
    assert "loader.batch_size=3 " in text
    assert "[320,320]" in text  # 512 * 0.67 = 343, down to a multiple of 32
    assert "bf16" not in text  # the precision is reduced already


def test_advice_for_a_single_image() -> None:
    model = MemoryModel(1 * GIB, 12 * GIB)
    text = out_of_memory_advice(1, None, "fp32", 10 * GIB, model)
    # 8 GiB are there; in bf16 an image takes 7.2.
    assert text.endswith("10% to spare: trainer.precision=bf16 (an estimate)")
    text = out_of_memory_advice(1, None, "bf16", 10 * GIB, model)
    assert text.endswith("nothing but a smaller model/backbone, or a larger device")


def test_advice_where_the_weights_alone_are_too_large() -> None:
    model = MemoryModel(30 * GIB, 1 * GIB)
    text = out_of_memory_advice(4, (512, 512), "fp32", 10 * GIB, model)
    assert text.endswith("nothing but a smaller model/backbone, or a larger device")


def test_advice_never_names_what_has_just_failed() -> None:
    """By the measured line 100 images would fit, but 8 of them did not."""
    model = MemoryModel(1 * GIB, 0.08 * GIB)
    text = out_of_memory_advice(8, (64, 64), "bf16", 10 * GIB, model)
    assert "loader.batch_size=7 " in text
    assert "[32,32]" in text  # 64 * sqrt(0.9) = 60.7


# --- trial ---------------------------------------------------------------------------------


def make_trial(device: str = "cpu", num_processes: int = 1) -> DryRun:
    model = nn.Conv2d(3, 2, 3)
    precision = Precision("fp32" if device == "cuda" else "bf16", torch.device(device))
    return DryRun(
        TrainState(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            precision.grad_scaler(),
            Best("val/miou", "max"),
        ),
        Forward(
            CrossEntropyLoss(),
            Normalize((0.5,) * 3, (0.2,) * 3),
            precision,
            DistributedContext(size=num_processes),
        ),
        StepSettings(Poly(), max_epochs=1, images_per_epoch=8),
        (64, 96),
    )


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")


def test_of_several_processes_none_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would meet their averaging of gradients in the middle of a step."""
    monkeypatch.setattr("segkit.training.dry_run.CudaMemory", lambda device: Device(GIB, 0, 1))
    monkeypatch.setattr(DryRun, "steps", lambda trial, num_images: pytest.fail("a step alone"))
    trial = make_trial("cuda", num_processes=2)
    with (
        pytest.raises(TrainingError, match=r"out of memory.*1\.0 GiB\. Not measured, a guess"),
        trial.out_of_memory(8),
    ):
        run_out_of_memory()


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_the_message_of_a_run_names_keys_that_help(
    augment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.training.loop._backward", lambda *args: run_out_of_memory())
    stage = ("trainer.freeze_epochs=1", "loader.batch_size=4", "loader.freeze_batch_size=12")
    here = tmp_path / "here"
    here.mkdir()
    result = quick_call(*SMALL, *stage, f"augment={augment}", cwd=here)
    assert result.status == 1
    assert "error: out of memory: a step with loader.freeze_batch_size=12, images" in result.err
    assert " loader.batch_size" not in result.err
    assert "loader.freeze_batch_size=5 (" in result.err  # 0.45 * 12
    assert ("augment.crop_size=[" in result.err) == (augment == "standard")


def test_a_precision_is_tried_on_two_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, sizes = make_trial(), []
    trial.state.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    image = torch.randint(256, (8, 3, 64, 96), dtype=torch.uint8)
    target = torch.zeros(8, 62, 94, dtype=torch.uint8)
    said = trial.check_precision(Batch(image, target, tuple("abcdefgh")))
    assert said.startswith("bf16 agrees with float32 on the first batch")
    assert set(sizes) == {2}


@given(
    batch_size=st.integers(1, 64),
    side=st.integers(1, 40),
    fixed=st.floats(0, 20),
    per_image=st.floats(0.001, 20),
)
def test_advice_fits_by_its_own_model(
    batch_size: int, side: int, fixed: float, per_image: float
) -> None:
    model = MemoryModel(fixed * GIB, per_image * GIB)
    crop = (32 * side, 64 * side)
    text = out_of_memory_advice(batch_size, crop, "bf16", 10 * GIB, model)
    if "batch_size=" in (advice := text.partition("to spare: ")[2]):
        images = int(advice.partition("batch_size=")[2].partition(" ")[0])
        assert fixed + per_image * images <= 9 * (1 + 1e-9)
        assert 1 <= images < batch_size
    if "crop_size=[" in advice:
        height, width = map(int, advice.partition("[")[2].partition("]")[0].split(","))
        pixels = height * width / (crop[0] * crop[1])
        assert fixed + per_image * batch_size * pixels <= 9 * (1 + 1e-9)
        assert (height % 32, width % 32) == (0, 0)
        assert height < crop[0]


# --- CUDA ------------------------------------------------------------------------------------


@pytest.fixture
def little_memory() -> torch.device:  # type: ignore[misc]
    """A CUDA device of which this process may have 1 GiB."""
    device = torch.device("cuda", 0)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(GIB / total, device)
    yield device
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    torch.cuda.empty_cache()


@pytest.mark.gpu
def test_search_and_measurement_on_cuda(little_memory: torch.device) -> None:
    memory = CudaMemory(little_memory)
    assert memory.capacity == pytest.approx(GIB, rel=0.01)

    def try_step(num_images: int) -> None:  # 32 MiB an image
        torch.empty(num_images, 32, 2**20, dtype=torch.uint8, device=little_memory)

    found = largest_batch_size(try_step, limit=1000, memory=memory)
    assert found == pytest.approx(0.9 * 32, abs=1)
    model = MemoryModel.measured(try_step, memory)
    assert model is not None
    assert model.per_image == pytest.approx(32 * 2**20, rel=0.1)
    assert model.images_in(memory.capacity) == pytest.approx(found, abs=1.5)
    assert torch.cuda.memory_reserved(little_memory) < 0.1 * GIB


@pytest.mark.gpu
def test_a_real_training_step_runs_at_the_size_found(little_memory: torch.device) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 3))
    model = model.to(little_memory)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    memory = CudaMemory(little_memory)

    def try_step(num_images: int) -> None:
        for _ in range(2):
            image = torch.randn(num_images, 3, 128, 128, device=little_memory)
            model(image).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    before = copy.deepcopy(model.state_dict())
    with untouched(model, optimizer, little_memory):
        found = largest_batch_size(try_step, limit=100_000, memory=memory)
    assert 2 < found < 100_000
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    try_step(found)
    with pytest.raises(RuntimeError) as caught:
        try_step(4 * found)
    assert is_out_of_memory(caught.value)
