"""Checks of what a user gave: the value, or one line."""

import math

import pytest

from diagnostics.checks import one_of, positive, whole_number


def test_what_is_right_passes_through() -> None:
    assert whole_number("n", 3, 3) == 3
    assert positive("x", 2) == 2.0 and isinstance(positive("x", 2), float)
    assert one_of("c", "a", ("a", "b")) == "a"


@pytest.mark.parametrize("value", [True, False, 2, -1, 3.0, "3", None, math.nan])
def test_not_a_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="n: expected a whole number >= 3, found"):
        whole_number("n", value, 3)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, -math.inf, True, "1", None])
def test_not_positive(value: object) -> None:
    with pytest.raises(ValueError, match="x: expected a finite number > 0, found"):
        positive("x", value)


@pytest.mark.parametrize("value", ["c", "", None, 1])
def test_not_one_of(value: object) -> None:
    with pytest.raises(ValueError, match="c: expected one of a, b, found"):
        one_of("c", value, ("a", "b"))
