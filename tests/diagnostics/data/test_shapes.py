"""Which drawings count as one shape."""

import numpy as np
import pytest

from diagnostics.data.shapes import TOLERANCE, cropped, same_shape


def letter(seed: int, height: int = 12, width: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (height, width)).astype(np.uint8)


def test_the_ink_box_does_not_depend_on_position():
    for y, x in ((0, 0), (3, 11), (18, 21)):
        image = np.zeros((30, 30), np.uint8)
        image[y : y + 12, x : x + 9] = letter(0)
        np.testing.assert_array_equal(cropped(image), letter(0))


def test_a_blank_image_has_an_empty_ink_box():
    assert cropped(np.zeros((5, 7), np.uint8)).shape == (0, 0)


def test_equal_drawings_pair_and_others_do_not():
    drawings = [letter(0), letter(1), letter(0), letter(0, 12, 10), letter(1, 30, 9)]
    assert same_shape(drawings).tolist() == [[0, 2]]


def test_every_pair_of_equal_drawings_is_listed_once():
    assert same_shape([letter(0)] * 4).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


# fmt: off
@pytest.mark.parametrize("top, bottom, left, right", [
    (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0), (0, 1, 0, 1),
])
# fmt: on
def test_a_faint_edge_makes_no_other_shape(top, bottom, left, right):
    fringed = np.pad(letter(0), ((top, bottom), (left, right)), constant_values=2)
    assert same_shape([letter(0), fringed]).tolist() == [[0, 1]]
    assert same_shape([fringed, letter(0)]).tolist() == [[0, 1]]


def test_a_row_less_and_a_column_more_can_still_be_the_same_shape():
    solid = np.full((12, 9), 255, np.uint8)
    wide, tall = np.pad(solid, ((0, 0), (0, 1)), constant_values=3), np.pad(solid, ((1, 0), (0, 0)), constant_values=3)
    assert same_shape([wide, tall]).tolist() == [[0, 1]]


def test_the_tolerance_is_a_share_of_the_smaller_energy():
    a = np.full((10, 10), 100, np.uint8)  # energy 10^6; one pixel changed by d leaves d^2
    below, above = a.copy(), a.copy()
    below[4, 4], above[4, 4] = 200, 201
    assert TOLERANCE == 0.01
    assert same_shape([a, below]).tolist() == [[0, 1]]
    assert same_shape([a, above]).tolist() == []


def test_nothing_makes_no_pairs():
    assert same_shape([]).shape == (0, 2)
