"""Atrous rates against the size of what training sees."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from segkit.models import DeepLabV3Plus
from segkit.models.aspp import ASPP
from segkit.models.atrous import (
    ATROUS_RATES,
    feature_size,
    fitting_rates,
    misfit,
    needed_crop,
    start_unreached_taps_at_zero,
    unreached_taps,
)

sides = st.integers(1, 1200)
strides = st.sampled_from([8, 16])


@pytest.mark.parametrize(
    ("crop", "stride", "rates"),
    [
        ((512, 512), 16, (6, 12, 18)),
        ((289, 400), 16, (6, 12, 18)),  # 19 cells: the first with room for 18
        ((288, 352), 16, (6, 11, 17)),  # 18 cells
        ((256, 256), 16, (5, 9, 14)),  # 16 cells: 16/18 of them
        ((160, 192), 16, (2, 4, 6)),  # 10 cells: 10/18
        ((96, 96), 16, (1, 2, 3)),  # 6 cells: half
        ((64, 64), 16, (1, 2, 3)),
        ((32, 500), 16, (1, 2, 3)),  # 2 cells: distinct all the same
        ((289, 289), 8, (12, 24, 36)),
        ((160, 192), 8, (4, 7, 11)),  # 20 cells: 20/36
        ((96, 96), 8, (2, 4, 6)),  # 12 cells: half
    ],
)
def test_rates_that_fit(crop: tuple[int, int], stride: int, rates: tuple[int, ...]) -> None:
    assert fitting_rates(crop, stride) == rates


@given(sides, sides, strides, st.sampled_from([1.0, 4 / 3, 2.5]))
def test_rates_fit_any_crop(height: int, width: int, stride: int, scale: float) -> None:
    rates, usual = fitting_rates((height, width), stride, scale), ATROUS_RATES[stride]
    assert 1 <= rates[0] < rates[1] < rates[2]
    assert all(rate <= most for rate, most in zip(rates, usual, strict=True))
    cells = min(feature_size((height, width), stride, scale))
    fits = [not unreached_taps(rate, (cells, cells)).any() for rate in rates]
    assert all(fits) or cells < 4  # no three distinct rates fit into less
    assert (rates == usual) == (min(height, width) >= needed_crop(usual[-1], stride, scale))
    assert (misfit(rates, (height, width), stride, scale) is None) == all(fits)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("cells", [(1, 1), (3, 5), (5, 3), (6, 7), (9, 9)])
def test_unreached_taps_are_those_without_a_gradient(
    cells: tuple[int, int], separable: bool
) -> None:
    torch.manual_seed(0)
    aspp = ASPP(4, (1, 3, 6), 8, separable=separable, norm="gn")
    for branch in aspp.branches:
        for i, layer in enumerate(branch):
            if isinstance(layer, nn.ReLU):
                branch[i] = nn.LeakyReLU(0.1)  # a dead unit has no gradient either
    aspp(torch.randn(2, 4, *cells)).square().sum().backward()
    for branch, rate in zip(list(aspp.branches)[1:], (1, 3, 6), strict=True):
        gradient = branch[0].weight.grad.abs().sum((0, 1))  # (3, 3)
        assert torch.equal(gradient == 0, unreached_taps(rate, cells)), rate


def model(**settings: Any) -> DeepLabV3Plus:
    torch.manual_seed(0)
    small: dict[str, Any] = {"aspp_channels": 16, "decoder_channels": 16}
    return DeepLabV3Plus("tiny", 3, **{**small, **settings})


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_unreached_taps_start_at_zero_and_stay_there(make: Any, separable: bool) -> None:
    net = model(train_crop=(80, 160), atrous_rates=[2, 5, 12], separable=separable)
    optimizer = make(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        net(torch.randn(2, 3, 80, 160)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for branch, rate in zip(list(net.aspp.branches)[1:], (2, 5, 12), strict=True):
        unreached = unreached_taps(rate, (5, 10))
        weight = branch[0].weight
        assert (weight[:, :, unreached] == 0).all()
        assert (weight[:, :, ~unreached] != 0).any(0).any(0).all()


def test_on_a_large_image_such_a_branch_is_the_one_that_was_trained() -> None:
    """A 3x3 branch without its outer taps is a 1x1 convolution with the weights in the middle."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 4, 3, padding=6, dilation=6, bias=False)
    start_unreached_taps_at_zero(convolution, (6, 6))
    features = torch.randn(1, 4, 30, 40)
    middle = nn.functional.conv2d(features, convolution.weight[:, :, 1:2, 1:2])
    torch.testing.assert_close(convolution(features), middle)


def test_where_all_fits_nothing_is_changed() -> None:
    plain, fitting = model(), model(train_crop=(300, 300))
    for (name, mine), theirs in zip(
        plain.state_dict().items(), fitting.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_the_model_takes_rates_that_fit_unless_it_is_given_others() -> None:
    def rates(net: DeepLabV3Plus) -> list[int]:
        return [branch[0].dilation[0] for branch in net.aspp.branches][1:]

    assert rates(model(train_crop=(160, 192))) == [2, 4, 6]
    assert rates(model(train_crop=(160, 192), output_stride=8)) == [4, 7, 11]
    assert rates(model(train_crop=(160, 192), atrous_rates=[6, 12, 18])) == [6, 12, 18]


@pytest.mark.parametrize("train_crop", [(160,), (160, 192, 3), (0, 160), (160, 1.5)])
def test_other_crops_are_refused(train_crop: Any) -> None:
    with pytest.raises(ValueError, match="train_crop must be a"):
        model(train_crop=train_crop)


def test_what_is_said_of_rates_that_do_not_fit() -> None:
    assert misfit((6, 12, 18), (160, 192), 16) == (
        "atrous rates 6, 12, 18 at output stride 16: in 160 x 192 pixels (10 x 12 cells) some taps "
        "never see the image (8 of 9 at rate 12, 8 of 9 at rate 18), and training does not change "
        "them. A crop of at least 289 x 289 reaches all; rates that fit this one: "
        "'model.atrous_rates=[2,4,6]'"
    )
    assert "6 of 9 at rate 11)" in str(misfit((1, 11), (160, 192), 16))  # the width has room
    assert misfit((6, 12, 18), (289, 289), 16) is None  # as it advises
    assert "A crop of at least 193 x 193 reaches all" in str(
        misfit((6, 12, 18), (160, 192), 16, 1.5)  # 193 x 1.5 is 289.5
    )
    assert misfit((6, 12, 18), (193, 193), 16, 1.5) is None
