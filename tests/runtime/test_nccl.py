"""NCCL with the one process that one device allows: sums, and what wraps the network."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close

from segkit.losses import CrossEntropyLoss
from segkit.models import DeepLabV3Plus
from segkit.runtime.distributed import DistributedContext, sync_batch_norm, wrap

pytestmark = pytest.mark.gpu


@pytest.fixture
def world() -> Iterator[DistributedContext]:
    """A group of this process, which believes in a second one: a world of one leaves all out."""
    backends = "cpu:gloo,cuda:nccl"  # as connect() does it
    dist.init_process_group(backends, store=dist.HashStore(), rank=0, world_size=1)
    yield DistributedContext(rank=0, size=2)
    dist.destroy_process_group()


def test_values_travel(world: DistributedContext) -> None:
    tensor = torch.arange(3, device="cuda")
    assert torch.equal(world.all_reduce_sum(tensor), tensor)
    assert world.any_rank(True, False) == (True, False)
    assert world.broadcast_from_main(lambda: "made") == "made"


def test_the_wrapped_network_has_the_gradients_of_the_plain_one(world: DistributedContext) -> None:
    device = torch.device("cuda", 0)
    torch.manual_seed(0)
    plain = DeepLabV3Plus("tiny", 3, dropout=0.0).to(device, torch.float64)
    wrapped = wrap(sync_batch_norm(copy.deepcopy(plain), world, device), world, device)
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in wrapped.modules())
    image = torch.randn(4, 3, 64, 64, dtype=torch.float64, device=device)
    target = (image[:, 0] > 0).long()
    for network in (plain, wrapped):
        CrossEntropyLoss()(network(image), target).backward()
    for mine, theirs in zip(wrapped.parameters(), plain.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad)
