"""Curves, bars, and the colours below an image."""

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.data.colors import voc_palette
from segkit.report.charts import (
    BLUE,
    ORANGE,
    PAPER,
    Line,
    bar_chart,
    line_chart,
    ticks,
    whole_ticks,
)
from segkit.report.color_key import shown_classes, with_color_key, with_title

PALETTE = voc_palette()


def pixels(image: NDArray[np.uint8], color: tuple[int, ...]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (image == np.array(color)).all(-1)
    return found


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.13, 0.87, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 1, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 7e-4, [0.0, 2e-4, 4e-4, 6e-4, 8e-4]),
        (2, 2, [1.0, 1.5, 2.0, 2.5, 3.0]),  # a single value stands in the middle
        (0, 0, [-0.5, 0.0, 0.5]),
        (-3, 120, [-50.0, 0.0, 50.0, 100.0, 150.0]),
    ],
)
def test_ticks_are_round_and_reach_around_all_values(
    low: float, high: float, found: list[float]
) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low <= high <= marks[-1]
    assert len(marks) <= 8
    if low != 0 or high != 0:
        assert marks == pytest.approx(found)


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [(1, 1, [1]), (1, 3, [1, 2, 3]), (1, 35, [10, 20, 30]), (990, 1000, [990, 992, 994])],
)
def test_epochs_are_marked_by_whole_numbers(first: int, last: int, found: list[int]) -> None:
    assert whole_ticks(first, last)[:3] == found


def test_a_curve_falls_from_the_left_to_the_right() -> None:
    drawn = line_chart("loss", [1, 2, 3], [Line("a", [4.0, 2.0, 0.0])], width=300, height=200)
    assert drawn.shape == (200, 300, 3)
    rows, columns = np.nonzero(pixels(drawn, BLUE))
    assert rows[columns.argmin()] < rows[columns.argmax()]
    assert np.ptp(columns) > 200
    # In the middle of the x axis it is half as high.
    middle = rows[columns == (columns.min() + columns.max()) // 2].mean()
    assert middle == pytest.approx((rows.min() + rows.max()) / 2, abs=3)


@pytest.mark.parametrize("values", [[None, None], [float("nan"), None], []])
def test_a_curve_without_values_is_empty_paper(values: list[float | None]) -> None:
    x = list(range(1, len(values) + 1))
    drawn = line_chart("loss", x, [Line("a", values), Line("b", values, ORANGE)])
    assert not pixels(drawn[50:], BLUE).any()


def test_one_epoch_is_a_dot_and_gaps_are_bridged() -> None:
    dot = pixels(line_chart("m", [1], [Line("a", [0.5])]), BLUE)
    assert 30 < dot.sum() < 80
    bridged = line_chart("m", [1, 2, 3], [Line("a", [0.0, None, 1.0])])
    assert np.array_equal(bridged, line_chart("m", [1, 2, 3], [Line("a", [0.0, 0.5, 1.0])]))


def test_bars_are_as_long_as_their_values() -> None:
    drawn = bar_chart("IoU", ["a", "b", "c", "d"], [1.0, 0.5, None, 0.0], PALETTE)
    lengths = [int(pixels(drawn, BLUE)[46 + 24 * row + 12].sum()) for row in range(4)]
    assert lengths[0] == pytest.approx(220, abs=3)
    assert lengths[1] == pytest.approx(110, abs=3)
    assert lengths[2:] == [0, 0]
    for row in range(4):  # the square in the class's colour
        assert pixels(drawn[46 + 24 * row : 70 + 24 * row, :30], tuple(PALETTE[row])).any()


@pytest.mark.parametrize("count", [1, 30, 31, 150])
def test_many_bars_stand_side_by_side(count: int) -> None:
    names = [f"a class with a name that nobody can read to its end {i}" for i in range(count)]
    drawn = bar_chart("IoU", names, [0.5] * count, PALETTE)
    assert len(drawn) < 800
    assert (drawn[:, -8:] == PAPER[0]).all()  # nothing is cut


def test_an_image_gets_the_colours_of_what_it_shows() -> None:
    mask = np.array([[2, 2], [0, 255]])
    assert shown_classes([mask], 4).tolist() == [0, 2]
    image = np.full((60, 300, 3), 77, np.uint8)
    drawn = with_color_key(image, [0, 2], ["a", "b", "c", "d"], PALETTE)
    assert np.array_equal(drawn[:60], image)
    assert pixels(drawn[60:], tuple(PALETTE[2])).any()
    assert not pixels(drawn[60:], tuple(PALETTE[1])).any()
    assert with_color_key(image, [], ["a"], PALETTE) is image


def test_the_key_fits_the_image() -> None:
    name = "a name that is wider than the image"
    small, large = np.zeros((20, 20, 3), np.uint8), np.zeros((900, 1600, 3), np.uint8)
    wide = with_color_key(small, [1], ["a", name], PALETTE)
    assert wide.shape[1] > 200
    assert (wide[:20, 20:] == 255).all()
    key = with_color_key(large, [1], ["a", name], PALETTE)[900:]
    assert key.shape[0] > 2 * (wide.shape[0] - 20 - 8)  # larger letters
    many = with_color_key(small, range(300), [str(i) for i in range(300)], PALETTE)
    assert many.shape[2] == 3  # ids above 255 share a colour


def test_a_title_is_cut_to_the_image() -> None:
    image = np.zeros((5, 90, 3), np.uint8)
    drawn = with_title(image, "a title that is longer than ninety pixels\n")
    assert drawn.shape[1] == 90
    assert np.array_equal(drawn[-5:], image)
