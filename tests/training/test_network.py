"""The weights that a run starts from: what is read, and what need not be."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from composed import config
from omegaconf import DictConfig
from torch import nn

from segkit.config.schema import TrainConfig, to_settings
from segkit.errors import CheckpointError, ConfigError
from segkit.runtime.context import Runtime
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.signals import StopSignals
from segkit.training.network import build_model

NET = ("model/backbone=resnet18", "model.aspp_channels=8", "model.decoder_channels=8")


def built(*arguments: str) -> nn.Module:
    cfg = config("train", *NET, "data.num_classes=3", *arguments)
    assert isinstance(cfg, DictConfig), cfg
    runtime = Runtime(DistributedContext(), StopSignals(), ExitStack())
    runtime.compute_on("cpu", "fp32")
    torch.manual_seed(4)
    return build_model(to_settings(TrainConfig, cfg), None, runtime)[0]


def test_a_model_that_cannot_freeze_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was called all the same, when the run had begun."""
    monkeypatch.setattr("segkit.training.network.build", lambda node, slot: nn.Conv2d(3, 3, 1))
    start = "model.backbone.weights=null"
    assert isinstance(built(start), nn.Conv2d)
    with pytest.raises(ConfigError, match=r"freeze_epochs=2: Conv2d has no method set_frozen_back"):
        built(start, "trainer.freeze_epochs=2")


def test_a_backbone_that_init_from_has_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(url: str, **settings: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", asked)
    before = built("model.backbone.weights=null").state_dict()
    file = tmp_path / "before.pt"
    own = {name: weight for name, weight in before.items() if not name.startswith("decoder.")}
    assert len(own) < len(before)
    torch.save(own, file)

    again = ("model.backbone.weights=imagenet", f"init_from={file}")
    after = built(*again).state_dict()
    for name, weight in before.items():  # the decoder has the same random numbers as without
        assert torch.equal(after[name], weight), name

    # Of other parts, and in a file of another network, it is not all there.
    for less in ("init_parts=[aspp]", "model/backbone=resnet34"):
        with pytest.raises(CheckpointError, match="no route to host"):
            built(*again, less)
