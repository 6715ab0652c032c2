"""DeepLabV3+ and its parts: sizes, counts by hand, freezing, precision."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from segkit.models import DeepLabV3Plus
from segkit.models.aspp import ASPP
from segkit.models.backbones import MobileNet, Tiny
from segkit.models.decoder import Decoder
from segkit.models.layers import (
    BatchNorm,
    ConvNormAct,
    SafeConv2d,
    StridedPointwise,
    make_norm,
    upsample,
)


def small(backbone: Any = "tiny", num_classes: int = 3, **settings: Any) -> DeepLabV3Plus:
    torch.manual_seed(0)
    narrow = {"aspp_channels": 32, "decoder_channels": 32, "low_level_channels": 16}
    return DeepLabV3Plus(backbone, num_classes, **{**narrow, **settings})


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- sizes -----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 47), (65, 97), (500, 375)])
def test_logits_have_the_size_of_the_image(
    size: tuple[int, int], train: bool, separable: bool
) -> None:
    logits = small(separable=separable).train(train)(torch.randn(1, 3, *size))
    assert logits.shape == (1, 3, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_large"])
def test_batch_of_one_trains(name: str) -> None:
    model = small(name)
    model(torch.randn(1, 3, 33, 47)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_single_class_and_other_channels() -> None:
    assert small(num_classes=1, in_channels=4)(torch.randn(2, 4, 32, 32)).shape == (2, 1, 32, 32)


@torch.no_grad()
def test_eval_treats_every_image_of_a_batch_alone() -> None:
    model = small().double().eval()
    images = torch.randn(3, 3, 40, 56).double()
    assert_close(model(images), torch.cat([model(image[None]) for image in images]))


def test_logits_are_float32_and_the_decoder_resizes_in_the_networks_precision() -> None:
    model, image, seen = small(), torch.randn(2, 3, 33, 40), []
    model.decoder.fuse.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(image)
    assert logits.dtype == torch.float32 and seen == [torch.bfloat16]
    assert small().double()(image.double()).dtype == torch.float64


def test_a_second_classifier_is_of_training_alone() -> None:
    plain, model = small().eval(), small(aux_weight=0.4).eval()
    image = torch.randn(2, 3, 33, 40)
    assert_close(model(image), plain(image))  # the same weights, and nothing else is computed
    logits, second = model(image, aux=True)
    assert_close(logits, plain(image))
    assert second.shape == logits.shape and second.dtype == torch.float32
    assert not torch.equal(second, logits)
    low, second_low = model(image, resize=False, aux=True)
    assert low.shape[2:] == (9, 10) and second_low.shape[2:] == (3, 3)
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"backbone", "aspp", "decoder", "classifier", "aux"}
    with pytest.raises(ValueError, match="aux_weight must be a number of at least 0, got -1"):
        small(aux_weight=-1)


@torch.no_grad()
def test_an_input_scale_enlarges_what_the_network_works_on() -> None:
    plain, model = small().double().eval(), small(input_scale=1.5).double().eval()
    image = torch.randn(2, 3, 33, 40).double()
    enlarged = F.interpolate(image, (50, 60), mode="bilinear", align_corners=False)
    low = plain(enlarged, resize=False)
    assert low.shape[2:] == (13, 15)
    assert_close(model(image, resize=False), low)
    wide = F.interpolate(low, (33, 40), mode="bilinear", align_corners=False)
    assert_close(model(image), wide)


@pytest.mark.parametrize("scale", [0.99, 0, -2, 17, float("nan")])
def test_other_input_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="input_scale must be a number from 1 to 16, got"):
        small(input_scale=scale)


def test_the_gradient_of_a_resize_lies_as_its_images_do() -> None:
    """Where it comes as a slice, as from a concatenation, which is slow to resize."""
    features = torch.randn(2, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    gradients, layouts = [], []
    for resize in (upsample, partial(F.interpolate, mode="bilinear", align_corners=False)):
        leaf = features.clone().requires_grad_()
        wide = resize(leaf, (10, 14))
        assert wide.grad_fn is not None
        wide.grad_fn.register_prehook(lambda grads: layouts.append(grads[0].stride()))
        beside = torch.zeros(2, 3, 10, 14).contiguous(memory_format=torch.channels_last)
        torch.cat([wide, beside], dim=1).square().sum().backward()
        gradients.append(leaf.grad)
    assert layouts == [(1120, 1, 112, 8), (1540, 1, 154, 11)]
    assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]
    assert not upsample(features, (10, 14)).requires_grad


@pytest.mark.gpu
def test_a_resize_in_bfloat16_has_the_bits_of_one_in_float32() -> None:
    """Once the next layer has rounded them; on the CPU some kernels round in between."""
    features = torch.randn(2, 8, 5, 7, device="cuda").bfloat16()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = upsample(features, (17, 30))
    wide = F.interpolate(features.float(), (17, 30), mode="bilinear", align_corners=False)
    assert found.dtype == torch.bfloat16 and torch.equal(found, wide.bfloat16())


@pytest.mark.slow
def test_exports_leave_the_second_classifier_out() -> None:
    graph = torch.export.export(small(aux_weight=0.4).eval(), (torch.randn(2, 3, 33, 40),))
    used = {str(node) for node in graph.graph.nodes if node.users}
    names = [spec.arg.name for spec in graph.graph_signature.input_specs]
    assert any("p_aux" in name for name in names)
    assert not any("p_aux" in name for name in names if name in used)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 4 / 3])
def test_exports_with_free_size(scale: float) -> None:
    height, width = torch.export.Dim("height", min=33), torch.export.Dim("width", min=33)
    model = small(input_scale=scale).eval()
    exported = torch.export.export(
        model, (torch.randn(2, 3, 64, 80),), dynamic_shapes={"image": {2: height, 3: width}}
    ).module()
    image = torch.randn(2, 3, 97, 65)
    assert_close(exported(image), model(image))


# --- counts by hand --------------------------------------------------------------------------


def test_aspp_counts() -> None:
    one, norm = 2048 * 256, 2 * 256
    expected = (one + norm) + 3 * (9 * one + norm) + (one + norm) + (5 * 256 * 256 + norm)
    assert count(ASPP(2048, (6, 12, 18))) == expected  # 15.5 million, as in the paper's model
    depthwise = 9 * 2048 + 2 * 2048
    expected = (one + norm) * 5 + 3 * depthwise + (5 * 256 * 256 + norm)
    assert count(ASPP(2048, (6, 12, 18), separable=True)) == expected


def test_decoder_counts() -> None:
    reduce = 256 * 48 + 2 * 48
    expected = reduce + (9 * 304 * 256 + 2 * 256) + (9 * 256 * 256 + 2 * 256)
    assert count(Decoder(256, 256)) == expected
    expected = reduce + (9 + 2) * 304 + 304 * 256 + 512 + (9 + 2) * 256 + 256 * 256 + 512
    assert count(Decoder(256, 256, separable=True)) == expected


def test_rates_follow_the_output_stride() -> None:
    def rates(model: DeepLabV3Plus) -> list[int]:
        return [branch[0].dilation[0] for branch in model.aspp.branches][1:]

    assert rates(small()) == [6, 12, 18]
    assert rates(small(output_stride=8)) == [12, 24, 36]
    assert rates(small(atrous_rates=[2, 3])) == [2, 3]


# --- parts -----------------------------------------------------------------------------------


def test_aspp_at_a_single_pixel_is_its_centre_taps() -> None:
    """On a 1x1 map every tap but the centre reads padding, and the pooled mean is the pixel."""
    torch.manual_seed(0)
    aspp = ASPP(8, (6,), 4).double().eval()
    pixel = torch.randn(8).double()
    one, atrous = (branch[0].weight for branch in aspp.branches)
    views = [one[:, :, 0, 0], atrous[:, :, 1, 1], aspp.pooled[0].weight[:, :, 0, 0]]
    scale = (1 + 1e-5) ** -0.5  # BatchNorm with mean 0, variance 1
    joined = torch.cat([F.relu(view @ pixel * scale) for view in views])
    expected = F.relu(aspp.project[0].weight[:, :, 0, 0] @ joined * scale)
    assert_close(aspp(pixel.reshape(1, 8, 1, 1)).flatten(), expected)


def test_separable_block_is_depthwise_then_pointwise() -> None:
    block = ConvNormAct(4, 6, 3, dilation=2, separable=True)
    depthwise, pointwise = block[0], block[3]
    assert (depthwise.groups, depthwise.dilation, depthwise.padding) == (4, (2, 2), (2, 2))
    assert (pointwise.groups, pointwise.kernel_size, pointwise.padding) == (1, (1, 1), (0, 0))
    assert [type(block[1]), type(block[2])] == [BatchNorm, nn.ReLU]
    assert block(torch.randn(2, 4, 5, 7)).shape == (2, 6, 5, 7)


def test_batch_norm_of_a_single_value_uses_its_running_statistics() -> None:
    norm = BatchNorm(2)
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])
    out = norm(torch.tensor([3.0, 8.0]).reshape(1, 2, 1, 1))
    assert_close(out.flatten(), torch.tensor([1.0, 2.0]))  # (3 - 1) / 2 and (8 - 2) / 3
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert norm.num_batches_tracked == 0


def test_batch_norm_of_more_values_is_the_usual_one() -> None:
    ours, usual, input = BatchNorm(2), nn.BatchNorm2d(2), torch.randn(2, 2, 1, 1)
    assert torch.equal(ours(input), usual(input))
    assert torch.equal(ours.running_var, usual.running_var)


@pytest.mark.parametrize("channels, groups", [(8, 1), (24, 1), (48, 3), (56, 2), (256, 16), (7, 1)])
def test_group_norm_groups(channels: int, groups: int) -> None:
    norm = make_norm("gn", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_group_norm_leaves_no_batch_norm() -> None:
    model = small(partial(Tiny, norm="gn"), norm="gn")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert model.train()(torch.randn(1, 3, 16, 16)).shape == (1, 3, 16, 16)


# --- freezing --------------------------------------------------------------------------------


def train_three_steps(model: DeepLabV3Plus) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state before and after; ``train()`` is called before each step, as a loop does.

    The models are dense: a BatchNorm before a depthwise convolution and another BatchNorm begins
    with a gradient of 0 by its weight, since that scales each channel, which the other undoes.
    """
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.ones(2, 32, 32).long()).backward()
        optimizer.step()
    return before, model.state_dict()


