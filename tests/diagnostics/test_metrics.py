"""Distances, where a naive formula would cancel, overflow or divide by zero."""

import math

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.extended import EPS as FINER
from diagnostics.arithmetic.extended import Extended, extended, wrap
from diagnostics.metrics import distance
from diagnostics.rows import row_norms
from tests.cases import check_ratio, vectors

EPS = 2.0**-52


def rotated(angle: float, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """An estimate at a known angle from its reference, in the plane."""
    r = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    e = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    return e * scale, r


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 1e-3, 0.1, 1.0, 2.0, 3.0])
def test_the_cosine_distance_does_not_cancel(angle: float) -> None:
    """1 - cos = 2 sin(angle/2)^2, to nearly all digits even where cos is 1 in float64."""
    found = distance(*rotated(angle))
    truth = 2 * math.sin(angle / 2) ** 2
    unit = EPS * (
        truth + angle
    )  # a coordinate near 1 is known to eps, which turns the direction by eps of the angle's sine
    check_ratio("cosine distance", (found.cosine_distance - truth).abs(), unit, angle)
    check_ratio("cosine", (found.cosine - math.cos(angle)).abs(), EPS)
    if angle <= 1e-9:
        assert float(found.cosine) == 1.0  # where 1 - cosine would say nothing


def test_at_an_angle_of_1e_12_the_distance_has_its_leading_digits() -> None:
    assert float(distance(*rotated(1e-12)).cosine_distance) == pytest.approx(5e-25, rel=1e-3)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0, 2.0**30])
def test_directions_do_not_see_lengths(scale: float) -> None:
    plain, scaled = distance(*rotated(0.3)), distance(*rotated(0.3, scale))
    assert torch.equal(plain.cosine_distance, scaled.cosine_distance)
    assert float(scaled.norm_ratio) == pytest.approx(scale, rel=4 * EPS)


def test_known_distances() -> None:
    e = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    r = torch.tensor([[3.0, 4.0], [2.0, 0.0], [1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    found = distance(e, r)
    assert found.cosine.tolist() == pytest.approx([1, 0, -1, 1], abs=2 * EPS)
    assert found.cosine_distance.tolist() == pytest.approx([0, 1, 2, 0], abs=2 * EPS)
    assert found.relative_error.tolist() == pytest.approx([0, 2**0.5, 2, 0.5], rel=4 * EPS)
    assert found.norm_ratio.tolist() == pytest.approx([1, 1, 1, 0.5], rel=4 * EPS)
    assert found.digits.tolist() == pytest.approx([-math.log10(EPS), -math.log10(2) / 2, -math.log10(2), math.log10(2)])


def test_a_zero_reference_has_no_direction() -> None:
    zero, some = torch.zeros(1, 3).double(), torch.ones(1, 3).double()
    found = distance(some, zero)
    for value in (found.cosine, found.cosine_distance, found.relative_error, found.norm_ratio, found.digits):
        assert bool(value.isnan().all())
    both = distance(zero, zero)
    assert float(both.relative_error) == 0.0 and bool(both.cosine.isnan().all())
    none = distance(zero, some)
    assert float(none.relative_error) == 1.0 and float(none.norm_ratio) == 0.0 and bool(none.cosine.isnan().all())


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_huge_and_tiny_gradients_have_the_same_distances(scale: float) -> None:
    e, r = vectors(3, 4), vectors(3, 4, 1)
    plain, scaled = distance(e, r), distance(e * scale, r * scale)
    for name in ("cosine", "cosine_distance", "relative_error", "norm_ratio", "digits"):
        one, two = getattr(plain, name), getattr(scaled, name)
        check_ratio("scaled distances", (one - two).abs(), EPS * (1 + one.abs()), name)


def test_digits_are_at_most_what_float64_can_tell() -> None:
    r = vectors(1, 4)
    assert float(distance(r, r).digits) == pytest.approx(-math.log10(EPS))
    assert float(distance(r * (1 + 1e-3), r).digits) == pytest.approx(3.0, abs=1e-6)


def test_a_value_that_is_not_finite_is_not_near() -> None:
    r = torch.ones(2, 2).double()
    e = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0]], dtype=torch.float64)
    found = distance(e, r)
    assert bool(found.cosine.isnan().all())
    assert bool(found.relative_error[0].isnan()) and float(found.relative_error[1]) == math.inf
    assert bool(found.digits[0].isnan()) and float(found.digits[1]) == -math.inf


