"""Extreme eigenvalues by Lanczos, against the dense ones."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnostics.curvature import dense_spectrum, lanczos
from diagnostics.draws import normal
from tests.cases import check_ratio, symmetric, times, vectors

EPS = 2.0**-52


def size_of(values: Tensor) -> Tensor:
    return values.abs().amax(-1)


CASES = {
    "one dimension": [[2.0]],
    "two dimensions": [[1.0, 3.0]],
    "spread": [[0.01, 0.1, 1.0, 10.0, 100.0]],
    "identity": [[1.0] * 6],
    "multiplicity": [[1.0, 1, 1, 5, 5, 9]],
    "zero": [[0.0] * 4],
    "one negative": [[-1e-3, 1, 2, 3, 4, 5]],
    "negative": [[-3.0, -2, -1]],
    "repeated negative": [[-1.0, -1, 2, 2, 2]],
    "many": [list(np.linspace(-1, 30, 50))],
}


@pytest.mark.parametrize("name", CASES)
def test_with_as_many_iterations_as_dimensions_it_is_exact(name: str) -> None:
    """To eps |H|, as a backward stable eigenvalue solver is, whatever the multiplicities."""
    values = torch.tensor(CASES[name], dtype=torch.float64)
    matrix = symmetric(values)
    for found in (lanczos(times(matrix), values, 60), dense_spectrum(times(matrix), values)):
        unit = EPS * size_of(values) * values.shape[1] ** 0.5
        check_ratio("lanczos, smallest", (found.smallest - values.amin(-1)).abs(), unit, name)
        check_ratio("lanczos, largest", (found.largest - values.amax(-1)).abs(), unit, name)
        assert found.products == min(60, values.shape[1])
    assert lanczos(times(matrix), values, 1).products == 1


def test_it_stays_inside_the_spectrum_and_knows_how_far() -> None:
    """A Ritz value lies inside the spectrum, and within its residual norm of an eigenvalue."""
    values = torch.linspace(-1, 10, 40, dtype=torch.float64).expand(2, 40)
    matrix = symmetric(values)
    before = torch.full((2,), torch.inf).double()
    for iterations in (1, 2, 5, 10, 20, 40):
        found = lanczos(times(matrix), values, iterations)
        rounding = 30 * EPS * 10
        assert bool((found.smallest >= values.amin(-1) - rounding).all())
        assert bool((found.largest <= values.amax(-1) + rounding).all())
        assert bool((found.smallest <= before + rounding).all())  # each product can only improve it
        before = found.smallest
        for ritz, uncertainty in (
            (found.smallest, found.smallest_uncertainty), (found.largest, found.largest_uncertainty),
        ):  # fmt: skip
            gap = (ritz.unsqueeze(-1) - values).abs().amin(-1)
            assert bool((gap <= uncertainty + rounding).all())


def test_a_negative_eigenvalue_is_found_among_many_positive_ones() -> None:
    """One in two hundred, well apart from the others: 30 products are enough, 200 would be certain."""
    values = torch.cat([torch.tensor([-0.5]).double(), torch.linspace(0.5, 5, 199).double()]).unsqueeze(0)
    found = lanczos(times(symmetric(values)), values, 30)
    assert float(found.smallest) < 0
    check_ratio("lanczos, negative", (found.smallest + 0.5).abs(), EPS * 5 * 200**0.5 + found.smallest_uncertainty)


def test_a_start_inside_an_invariant_subspace_does_not_hide_the_rest() -> None:
    """The first Krylov space is one-dimensional: the start is made an eigenvector, and -4 lies outside."""
    start = normal(0, 0, 5)
    unit = start / start.norm()
    basis = torch.linalg.qr(torch.cat([unit.unsqueeze(1), vectors(5, 4)], dim=1)).Q
    values = torch.tensor([3.0, 1.0, -4.0, 2.0, 7.0], dtype=torch.float64)
    matrix = ((basis * values) @ basis.T).unsqueeze(0)
    found = lanczos(times(matrix), unit.unsqueeze(0), 5)
    check_ratio("lanczos, invariant", (found.smallest + 4).abs(), EPS * 7 * 5**0.5)
    check_ratio("lanczos, invariant", (found.largest - 7).abs(), EPS * 7 * 5**0.5)


def test_rows_are_found_on_their_own() -> None:
    matrix = torch.cat(
        [
            symmetric(torch.tensor([[1.0, 2, 3, 4]]).double()),
            torch.full((1, 4, 4), torch.nan).double(),
            torch.zeros(1, 4, 4).double(),
            symmetric(torch.tensor([[-1e8, 2, 3, 1e8]]).double(), seed=1),
        ]
    )
    like = torch.zeros(4, 4).double()
    for method in (lanczos, dense_spectrum):
        found = method(times(matrix), like)
        assert found.smallest.isnan().tolist() == found.largest.isnan().tolist() == [False, True, False, False]
        assert float(found.smallest[2]) == float(found.largest[2]) == 0.0
        alone = method(times(matrix[:1]), like[:1])
        assert torch.equal(alone.smallest, found.smallest[:1]) and torch.equal(alone.largest, found.largest[:1])


def test_float32_is_as_good_as_float32() -> None:
    values = torch.tensor([[-0.1, 1, 2, 3, 50]])
    found = lanczos(times(symmetric(values)), values)
    assert found.smallest.dtype == torch.float32
    check_ratio("lanczos, float32", (found.smallest + 0.1).abs(), 2.0**-23 * 50)


@pytest.mark.parametrize("iterations", [0, -1, True, 2.5])
def test_iterations_are_a_positive_whole_number(iterations: object) -> None:
    with pytest.raises(ValueError, match="Lanczos iterations: expected a whole number >= 1"):
        lanczos(lambda v: v, torch.ones(1, 2), iterations)  # type: ignore[arg-type]
