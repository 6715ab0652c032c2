"""What every loss and every sum of losses promises, whatever its formula."""

from collections.abc import Callable, Iterator

import pytest
import torch
from loss_cases import EVEN, NUM_CLASSES, UNEVEN, Make, batch, every_loss
from torch import Tensor, nn

from segkit.losses import (
    BCELoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    MSELoss,
    TopKLoss,
    TverskyLoss,
    bce_loss,
    cross_entropy,
    dice_loss,
    focal_loss,
    global_loss,
    lovasz_loss,
    mse_loss,
    topk_loss,
    tversky_loss,
)

WEIGHTLESS = {"mse", "all", "fused_sum"}  # no class weights, in one term at least
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
every_ignore_index = pytest.mark.parametrize("ignore_index", [255, -100, 1])


def value_and_slope(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.fixture
def deterministic() -> Iterator[None]:
    """PyTorch's mode in which an operation without a deterministic form raises."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@every_loss
@every_dtype
@every_ignore_index
class TestIgnoredPixels:
    def test_their_logits_change_nothing(
        self, make: Make, dtype: torch.dtype, ignore_index: int
    ) -> None:
        loss = make(UNEVEN, ignore_index)
        logits, target = batch(ignore_index)
        logits = logits.to(dtype)
        ignored = (target == ignore_index)[:, None].expand_as(logits)
        expected, expected_slope = value_and_slope(loss, logits, target)
        assert expected > 0
        assert torch.count_nonzero(expected_slope[ignored]) == 0
        for other in (torch.randn_like(logits), 1e4, -1e4, float("inf"), float("nan")):
            value, slope = value_and_slope(loss, torch.where(ignored, other, logits), target)
            assert value.equal(expected)
            assert slope.equal(expected_slope)

    def test_loss_is_that_of_the_valid_pixels_alone(
        self, make: Make, dtype: torch.dtype, ignore_index: int
    ) -> None:
        loss = make(UNEVEN, ignore_index)
        logits, target = batch(ignore_index)
        logits = logits.to(dtype)
        valid = target != ignore_index
        alone = logits.movedim(1, -1)[valid].T[None, :, None]  # (1, C, 1, number of valid pixels)
        torch.testing.assert_close(loss(logits, target), loss(alone, target[valid][None, None]))

    def test_no_valid_pixel_gives_zero(
        self, make: Make, dtype: torch.dtype, ignore_index: int
    ) -> None:
        logits, target = batch(ignore_index)
        logits[0, 0, 0, 0] = float("nan")
        target.fill_(ignore_index)
        value, slope = value_and_slope(make(UNEVEN, ignore_index), logits.to(dtype), target)
        assert value == 0
        assert torch.count_nonzero(slope) == 0


@every_loss
@every_dtype
class TestEveryDtype:
    @pytest.mark.parametrize("scale", [1e4, -1e4])
    def test_finite_for_extreme_logits(self, make: Make, dtype: torch.dtype, scale: float) -> None:
        target = batch()[1]
        generator = torch.Generator().manual_seed(1)
        signs = torch.randint(0, 2, (2, NUM_CLASSES, 6, 5), generator=generator) * 2 - 1
        right_or_wrong = torch.full_like(signs, -1).scatter(1, (target[:, None] % 255), 1)
        for pattern in (signs, right_or_wrong):
            value, slope = value_and_slope(make(UNEVEN, 255), (pattern * scale).to(dtype), target)
            assert value.isfinite()
            assert slope.isfinite().all()

    def test_computes_in_float32(self, make: Make, dtype: torch.dtype) -> None:
        logits, target = batch()
        logits = logits.to(dtype)
        value, slope = value_and_slope(make(UNEVEN, 255), logits, target)
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert slope.dtype == dtype
        assert value.equal(make(UNEVEN, 255)(logits.float(), target))
        with torch.autocast("cpu", torch.bfloat16):
            assert value.equal(make(UNEVEN, 255)(logits, target))


@every_loss
class TestEveryLoss:
    def test_gradcheck(self, make: Make) -> None:
        logits, target = batch()
        logits = logits.double()[:1, :, :3, :3].requires_grad_()
        assert torch.autograd.gradcheck(make(UNEVEN, 255), (logits, target[:1, :3, :3]))
        assert make(UNEVEN, 255)(logits, target[:1, :3, :3]).dtype == torch.float64

    def test_names_of_classes_do_not_matter(
        self, make: Make, request: pytest.FixtureRequest
    ) -> None:
        logits, target = batch()
        only_foreground = request.node.callspec.id == "dice_foreground"
        new_of_old = torch.tensor([0, 3, 1, 2] if only_foreground else [2, 0, 3, 1])
        old_of_new = new_of_old.argsort()
        renamed = torch.where(target == 255, 255, new_of_old[target % 255])
        weights = [UNEVEN[old] for old in old_of_new.tolist()]
        torch.testing.assert_close(
            make(UNEVEN, 255)(logits, target), make(weights, 255)(logits[:, old_of_new], renamed)
        )

    def test_twice_the_same_batch_is_once(self, make: Make) -> None:
        loss = make(UNEVEN, 255)
        for module in loss.modules():
            if isinstance(module, DiceLoss | TverskyLoss):
                module.smooth = 0.0  # a number of pixels, so it weighs half in twice the pixels
        logits, target = batch()
        twice = loss(torch.cat((logits, logits)), torch.cat((target, target)))
        torch.testing.assert_close(twice, loss(logits, target))

    def test_even_weights_are_none(self, make: Make) -> None:
        torch.testing.assert_close(make(EVEN, 255)(*batch()), make(None, 255)(*batch()))

    def test_only_classes_of_weight_zero(self, make: Make, request: pytest.FixtureRequest) -> None:
        if request.node.callspec.id in WEIGHTLESS:
            pytest.skip("has no class weights")
        value, slope = value_and_slope(make([0, 0, 0, 1.0], 255), *batch())
        if request.node.callspec.id in ("dice_all", "tversky_all"):
            assert value.isfinite()  # class 3 is averaged though absent
        else:
            assert value == 0
            assert torch.count_nonzero(slope) == 0
        value, slope = value_and_slope(make([0.0] * NUM_CLASSES, 255), *batch())
        assert value == 0
        assert torch.count_nonzero(slope) == 0

    def test_integer_dtypes_of_the_target(self, make: Make) -> None:
        logits, target = batch()
        loss = make(UNEVEN, 255)
        for dtype in (torch.uint8, torch.int16, torch.int32):
            assert loss(logits, target.to(dtype)).equal(loss(logits, target))

    def test_memory_format_does_not_matter(self, make: Make) -> None:
        logits, target = batch()
        other = logits.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(
            make(UNEVEN, 255)(other, target), make(UNEVEN, 255)(logits, target)
        )

    def test_one_process_has_the_global_loss(self, make: Make) -> None:
        loss = make(UNEVEN, 255)
        assert global_loss(loss, *batch(), world_size=1).equal(loss(*batch()))

    @pytest.mark.usefixtures("deterministic")
    def test_deterministic_mode_changes_nothing(self, make: Make) -> None:
        logits, target = batch()
        found = value_and_slope(make(UNEVEN, 255), logits.double(), target)
        torch.use_deterministic_algorithms(False)
        expected = value_and_slope(make(UNEVEN, 255), logits.double(), target)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)

    @pytest.mark.gpu
    @pytest.mark.usefixtures("deterministic")
    def test_bits_repeat_on_cuda_in_deterministic_mode(self, make: Make) -> None:
        generator = torch.Generator("cuda").manual_seed(0)
        logits = torch.randn(4, NUM_CLASSES, 257, 255, device="cuda", generator=generator)
        target = torch.randint(0, NUM_CLASSES, (4, 257, 255), device="cuda", generator=generator)
        target[:, :9] = 255
        loss = make(UNEVEN, 255).cuda()
        value, slope = value_and_slope(loss, logits, target)
        for _ in range(3):
            again, slope_again = value_and_slope(loss, logits, target)
            assert again.equal(value)
            assert slope_again.equal(slope)

    def test_empty_batch_gives_zero(self, make: Make) -> None:
        value, slope = value_and_slope(
            make(UNEVEN, 255), torch.zeros(0, NUM_CLASSES, 3, 3), torch.zeros(0, 3, 3).long()
        )
        assert value == 0
        assert slope.shape == (0, NUM_CLASSES, 3, 3)

    def test_moving_it_moves_every_tensor_it_holds(self, make: Make) -> None:
        loss = make(UNEVEN, 255)
        state = loss.state_dict()
        assert all(tensor.dtype == torch.float64 for tensor in loss.double().state_dict().values())
        loss.to(torch.device("meta"))
        for module in loss.modules():
            held = [value for value in vars(module).values() if isinstance(value, Tensor)]
            assert not held
            assert all(buffer.is_meta for buffer in module.buffers())
        other = make(EVEN, 255)
        other.load_state_dict(state)
        assert other(*batch()).equal(make(UNEVEN, 255)(*batch()))


@pytest.mark.parametrize(
    ("function", "module", "settings"),
    [
        (cross_entropy, CrossEntropyLoss, {"class_weights": UNEVEN, "label_smoothing": 0.2}),
        (focal_loss, FocalLoss, {"gamma": 1.5, "alpha": [1, 2, 3, 4], "class_weights": UNEVEN}),
        (
            dice_loss,
            DiceLoss,
            {
                "beta": 2.0,
                "smooth": 0.5,
                "average": "all",
                "include_background": False,
                "class_weights": UNEVEN,
            },
        ),
        (bce_loss, BCELoss, {"class_weights": UNEVEN, "label_smoothing": 0.2}),
        (mse_loss, MSELoss, {}),
        (lovasz_loss, LovaszLoss, {"average": "all", "class_weights": UNEVEN}),
        (topk_loss, TopKLoss, {"fraction": 0.4, "class_weights": UNEVEN}),
        (
            tversky_loss,
            TverskyLoss,
            {
                "alpha": 0.8,
                "beta": 0.3,
                "gamma": 2.0,
                "smooth": 0.5,
                "average": "all",
                "include_background": False,
                "class_weights": UNEVEN,
            },
        ),
    ],
)
def test_function_is_its_module(
    function: Callable[..., Tensor], module: Callable[..., nn.Module], settings: dict[str, object]
) -> None:
    for ignore_index in (255, 1):
        logits, target = batch(ignore_index)
        value = function(logits, target, ignore_index=ignore_index, **settings)
        assert value.equal(module(ignore_index=ignore_index, **settings)(logits, target))
    assert function(*batch()).equal(module()(*batch()))


def test_absent_classes_are_pushed_down_when_all_are_averaged() -> None:
    logits, target = batch()
    slope = value_and_slope(DiceLoss(average="all", class_weights=[0, 0, 0, 1]), logits, target)[1]
    assert (slope[:, 3][target != 255] > 0).all()
