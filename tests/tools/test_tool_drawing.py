"""Which pixels a shape covers, and what covers what."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from segkit.tools.formats.coco import decode_counts, segmentation_area
from segkit.tools.formats.drawing import ellipse, paint, paste, polygon, runs, turned_box

coordinate = st.floats(-3, 12).map(lambda value: round(value, 3))
corners = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=7)


def show(area: np.ndarray) -> list[str]:
    return ["".join(".#"[int(value)] for value in row) for row in area]


def is_inside(x: float, y: float, points: list[tuple[float, float]]) -> bool:
    """Even-odd rule, as in every textbook: a ray to the left crosses an odd number of edges."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if (y0 > y) != (y1 > y) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def test_a_square_covers_the_pixels_between_its_corners() -> None:
    assert show(polygon([(2, 1), (5, 1), (5, 3), (2, 3)], (4, 6))) == [
        "......",
        "..###.",
        "..###.",
        "......",
    ]


def test_pillows_own_polygon_is_wider() -> None:
    # Why segkit does not use it: 4 x 4 pixels for a box of 3 x 3, as one of its manuals says.
    image = Image.new("1", (8, 8))
    ImageDraw.Draw(image).polygon([(2, 2), (5, 2), (5, 5), (2, 5)], fill=1)
    assert int(np.array(image).sum()) == 16
    assert int(polygon([(2, 2), (5, 2), (5, 5), (2, 5)], (8, 8)).sum()) == 9


def test_a_triangle_by_hand() -> None:
    # The edge x = 4 - y has the centre (3.5, 0.5) on it: the right end of a row is outside.
    assert show(polygon([(0, 0), (4, 0), (0, 4)], (4, 4))) == ["###.", "##..", "#...", "...."]


def test_what_is_outside_is_cut_off() -> None:
    assert polygon([(-9, -9), (99, -9), (99, 99), (-9, 99)], (3, 4)).all()
    assert not polygon([(5, 0), (9, 0), (9, 3), (5, 3)], (3, 4)).any()
    assert polygon([(-1e12, -1e12), (1e12, -1e12), (0, 1e12)], (3, 4)).all()


def test_a_star_has_a_hole() -> None:
    turns = np.deg2rad(-90 + 144 * np.arange(5))
    star = polygon(np.stack([20 + 18 * np.cos(turns), 20 + 18 * np.sin(turns)], 1), (40, 40))
    assert not star[20, 20]
    assert star[6, 20]


@pytest.mark.parametrize("points", [[], [(0, 0), (1, 1)], [(0, 0), (1, 1), (0, np.nan)], [1, 2, 3]])
def test_what_is_no_polygon_is_refused(points: list[object]) -> None:
    with pytest.raises(ValueError, match="at least 3 corners"):
        polygon(points, (4, 4))


@settings(deadline=None, max_examples=60)
@given(points=corners)
def test_polygons_are_those_of_the_textbook(points: list[tuple[float, float]]) -> None:
    area = polygon(points, (9, 8))
    centres = [(x + 0.5, y + 0.5) for y in range(9) for x in range(8)]
    far = np.array([abs(_nearest_crossing(x, y, points)) > 1e-9 for x, y in centres])
    expected = np.array([is_inside(x, y, points) for x, y in centres])
    # On an edge, rounding decides.
    np.testing.assert_array_equal(area.ravel()[far], expected[far])


def _nearest_crossing(x: float, y: float, points: list[tuple[float, float]]) -> float:
    found = [9.0]
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if (y0 > y) != (y1 > y):
            found.append(x - x0 - (y - y0) * (x1 - x0) / (y1 - y0))
    return min(found, key=abs)


@settings(deadline=None, max_examples=60)
@given(x=coordinate, y=coordinate)
def test_neighbours_share_no_pixel_and_leave_none_out(x: float, y: float) -> None:
    # Four triangles around any point cut a box without rest, also when the point is outside of it:
    # then some overlap, and the even-odd sum is the box still.
    box = [(0, 0), (8, 0), (8, 9), (0, 9)]
    total = np.zeros((9, 8), int)
    for first, second in zip(box, [*box[1:], box[0]], strict=True):
        total += polygon([first, second, (x, y)], (9, 8))
    assert (total % 2 == 1).all()
    if 0 < x < 8 and 0 < y < 9:
        assert (total == 1).all()


