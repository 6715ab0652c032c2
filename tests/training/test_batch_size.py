"""The search for a batch size on a made-up device, and what is said where one did not fit."""

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
from segkit.runtime.memory import CudaMemory, is_out_of_memory
from segkit.schedules import Poly
from segkit.training.batch_size import MARGIN, largest_batch_size, trial_steps, untouched
from segkit.training.loop import out_of_memory_explained
from segkit.training.monitor import Best, Monitor
from segkit.training.plan import EpochPlan
from segkit.training.precision_check import try_precision
from segkit.training.state import TrainState
from segkit.training.step import TrainStep

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


def test_trial_steps_in_fp16_measure_the_state_of_the_optimizer() -> None:
    """Where the gradients overflow at the scale that fp16 begins with, no step would be made."""
    model = nn.Conv2d(3, 2, 1)
    optimizer = torch.optim.AdamW([{"params": model.parameters(), "base_lr": 0.5}], lr=0.5)
    precision = Precision("fp16", torch.device("cpu"))
    scaler = precision.grad_scaler()
    state = TrainState(model, optimizer, scaler, Monitor(Best("val/miou", "max")))

    class Overflowing(nn.Module):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            logits = logits.float()
            logits.register_hook(lambda g: g * math.inf if g.abs().max() > 1 else g)  # type: ignore[no-untyped-call]
            return CrossEntropyLoss()(logits, target)  # type: ignore[no-any-return]

    normalize = Normalize((0.5,) * 3, (0.25,) * 3)
    step = TrainStep(Overflowing(), normalize, precision, Poly())
    trial_steps(state, step, (8, 8), batch_size=2)
    assert {name for kept in optimizer.state.values() for name in kept} >= {"exp_avg", "step"}
    assert state.scaler is scaler and state.skipped_steps == 0


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


# --- messages ------------------------------------------------------------------------------


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")


@pytest.mark.slow
@pytest.mark.quick("none")
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
    assert "error: out of memory: a step with loader.freeze_batch_size=12 and" in result.err
    assert " loader.batch_size" not in result.err
    assert "a smaller loader.freeze_batch_size (" in result.err
    assert ("a smaller augment.crop_size" in result.err) == (augment == "standard")
    assert "trainer.precision=bf16, or a smaller model/backbone (CUDA" in result.err


def out_of_memory(batch_size: int, precision: str) -> str:
    plan = EpochPlan(epoch=1, max_epochs=1, num_images=8, batch_size=batch_size)
    found = Precision(precision, torch.device("cpu"))
    with (
        pytest.raises(TrainingError) as error,
        out_of_memory_explained(plan, found),
    ):
        run_out_of_memory()
    return str(error.value)


def test_nothing_is_advised_that_is_in_use_already() -> None:
    assert "trainer.precision=bf16, or" in out_of_memory(8, "fp32")
    assert "trainer.precision=bf16, or" not in out_of_memory(8, "bf16")
    assert "loader.batch_size (" in out_of_memory(2, "fp32")
    assert "loader.batch_size (" not in out_of_memory(1, "fp32")


def test_other_errors_stay_what_they_are() -> None:
    plan = EpochPlan(epoch=1, max_epochs=1, num_images=8, batch_size=2)
    with (
        pytest.raises(RuntimeError, match="of another kind"),
        out_of_memory_explained(plan, Precision("fp32", torch.device("cpu"))),
    ):
        raise RuntimeError("of another kind")


def test_a_precision_is_tried_on_two_images_only() -> None:
    model, sizes = nn.Conv2d(3, 2, 3), []
    precision = Precision("bf16", torch.device("cpu"))
    normalize = Normalize((0.5,) * 3, (0.2,) * 3)
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    image = torch.randint(256, (8, 3, 64, 96), dtype=torch.uint8)
    target = torch.zeros(8, 62, 94, dtype=torch.uint8)
    step = TrainStep(CrossEntropyLoss(), normalize, precision, Poly())
    said = try_precision(model, step, Batch(image, target, tuple("abcdefgh")))
    assert said.startswith("bf16 agrees with float32 on the first batch")
    assert set(sizes) == {2}


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
def test_search_on_cuda(little_memory: torch.device) -> None:
    memory = CudaMemory(little_memory)
    assert memory.capacity == pytest.approx(GIB, rel=0.01)

    def try_step(num_images: int) -> None:  # 32 MiB an image
        torch.empty(num_images, 32, 2**20, dtype=torch.uint8, device=little_memory)

    found = largest_batch_size(try_step, limit=1000, memory=memory)
    assert found == pytest.approx(0.9 * 32, abs=1)
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
