"""Balls: what they contain, how wide they are, and what is refused."""

import math
import subprocess
import sys

import pytest
import torch
from flint import arb, arb_mat, ctx

from diagnostics.certificates.balls import MOST_BITS, Enclosure, enclosed, inside, matrix, positive_definite
from tests.cases import symmetric, vectors


def column(*balls: arb) -> arb_mat:
    return arb_mat(len(balls), 1, list(balls))


def third(bits: int = 256) -> Enclosure:
    with ctx.workprec(bits):
        return Enclosure(column(arb(1) / 3, arb(-2) / 3), bits)


def test_two_words_hold_106_bits_and_the_radius_counts_what_they_leave() -> None:
    known = third()
    assert torch.equal(known.high, torch.tensor([1, -2]).double() / 3)
    assert float(known.low[0]) == 2.0**-54 / 3  # what 1/3 in float64 lacks, correctly rounded: 1/3 again, shifted
    with ctx.workprec(2000):
        for high, low, radius, truth in zip(
            *(x.tolist() for x in (known.high, known.low, known.radius)), (arb(1) / 3, arb(-2) / 3), strict=True
        ):
            assert abs(truth - high - low) <= arb(radius)
            assert 0 < radius < 2.0**-106


def test_exact_numbers_have_no_radius() -> None:
    x = vectors(1, 4)[0]
    known = enclosed(lambda: matrix((x, x * 2.0**-60)))
    assert torch.equal(known.high, x) and torch.equal(known.low, x * 2.0**-60)
    assert torch.equal(known.radius, torch.zeros(4).double())
    assert torch.equal(inside(known, x, x * 2.0**-60, 0.0), torch.zeros(4).double())


def test_a_number_is_inside_up_to_its_own_bound() -> None:
    known = third()
    away = known.high + 2.0**-40
    assert bool((inside(known, known.high, known.low, 2.0**-106) <= 1).all())
    assert torch.allclose(inside(known, away, known.low, 2.0**-40), torch.ones(2).double(), rtol=2.0**-10)
    assert bool((inside(known, away, known.low, 0.0) > 2.0**100).all())
    wide = Enclosure(column(arb(1, 0.5)), 64)
    one = torch.ones(1).double()
    assert float(inside(wide, one * 1.5, 0 * one, 0.0)) == pytest.approx(1.0, rel=2.0**-20)  # radii have 30 bits
    assert float(wide.radius) == pytest.approx(0.5, rel=2.0**-20) and float(wide.radius) >= 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_inside(value: float) -> None:
    one = torch.ones(1).double()
    assert float(inside(Enclosure(column(arb(1)), 64), value * one, 0 * one, 1.0)) == math.inf
    unknown = Enclosure(column(arb(value)), 64)
    assert float(unknown.radius) == math.inf
    assert float(inside(unknown, one, 0 * one, 1.0)) == math.inf


def test_numbers_beyond_float64_have_infinite_radius_or_that_of_their_size() -> None:
    with ctx.workprec(64):
        known = Enclosure(column(arb(2) ** 2000, arb(2) ** -2000), 64)
    assert float(known.radius[0]) == math.inf
    assert 0 < float(known.radius[1]) < 2.0**-1060 and float(known.high[1]) == 0


def test_bits_are_doubled_until_the_radius_is_small_enough() -> None:
    def cancelling() -> arb_mat:
        return column((arb(1) / 3 + arb(2) ** 600) - arb(2) ** 600)

    known = enclosed(cancelling)
    assert known.bits == 1024 and float(known.high) == 1 / 3
    assert float(known.radius) <= 2.0**-107
    assert enclosed(cancelling, bits=2000).bits == 2000


def test_a_radius_that_no_bits_make_small_is_returned_as_it_is() -> None:
    known = enclosed(lambda: column(arb(1, 0.5)))
    assert known.bits == MOST_BITS and float(known.radius) >= 0.5
    unknown = enclosed(lambda: column(arb(1), arb(math.nan)))
    assert unknown.bits == MOST_BITS and unknown.radius.tolist() == [0.0, math.inf]


def test_no_numbers_at_all() -> None:
    known = enclosed(lambda: arb_mat(0, 1))
    empty = torch.zeros(0).double()
    assert known.radius.shape == known.high.shape == known.low.shape == inside(known, empty, empty, 1.0).shape == (0,)
    assert matrix(empty).nrows() == 0 and positive_definite(arb_mat(0, 0))


def test_float32_numbers_are_exact_too() -> None:
    x = vectors(2, 3, dtype=torch.float32)
    assert matrix(x).tolist() == [[arb(value) for value in row] for row in x.double().tolist()]


def test_definite_matrices_are_proven_so_and_others_are_not() -> None:
    values = torch.tensor([[2.0, 1.0, 1e-6]]).double()
    assert positive_definite(matrix(symmetric(values)[0]))
    assert not positive_definite(matrix(symmetric(values * torch.tensor([1, 1, -1]))[0]))
    assert not positive_definite(arb_mat(1, 1, [arb(0)]))
    assert positive_definite(arb_mat(1, 1, [arb(1, 0.5)])) and not positive_definite(arb_mat(1, 1, [arb(1, 1.5)]))
    assert not positive_definite(arb_mat([[1, 2], [2, 1]]))


def test_what_is_refused() -> None:
    one = torch.ones(1).double()
    with pytest.raises(ValueError, match=r"expected one task's vector or matrix, found shape \(2, 2, 2\)"):
        matrix(torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="expected finite numbers, found NaN or infinity"):
        matrix(one * math.nan)
    with pytest.raises(ValueError, match="expected finite numbers"):
        matrix((one, one * math.inf))
    with pytest.raises(ValueError, match="expected both words of one shape"):
        matrix((one, torch.ones(2).double()))
    with pytest.raises(ValueError, match="bits: expected a whole number >= 64, found 32"):
        enclosed(lambda: column(arb(1)), bits=32)
    with pytest.raises(ValueError, match="radius: expected a finite number > 0, found 0"):
        enclosed(lambda: column(arb(1)), radius=0)


def test_without_flint_one_line_says_what_to_install() -> None:
    code = """
import importlib, sys
sys.modules["flint"] = None
for module in ("balls", "problems", "gradients", "minimiser"):
    try:
        importlib.import_module(f"diagnostics.certificates.{module}")
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["certificates need the extra `exact`: pip install gradgauge[exact]"] * 4


def test_nothing_else_loads_flint() -> None:
    code = "import sys, diagnostics.reference, diagnostics.problem_names; print('flint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