@pytest.mark.parametrize("error", [2.0**-60, 2.0**-90, 2.0**-103])
def test_against_an_extended_reference_errors_below_float64s_are_seen(error: float) -> None:
    """An estimate that differs in its low word alone: r (1 + error), which float64 would call r."""
    r = vectors(3, 5)
    known = extended(r)
    near = known + error * known
    assert isinstance(near, Extended) and torch.equal(near.high, r)
    found = distance(near, known)
    # r (1 + error) is rounded once, to a part of 2^-104 of itself.
    check_ratio("extended distances", (found.relative_error - error).abs(), FINER + EPS * error, error)
    for value in (found.cosine, found.cosine_distance, found.relative_error, found.norm_ratio, found.digits):
        assert type(value) is Tensor and value.dtype == torch.float64
    assert found.digits.tolist() == pytest.approx([-math.log10(error)] * 3, abs=0.3)
    # The same numbers once they are rounded to float64: no error is left.
    assert distance(near.high, r).relative_error.tolist() == [0.0] * 3


def test_the_finer_arithmetic_of_the_two_is_that_of_the_comparison() -> None:
    """Beside an extended one, a float64 estimate or reference keeps all its digits, and adds none."""
    r = vectors(2, 5)
    finer = wrap((r, r * 2.0**-60))
    one, two = distance(r, finer), distance(finer, r)
    for found in (one, two):
        check_ratio("mixed distances", (found.relative_error - 2.0**-60).abs(), EPS * 2.0**-60)
    assert one.digits.tolist() == pytest.approx([-math.log10(2.0**-60)] * 2)
    assert float(distance(r[:1], r[:1]).digits) == pytest.approx(-math.log10(EPS))
    assert float(distance(finer[:1], finer[:1]).digits) == pytest.approx(-math.log10(FINER))
    assert two.digits.tolist() == pytest.approx([-math.log10(EPS)] * 2)  # what the reference's arithmetic can tell


def test_extended_distances_of_nothing() -> None:
    none = extended(torch.zeros(0, 3))
    assert distance(none, none).relative_error.shape == (0,)
    zero, some = extended(torch.zeros(1, 3)), extended(torch.ones(1, 3))
    assert float(distance(zero, zero).relative_error) == 0.0
    assert bool(distance(some, zero).relative_error.isnan()) and bool(distance(some, zero).cosine.isnan())
    spoiled = extended(torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0]]))
    found = distance(spoiled, extended(torch.ones(2, 2)))
    assert bool(found.relative_error[0].isnan()) and bool(found.cosine.isnan().all())


def test_comparison_is_made_in_float64() -> None:
    r = vectors(2, 5)
    found = distance(r.float(), r)
    assert found.relative_error.dtype == torch.float64
    assert bool((found.relative_error < 2.0**-23).all()) and bool((found.relative_error > 0).all())


def test_row_norms_survive_the_squares() -> None:
    for scale in (1e-320, 1e-200, 1.0, 1e200, 1e307):
        x = torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.float64) * scale
        assert float(row_norms(x)) == pytest.approx(5 * scale, rel=1e-3 if scale < 1e-300 else 4 * EPS)
    assert row_norms(torch.zeros(2, 3)).tolist() == [0.0, 0.0]
    assert row_norms(torch.tensor([[torch.inf, 1.0], [-torch.inf, 0.0]])).tolist() == [math.inf, math.inf]
    assert bool(row_norms(torch.tensor([[torch.nan, 1.0]])).isnan().all())
