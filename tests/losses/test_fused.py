"""The fused loss against float64, by Triton's interpreter: no GPU is needed.

Triton decides when it is imported whether it interprets, so that one slow test runs this module and
the contract of all losses in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.losses import (
    BCELoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    MSELoss,
    WeightedSum,
    global_loss,
)
from segkit.losses.fused import can_be_fused
from segkit.losses.parts import parts
from segkit.losses.processes import collecting
from segkit.losses.weighted_sum import summands, takes_low_resolution
from segkit.models import DeepLabV3Plus
from segkit.models.deeplabv3plus import gives_low_resolution

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter")
WEIGHTS = [0.5, 2.0, 1.0, 1.25, 0.75]

TERMS: dict[str, dict[str, nn.Module]] = {
    "ce": {"ce": CrossEntropyLoss()},
    "smooth": {"ce": CrossEntropyLoss(WEIGHTS, 0.1)},
    "focal": {"focal": FocalLoss(2.0, WEIGHTS, WEIGHTS)},
    "focal_half": {"focal": FocalLoss(0.5, 0.25)},
    "dice": {"dice": DiceLoss(2.0, class_weights=WEIGHTS, include_background=False)},
    "mse": {"mse": MSELoss()},
    "all": {
        "ce": CrossEntropyLoss(WEIGHTS, 0.1),
        "focal": FocalLoss(1.5),
        "dice": DiceLoss(),
        "mse": MSELoss(),
    },
}


def weighted(terms: dict[str, nn.Module], fused: bool) -> WeightedSum:
    numbers = {name: 0.5 + i for i, name in enumerate(terms)}
    named = {name: {"weight": numbers[name], "loss": loss} for name, loss in terms.items()}
    return WeightedSum(named, fused=fused)


def small_batch(
    sizes: tuple[int, int, int, int] = (4, 3, 11, 9), num_classes: int = 5
) -> tuple[Tensor, Tensor]:
    """Float64 logits (2, C, h, w) and a larger target uint8 (2, H, W) whose first rows are 255."""
    generator = torch.Generator().manual_seed(0)
    h, w, height, width = sizes
    logits = torch.randn(2, num_classes, h, w, dtype=torch.float64, generator=generator) * 3
    target = torch.randint(0, num_classes, (2, height, width), generator=generator)
    target[:, :2] = 255
    return logits, target.to(torch.uint8)


def resized(logits: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)


def value_and_slope(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    full = logits if getattr(loss, "fused", False) else resized(logits, target)
    value = loss(full, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.slow
def test_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"]
    # NumPy, which the interpreter computes with, warns of NaN in lanes that are masked out.
    command += ["-W", "ignore::RuntimeWarning"]
    chosen = "(ce_smooth or focal_alpha or fused_sum or TestFused) and not dtype2"
    ran = subprocess.run(
        [*command, "-m", "not slow and not gpu", "-k", chosen, __file__,
         str(folder / "test_losses_contract.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "SEGKIT_TESTS_FUSED": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-6000:]
    assert " passed" in ran.stdout


@interpreted
class TestFused:
    @pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
    @pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
    def test_is_the_loss_of_resized_logits(
        self, terms: dict[str, nn.Module], order: torch.memory_format
    ) -> None:
        logits, target = small_batch()
        expected, expected_slope = value_and_slope(weighted(terms, False), logits, target)
        low = logits.float().contiguous(memory_format=order)
        loss = weighted(terms, True)
        value, slope = value_and_slope(loss, low, target)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
        assert (slope - expected_slope).norm() <= 3e-6 * expected_slope.norm()
        assert list(loss.last_terms) == list(terms)

    @pytest.mark.parametrize("sizes", [(1, 1, 5, 4), (5, 4, 5, 4), (3, 5, 7, 20), (4, 4, 6, 5)])
    @pytest.mark.parametrize("num_classes", [2, 19])  # 19: a second chunk of classes, not full
    def test_every_geometry(self, sizes: tuple[int, int, int, int], num_classes: int) -> None:
        logits, target = small_batch(sizes, num_classes)
        terms: dict[str, nn.Module] = {"ce": CrossEntropyLoss(None, 0.1), "dice": DiceLoss()}
        expected, expected_slope = value_and_slope(weighted(terms, False), logits, target)
        value, slope = value_and_slope(weighted(terms, True), logits.float(), target)
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
        assert (slope - expected_slope).norm() <= 3e-6 * expected_slope.norm()

    def test_bfloat16_logits_have_a_bfloat16_slope(self) -> None:
        logits, target = small_batch()
        low = logits.bfloat16()
        expected, expected_slope = value_and_slope(
            weighted(TERMS["all"], False), low.double(), target
        )
        value, slope = value_and_slope(weighted(TERMS["all"], True), low, target)
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
        assert slope.dtype == torch.bfloat16
        assert (slope - expected_slope).norm() <= 4e-3 * expected_slope.norm()

    def test_parts_of_a_step_add_up(self) -> None:
        logits, target = small_batch()
        target[0] = 255
        target[0, 5] = 1
        loss = weighted(TERMS["all"], True)
        whole, whole_slope = value_and_slope(loss, logits.float(), target)
        seen: list[Tensor] = []
        pieces = [(logits[i : i + 1].float(), target[i : i + 1]) for i in range(2)]
        for low, labels in pieces:
            with collecting() as found:
                loss(low, labels)
            seen = [a + b for a, b in zip(seen, found, strict=True)] if seen else found
        steps = parts(summands(loss), [labels for _, labels in pieces], sums=seen)
        values, slopes = [], []
        for (low, labels), part in zip(pieces, steps, strict=True):
            low = low.requires_grad_()
            value = global_loss(loss, low, labels, 1, part)
            values.append(value.detach())
            slopes.append(torch.autograd.grad(value, low)[0])
        torch.testing.assert_close(torch.stack(values).sum(), whole)
        torch.testing.assert_close(torch.cat(slopes), whole_slope, rtol=1e-5, atol=1e-9)

    def test_a_foreign_term_gets_resized_logits(self) -> None:
        logits, target = small_batch()
        heights = []

        class Own(nn.Module):
            def forward(self, logits: Tensor, target: Tensor) -> Tensor:
                heights.append(logits.shape[2])
                return F.cross_entropy(logits, target, ignore_index=255)

        terms = {"own": Own(), "dice": DiceLoss()}
        value = weighted(terms, True)(logits.float(), target)
        torch.testing.assert_close(
            value, weighted(terms, False)(resized(logits, target).float(), target)
        )
        assert heights == [11, 11]

    def test_an_id_that_is_no_class_is_refused(self) -> None:
        logits, target = small_batch()
        target[1, 5, 5] = 5
        with pytest.raises(ValueError, match="target holds 5"):
            weighted(TERMS["ce"], True)(logits.float(), target)

    def test_a_model_that_leaves_the_resize_to_the_loss(self) -> None:
        torch.manual_seed(0)
        model = DeepLabV3Plus("tiny", 3, train_crop=(32, 32)).eval()
        image, target = torch.randn(2, 3, 32, 28), torch.randint(0, 3, (2, 32, 28))
        target[:, :4] = 255
        terms = {"ce": CrossEntropyLoss(), "dice": DiceLoss()}
        found = []
        for fused in (False, True):
            loss = weighted(terms, fused)(model(image, resize=not fused), target)
            model.zero_grad()
            loss.backward()
            found.append([loss.detach(), *(p.grad for p in model.parameters())])
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)

    def test_bits_repeat(self) -> None:
        logits, target = small_batch()
        first = value_and_slope(weighted(TERMS["all"], True), logits.float(), target)
        second = value_and_slope(weighted(TERMS["all"], True), logits.float(), target)
        assert all(a.equal(b) for a, b in zip(first, second, strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch 2.10's own import
def test_who_leaves_the_resize_to_the_loss() -> None:
    model = DeepLabV3Plus("tiny", 3)
    assert model(torch.zeros(2, 3, 33, 30), resize=False).shape[2:] == (9, 8)
    assert gives_low_resolution(model)
    assert gives_low_resolution(nn.DataParallel(model))
    assert gives_low_resolution(torch.compile(model))
    assert not gives_low_resolution(nn.Conv2d(3, 3, 1))
    assert takes_low_resolution(weighted(TERMS["ce"], True))
    assert not takes_low_resolution(weighted(TERMS["ce"], False))
    assert not takes_low_resolution(CrossEntropyLoss())


def test_what_can_be_fused() -> None:
    class Mine(DiceLoss):
        def on(self, pixels: object) -> Tensor:
            raise NotImplementedError

    assert can_be_fused([CrossEntropyLoss(), FocalLoss(2.0), DiceLoss(), MSELoss(), FocalLoss(2.0)])
    assert not can_be_fused([CrossEntropyLoss(), BCELoss()])
    assert not can_be_fused([FocalLoss(2.0), FocalLoss(1.0)])
    assert not can_be_fused([Mine()])
    assert not can_be_fused([nn.CrossEntropyLoss()])


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on a CPU")
def test_kernels_that_cannot_run_are_refused() -> None:
    logits, target = small_batch()
    with pytest.raises(
        ValueError, match=r"loss\.fused=true: .*; loss\.fused=auto computes the same"
    ):
        weighted(TERMS["ce"], True)(logits.float(), target)


def test_auto_is_false_and_refuses_small_logits() -> None:
    logits, target = small_batch()
    loss = WeightedSum({"ce": {"weight": 1, "loss": CrossEntropyLoss()}})
    assert not loss.fused
    with pytest.raises(ValueError, match="with the same N, H and W"):
        loss(logits, target)
    with pytest.raises(ValueError, match="fused must be true, false or auto, got 'yes'"):
        WeightedSum({"ce": {"weight": 1, "loss": CrossEntropyLoss()}}, fused="yes")
