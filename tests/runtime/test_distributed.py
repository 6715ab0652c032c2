"""Two processes, connected by gloo, do together what one does alone.

They are started once, do everything, and write down what they saw; the tests read it.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from accumulated import CASES, images, joined, one_epoch
from loss_cases import LOSSES, NUM_CLASSES, UNEVEN, sum_of
from torch import Tensor, nn

from segkit.errors import ConfigError, DataError
from segkit.losses import CrossEntropyLoss, global_loss
from segkit.metrics import ConfusionMatrix
from segkit.runtime.distributed import (
    DistributedContext,
    MainProcessError,
    check_device_for_each,
    check_same_start,
    connect,
    peer_failure,
    sync_batch_norm,
    wrap,
)
from segkit.training.ema import ModelEMA
from segkit.training.validation import Validation

CPU = torch.device("cpu")


class MeanSquare(nn.Module):
    """A loss of a user's own: it knows nothing of other processes, nor of ignored pixels."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return (logits - target.unsqueeze(1) / 255).square().mean()


def every_loss() -> dict[str, nn.Module]:
    losses = {name: make(UNEVEN, 255) for name, make in LOSSES.items()}
    own = {"own": MeanSquare(), "ce+own": sum_of(ce=CrossEntropyLoss(), own=MeanSquare())}
    return losses | own


def global_batch(ignored_from: int = 8) -> tuple[Tensor, Tensor]:
    """Eight images, float64 (8, 3, 6, 5), with unequal shares of ignored pixels, and targets."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(8, 3, 6, 5, dtype=torch.float64, generator=generator)
    target = torch.randint(0, NUM_CLASSES, (8, 6, 5), generator=generator)
    target[4:] = target[4:].clamp(max=1)  # the first four alone have the other two classes
    ignored = torch.rand(target.shape, generator=generator) < torch.arange(8).view(8, 1, 1) / 10
    target[ignored] = 255
    target[ignored_from:] = 255
    return image, target


def make_model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh(), nn.ConvTranspose2d(5, 4, 3)).double()


def train_step(
    model: nn.Module, loss_fn: nn.Module, batch: tuple[Tensor, Tensor], world: DistributedContext
) -> dict[str, Any]:
    """Value, terms and gradients of one step over this process's part of the batch."""
    image, target = (part.chunk(world.size)[world.rank] for part in batch)
    wrapped = wrap(model, world, CPU)  # by a name: it must still be there for the backward pass
    loss = global_loss(loss_fn, wrapped(image), target, world.size)
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        "value": loss.detach(),
        "terms": dict(getattr(loss_fn, "last_terms", {})),
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
    }


def all_losses(world: DistributedContext, ignored_from: int) -> dict[str, Any]:
    batch = global_batch(ignored_from)
    return {
        name: train_step(make_model(), loss, batch, world) for name, loss in every_loss().items()
    }


def freeze_and_unfreeze(world: DistributedContext) -> list[dict[str, Any]]:
    model, steps = make_model(), []
    for trainable in (False, True):
        model[0].requires_grad_(trainable)
        model.zero_grad()
        steps.append(train_step(model, CrossEntropyLoss(), global_batch(), world))
    return steps


def accumulated(world: DistributedContext) -> dict[str, Any]:
    """Three batches of two images each make one step, of which each process has one image."""
    six = images(6, 0.5)
    mine = six[world.rank :: world.size]
    if world.size == 1:
        mine = [joined(six)]
    return {name: one_epoch(make(), mine, len(mine), world=world) for name, make in CASES.items()}


def exchange(world: DistributedContext) -> dict[str, Any]:
    """One call of everything that a world can do, with values that tell the ranks apart."""
    rank = world.rank
    matrix = ConfusionMatrix(2)
    if world.is_main:
        matrix.update(torch.tensor([[0, 1]]), torch.tensor([[1, 1]]))
    norm = nn.BatchNorm2d(2)
    nn.init.constant_(norm.get_buffer("running_mean"), rank + 5)
    world.broadcast_buffers(norm)
    mine = torch.tensor([2**60, rank])
    return {
        "from_main": world.broadcast_from_main(lambda: ("made by", rank)),
        "gather": world.gather({"rank": rank}),
        "in_turn": world.gather_interleaved([f"image {i}" for i in range(rank, 5, world.size)]),
        "any": world.any_rank(False, world.is_main, True),
        "sum": world.all_reduce_sum(mine),
        "left as it was": mine,
        "matrix": world.sum_matrix(matrix).matrix,
        "buffers": norm.running_mean,
        # A validation loss: the processes have different numbers of images, nobody may wait.
        "evaluated": CrossEntropyLoss()(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long())
        if world.is_main
        else None,
    }