def test_an_ellipse_and_a_turned_box() -> None:
    assert show(ellipse((2.5, 1.5), (2.5, 0.9), 0, (3, 5))) == [".....", "#####", "....."]
    assert show(ellipse((1.5, 2.5), (2.5, 0.9), 90, (5, 3))) == [".#."] * 5
    corner = turned_box((0, 0, 4, 2), 90)[0]
    assert corner == pytest.approx((3, -1))  # clockwise on a screen: the upper left goes right
    assert turned_box((1, 2, 3, 4)) == [(1, 2), (3, 2), (3, 4), (1, 4)]


def test_runs_and_paste() -> None:
    part = runs([1, 2, 1], (2, 2))
    assert show(part) == [".#", "#."]
    assert show(paste(part, 1, 0, (2, 3))) == ["..#", ".#."]
    assert show(paste(part, -1, 1, (3, 2))) == ["..", "#.", ".."]
    assert not paste(part, 7, 7, (3, 2)).any()
    assert show(paste(np.array([[0, 0], [0, 1]]) > 0, -1, -1, (1, 1))) == ["#"]
    with pytest.raises(ValueError, match=r"its runs make 5 pixels; expected 2 x 2"):
        runs([1, 4], (2, 2))
    with pytest.raises(ValueError, match="its runs"):
        runs([5, -1], (2, 2))


def test_overlaps() -> None:
    big, small = np.array([[1, 1, 1, 0]], bool), np.array([[0, 1, 0, 0]], bool)
    same = np.array([[0, 0, 1, 1]], bool)
    layers = [(2, small), (1, big), (1, same)]
    assert paint(layers, (1, 4), "last").tolist() == [[1, 1, 1, 1]]
    assert paint(layers, (1, 4), "area").tolist() == [[1, 2, 1, 1]]
    assert paint(layers, (1, 4), "ignore").tolist() == [[1, 255, 1, 1]]
    assert paint([], (1, 2), "last").tolist() == [[0, 0]]


def test_layers_of_one_size_lie_as_in_the_file() -> None:
    one = np.array([[1, 1, 0]], bool)
    two = np.array([[0, 1, 1]], bool)
    assert paint([(1, one), (2, two)], (1, 3), "area").tolist() == [[1, 2, 2]]
    assert paint([(2, two), (1, one)], (1, 3), "area").tolist() == [[1, 1, 2]]


# COCO's masks


def encode(counts: list[int]) -> str:
    """COCO's text for run lengths, written from its description."""
    text = ""
    for place, count in enumerate(counts):
        value = count - (counts[place - 2] if place > 2 else 0)
        while True:
            bits = value & 31
            value >>= 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


def test_compressed_runs_by_hand() -> None:
    # A 3 x 3 square in 5 x 5: runs 6 3 2 3 2 3 6, from the fourth on minus the one two before.
    assert decode_counts("6320004") == [6, 3, 2, 3, 2, 3, 6]
    # 42 = 10 + 32 * 1: two characters, chr(48 + 10 + 32) and chr(48 + 1).
    assert decode_counts("Z11") == [42, 1]
    # The last one is 1 - 2 = -1: all five bits set.
    assert decode_counts("122O") == [1, 2, 2, 1]


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(0, 300_000), max_size=12))
def test_compressed_runs_come_back(counts: list[int]) -> None:
    assert decode_counts(encode(counts)) == counts


@pytest.mark.parametrize(("text", "message"), [("6 2", "the character ' '"), ("Z", "too early")])
def test_damaged_counts(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_counts(text)


def test_segmentations() -> None:
    runs_down_columns = {"size": [2, 3], "counts": [1, 2, 3]}
    assert show(segmentation_area(runs_down_columns, (2, 3))) == [".#.", "#.."]
    assert show(segmentation_area({"size": [2, 3], "counts": encode([1, 2, 3])}, (2, 3))) == [
        ".#.",
        "#..",
    ]
    two_parts = [[0, 0, 1, 0, 1, 1, 0, 1], [2, 1, 3, 1, 3, 2, 2, 2]]
    assert show(segmentation_area(two_parts, (2, 3))) == ["#..", "..#"]
    for wrong, message in (
        ([[0, 0, 1, 1]], "a polygon of 4 numbers"),
        ({"size": [3, 2], "counts": [6]}, r"its size is \[3, 2\]"),
        ({"size": [2, 3], "counts": [7]}, "its runs make 7 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            segmentation_area(wrong, (2, 3))
