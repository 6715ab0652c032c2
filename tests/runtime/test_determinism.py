"""Random numbers per step, and what keeps ``trainer.deterministic=true`` its promise on CUDA."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from scripts import quick_call
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from segkit import losses
from segkit.errors import TrainingError
from segkit.models import DeepLabV3Plus
from segkit.models.backbones import BACKBONES, Tiny
from segkit.runtime.determinism import (
    CUBLAS_VARIABLE,
    explain_nondeterminism,
    fastest_convolutions,
    make_deterministic,
    seed_step,
)

# Nodes of a graph that raise in deterministic mode on CUDA, forward or backward, by the list of
# torch.use_deterministic_algorithms in PyTorch 2.15 (beginnings of names, without "Backward").
RAISES_ON_CUDA = (
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AvgPool3D",
    "CtcLoss",
    "EmbeddingBag",
    "FractionalMaxPool",
    "GridSampler",
    "Kthvalue",
    "MaxUnpool",
    "Median",
    "NanMedian",
    "NllLoss",  # unless reduction="none", which ours do without
    "Put",
    "ReflectionPad",
    "ScatterReduce",
    "UpsampleBicubic",
    "UpsampleBilinear",
    "UpsampleLinear",
    "UpsampleTrilinear",
)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The mode for one test; afterwards all is as it was."""
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    os.environ.pop(CUBLAS_VARIABLE, None)


# --- random numbers --------------------------------------------------------------------------


def draws(seed: int, step: int, rank: int) -> tuple[float, ...]:
    seed_step(seed, step, rank)
    return tuple(F.dropout(torch.ones(64)).tolist())


def test_dropout_is_a_function_of_seed_step_and_rank() -> None:
    keys = [(seed, step, rank) for seed in range(3) for step in range(10) for rank in range(3)]
    first = [draws(*key) for key in keys]
    torch.manual_seed(0)
    torch.randn(5)  # whatever was drawn before
    assert [draws(*key) for key in reversed(keys)] == first[::-1]
    assert len(set(first)) == len(keys)


def test_large_seeds_and_steps() -> None:
    assert draws(2**32 - 1, 10**9, 4095) != draws(2**32 - 2, 10**9, 4095)


def test_draws_of_neighbouring_steps_are_independent() -> None:
    """The first draw over many steps: mean 1/2, no correlation from one step to the next."""
    values = []
    for step in range(4000):
        seed_step(0, step, 0)
        values.append(torch.rand(1, dtype=torch.float64))
    x = torch.cat(values)
    assert abs(x.mean() - 0.5) < 4 * (1 / 12 / 4000) ** 0.5  # four standard errors
    assert abs(torch.corrcoef(torch.stack([x[:-1], x[1:]]))[0, 1]) < 4 / 4000**0.5


@pytest.mark.gpu
def test_every_device_is_seeded() -> None:
    def draw(step: int) -> list[float]:
        seed_step(0, step, 0)
        values: list[float] = torch.rand(8, device="cuda").tolist()
        return values

    torch.cuda.init()  # a step of a training finds it done
    assert draw(1) == draw(1) != draw(2)


# --- mode ------------------------------------------------------------------------------------


def test_what_the_mode_sets(deterministic: None) -> None:
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ[CUBLAS_VARIABLE] == ":4096:8"


@pytest.mark.slow
def test_a_job_of_a_sweep_does_not_inherit_the_mode(deterministic: None, tmp_path: Path) -> None:
    result = quick_call("data=voc", "data.root=nowhere", "data.num_classes=3", cwd=tmp_path)
    assert "nowhere" in result.err
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_a_deterministic_workspace_of_the_user_stays(
    deterministic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUBLAS_VARIABLE, ":16:8")
    make_deterministic()
    assert os.environ[CUBLAS_VARIABLE] == ":16:8"