def scored_statistics(world: DistributedContext) -> list[Tensor]:
    """BatchNorm's, of the average and of the raw weights as a validation scores them."""
    model = nn.BatchNorm2d(2)
    nn.init.constant_(model.get_buffer("running_mean"), world.rank + 5)
    validation = MagicMock(world=world)
    validation.cfg.data.ignore_index = 255
    validation.data.classes = ["a", "b"]
    validation.evaluate.return_value = ConfusionMatrix(2), 0.5, []
    Validation.run(validation, SimpleNamespace(model=model, average=ModelEMA(model, 0.9), step=1))
    return [call.args[0].running_mean for call in validation.evaluate.call_args_list]


def refuse() -> None:
    raise DataError("no such folder")


def crash() -> None:
    raise KeyError("a defect")


def caught(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    seen: dict[str, Any] = {}
    with connect() as world:
        seen["world"] = (world.rank, world.size, world.local_rank, world.is_main)
        seen["refused"] = caught(lambda: world.broadcast_from_main(refuse))
        seen["crashed"] = caught(lambda: world.broadcast_from_main(crash))
        saved = {"epoch": 2, "images": 0, "step": 6, "seconds": float(rank)}
        seen["same start"] = caught(lambda: check_same_start(saved, world))
        mine = None if rank else saved
        seen["other start"] = caught(lambda: check_same_start(mine, world))
        seen["exchange"] = exchange(world)
        seen["scored statistics"] = scored_statistics(world)
        seen["losses"] = all_losses(world, ignored_from=8)
        seen["second process ignored"] = all_losses(world, ignored_from=4)
        seen["frozen"] = freeze_and_unfreeze(world)
        seen["accumulated"] = accumulated(world)
    # What torchrun --max-restarts does: the same store again, for another attempt.
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
    try:
        with connect() as world:
            seen["second attempt"] = world.gather(rank)
            if not world.is_main:
                raise OSError("the disk is gone")
            world.any_rank(False)
    except (RuntimeError, OSError) as error:
        seen["ended by"] = (str(error), peer_failure(error))
    seen["connected"] = dist.is_initialized()
    torch.save(seen, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = torch.multiprocessing.start_processes(
        process, (port, str(folder)), nprocs=2, join=False, start_method="fork"
    )
    end = time.monotonic() + 300
    while not started.join(timeout=5):
        assert time.monotonic() < end, "the processes hang"
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_each_process_knows_its_place(ranks: list[dict[str, Any]]) -> None:
    assert [seen["world"] for seen in ranks] == [(0, 2, 0, True), (1, 2, 1, False)]
    assert [seen["second attempt"] for seen in ranks] == [[0, 1], [0, 1]]
    assert [seen["connected"] for seen in ranks] == [False, False]


def test_exchange(ranks: list[dict[str, Any]]) -> None:
    for seen in (rank["exchange"] for rank in ranks):
        assert seen["from_main"] == ("made by", 0)
        assert seen["gather"] == [{"rank": 0}, {"rank": 1}]
        assert seen["in_turn"] == [f"image {i}" for i in range(5)]
        assert seen["any"] == (False, True, True)
        assert seen["sum"].tolist() == [2**61, 1]
        assert seen["matrix"].tolist() == [[0, 0], [1, 1]]
        assert seen["buffers"].tolist() == [5.0, 5.0]
    assert [rank["exchange"]["left as it was"].tolist() for rank in ranks] == [
        [2**60, 0],
        [2**60, 1],
    ]
    torch.testing.assert_close(ranks[0]["exchange"]["evaluated"], torch.tensor(2.0).log())


def test_all_processes_score_the_statistics_that_process_0_saves(
    ranks: list[dict[str, Any]],
) -> None:
    for seen in ranks:
        assert [mean.tolist() for mean in seen["scored statistics"]] == [[5.0, 5.0], [5.0, 5.0]]


def test_one_process_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with connect() as world:
        assert world == DistributedContext()
        seen = exchange(world)
        assert not dist.is_initialized()
    assert seen["from_main"] == ("made by", 0)
    assert seen["gather"] == [{"rank": 0}]
    assert seen["in_turn"] == [f"image {i}" for i in range(5)]
    assert seen["any"] == (False, True, True)
    assert seen["sum"].tolist() == [2**60, 0]
    assert seen["matrix"].tolist() == [[0, 0], [1, 1]]
    with pytest.raises(DataError, match="no such folder"):
        world.broadcast_from_main(refuse)
    model = make_model()
    assert wrap(model, world, CPU) is model
    assert sync_batch_norm(model, world, CPU) is model


def test_torchrun_with_one_process_needs_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with connect() as world:
        assert world == DistributedContext()
        assert not dist.is_initialized()


def test_an_error_of_the_first_process_ends_all_and_is_told_once(
    ranks: list[dict[str, Any]],
) -> None:
    assert ranks[0]["refused"] == "DataError: no such folder"
    assert ranks[1]["refused"] == "MainProcessError: DataError: no such folder"
    assert ranks[0]["crashed"] == "KeyError: 'a defect'"
    assert ranks[1]["crashed"] == "MainProcessError: KeyError: 'a defect'"


def test_processes_that_found_different_checkpoints_do_not_start(
    ranks: list[dict[str, Any]],
) -> None:
    for seen in ranks:
        assert seen["same start"] == "nothing"
        assert seen["other start"].startswith(
            "ConfigError: resume: process 0 goes on from epoch 2, images 0, step 6, but process 1 "
            "from the beginning, without a checkpoint. Each reads it by itself: resume and out_dir"
        )


def test_a_process_that_ends_is_noticed_by_the_others(ranks: list[dict[str, Any]]) -> None:
    assert ranks[1]["ended by"] == ("the disk is gone", None)
    message = ranks[0]["ended by"][1]
    assert message.startswith("process 0 lost another process of this run")
    assert "peer" in message
    assert "\n" not in message


def test_other_errors_are_no_lost_process() -> None:
    assert peer_failure(RuntimeError("shapes do not fit")) is None
    assert peer_failure(MainProcessError("x")) is None
    assert peer_failure(OSError("Connection reset by peer")) is None  # of a network disk
    nccl = dist.DistBackendError("NCCL error in: NCCLUtils.cpp:94\nremote process exited")
    assert "(NCCL error in: NCCLUtils.cpp:94)" in (peer_failure(nccl) or "")


@pytest.mark.parametrize(
    ("part", "ignored_from"), [("losses", 8), ("second process ignored", 4)], ids=["valid", "none"]
)
@pytest.mark.parametrize("name", every_loss())
def test_two_halves_have_the_loss_and_the_gradients_of_the_whole(
    ranks: list[dict[str, Any]], name: str, part: str, ignored_from: int
) -> None:
    expected = train_step(
        make_model(), every_loss()[name], global_batch(ignored_from), DistributedContext()
    )
    if "own" not in name:
        assert expected["value"] > 0
    for seen in ranks:
        torch.testing.assert_close(seen[part][name], expected)
    for first, second in zip(*(seen[part][name]["gradients"] for seen in ranks), strict=True):
        assert torch.equal(first, second)


def test_batches_of_two_processes_make_the_step_of_one_batch(ranks: list[dict[str, Any]]) -> None:
    expected = accumulated(DistributedContext())
    for seen in ranks:
        torch.testing.assert_close(seen["accumulated"], expected, rtol=1e-9, atol=1e-12)


def test_halves_differ_from_the_whole_when_averaged() -> None:
    """What the test above would not see with halves that are too much alike."""
    batch = global_batch()
    whole = train_step(make_model(), CrossEntropyLoss(), batch, DistributedContext())
    halves = [
        train_step(
            make_model(), CrossEntropyLoss(), (batch[0][half], batch[1][half]), DistributedContext()
        )
        for half in (slice(4), slice(4, 8))
    ]
    assert abs(sum(half["value"] for half in halves) / 2 - whole["value"]) > 1e-3


def test_parameters_are_frozen_and_unfrozen_by_a_new_wrapper(ranks: list[dict[str, Any]]) -> None:
    expected = freeze_and_unfreeze(DistributedContext())
    assert [gradient is None for gradient in expected[0]["gradients"]] == [True, True, False, False]
    for seen in ranks:
        torch.testing.assert_close(seen["frozen"], expected)


def test_synchronised_batch_norm_needs_cuda() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.sync_bn=true needs CUDA.*on cpu"):
        sync_batch_norm(make_model(), DistributedContext(size=2), CPU)


def test_synchronised_batch_norm_keeps_parameters_and_keys() -> None:
    from segkit.models.layers import ConvNormAct

    model = nn.Sequential(ConvNormAct(3, 4), ConvNormAct(4, 4)).eval()
    before, keys = list(model.parameters()), list(model.state_dict())
    synced = sync_batch_norm(model, DistributedContext(size=2), torch.device("cuda", 0))
    assert [id(p) for p in synced.parameters()] == [id(p) for p in before]
    assert list(synced.state_dict()) == keys
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in synced.modules()) == 2
    assert not any(m.training for m in synced.modules())


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device_for_each(2)
    with pytest.raises(ConfigError, match=r"started 4 processes .* 2 CUDA devices"):
        check_device_for_each(4)


@pytest.mark.skipif(sys.platform == "win32", reason="looks for processes by POSIX means")
def test_no_process_is_left(ranks: list[dict[str, Any]]) -> None:
    assert not torch.multiprocessing.active_children()
