"""Networks of timm as backbones: ten families from random start, and files of weights."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from segkit.errors import CheckpointError, ConfigError
from segkit.models import DeepLabV3Plus
from segkit.models.backbones import Timm
from segkit.models.layers import SafeConv2d
from segkit.runtime.distributed import DistributedContext, sync_batch_norm
from segkit.training.optimizer import param_groups

timm: Any = pytest.importorskip("timm", reason="needs pip install timm")

# One small network of each family, and the channels of its features at stride 4 and at last.
FAMILIES = {
    "test_resnet": (32, 96),
    "resnetv2_18": (64, 512),
    "regnetx_002": (24, 368),
    "test_efficientnet": (24, 64),
    "mobilenetv3_small_050": (8, 288),
    "convnext_atto": (40, 320),
    "test_nfnet": (32, 192),
    "test_byobnet": (32, 256),
    "cs3darknet_focus_s": (64, 512),
    "mobilevitv2_050": (64, 256),
    "skresnet18": (64, 512),
    "rexnetr_100": (40, 184),
}
# What cuts the image into patches, or folds its features, gets one enlarged to a multiple of this.
MULTIPLES = {"convnext_atto": 1, "cs3darknet_focus_s": 1, "mobilevitv2_050": 32}
CLASSIFIER = "test_resnet"  # of 0.5 million parameters


def enlarged(name: str, side: int, output_stride: int) -> int:
    if name not in MULTIPLES:
        return side
    multiple = max(MULTIPLES[name], output_stride)
    return -(-side // multiple) * multiple


@pytest.fixture(scope="module")
def whole() -> nn.Module:
    """A classifier of timm."""
    torch.manual_seed(1)
    network: nn.Module = timm.create_model(CLASSIFIER)
    return network.eval()


# --- families --------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", FAMILIES)
def test_channels_and_strides_tell_the_truth(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        backbone = Timm(name, output_stride=output_stride).eval()
        features = backbone(torch.zeros(2, 3, 65, 95))
    height, width = (enlarged(name, side, output_stride) for side in (65, 95))
    expected = [
        (2, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(FAMILIES[name], (4, output_stride), strict=True)
    ]
    assert [tuple(f.shape) for f in features] == expected
    assert backbone.channels == FAMILIES[name]
    assert backbone.strides == (4, output_stride)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_learns_but_the_frozen_ones(name: str) -> None:
    torch.manual_seed(0)
    settings: Any = {"aspp_channels": 16, "decoder_channels": 16, "low_level_channels": 8}
    backbone = Timm(name)
    model = DeepLabV3Plus(backbone, 3, freeze_backbone="low_level", **settings).train()
    low_level = {id(p) for part in backbone.low_level_parts() for p in part.parameters()}
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    # A batch of one whose features are a single cell: no variance for BatchNorm
    logits = model(torch.randn(1, 3, 9, 11))
    assert logits.shape == (1, 3, 9, 11)
    logits = model(torch.randn(2, 3, 33, 47))
    logits.square().mean().backward()
    for key, p in backbone.named_parameters():
        frozen = id(p) in low_level
        assert p.requires_grad != frozen, key
        # DistributedDataParallel stops at a parameter without a gradient
        assert (p.grad is None) == frozen, key
    own = [id(p) for p in backbone.parameters()]
    assert 0 < len(low_level) < len(own)
    # What is frozen keeps its statistics too; the rest does not
    after = backbone.state_dict()
    kept = [
        f"net.{part}.{key}"
        for part in backbone.low_level_names
        for key in backbone.net.get_submodule(part).state_dict()
    ]
    assert all(torch.equal(after[key], before[key]) for key in kept)
    moved = [key for key in after.keys() - set(kept) if key.endswith("running_mean")]
    assert all(not torch.equal(after[key], before[key]) for key in moved)
    model.set_frozen_backbone(True)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.net.training
    model.set_frozen_backbone(False)
    groups = param_groups(model, 0.1, decay_norm_and_bias=False, lr=0.01)
    of_backbone = [g for g in groups if g["lr"] == pytest.approx(0.001)]
    assert {id(p) for g in of_backbone for p in g["params"]} == set(own)  # type: ignore[attr-defined]


def test_low_level_features_need_their_parts_only() -> None:
    """The features at stride 4 stay when everything but their parts changes."""
    for name in ("test_resnet", "test_efficientnet", "convnext_atto", "xception41"):
        with torch.no_grad():
            backbone = Timm(name).eval()
            image = torch.randn(1, 3, 32, 32)
            before = backbone(image)
            parts = {id(p) for part in backbone.low_level_parts() for p in part.parameters()}
            for p in backbone.parameters():
                if id(p) not in parts:
                    p.add_(1.0)
            after = backbone(image)
        assert_close(after[0], before[0], rtol=0, atol=0)
        assert not torch.equal(after[1], before[1])


@torch.no_grad()
def test_features_are_those_of_the_classifier(whole: nn.Module, tmp_path: Path) -> None:
    """At every second pixel those of the classifier, which is not dilated."""
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = Timm(CLASSIFIER, str(tmp_path / "whole.pth")).eval().double()
    image = torch.randn(1, 3, 64, 96).double()
    expected = whole.double().forward_features(image)  # type: ignore[operator]
    whole.float()
    assert_close(backbone(image)[1][:, :, ::2, ::2], expected)


@torch.no_grad()
def test_an_enlarged_image_is_seen_to_its_edge() -> None:
    """Of 47 columns the last 15 would be cut off by the patches of ConvNeXt at stride 16."""
    torch.manual_seed(0)
    backbone = Timm("convnext_atto").eval()
    image = torch.randn(1, 3, 32, 47)
    other = image.clone()
    other[..., -1] += 5.0
    assert not torch.equal(backbone(image)[0][..., -1], backbone(other)[0][..., -1])
    # Where nothing is left over the image is as it was
    image = torch.randn(1, 3, 32, 48)
    assert_close(backbone(image)[0], backbone.net(image)[0], rtol=0, atol=0)


def test_layers_are_the_safe_ones() -> None:
    with torch.device("meta"):
        backbone = Timm("mobilenetv3_small_050")
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    dilated = [conv for conv in convolutions if conv.groups > 1 and conv.dilation != (1, 1)]
    assert dilated
    assert all(isinstance(conv, SafeConv2d) for conv in dilated)


@torch.no_grad()
def test_synchronised_batch_norm_keeps_the_activations() -> None:
    torch.manual_seed(0)
    model = DeepLabV3Plus(Timm("test_efficientnet"), 2, aspp_channels=8, decoder_channels=8).eval()
    image = torch.randn(1, 3, 32, 32)
    expected = model(image)
    keys = list(model.state_dict())
    synced = sync_batch_norm(model, DistributedContext(size=2), torch.device("cuda"))
    norms = [m for m in synced.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert list(synced.state_dict()) == keys
    assert_close(synced.eval()(image), expected, rtol=0, atol=0)
    assert len(synced.backbone.low_level_parts()) == 4  # type: ignore[union-attr,operator]


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnxt_tiny", r"has no network called 'convnxt_tiny'; did you mean convnext_tiny, "),
        ("resnet50.a5_in1k", r"no weights of resnet50 called .*; did you mean resnet50\.\w+, "),
        ("hf-hub:timm/resnet18", r"has no network called 'hf-hub:timm/resnet18'"),
        (
            "vit_tiny_patch16_224",
            r"cannot give it output_stride=16.* are 16(, 16)+, expected 4 and",
        ),
        ("swin_tiny_patch4_window7_224", r"strides of its features are 4, 8, 16, 32, expected"),
        ("dla34", r"strides of its features are 1, 2, 4, 8, 16, 32, expected .*: convnext_tiny, "),
        ("botnet26t_256", r"images of certain sizes only.* of 33 x 49 gave an error; networks"),
    ],
)
def test_names_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error, torch.device("meta"):
        Timm(name)
    assert "\n" not in str(error.value)


def test_networks_that_are_advised_can_be() -> None:
    with pytest.raises(ValueError, match="networks that can: ") as error, torch.device("meta"):
        Timm("dla34")
    for name in str(error.value).partition("networks that can: ")[2].split(", "):
        with torch.device("meta"):
            assert Timm(name).strides == (4, 16)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="output_stride must be 8 or 16, got 32"):
        Timm(CLASSIFIER, output_stride=32)
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        Timm(CLASSIFIER, in_channels=0)


def test_without_timm_or_with_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "__version__", "1.0.9")
    with pytest.raises(
        ConfigError, match=r"timm 1\.0\.30 or .* 1\.0\.9 is .*: pip install -U timm$"
    ):
        Timm(CLASSIFIER)
    monkeypatch.setattr("segkit.models.backbones.timm.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs timm, which is not installed: pip install timm$"):
        Timm(CLASSIFIER)


# --- weights ---------------------------------------------------------------------------------


def test_files_of_timm(tmp_path: Path) -> None:
    """A classifier with another head, wrapped or not, and a feature extractor of timm."""
    from safetensors.torch import save_file

    network = timm.create_model("test_convnext")
    state = network.state_dict()
    other_head = {
        k: torch.zeros(7, *v.shape[1:]) if k.startswith("head.fc") else v for k, v in state.items()
    }
    alone = timm.create_model("test_convnext", features_only=True)
    alone.load_state_dict({k: _of(state, k) for k in alone.state_dict()})
    contents: dict[str, dict[str, Any]] = {
        "whole": state,
        "head": other_head,
        "wrapped": {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        "headless": timm.create_model("test_convnext", num_classes=0).state_dict()
        | {k: v for k, v in state.items() if not k.startswith("head")},
        "alone": alone.state_dict(),
    }
    for what, content in contents.items():
        torch.save(content, tmp_path / f"{what}.pth")
    save_file(state, tmp_path / "hub.safetensors")
    for what in sorted(tmp_path.iterdir()):
        backbone = Timm("test_convnext", str(what))
        for key, value in backbone.net.state_dict().items():
            assert torch.equal(value, _of(state, key)), (what.name, key)


def _of(state: dict[str, Tensor], key: str) -> Tensor:
    """The tensor of a classifier that a feature extractor calls ``key``."""
    return state[re.sub(r"^(stem|stages)_", r"\1.", key)]


def test_a_damaged_file_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}garbage")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: not readable as tensors \(Safe"):
        Timm(CLASSIFIER, str(tmp_path / "a.safetensors"))


def test_file_of_another_network(whole: nn.Module, tmp_path: Path) -> None:
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    with pytest.raises(
        CheckpointError, match=r"whole\.pth: not the weights of test_convnext: \d+ tensors do not"
    ):
        Timm("test_convnext", str(tmp_path / "whole.pth"))


@torch.no_grad()
@pytest.mark.parametrize("in_channels", [1, 6])
def test_grey_images_keep_their_response(
    in_channels: int, whole: nn.Module, tmp_path: Path
) -> None:
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    colour = Timm(CLASSIFIER, str(tmp_path / "whole.pth")).eval()
    other = Timm(CLASSIFIER, str(tmp_path / "whole.pth"), in_channels=in_channels).eval()
    grey = torch.randn(1, 1, 32, 32)
    expected = colour(grey.expand(-1, 3, -1, -1))
    assert_close(other(grey.expand(-1, in_channels, -1, -1)), expected, rtol=1e-4, atol=1e-5)


def test_imagenet_asks_timm(whole: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def fake(name: str, pretrained: bool = False, **settings: Any) -> Any:
        if pretrained:
            asked.append(name)
            torch.rand(5)  # as the random start of another network does
            return whole
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", fake)
    torch.manual_seed(0)
    backbone = Timm(CLASSIFIER, "imagenet")
    drawn = torch.rand(1)
    assert asked == [CLASSIFIER]
    assert torch.equal(
        backbone.net.state_dict()["conv1.0.weight"], whole.state_dict()["conv1.0.weight"]
    )
    torch.manual_seed(0)
    Timm(CLASSIFIER)
    assert torch.equal(torch.rand(1), drawn)  # the rest of the model starts the same


def test_failing_download(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def fake(name: str, pretrained: bool = False, **settings: Any) -> Any:
        if pretrained:
            raise LookupError("Cannot reach the hub.\nA long story follows")
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", fake)
    expected = (
        r"the ImageNet weights of test_resnet could not be downloaded \(Cannot reach the hub\)\. "
        r"Without network: .*weights=null .*weights=PATH takes timm's file from disk\.$"
    )
    with pytest.raises(CheckpointError, match=expected) as error:
        Timm(CLASSIFIER, "imagenet")
    assert "\n" not in str(error.value)


def test_a_network_without_weights() -> None:
    expected = r"no weights of resnetblur18; .*weights=null .*; with weights there are resnet"
    with pytest.raises(CheckpointError, match=expected):
        Timm("resnetblur18", "imagenet")


def test_made_without_gradients() -> None:
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert Timm(CLASSIFIER).low_level_names == ["conv1", "bn1", "layer1"]