def test_another_workspace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_VARIABLE, ":0:0")
    with pytest.raises(TrainingError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0, expected :4096:8 or"):
        make_deterministic()
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_form_is_named(deterministic: None) -> None:
    """Max unpooling has none on the CPU either."""
    index = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    text = r"deterministic=true: max_unpooling2d\S* has no deterministic form in PyTorch .*=false"
    with pytest.raises(TrainingError, match=text), explain_nondeterminism():
        F.max_unpool2d(torch.ones(1, 1, 2, 2), index, 2)


def test_other_errors_pass_unchanged() -> None:
    error = RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as caught, explain_nondeterminism():
        raise error
    assert caught.value is error


# --- operations of our networks and losses ---------------------------------------------------

LOSSES = {  # made inside of a test, so that their weights are fake, too
    "ce": partial(losses.CrossEntropyLoss, [1.0, 2.0, 3.0], label_smoothing=0.1),
    "focal": losses.FocalLoss,
    "dice": partial(losses.DiceLoss, class_weights=[1.0, 2.0, 3.0]),
    "bce": partial(losses.BCELoss, 0.1, [1.0, 2.0, 3.0]),
    "mse": losses.MSELoss,
    "tversky": partial(losses.TverskyLoss, class_weights=[1.0, 2.0, 3.0]),
    "lovasz": partial(losses.LovaszLoss, class_weights=[1.0, 2.0, 3.0]),
    "topk": partial(losses.TopKLoss, 0.3, [1.0, 2.0, 3.0]),
}
NETWORKS = {name: partial(DeepLabV3Plus, backbone, 3) for name, backbone in BACKBONES.items()} | {
    "tiny, gn": partial(DeepLabV3Plus, partial(Tiny, norm="gn"), 3, norm="gn"),
}
LARGE = {"resnet34", "resnet50", "resnet101", "mobilenet_v2"}  # the others have their operations


def operations(result: Tensor) -> set[str]:
    """Names of the nodes of the graph that made ``result``, as ``Convolution``."""
    names, seen, waiting = set(), set(), [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(node.name().partition("Backward")[0])
            waiting += [following for following, _ in node.next_functions]
    return names


def raising(result: Tensor) -> set[str]:
    return {name for name in operations(result) if name.startswith(RAISES_ON_CUDA)}


@pytest.fixture
def fake_cuda(deterministic: None) -> Iterator[None]:
    """Tensors on "cuda" without values: the graph is CUDA's, nothing is computed."""
    with FakeTensorMode(), torch.device("cuda"):
        yield


@pytest.mark.quick("tiny", "resnet18")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in NETWORKS]
)
def test_every_network_is_deterministic(name: str, fake_cuda: None) -> None:
    logits = NETWORKS[name]()(torch.randn(2, 3, 65, 97))
    assert raising(logits) == set()
    # The resize is there, in the form that this mode takes.
    assert {"Convolution", "UnsafeIndex"} <= operations(logits)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_deterministic(name: str, fake_cuda: None) -> None:
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = LOSSES[name]()(logits, torch.zeros(2, 8, 8, dtype=torch.int64))
    assert raising(loss) == set()
    assert len(operations(loss)) > 3


def test_every_loss_of_the_package_is_tried() -> None:
    """But WeightedSum, which adds them up, and their common base."""
    public = [getattr(losses, name) for name in losses.__all__]
    modules = {x for x in public if isinstance(x, type) and issubclass(x, nn.Module)}
    tried = {type(make()) for make in LOSSES.values()}
    assert modules - tried == {losses.PixelLoss, losses.WeightedSum}


def test_what_would_raise_is_seen(fake_cuda: None) -> None:
    image = torch.randn(1, 2, 8, 8, requires_grad=True)
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    assert raising(F.adaptive_avg_pool2d(image, 3)) == {"AdaptiveAvgPool2D"}
    assert raising(F.adaptive_avg_pool2d(image, 1)) == set()  # a mean
    assert raising(F.cross_entropy(image, target)) == {"NllLoss2D"}
    assert raising(F.pad(image, (1, 1, 1, 1), mode="reflect")) == {"ReflectionPad2D"}
    assert raising(F.grid_sample(image, torch.zeros(1, 4, 4, 2), align_corners=False)) == {
        "GridSampler2D"
    }
    torch.use_deterministic_algorithms(False)
    resized = F.interpolate(image, size=(9, 9), mode="bilinear", align_corners=False)
    assert raising(resized) == {"UpsampleBilinear2D"}


def train_two_steps(loss_fn: nn.Module, device: str) -> list[Tensor]:
    torch.manual_seed(0)
    model = DeepLabV3Plus("resnet18", 3, aspp_channels=32, decoder_channels=32).to(device)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    image = torch.randn(4, 3, 97, 129, generator=torch.Generator().manual_seed(0)).to(device)
    target = (image[:, 0] > 0).long() + (image[:, 1] > 0).long()
    for step in range(2):
        seed_step(0, step, 0)
        with torch.autocast(device, torch.bfloat16):
            logits = model(image.contiguous(memory_format=torch.channels_last))
        loss_fn(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad()
    return list(model.state_dict().values())


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOSSES)
def test_two_runs_on_cuda_give_the_same_bits(name: str, deterministic: None) -> None:
    first, second = (train_two_steps(LOSSES[name]().to("cuda"), "cuda") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_algorithms_are_raced_only_where_shapes_repeat(deterministic: None) -> None:
    cudnn = torch.backends.cudnn
    with fastest_convolutions(True):
        assert not cudnn.benchmark  # deterministic
    make_deterministic(False)
    for wanted in (True, False):
        with pytest.raises(ZeroDivisionError), fastest_convolutions(wanted):
            assert cudnn.benchmark is wanted
            raise ZeroDivisionError
        assert not cudnn.benchmark