def test_everything_moves_when_nothing_is_frozen() -> None:
    before, after = train_three_steps(small(separable=False))
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_freeze_bn() -> None:
    model = small(freeze_bn=True, separable=False)
    before, after = train_three_steps(model)
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if name.rpartition(".")[0] in norms}


def test_freeze_backbone() -> None:
    before, after = train_three_steps(small(freeze_backbone=True, separable=False))
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if name.startswith("backbone.")}


@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v2"])
def test_freeze_low_level(name: str) -> None:
    model = small(name, freeze_backbone="low_level", separable=False)
    parts = model.backbone.low_level_parts()
    # state_dict() makes new tensors that share memory, so compare by where they are.
    places = {t.data_ptr() for part in parts for t in part.state_dict().values()}
    inside = [n for n, tensor in model.state_dict().items() if tensor.data_ptr() in places]
    before, after = train_three_steps(model)
    still = {n for n in before if torch.equal(before[n], after[n])}
    assert still == set(inside)
    assert inside and all(n.startswith("backbone.") for n in inside)


def test_low_level_features_need_no_gradient() -> None:
    model = small(freeze_backbone="low_level")
    low_level, high_level = model.backbone(torch.randn(1, 3, 32, 32))
    assert not low_level.requires_grad
    assert high_level.requires_grad


