"""Weights of other people's DeepLab: all that has a place lands there and computes the same."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edits import Payload
from foreign_models import Bubbliiiing, BubbliiiingMobileNet, Mmseg, Vainf, on_meta, randomize
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.models import segmentation

from segkit.errors import CheckpointError
from segkit.models import DeepLabV3Plus
from segkit.models.backbones import BACKBONES
from segkit.models.foreign import Translation, plain_weights, translate
from segkit.models.weights import match_tensors
from segkit.training.warm_start import read_start


def translated(weights: dict[str, Any]) -> Translation:
    found = translate(plain_weights(weights))
    assert found is not None
    return found


def loaded(theirs: nn.Module, name: str, **settings: Any) -> DeepLabV3Plus:
    """Our network with their tensors; what they lack has no values at all."""
    with torch.device("meta"):
        model = ours(name, **settings)
    found = translated(theirs.state_dict())
    fits = set(match_tensors(model, found.tensors).taken)
    tensors = {name: tensor for name, tensor in found.tensors.items() if name in fits}
    model.load_state_dict(tensors, strict=False, assign=True)
    return model.eval()


def missing(model: nn.Module, weights: dict[str, Any]) -> set[str]:
    """Where the model gets nothing, or the translation goes nowhere: the layers' names."""
    report = match_tensors(model, translated(weights).tensors)
    return {text.split()[0].rpartition(".")[0] for text in report.skipped}


def ours(name: str, *, separable: bool = False, **settings: Any) -> DeepLabV3Plus:
    torch.manual_seed(1)
    return DeepLabV3Plus(name, 4, separable=separable, **settings)


# --- every tensor has its place ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "backbone"),
    [
        ("deeplabv3_resnet50", "resnet50"),
        ("deeplabv3_resnet101", "resnet101"),
        ("deeplabv3_mobilenet_v3_large", "mobilenet_v3_large"),
    ],
)
def test_torchvision_fills_backbone_and_aspp(theirs: str, backbone: str) -> None:
    make = getattr(segmentation, theirs)
    weights = on_meta(lambda: make(weights=None, weights_backbone=None, aux_loss=True))
    with torch.device("meta"):
        model = ours(backbone)
    parts = {name.partition(".")[0] for name in missing(model, weights)}
    assert parts == {"decoder", "classifier"}
    unplaced = {key.partition(".")[0] for key in translated(weights).unplaced}
    assert unplaced == {"classifier", "aux_classifier"}


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "mobilenet_v2"])
def test_vainf_fills_everything(name: str) -> None:
    with torch.device("meta"):
        model = ours(name)
    weights = on_meta(lambda: Vainf(name, 4))
    assert missing(model, weights) == set()
    assert translated(weights).unplaced == {}


@pytest.mark.parametrize("name", ["mobilenet_v2", "xception"])
def test_bubbliiiing_fills_everything(name: str) -> None:
    with torch.device("meta"):
        model = ours(name)
    sizes = {"mobilenet_v2": (24, 320), "xception": (256, 2048)}[name]
    backbone = BubbliiiingMobileNet if name == "mobilenet_v2" else BACKBONES["xception"]
    weights = on_meta(lambda: Bubbliiiing(backbone(), *sizes, 4))
    assert missing(model, weights) == set()
    assert translated(weights).unplaced == {}


@pytest.mark.quick("resnet50")
@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_mmsegmentation_fills_all_but_the_stem_and_the_projection(name: str) -> None:
    with torch.device("meta"):
        model = ours(name, separable=True, aspp_channels=512, decoder_channels=512)
    weights = on_meta(lambda: Mmseg(name, 4))
    stem = {f"backbone.stem.{i}" for i in (0, 1, 3, 4, 6, 7)}
    first = {"backbone.conv1", "backbone.bn1"}
    assert missing(model, weights) == stem | first | {"aspp.project.0"}
    unplaced = translated(weights).unplaced
    assert {key.partition(".")[0] for key in unplaced} == {"auxiliary_head"}


