"""The aligned Xception: against its definition written out, and against counts by hand."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from segkit.errors import CheckpointError
from segkit.models.backbones import Xception
from segkit.models.layers import SafeConv2d


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    tensors = Xception().double().state_dict()
    for name, tensor in tensors.items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return tensors


def loaded(weights: dict[str, Tensor], output_stride: int) -> Xception:
    with torch.device("meta"):  # spares the random start
        backbone = Xception(output_stride=output_stride)
    backbone.load_state_dict(weights, assign=True)
    return backbone.eval()


def written_out(weights: dict[str, Tensor], image: Tensor, output_stride: int) -> list[Tensor]:
    """nets/xception.py of bubbliiiing step by step, with its ReLUs in place."""

    def norm(x: Tensor, name: str) -> Tensor:
        w, b, mean, var = (
            weights[f"{name}.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return F.batch_norm(x, mean, var, w, b)

    def separable(x: Tensor, name: str, rate: int, stride: int = 1, first: bool = True) -> Tensor:
        depthwise = weights[f"{name}.depthwise.weight"]
        x = F.conv2d(x, depthwise, None, stride, rate, rate, groups=len(depthwise))
        x = norm(x, f"{name}.bn1")
        x = F.conv2d(x if first else F.relu(x), weights[f"{name}.pointwise.weight"])
        x = norm(x, f"{name}.bn2")
        return x if first else F.relu(x)

    rate = 16 // output_stride
    strides = {1: 2, 2: 2, 3: 2 // rate}
    x = F.relu(norm(F.conv2d(image, weights["conv1.weight"], None, 2, 1), "bn1"))
    x = F.relu(norm(F.conv2d(x, weights["conv2.weight"], None, 1, 1), "bn2"))
    for i in range(1, 21):
        name, stride = f"block{i}", strides.get(i, 1)
        dilation = rate if i > 3 else 1
        if f"{name}.skip.weight" in weights:
            skip = F.conv2d(x, weights[f"{name}.skip.weight"], None, stride)
            skip = norm(skip, f"{name}.skipbn")
            x = separable(F.relu(x), f"{name}.sepconv1", dilation)
        else:
            skip = x.clone()
            F.relu_(skip)  # the shortcut and the input of the first ReLU are one tensor there
            x = separable(skip, f"{name}.sepconv1", dilation)
        x = separable(F.relu(x), f"{name}.sepconv2", dilation)
        if i == 2:
            low_level = x
        x = separable(F.relu(x), f"{name}.sepconv3", dilation, stride) + skip
    for name in ("conv3", "conv4", "conv5"):
        x = separable(x, name, rate, first=False)
    return [low_level, x]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 17, 26, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(scope="module")
@torch.no_grad()
def features(weights: dict[str, Tensor], image: Tensor) -> dict[int, list[Tensor]]:
    return {stride: loaded(weights, stride)(image) for stride in (8, 16)}


@pytest.mark.slow
@pytest.mark.quick("16")
@torch.no_grad()
@pytest.mark.parametrize("output_stride", [8, 16])
def test_equals_its_definition(
    output_stride: int, weights: dict[str, Tensor], image: Tensor, features: dict[int, list[Tensor]]
) -> None:
    for found, expected in zip(
        features[output_stride], written_out(weights, image, output_stride), strict=True
    ):
        assert_close(found, expected)


@pytest.mark.slow
def test_every_second_pixel_at_output_stride_8_is_that_of_16(
    features: dict[int, list[Tensor]],
) -> None:
    (low8, fine), (low16, coarse) = features[8], features[16]
    assert_close(low8, low16)
    assert_close(fine[:, :, ::2, ::2], coarse)


def test_counts() -> None:
    def separable(inputs: int, outputs: int) -> int:
        return (9 + 2) * inputs + (inputs + 2) * outputs  # two norms with weight and bias

    def block(inputs: int, outputs: int, middle: int | None = None) -> int:
        middle = middle or outputs
        skip = (inputs + 2) * outputs if inputs != outputs else 0
        first = separable(inputs, middle) + separable(middle, outputs)
        return first + separable(outputs, outputs) + skip

    stem = 27 * 32 + 2 * 32 + 9 * 32 * 64 + 2 * 64
    entry = block(64, 128) + block(128, 256) + block(256, 728)
    flow = 16 * block(728, 728) + block(728, 1024, 728)
    end = separable(1024, 1536) + separable(1536, 1536) + separable(1536, 2048)
    with torch.device("meta"):
        backbone = Xception()
    assert sum(p.numel() for p in backbone.parameters()) == stem + entry + flow + end
    # Sixty-five layers, as its other name says: the classifier, and these besides shortcuts.
    convolutions = [n for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d)]
    layers = [n for n in convolutions if not n.endswith(("depthwise", "skip"))]
    assert len(layers) + 1 == 2 + 3 * 20 + 3 + 1


def test_low_level_parts_are_what_the_low_level_features_need() -> None:
    backbone = Xception()
    low_level, _ = backbone(torch.randn(2, 3, 16, 16))
    low_level.sum().backward()
    needed = {name for name, p in backbone.named_parameters() if p.grad is not None}
    parts = {id(p) for part in backbone.low_level_parts() for p in part.parameters()}
    assert needed == {name for name, p in backbone.named_parameters() if id(p) in parts}


def test_depthwise_layers_are_the_safe_ones_and_one_pixel_trains() -> None:
    backbone = Xception(output_stride=8)
    grouped = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(grouped) == 3 * 20 + 3
    assert all(isinstance(conv, SafeConv2d) for conv in grouped)
    assert all(f.isfinite().all() for f in backbone(torch.randn(1, 3, 1, 1)))


@pytest.mark.slow
def test_a_file_with_scratch_buffers_and_a_classifier(tmp_path: Path) -> None:
    with torch.device("meta"):
        names = {k: v.shape for k, v in Xception().state_dict().items()}
    file = {  # of few bits, which keeps the file small
        name: torch.full(shape, i / len(names), dtype=torch.float16)
        for i, (name, shape) in enumerate(names.items())
        if not name.endswith("num_batches_tracked")
    }
    for name in [k.removesuffix(".running_mean") for k in file if k.endswith(".running_mean")]:
        file[f"{name}._tmp_running_mean"] = torch.zeros(1)
        file[f"{name}._running_iter"] = torch.ones(1)
    file["fc.weight"] = torch.zeros(1000, 1)
    torch.save(file, tmp_path / "xception.pth")
    backbone = Xception(str(tmp_path / "xception.pth"), in_channels=1)
    for name, tensor in backbone.state_dict().items():
        if name in file and name != "conv1.weight":
            assert torch.equal(tensor, file[name].float())
    assert_close(backbone.conv1.weight.detach(), file["conv1.weight"].float().sum(1, keepdim=True))
    del file["block20.skip.weight"]
    torch.save(file, tmp_path / "xception.pth")
    with (
        torch.device("meta"),
        pytest.raises(CheckpointError, match=r"1 tensors do not fit .*block20\.skip\.weight"),
    ):
        Xception(str(tmp_path / "xception.pth"))


def test_imagenet_asks_for_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, **settings: object) -> None:
        assert url.endswith("/v1.0/xception_pytorch_imagenet.pth")
        assert settings["weights_only"] is True
        raise URLError("no route")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match=r"weights=null.*weights=PATH"):
        Xception("imagenet")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="output_stride must be 8 or 16, got 32"):
        Xception(output_stride=32)
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        Xception(in_channels=0)
