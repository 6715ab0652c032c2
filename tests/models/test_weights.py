"""Files of weights: what is taken, what is refused, and in which words."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from edits import Payload
from torch import nn
from torch.testing import assert_close
from torchvision import models

from segkit.errors import CheckpointError
from segkit.models import DeepLabV3Plus
from segkit.models.backbones import MobileNet, ResNet
from segkit.models.backbones.surgery import _adapt_kernel
from segkit.models.weights import load_matching, read_tensors, strip_prefixes

REAL_WEIGHTS = Path(__file__).parents[2].parent / "shared" / "weights" / "mobilenet_v2.pth"


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(models.resnet18(weights=None).state_dict(), path)
    return path


# --- reading ---------------------------------------------------------------------------------


def test_reads_what_torch_save_wrote(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(3), "epoch": 7}, tmp_path / "a.pt")
    content = read_tensors(tmp_path / "a.pt")
    assert content["weight"].tolist() == [0, 1, 2]
    assert content["epoch"] == 7


def test_a_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pt").touch()
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(CheckpointError, match=r"a\.pt: cannot be read \(Permission denied\)$"):
        read_tensors(tmp_path / "a.pt")


def test_missing_folder_empty_and_pointer(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointError, match=r"a\.pt: no such file$"):
        read_tensors(path)
    with pytest.raises(CheckpointError, match="a folder, expected a file of weights"):
        read_tensors(tmp_path)
    path.touch()
    with pytest.raises(CheckpointError, match=r"a\.pt: empty file$"):
        read_tensors(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
    with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull"):
        read_tensors(path)


@pytest.mark.parametrize("size", [5, 100, 600, -1])
def test_cut_off(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"a\.pt: cut off or damaged"):
        read_tensors(path)


def test_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.full((100,), 2.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((100,), 2.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged, the check sum of a/data/0 is wrong"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x00" * 40, b"\x80\x02garbage", b"."])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt: not ") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)  # PyTorch's own advice would run the code


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))])
def test_code_is_refused_and_does_not_run(tmp_path: Path, save: Callable[..., None]) -> None:
    path, made = tmp_path / "a.pt", tmp_path / "made"
    save({"weight": Payload(made)}, path)
    with pytest.raises(
        CheckpointError, match=r"a\.pt: refused, because it holds code \(\w*io\.open"
    ):
        read_tensors(path)
    assert not made.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"
    ):
        read_tensors(tmp_path / "a.pt")


def test_no_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds a list, expected named tensors"):
        read_tensors(tmp_path / "a.pt")


# --- matching --------------------------------------------------------------------------------


def test_only_leading_prefixes_are_stripped() -> None:
    keys = ["module.a", "_orig_mod.b", "module._orig_mod.c", "_orig_mod.module.d", "x.module.y"]
    assert list(strip_prefixes(dict.fromkeys(keys))) == ["a", "b", "c", "d", "x.module.y"]
    assert list(strip_prefixes({"modules.a": 0, "module": 1})) == ["modules.a", "module"]


def test_another_head_is_skipped_by_name() -> None:
    torch.manual_seed(0)
    trained = DeepLabV3Plus("tiny", 21, aspp_channels=16, decoder_channels=16)
    model = DeepLabV3Plus("tiny", 3, aspp_channels=16, decoder_channels=16)
    report = load_matching(model, trained.state_dict())
    total = len(model.state_dict())
    assert str(report) == (
        f"took {total - 2} of {total} tensors; skipped: "
        "classifier.weight is 21x16x1x1 in the file, 3x16x1x1 in the model; "
        "classifier.bias is 21 in the file, 3 in the model"
    )
    for name in report.taken:
        assert_close(model.state_dict()[name], trained.state_dict()[name], rtol=0, atol=0)


def test_everything_fits() -> None:
    layer = nn.Linear(2, 3)
    assert str(load_matching(layer, nn.Linear(2, 3).state_dict())) == "took 2 of 2 tensors"


def test_nothing_fits_and_nothing_changes() -> None:
    layer = nn.Linear(2, 3)
    before = layer.weight.clone()
    with pytest.raises(CheckpointError, match=r"none of the 3 entries.*weight is 4x4 in the file"):
        load_matching(layer, {"weight": torch.zeros(4, 4), "bias": "text", "epoch": 3})
    assert torch.equal(layer.weight, before)


def test_counters_of_steps_alone_are_no_match() -> None:
    model, other = nn.BatchNorm2d(4), nn.BatchNorm2d(8).state_dict()
    other["num_batches_tracked"] += 7
    with pytest.raises(CheckpointError, match=r"none of the 5 entries.*weight is 8 in the file"):
        load_matching(model, other)
    assert model.num_batches_tracked == 0


def test_long_lists_are_cut() -> None:
    report = load_matching(
        nn.Linear(2, 3), {"bias": torch.zeros(3), **{f"x{i}": 0 for i in range(20)}}
    )
    assert len(report.skipped) == 21  # and the missing weight
    assert str(report).endswith("x6 is not in the model; and 13 more")


# --- pretrained backbones --------------------------------------------------------------------


def test_file_of_the_right_network(resnet18_file: Path) -> None:
    tensors = torch.load(resnet18_file, weights_only=True)
    backbone = ResNet("resnet18", str(resnet18_file), output_stride=8)
    for name, tensor in backbone.state_dict().items():
        assert_close(tensor, tensors[name], rtol=0, atol=0)


def test_prefix_other_head_and_missing_counters(resnet18_file: Path, tmp_path: Path) -> None:
    tensors = torch.load(resnet18_file, weights_only=True)
    tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(7, 512), torch.zeros(7)
    old = {
        f"module.{name}": tensor
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(old, tmp_path / "old.pth")
    backbone = ResNet("resnet18", str(tmp_path / "old.pth"))
    assert_close(backbone.conv1.weight.detach(), tensors["conv1.weight"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_file_of_another_resnet(name: str, resnet18_file: Path) -> None:
    with pytest.raises(
        CheckpointError, match=rf"resnet18\.pth: not the weights of {name}: \d+ tensors do not fit"
    ):
        ResNet(name, str(resnet18_file))


def test_a_deeper_network_is_not_taken_for_a_shallow_one(tmp_path: Path) -> None:
    # Every tensor of ResNet-18 is in a file of ResNet-34, with the same shape.
    with torch.device("meta"):
        deeper = {key: t.shape for key, t in models.resnet34(weights=None).state_dict().items()}
    torch.save({key: torch.empty(shape) for key, shape in deeper.items()}, tmp_path / "34.pth")
    with pytest.raises(CheckpointError, match=r"layer1\.2\.conv1\.weight is not in resnet18"):
        ResNet("resnet18", str(tmp_path / "34.pth"))


def test_mismatch_in_plain_words(resnet18_file: Path, tmp_path: Path) -> None:
    tensors = torch.load(resnet18_file, weights_only=True)
    tensors["layer4.0.conv1.weight"] = torch.zeros(512, 1024, 1, 1)
    del tensors["bn1.bias"]
    torch.save(tensors, tmp_path / "a.pth")
    expected = (
        "not the weights of resnet18: 2 tensors do not fit (98 of 100 do): bn1.bias is not in the "
        "file; layer4.0.conv1.weight is 512x1024x1x1 in the file, 512x256x3x3 in resnet18"
    )
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        ResNet("resnet18", str(tmp_path / "a.pth"))


@pytest.mark.quick("[1]")
@torch.no_grad()
@pytest.mark.parametrize("in_channels", [1, 6])
def test_grey_images_keep_their_response(in_channels: int, resnet18_file: Path) -> None:
    colour = ResNet("resnet18", str(resnet18_file)).eval()
    other = ResNet("resnet18", str(resnet18_file), in_channels=in_channels).eval()
    grey = torch.randn(1, 1, 32, 32)
    expected = colour(grey.expand(-1, 3, -1, -1))
    assert_close(other(grey.expand(-1, in_channels, -1, -1)), expected, rtol=1e-4, atol=1e-5)


def test_kernels_of_other_channels_by_hand() -> None:
    kernel = torch.tensor([3.0, 6.0, 12.0]).view(1, 3, 1, 1)  # red, green, blue
    assert _adapt_kernel(kernel, 1).flatten().tolist() == [21]
    assert _adapt_kernel(kernel, 2).flatten().tolist() == [4.5, 9]
    assert _adapt_kernel(kernel, 4).flatten().tolist() == [2.25, 4.5, 9, 2.25]
    assert _adapt_kernel(kernel, 3) is kernel


@pytest.mark.parametrize("in_channels", [1, 2, 4, 5, 13])
def test_kernels_of_other_channels_are_those_of_timm(in_channels: int) -> None:
    timm = pytest.importorskip("timm.models")
    kernel = torch.randn(4, 3, 7, 7)
    expected = timm.adapt_input_conv(in_channels, kernel.clone())
    assert_close(_adapt_kernel(kernel, in_channels), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value")])
def test_failing_download(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match=r"weights=null.*weights=PATH"):
        MobileNet("mobilenet_v2", "imagenet")


def test_imagenet_asks_torchvision(monkeypatch: pytest.MonkeyPatch, resnet18_file: Path) -> None:
    asked = []

    def fake(url: str, **settings: object) -> dict[str, torch.Tensor]:
        asked.append((url.rpartition("/")[2], settings))
        return read_tensors(resnet18_file)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fake)
    ResNet("resnet18", "imagenet")
    assert asked == [("resnet18-f37072fd.pth", {"check_hash": True, "weights_only": True})]


@pytest.mark.skipif(not REAL_WEIGHTS.exists(), reason=f"{REAL_WEIGHTS} is not there")
def test_real_weights(tmp_path: Path) -> None:
    backbone = MobileNet("mobilenet_v2", str(REAL_WEIGHTS)).eval()
    reference = models.mobilenet_v2(weights=None).eval()
    reference.load_state_dict(torch.load(REAL_WEIGHTS, weights_only=True))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        # stride 16 against 32: every second pixel
        assert_close(
            backbone(image)[1][:, :, ::2, ::2],
            reference.features[:18](image),
            rtol=1e-4,
            atol=1e-4,
        )
    with pytest.raises(CheckpointError, match="not the weights of mobilenet_v3_large"):
        MobileNet("mobilenet_v3_large", str(REAL_WEIGHTS))
