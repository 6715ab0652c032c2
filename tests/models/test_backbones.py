"""Backbones: they tell the truth about themselves, and dilation changes nothing but the grid."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision import models
from torchvision.ops.misc import SqueezeExcitation

from segkit.errors import ConfigError
from segkit.models.backbones import BACKBONES, MobileNet, ResNet, Tiny
from segkit.models.backbones.surgery import dilate
from segkit.models.layers import SafeConv2d

CUT_OFF = {
    "resnet": ("fc.",),
    "mobilenet_v2": ("classifier.", "features.18."),
    "mobilenet_v3": ("classifier.",),
}


def cut_off(name: str) -> tuple[str, ...]:
    return next(keys for start, keys in CUT_OFF.items() if name.startswith(start))


def make(name: str, **settings: int) -> nn.Module:
    """A float64 backbone with the same random weights at every output stride."""
    torch.manual_seed(0)
    return BACKBONES[name](**settings).double().eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 65, 96, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.quick(
    "resnet18-", "resnet50-16", "mobilenet_v3_large-16", "tiny-8", "xception-16", "mobilenet_v2-8"
)
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", BACKBONES)
def test_channels_and_strides_tell_the_truth(name: str, output_stride: int) -> None:
    with torch.device("meta"):  # shapes only; also shows that a dry check costs no memory
        backbone = BACKBONES[name](output_stride=output_stride).eval()
        features = backbone(torch.zeros(2, 3, 65, 96))
    expected = [
        # strides round up: 65 rows are 17 at stride 4
        (2, channels, -(-65 // stride), -(-96 // stride))
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert [tuple(f.shape) for f in features] == expected
    assert backbone.strides == (4, output_stride)


@pytest.mark.quick("tiny", "mobilenet_v2")
@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v2"])
def test_every_second_pixel_at_output_stride_8_is_that_of_16(name: str, image: Tensor) -> None:
    low8, fine = make(name, output_stride=8)(image)
    low16, coarse = make(name, output_stride=16)(image)
    assert_close(low8, low16)
    assert_close(fine[:, :, ::2, ::2], coarse)


@torch.no_grad()
def test_mobilenet_v3_without_its_image_means_too(
    image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Squeeze-and-excitation takes means over the grid, which a finer grid does change.
    monkeypatch.setattr(SqueezeExcitation, "forward", lambda self, input: input)
    fine = make("mobilenet_v3_large", output_stride=8)(image)[1]
    coarse = make("mobilenet_v3_large", output_stride=16)(image)[1]
    assert_close(fine[:, :, ::2, ::2], coarse)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_every_second_pixel_is_that_of_the_classifier(name: str, image: Tensor) -> None:
    backbone = make(name, output_stride=16)
    classifier = models.get_model(name, weights=None).double().eval()
    classifier.load_state_dict(backbone.state_dict(), strict=False)
    if name == "resnet18":
        body = nn.Sequential(*list(classifier.children())[:-2])
    else:
        body = classifier.features[:18]
    assert_close(backbone(image)[1][:, :, ::2, ::2], body(image))  # the classifier's stride is 32


@pytest.mark.slow
@torch.no_grad()
def test_resnet50_equals_torchvision_dilated(image: Tensor) -> None:
    backbone = make("resnet50", output_stride=8)
    reference = models.resnet50(replace_stride_with_dilation=[False, True, True]).double().eval()
    reference.load_state_dict(backbone.state_dict(), strict=False)
    assert_close(backbone(image)[1], nn.Sequential(*list(reference.children())[:-2])(image))


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("tiny", "xception")])
def test_state_dict_keys_are_those_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        ours = BACKBONES[name](output_stride=8).state_dict()
        theirs = models.get_model(name, weights=None).state_dict()
    kept = {key: t.shape for key, t in theirs.items() if not key.startswith(cut_off(name))}
    assert {key: t.shape for key, t in ours.items()} == kept


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large"])
def test_dilated_depthwise_layers_are_the_safe_ones(name: str) -> None:
    with torch.device("meta"):
        backbone = BACKBONES[name](output_stride=16)
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    dilated = [conv for conv in convolutions if conv.dilation != (1, 1)]
    assert dilated
    assert all(isinstance(conv, SafeConv2d) for conv in dilated)


@torch.no_grad()
@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v2"])
def test_other_input_channels(name: str, in_channels: int) -> None:
    low_level, _ = BACKBONES[name](in_channels=in_channels)(torch.randn(2, in_channels, 33, 47))
    assert low_level.shape[2:] == (9, 12)


@torch.no_grad()
def test_one_pixel_batch_of_one_in_train_mode() -> None:
    for name in ("tiny", "resnet18", "mobilenet_v2"):
        features = BACKBONES[name]().train()(torch.randn(1, 3, 1, 1))
        assert all(f.shape[2:] == (1, 1) and f.isfinite().all() for f in features)


def test_tiny_is_small_and_has_no_batch_norm_with_gn() -> None:
    assert sum(p.numel() for p in Tiny().parameters()) < 400_000
    assert not any(isinstance(m, nn.BatchNorm2d) for m in Tiny(norm="gn").modules())


@pytest.mark.slow
def test_tiny_does_without_torchvision() -> None:
    code = (
        "import sys, segkit.models; segkit.models.DeepLabV3Plus('tiny', 2); "
        "assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="resnet18, resnet34, resnet50, resnet101, got 'resnet7'"):
        ResNet("resnet7")
    with pytest.raises(ValueError, match="mobilenet_v2, mobilenet_v3_large, got 'mobilenet'"):
        MobileNet("mobilenet")
    with pytest.raises(ValueError, match="output_stride must be 8 or 16, got 32"):
        dilate([], stride=4, output_stride=32)
    for name in ("tiny", "resnet18", "mobilenet_v2"):
        with pytest.raises(ValueError, match="in_channels must be at least 1, got"):
            BACKBONES[name](in_channels=0)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_a_torchvision_of_another_build_is_told_with_the_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision.py").write_text(fails, encoding="utf-8")
    for loaded in ("torchvision", "torchvision.models"):
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"^torchvision cannot be imported with torch \S+ \(operator torchvision::nms does "
        r"not exist\): .*: python -m pip install --force-reinstall torch torchvision; ",
    ):
        BACKBONES[name]()
