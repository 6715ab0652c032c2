"""An outline has the names and shapes of the network, and takes nothing to make."""

import torch

from segkit.models import DeepLabV3Plus
from segkit.models.backbones import BACKBONES
from segkit.models.outline import outlined


def test_an_outline_is_the_network_without_its_values() -> None:
    before = torch.get_rng_state()
    with outlined():
        outline = DeepLabV3Plus(BACKBONES["tiny"](), 3)
        kept = torch.ones(2, device="cpu").fill_(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert kept.tolist() == [3, 3]
    network = DeepLabV3Plus(BACKBONES["tiny"](), 3).state_dict()
    assert {k: v.shape for k, v in outline.state_dict().items()} == {
        k: v.shape for k, v in network.items()
    }
    assert all(tensor.is_meta for tensor in outline.state_dict().values())