def test_freeze_backbone_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="freeze_backbone must be false, true or low_level"):
        small(freeze_backbone="half")
    with pytest.raises(ValueError, match=r"freeze_backbone must be .* got None"):
        small().set_frozen_backbone(None)  # type: ignore[arg-type]


def flags(model: DeepLabV3Plus) -> dict[str, bool]:
    modes = {name: module.training for name, module in model.named_modules()}
    return modes | {name: p.requires_grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("value", [True, "low_level"])
def test_freeze_then_unfreeze(value: bool | str) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    parts = [model.backbone] if value is True else model.backbone.low_level_parts()

    def moved() -> set[bool]:
        """Whether the tensors of the parts move in two steps: none, all or some of them."""
        tensors = [t for part in parts for t in part.state_dict().values()]
        before = [t.clone() for t in tensors]
        for _ in range(2):
            model.train()
            optimizer.zero_grad()
            logits = model(torch.randn(2, 3, 32, 32))
            F.cross_entropy(logits, torch.ones(2, 32, 32).long()).backward()
            optimizer.step()
        return {not torch.equal(a, b) for a, b in zip(before, tensors, strict=True)}

    never = flags(model)
    assert moved() == {True}
    model.set_frozen_backbone(value)
    assert moved() == {False}  # neither gradient, momentum, weight decay nor statistics
    assert flags(model) == flags(small(freeze_backbone=value))
    model.set_frozen_backbone(False)
    assert flags(model) == never
    assert moved() == {True}


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize("last", [False, True, "low_level"])
@pytest.mark.parametrize("first", [False, True, "low_level"])
def test_the_last_freeze_counts(first: bool | str, last: bool | str, freeze_bn: bool) -> None:
    expected = small(freeze_backbone=last, freeze_bn=freeze_bn)
    model = small(freeze_backbone=first, freeze_bn=freeze_bn)
    model.set_frozen_backbone(last)
    assert flags(model) == flags(expected)
    model.eval().set_frozen_backbone(first)
    assert not any(module.training for module in model.modules())
    model.set_frozen_backbone(last)
    assert flags(model.train()) == flags(expected)


def test_train_and_eval_switch_the_rest() -> None:
    model = small(freeze_backbone=True)
    assert model.training
    assert model.aspp.training
    assert not model.backbone.training
    assert not model.eval().aspp.training


# --- bfloat16 on the CPU ---------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("groups", [4, 2])
def test_safe_convolution_computes_its_gradients_in_float32(groups: int, autocast: bool) -> None:
    torch.manual_seed(0)
    conv = SafeConv2d(4, 4, 3, padding=2, dilation=2, groups=groups)
    conv = conv.to(torch.float32 if autocast else torch.bfloat16)
    image = torch.randn(2, 4, 23, 30).bfloat16().contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(2, 4, 23, 30).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = conv(image)
    out.backward(gradient)
    assert out.dtype == torch.bfloat16
    weight = conv.weight.detach().double()
    bias = conv.bias.detach().double()
    expected = F.conv2d(image.double(), weight, bias, padding=2, dilation=2, groups=groups)
    assert_close(out, expected.bfloat16())
    expected = torch.nn.grad.conv2d_weight(
        image.double(), weight.shape, gradient.double(), padding=2, dilation=2, groups=groups
    )
    error = (conv.weight.grad.double() - expected).norm() / expected.norm()
    assert error < (1e-5 if autocast else 2**-8)  # float32 accumulated; bfloat16 rounded once


@pytest.mark.parametrize("settings", [{"groups": 1, "dilation": 2}, {"groups": 4, "dilation": 1}])
def test_safe_convolution_leaves_other_layers_in_bfloat16(settings: dict[str, int]) -> None:
    conv = SafeConv2d(4, 4, 3, **settings)
    image = torch.randn(1, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(image), nn.Conv2d.forward(conv, image))
    assert torch.equal(conv(image), nn.Conv2d.forward(conv, image))


@pytest.mark.parametrize("channels", [1, 8, 15, 16])
@pytest.mark.parametrize("stride", [2, 3])
def test_a_strided_pointwise_convolution_of_few_channels(channels: int, stride: int) -> None:
    """Where PyTorch's own writes beyond its memory."""
    torch.manual_seed(0)
    conv = StridedPointwise(channels, 16, stride).to(memory_format=torch.channels_last)
    image = torch.randn(2, channels, 96, 161).contiguous(memory_format=torch.channels_last)
    out = conv(image)
    out.square().sum().backward()
    weight = conv.weight.detach().double().requires_grad_()
    expected = F.conv2d(image.double(), weight, stride=stride)
    expected.square().sum().backward()
    assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert weight.grad is not None and conv.weight.grad is not None
    assert_close(conv.weight.grad.double(), weight.grad, rtol=1e-5, atol=1e-3)


def test_every_weight_gradient_in_bfloat16_channels_last() -> None:
    """Each convolution's gradient against float64 from the same input and arriving gradient.

    Layer by layer, because the gradients of the whole network differ between bfloat16 and float32
    for honest reasons: a rounded value falls on the other side of a ReLU.
    """
    model = small(partial(MobileNet, "mobilenet_v2"), separable=True)
    model = model.to(memory_format=torch.channels_last)
    inputs, gradients = {}, {}

    def record(name: str, layer: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        inputs[name] = args[0].detach()
        out.register_hook(lambda gradient: gradients.update({name: gradient}))

    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name, conv in convolutions.items():
        conv.register_forward_hook(partial(record, name))
    image = torch.randn(2, 3, 96, 128).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(image)
    F.cross_entropy(logits.float(), torch.randint(3, (2, 96, 128))).backward()

    assert inputs["classifier"].dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for name, conv in convolutions.items():
        expected = torch.nn.grad.conv2d_weight(
            inputs[name].double(),
            conv.weight.shape,
            gradients[name].double(),
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
        )
        error = (conv.weight.grad.double() - expected).norm() / expected.norm()
        assert error < 0.01, f"{name}: relative error {error:.3g}"


# --- construction ----------------------------------------------------------------------------


def test_first_loss_is_that_of_a_fair_guess() -> None:
    logits = small(num_classes=5)(torch.randn(2, 3, 64, 64))
    loss = F.cross_entropy(logits, torch.randint(5, (2, 64, 64)))
    assert abs(loss.item() - 1.609) < 0.05  # ln 5


def test_backbone_as_factory_name_or_module() -> None:
    for backbone in (Tiny, partial(Tiny, width=32), "tiny", Tiny()):
        assert isinstance(small(backbone).backbone, Tiny)


def test_dry_build_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = DeepLabV3Plus("resnet101", 21)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_classes": None}, "num_classes must be a whole number of at least 1, got None"),
        ({"num_classes": 0}, "num_classes .* got 0"),
        ({"output_stride": 32}, "output_stride must be 8 or 16, got 32"),
        ({"atrous_rates": [6, 0]}, "atrous_rates .* got 0"),
        ({"atrous_rates": [1.5]}, r"atrous_rates .* got 1\.5"),
        ({"in_channels": 0}, "in_channels .* got 0"),
        ({"aspp_channels": -1}, "aspp_channels .* got -1"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1, got 1\.0"),
        ({"norm": "ln"}, "norm must be 'bn' or 'gn', got 'ln'"),
        ({"backbone": "vgg"}, "backbone must be one of tiny, resnet18.* got 'vgg'"),
        ({"backbone": nn.Identity()}, "backbone Identity lacks the attribute `channels`"),
        ({"backbone": Tiny(), "output_stride": 8}, r"Tiny has strides \(4, 16\), expected 4 first"),
    ],
)
def test_bad_values(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)
