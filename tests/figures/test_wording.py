from math import inf, nan

import pytest

from figures.names import printable, problem_name
from figures.surface import short
from figures.wording import cosine, counts, first, listed, percent, steps, with_interval


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.5, "50%"), (0.0123, "1.2%"), (2.7, "270%"), (12.0, "12 times"), (3.2e-6, "3.2e-6"), (0.0, "0"),
     (nan, "unknown"), (inf, "infinitely"), (351503.0, "3.5e5 times")],
)  # fmt: skip
def test_percent(value, said):
    assert percent(value) == said


def test_cosine_has_the_digits_that_tell_it_from_1():
    assert cosine((0.56123, 0.46, 0.73)) == "0.56 [0.46, 0.73]"
    assert cosine((0.99712, 0.995, 0.998)) == "0.9971 [0.9950, 0.9980]"
    assert cosine((1.0, 1.0, 1.0)) == "1 (to 5 digits)"
    assert cosine((0.5, nan, nan)) == "0.50"


def test_interval():
    assert with_interval((1.0, 0.5, 2.0)) == "1 [0.5, 2]"
    assert with_interval((1.0, nan, nan)) == "1"
    assert with_interval((1.0, 1.0, 1.0)) == "1"


def test_counts_become_ranges_of_what_was_tried():
    assert counts([1, 2, 5, 50], [1, 2, 5, 20, 50]) == "1 to 5 and 50"
    assert counts([1, 2], [1, 2, 5]) == "1 and 2"
    assert counts([5], [1, 2, 5]) == "5"
    assert listed([]) == "" and steps(1) == "1 inner step" and steps(20) == "20 inner steps"


def test_first_place_from_which_on_all_hold():
    assert first([True, False, True, True]) == 2
    assert first([False, False]) is None and first([]) is None


def test_names():
    assert problem_name("sinusoid[activation=relu,strength=50]") == "sinusoid (activation relu, strength 50)"
    assert problem_name("linear_regression") == "linear regression"
    assert printable("a$b") == r"a\$b"
    assert len(printable("w" * 500)) == 60 and "\n" not in printable("a\nb")


@pytest.mark.parametrize(
    ("value", "said"), [(0.564, ".56"), (0.9966, ".997"), (0.99986, ".9999"), (0.99999, ">.999"), (1.0, "1.000"),
                        (-0.3, "\u2212.30"), (0.95, ".950")]
)  # fmt: skip
def test_cosines_in_cells(value, said):
    assert short(value) == said