# --- and computes what it did --------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_torchvision_computes_the_same_features() -> None:
    torch.manual_seed(0)
    theirs = randomize(segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None))
    model = loaded(theirs, "resnet50", output_stride=8)
    image = torch.randn(1, 3, 41, 57)
    features = theirs.backbone(image)["out"]
    assert_close(model.backbone(image)[1], features)
    assert_close(model.aspp(features), theirs.classifier[0](features), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_vainf_computes_the_same_logits() -> None:
    torch.manual_seed(0)
    theirs = randomize(Vainf("resnet50", 4))
    model = loaded(theirs, "resnet50", output_stride=16)
    image = torch.randn(1, 3, 41, 57)
    assert_close(model(image), theirs(image), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_bubbliiiing_computes_the_same() -> None:
    torch.manual_seed(0)
    theirs = randomize(Bubbliiiing(BubbliiiingMobileNet(), 24, 320, 4))
    model = loaded(theirs, "mobilenet_v2")
    image = torch.randn(1, 3, 64, 96)
    low_level, fine = model.backbone(image)
    assert_close(low_level, theirs.backbone.features[:4](image), rtol=1e-4, atol=1e-4)
    # rebuilt without dilation: stride 32 against 16
    coarse = theirs.backbone.features(image)
    assert_close(fine[:, :, ::2, ::2], coarse, rtol=1e-4, atol=1e-4)
    low_level, features = torch.randn(1, 24, 20, 21), torch.randn(1, 320, 20, 21)
    logits = model.classifier(model.decoder(model.aspp(features), low_level))
    assert_close(logits, theirs.head(low_level, features), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_mmsegmentation_computes_the_same_but_for_the_two_layers() -> None:
    torch.manual_seed(0)
    theirs = randomize(Mmseg("resnet50", 4))
    wide = {"aspp_channels": 512, "decoder_channels": 512, "separable": True}
    model = loaded(theirs, "resnet50", output_stride=8, **wide)
    project = translated(theirs.state_dict()).tensors["aspp.project.0.weight"]

    stem = torch.randn(1, 64, 12, 15)
    low_level = theirs.backbone.layer1(stem)
    assert_close(model.backbone.layer1(stem), low_level)
    features = theirs.backbone.layer4(theirs.backbone.layer3(theirs.backbone.layer2(low_level)))
    body = nn.Sequential(model.backbone.layer2, model.backbone.layer3, model.backbone.layer4)
    assert_close(body(low_level), features)
    # Our order of the views, and their 3x3 projection in the place of our 1x1 one.
    pooled = model.aspp.pooled(features.mean((2, 3), keepdim=True)).expand(-1, -1, 6, 8)
    views = torch.cat([*(branch(features) for branch in model.aspp.branches), pooled], 1)
    out = F.relu(model.aspp.project[1](F.conv2d(views, project, padding=1)))
    logits = model.classifier(model.decoder(out, low_level))
    assert_close(logits, theirs.decode_head(low_level, features), rtol=1e-4, atol=1e-4)


def test_epsilons_are_those_of_the_sources() -> None:
    """torchvision's MobileNetV3 has 1e-3, all the others PyTorch's 1e-5: so have ours."""
    for name in ("resnet50", "mobilenet_v2", "xception", "mobilenet_v3_large"):
        with torch.device("meta"):
            model = ours(name)
        for part in (model.backbone, model.aspp, model.decoder):
            special = name == "mobilenet_v3_large" and part is model.backbone
            found = {m.eps for m in part.modules() if isinstance(m, nn.BatchNorm2d)}
            assert found == {1e-3 if special else 1e-5}


# --- the files and the report --------------------------------------------------------------------


def saved(content: dict[str, Any], path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def vainf() -> dict[str, Any]:
    return Vainf("mobilenet_v2", 21).state_dict()


def test_a_whole_checkpoint_of_vainf(vainf: dict[str, Any], tmp_path: Path) -> None:
    content = {
        "cur_itrs": 30000,
        "model_state": {f"module.{name}": tensor for name, tensor in vainf.items()},
        "optimizer_state": {"state": {}, "param_groups": [{"lr": np.float64(0.1)}]},
        "best_score": np.float64(0.71),
    }
    model = ours("mobilenet_v2")
    report = read_start(saved(content, tmp_path / "best.pth")).into(model)
    total = len(model.state_dict())
    assert str(report) == (
        f"read as weights of VainF/DeepLabV3Plus-Pytorch: took {total - 2} of {total} tensors; "
        "skipped: classifier.weight is 21x256x1x1 in the file, 4x256x1x1 in the model; "
        "classifier.bias is 21 in the file, 4 in the model\n"
        "  decoder.fuse.1 starts as the identity: theirs has a single 3x3 convolution there\n"
        "  trained with model.separable=false, ImageNet's mean and std, and BatchNorm momentum "
        "0.01 in the backbone; their MobileNetV2 pads before the expansion, so results differ at "
        "the image's border"
    )
    found = model.state_dict()["backbone.features.17.conv.3.running_var"]
    assert_close(found, vainf["backbone.high_level_features.17.conv.3.running_var"])


def test_only_some_parts(vainf: dict[str, Any], tmp_path: Path) -> None:
    model = ours("mobilenet_v2")
    report = read_start(saved(vainf, tmp_path / "a.pth"), parts=["aspp"]).into(model)
    assert {name.partition(".")[0] for name in report.taken} == {"aspp"}


@pytest.mark.slow
def test_what_has_no_place_is_told_in_groups(tmp_path: Path) -> None:
    theirs = segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, aux_loss=True
    )
    path = saved({"model": theirs.state_dict()}, tmp_path / "a.pth")
    report = str(read_start(path).into(ours("mobilenet_v3_large")))
    total = len(theirs.state_dict())
    assert (
        f"16 of the file's {total} tensors have no place here: classifier.* (DeepLabV3 has no "
        "decoder: its head is another); aux_classifier.* (the head of the auxiliary loss)"
    ) in report
    assert "model.atrous_rates=[12,24,36]" in report


def test_the_other_xception_is_not_taken_in_part() -> None:
    weights = {
        "classifier.aspp.convs.0.0.weight": torch.zeros(256, 2048, 1, 1),
        "backbone.conv1.weight": torch.zeros(32, 3, 3, 3),  # fits, as do its three shortcuts
        "backbone.block1.skip.weight": torch.zeros(128, 64, 1, 1),
        "backbone.block1.rep.0.conv1.weight": torch.zeros(64, 1, 3, 3),
    }
    with torch.device("meta"):
        model = ours("xception")
    assert match_tensors(model, translated(weights).tensors).taken == ["aspp.branches.0.0.weight"]
    reasons = set(translated(weights).unplaced.values())
    assert reasons == {"the Xception of 2017, ours is the aligned one of DeepLabV3+"}


def test_biases_go_into_the_running_means() -> None:
    found = translated(on_meta(lambda: Bubbliiiing(BubbliiiingMobileNet(), 24, 320, 4)))
    # 5 branches and the projection, the shortcut, two convolutions
    assert found.notes[0] == "9 biases before a BatchNorm went into its running mean"


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    path = saved({"encoder.conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "smp.pth")
    with pytest.raises(CheckpointError) as error:
        read_start(path).into(ours("tiny"))
    assert "smp.pth: none of the 1 entries of the file fits" in str(error.value)
    assert (
        "Layouts that are known: segkit's own, torchvision's deeplabv3, "
        "VainF/DeepLabV3Plus-Pytorch, bubbliiiing/deeplabv3-plus-pytorch, mmsegmentation; "
        "weights of a backbone alone go to model.backbone.weights"
    ) in str(error.value)


def test_weights_of_another_backbone_are_named(vainf: dict[str, Any], tmp_path: Path) -> None:
    report = read_start(saved(vainf, tmp_path / "a.pth")).into(ours("tiny"))
    assert "backbone.stem.0.0.weight is not in the file" in str(report)


def test_code_beside_the_numbers_is_refused(vainf: dict[str, Any], tmp_path: Path) -> None:
    made = tmp_path / "made"
    path = saved({"model_state": vainf, "best_score": Payload(made)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="refused, because it holds code"):
        read_start(path).into(ours("mobilenet_v2"))
    assert not made.exists()
    path = saved({"x": np.array([{}], dtype=object)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="refused, because it holds code"):
        read_start(path).into(ours("mobilenet_v2"))


def test_numpy_is_refused_elsewhere() -> None:
    file = io.BytesIO()
    torch.save({"score": np.float64(1)}, file)
    file.seek(0)
    with pytest.raises(Exception, match="multiarray"):
        torch.load(file, weights_only=True)
