"""Cutting short: the bits that are kept, exactly; and that a whole computation moves as rounding would move it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diagnostics.arithmetic.cut import cut_short, cutting
from diagnostics.arithmetic.extended import Extended, extended, rounded, words, wrap
from diagnostics.certified import COARSER
from tests.cases import check_ratio, vectors

LOW, ALONE = 26, 44  # bits kept of a low word, and of a float64
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan]
sizes = st.floats(1e-200, 1e200)
floats = st.one_of(st.just(0.0), sizes, sizes.map(lambda x: -x))


def truncated(x: float, bits: int) -> float:
    """The leading bits of a normal number: `frexp` and whole numbers, nothing of the code under test."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(math.trunc(mantissa * 2**bits), exponent - bits)


@given(st.lists(floats, min_size=1, max_size=20))
def test_float64_keeps_its_leading_44_bits(numbers: list[float]) -> None:
    x = torch.tensor(numbers, dtype=torch.float64)
    assert cut_short(x, "sum").tolist() == [truncated(value, ALONE) for value in numbers]
    assert x.tolist() == numbers  # and the argument is as it was


@given(st.lists(floats, min_size=1, max_size=20))
def test_extended_keeps_its_high_word_and_26_bits_of_the_low_one(numbers: list[float]) -> None:
    high = torch.tensor(numbers, dtype=torch.float64)
    low = vectors(1, len(numbers))[0] * 2.0**-56 * high
    cut = cut_short(wrap((high, low)), "sum")
    kept_high, kept_low = words(cut)
    assert torch.equal(kept_high, high)
    assert kept_low.tolist() == [truncated(value, LOW) for value in low.tolist()]


def test_what_is_cut_is_below_the_stated_epsilon() -> None:
    """At most 2^-43 of a float64; of an extended number at most 2^-25 of a low word, which is at most 2^-53 of all."""
    x = vectors(50, 40)
    apart = (x - cut_short(x, "sum")).abs()
    assert bool((apart <= COARSER["float64"] * x.abs()).all()) and bool((apart > 0).any())
    fine = wrap((x, x * vectors(50, 40, 1) * 2.0**-56))
    apart = rounded(fine - cut_short(fine, "sum")).abs()
    assert bool((apart <= COARSER["extended"] * x.abs()).all()) and bool((apart > 0).any())


@pytest.mark.parametrize("value", SPECIAL)
def test_special_numbers_stay_what_they_are(value: float) -> None:
    x = torch.tensor([value], dtype=torch.float64)
    for cut in (cut_short(x, "sum"), words(cut_short(extended(x), "sum"))[0]):
        assert torch.equal(cut.isnan(), x.isnan()) and torch.equal(cut.signbit(), x.signbit())
        assert torch.equal(cut.nan_to_num(7.0), x.nan_to_num(7.0))


def test_other_kinds_of_numbers_are_left_alone() -> None:
    for x in (torch.tensor([1 / 3]), torch.tensor([3]), torch.tensor([True]), torch.tensor([0.1]).bfloat16()):
        assert cut_short(x, "sum") is x


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (), (2, 3)])
def test_shapes_and_layouts_are_kept(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, dtype=torch.float64) / 3
    for there in (x, extended(x)):
        cut = cut_short(there, "sum")
        assert cut.shape == shape and type(cut) is type(there)
    across = vectors(3, 4).mT
    assert torch.equal(cut_short(across, "sum"), cut_short(across.contiguous(), "sum"))


@pytest.mark.parametrize("enter", [lambda x: x, extended], ids=["float64", "extended"])
def test_every_operation_that_computes_is_cut_and_movement_is_not(enter) -> None:  # noqa: ANN001
    x, y = enter(vectors(2, 3)), enter(vectors(2, 3, 1))
    bits = {"extended": 53 + LOW, "float64": ALONE}["extended" if isinstance(x, Extended) else "float64"]
    exact = x * y
    with cutting():
        inside, moved = x * y, torch.stack([x, y]).flip(0)
    assert torch.equal(moved[1] - x, x - x)  # not a bit of what is only moved is lost
    apart = rounded((inside - exact) / exact).abs()
    # At most the last bit that is kept, and usually something.
    assert 0 < float(apart.max()) <= 2.0 ** (2 - bits)
    assert torch.equal(rounded(x * y - exact), torch.zeros(2, 3).double())  # nothing is cut once outside


@pytest.mark.parametrize("enter", [lambda x: x, extended], ids=["float64", "extended"])
def test_a_sum_of_many_terms_moves_as_its_roundings_would_add_up(enter) -> None:  # noqa: ANN001
    """Cut at each of n additions, all towards zero, a sum of n equal terms falls short by at most n epsilons."""
    terms, n = enter(torch.ones(1, dtype=torch.float64)) / 3, 200
    eps = COARSER["extended" if isinstance(terms, Extended) else "float64"]
    total = short = terms
    for _ in range(n - 1):
        total = total + terms
        with cutting():
            short = short + terms
    lost = rounded((total - short) / total)
    assert bool((lost > 0).all())
    check_ratio("a sum cut short", lost, n * eps)
