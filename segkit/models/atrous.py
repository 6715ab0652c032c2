"""Atrous rates and the size of what training sees: which rates fit, which taps never see data.

A 3x3 branch with rate r looks r cells up, down, left and right on a map of n cells a side. Where
n <= r the outer taps lie in the padding for every cell: no gradient reaches them, and BatchNorm
learns the statistics of a branch without them. On larger images they do see data, and what they
make of it is noise.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

# The field of view in pixels stays the same: half the stride, twice the rates.
ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}


def scaled_size(image_size: Sequence[int], input_scale: float) -> tuple[int, int]:
    """Height and width of the image times the factor, rounded to the nearest."""
    # In whole numbers: a graph that is exported for images of any size has no others.
    over, under = Fraction(input_scale).limit_denominator(1000).as_integer_ratio()
    height, width = ((2 * side * over + under) // (2 * under) for side in image_size)
    return height, width


def feature_size(
    image_size: Sequence[int], output_stride: int, input_scale: float = 1.0
) -> tuple[int, int]:
    """Cells of the last features: (height, width) of the image over the stride, rounded up."""
    scaled = scaled_size(image_size, input_scale)
    height, width = (math.ceil(side / output_stride) for side in scaled)
    return height, width


def fitting_rates(
    train_crop: Sequence[int], output_stride: int, input_scale: float = 1.0
) -> tuple[int, int, int]:
    """DeepLab's rates where the crop has room for them, else smaller ones in the same proportion.

    The largest is a share of the shorter side n of the feature map: n over the usual rate, at least
    half, so that taps still see data for most cells of a small map (benchmarks/README.md, "Crops
    and rates"). The others are a third and two thirds of it. All are at least 1 and distinct, even
    where the map is too small for it, and below n where that is possible.

    Args:
        train_crop: Height and width of what training sees, in pixels.
        output_stride: 8 or 16.
        input_scale: What the network enlarges images by.
    """
    usual = ATROUS_RATES[output_stride][-1]
    cells = min(feature_size(train_crop, output_stride, input_scale))
    largest = max(min(usual, cells - 1, round(cells * max(0.5, cells / usual))), 3)
    return round(largest / 3), round(2 * largest / 3), largest


def needed_crop(rate: int, output_stride: int, input_scale: float = 1.0) -> int:
    """Least side in pixels of a crop in which every tap of a branch sees data somewhere."""
    return math.ceil((rate * output_stride + 0.5) / input_scale)


def unreached_taps(rate: int, cells: tuple[int, int]) -> Tensor:
    """Which taps of a 3x3 kernel see nothing but padding on a map of this size: bool (3, 3)."""
    rows, columns = (torch.tensor([rate >= side, False, rate >= side]) for side in cells)
    return rows[:, None] | columns


def start_unreached_taps_at_zero(module: nn.Module, cells: tuple[int, int]) -> None:
    """Set the taps of the atrous 3x3 convolutions in ``module`` that see no data to 0, in place.

    Then the branch computes on larger images what it learned on small ones.

    Args:
        module: ASPP, or another of which every dilated layer sees a map of ``cells``.
        cells: Height and width of that map.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            with torch.no_grad():
                layer.weight[:, :, unreached_taps(layer.dilation[0], cells)] = 0


def misfit(
    rates: Sequence[int],
    train_crop: Sequence[int],
    output_stride: int,
    input_scale: float = 1.0,
    *,
    fixed: bool = False,
) -> str | None:
    """What to say of rates that the crop has no room for; None where all fit.

    Args:
        rates: Dilations of ASPP.
        train_crop: Height and width of what training sees, in pixels.
        output_stride: 8 or 16.
        input_scale: What the network enlarges images by.
        fixed: The rates are those of weights that are there, and cannot change.
    """
    cells = feature_size(train_crop, output_stride, input_scale)
    counts = {rate: int(unreached_taps(rate, cells).sum()) for rate in rates}
    parts = [f"{count} of 9 at rate {rate}" for rate, count in counts.items() if count]
    if not parts:
        return None
    side = needed_crop(max(rates), output_stride, input_scale)
    text = (
        f"atrous rates {', '.join(map(str, rates))} at output stride {output_stride}: in "
        f"{train_crop[0]} x {train_crop[1]} pixels ({cells[0]} x {cells[1]} cells) some taps never "
        f"see the image ({', '.join(parts)}), and training does not change them. A crop of at "
        f"least {side} x {side} reaches all"
    )
    fitting = fitting_rates(train_crop, output_stride, input_scale)
    if max(fitting) < min(cells) and not fixed:
        text += f"; rates that fit this one: 'model.atrous_rates=[{','.join(map(str, fitting))}]'"
    return text
