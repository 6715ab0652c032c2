"""Devices, number formats and the normalisation."""

import pytest
import torch

from segkit.errors import ConfigError
from segkit.models.normalize import Normalize, per_channel
from segkit.runtime.device import Precision, pick_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "meta", "", "cuda:-1"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^device={name}: expected auto, cpu, cuda"):
        pick_device(name)


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device=cuda: PyTorch .* sees no CUDA device here"):
        pick_device("cuda")


def test_a_cuda_index_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda") == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match=r"device=cuda:1: .* sees 1 CUDA device here"):
        pick_device("cuda:1")


def test_each_process_of_a_machine_has_a_cuda_device_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("auto", "cuda"):
        devices = [pick_device(name, local_rank) for local_rank in range(4)]
        assert devices == [torch.device("cuda", i) for i in range(4)]
    assert pick_device("cuda:2", local_rank=1) == torch.device("cuda", 2)


def test_one_cuda_device_for_several_processes_is_refused() -> None:
    text = r"device=cuda:1 is one device, and this run has 2 processes.*CUDA_VISIBLE_DEVICES"
    with pytest.raises(ConfigError, match=text):
        pick_device("cuda:1", local_rank=1, num_processes=2)
    assert pick_device("cpu", local_rank=1, num_processes=2) == CPU


def test_auto_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(ConfigError, match="no MPS device here"):
        pick_device("mps")


def test_auto_precision_is_float32_on_the_cpu() -> None:
    assert Precision.pick("auto", CPU) == Precision("fp32", CPU)


@pytest.mark.parametrize(("capability", "name"), [((9, 0), "bf16"), ((7, 5), "fp16")])
def test_auto_precision_on_cuda_depends_on_the_card(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert Precision.pick("auto", torch.device("cuda", 0)).name == name


@pytest.mark.parametrize(
    ("name", "message"), [("fp16", "fp16 needs a CUDA device"), ("fp61", "expected auto, fp32")]
)
def test_impossible_precisions_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Precision.pick(name, CPU)


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_format(name: str, dtype: torch.dtype) -> None:
    precision = Precision(name, CPU)
    with (
        torch.autocast("cpu", torch.bfloat16),
        precision.autocast(),
    ):  # fp32 wins over a surrounding
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    assert precision.reduced == (name != "fp32")
    assert not precision.grad_scaler().is_enabled()


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalize(channels_last: bool) -> None:
    image = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8).expand(2, 3, 2, 2)
    out = Normalize((0.2, 0.4, 0.0), (0.5, 0.2, 1.0), channels_last)(image)
    # 51 / 255 = 0.2, 102 / 255 = 0.4
    expected = torch.tensor(
        [[[-0.4, 1.6], [0.0, 0.4]], [[-2.0, 3.0], [-1.0, 0.0]], [[0.0, 1.0], [0.2, 0.4]]]
    )
    torch.testing.assert_close(out, expected.expand(2, 3, 2, 2))
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert out.is_contiguous(memory_format=order)
    assert image.max() == 255  # not changed in place


def test_only_the_first_batch_sends_mean_and_std_to_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    normalize, image = Normalize((0.2, 0.4), (0.5, 0.3)), torch.full((1, 2, 3, 3), 51)
    per_channel.cache_clear()
    with torch.inference_mode():  # a validation comes first, where a run goes on
        first = normalize(image)
    monkeypatch.delattr(torch, "tensor")
    second = normalize(image)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.nn.functional.conv2d(second, torch.ones(1, 2, 1, 1, requires_grad=True)).sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_a_step_on_cuda(name: str, dtype: torch.dtype) -> None:
    precision = Precision.pick(name, pick_device("cuda"))
    scaler = precision.grad_scaler()
    assert scaler.is_enabled() == (name == "fp16")
    # Without a bias, whose scaled gradient may overflow fp16: the step would be skipped.
    model = torch.nn.Conv2d(3, 2, 1, bias=False, device=precision.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    image = torch.full((1, 3, 4, 4), 128, dtype=torch.uint8, device=precision.device)
    with precision.autocast():
        logits = model(Normalize((0.0,) * 3, (1.0,) * 3)(image))
    assert logits.dtype == dtype
    scaler.scale(logits.float().square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(model.weight, before)
