"""Preconditioned CG: the same solution as CG's, in fewer iterations where the preconditioner fits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.pcg import PreconditionedConjugateGradients, diagonal_of, positive
from diagnostics.linear.sketch import gaussian
from diagnostics.outcome import Outcome, decode
from diagnostics.rows import row_norms
from diagnostics.solvers import posed
from tests.cases import check_ratio, only, symmetric, times, vectors
from tests.diagnostics.linear import checks

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
KINDS = {
    "exact diagonal": {"probes": 100},
    "probes": {"probes": 8},
    "nystrom": {"preconditioner": "nystrom", "rank": 5},
    "nystrom, shift": {"preconditioner": "nystrom", "rank": 5, "shift": 0.01},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def pcg(iterations: int, **settings: object) -> PreconditionedConjugateGradients:
    return PreconditionedConjugateGradients(iterations, **settings)  # type: ignore[arg-type]


def badly_scaled(rows: int, size: int, decades: float) -> Tensor:
    """A matrix of condition 3 between two diagonal ones: its diagonal is what makes it ill-conditioned."""
    scale = torch.logspace(0, -decades, size).double()
    return scale.unsqueeze(-1) * symmetric(torch.linspace(1, 3, size).double().expand(rows, size)) * scale


@BOTH
@every_kind
@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3])
@pytest.mark.parametrize("size", [1, 2, 10, 40])
def test_systems_are_solved_to_rounding(
    size: int, condition: float, kind: dict[str, object], dtype: torch.dtype
) -> None:
    condition = condition if size > 1 else 1.0
    matrix, b = checks.spread(3, size, condition, dtype), vectors(3, size, dtype=dtype)
    checks.check_solves("pcg", pcg(1000, **kind), matrix, b, condition)


@given(size=st.integers(1, 12), decades=st.floats(0.0, 3.0), seed=st.integers(0, 1000))
def test_it_is_cg_on_the_system_scaled_on_both_sides(size: int, decades: float, seed: int) -> None:
    """With D the exact diagonal: x = D^-1/2 y, (D^-1/2 H D^-1/2) y = D^-1/2 b; the first iterates are the same."""
    matrix = badly_scaled(2, size, decades if size > 1 else 0.0)
    b, root = vectors(2, size, seed), matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    scaled = matrix / root.unsqueeze(-1) / root.unsqueeze(-2)
    ours = pcg(3, keep=(1, 2), probes=100).path(times(matrix), b)
    theirs = ConjugateGradients(3, keep=(1, 2)).path(times(scaled), b / root)
    for one, other in zip(ours, theirs, strict=True):
        error = row_norms(one.value * root - other.value)  # in the norm that the two share
        check_ratio("pcg, against cg", error, 2.0**-52 * 9 * 9 * row_norms(other.value), one.iterations)


def test_the_diagonal_mends_bad_scaling_and_its_products_count() -> None:
    matrix, b = badly_scaled(3, 80, 3.0), vectors(3, 80)
    plain = ConjugateGradients(3000, relative_tolerance=1e-8).path(times(matrix), b)[-1]
    for probes, taken in ((80, 80), (200, 80), (32, 32)):
        solution = pcg(3000, probes=probes, relative_tolerance=1e-8).path(times(matrix), b)[-1]
        assert only(solution.outcome) is Outcome.OK and bool((solution.products > taken).all())
        assert bool((solution.products < plain.products / 4).all())
        # Without those for the diagonal it takes what a system of condition 3 takes: below 30, or 100 where estimated.
        assert bool((solution.products - taken < (60 if taken == 80 else 120)).all())


def test_nystrom_takes_the_large_eigenvalues_away() -> None:
    """Ten of them over a bulk of 0.1 to 0.2: CG meets them one by one, what is left has condition 2 to 4."""
    values = torch.cat([torch.logspace(0, 6, 10), torch.linspace(0.1, 0.2, 90)]).double()
    matrix, b = symmetric(values.expand(3, 100)), vectors(3, 100)
    plain = ConjugateGradients(1000, relative_tolerance=1e-6).path(times(matrix), b)[-1]
    solution = pcg(1000, preconditioner="nystrom", rank=20, relative_tolerance=1e-6).path(times(matrix), b)[-1]
    assert only(solution.outcome) is Outcome.OK
    assert bool((solution.products - 20 < plain.products / 2).all()) and bool((solution.products > 20).all())


def test_the_nystrom_preconditioner_is_the_stated_formula() -> None:
    """Its inverse times M is the identity, M = U (L + rho) U' / (l + rho) + I - U U', from a dense Nystrom."""
    values = torch.logspace(0, -3, 12).double()
    a, strength, v = symmetric(values.expand(2, 12)), 0.3, vectors(2, 12)
    matrix = a + strength * torch.eye(12).double()
    solver = pcg(1, preconditioner="nystrom", rank=4, shift=strength, seed=2)
    inverse, products = solver.nystrom(times(matrix), posed(times(matrix), v))
    test = gaussian(12, 4, 2)
    y = a @ test
    approximation = y @ torch.linalg.solve(test.mT @ y, y.mT)
    found, basis = torch.linalg.eigh(approximation)
    top, u = found[:, -4:], basis[..., -4:]
    m = u * ((top + strength) / (top[:, :1] + strength)).unsqueeze(-2) @ u.mT + torch.eye(12) - u @ u.mT
    check_ratio("pcg, nystrom formula", row_norms(inverse(times(m)(v)) - v), 2.0**-52 * 1e3 * row_norms(v))
    assert products == 4


def test_the_estimated_diagonal_is_within_its_standard_error_and_unbiased() -> None:
    """Over 200 seeds the mean of the estimates is the diagonal, and the error that each states is the real one."""
    matrix = symmetric(torch.linspace(1, 3, 20).double().unsqueeze(0))
    truth = matrix.diagonal(dim1=-2, dim2=-1)
    both = [diagonal_of(times(matrix), truth, 16, seed) for seed in range(200)]
    estimates, errors = (torch.stack(x) for x in zip(*both, strict=True))
    spread = estimates.std(0)
    assert bool(((estimates.mean(0) - truth).abs() < 5 * spread / 200**0.5).all())
    assert bool(((errors**2).mean(0).sqrt() / spread - 1).abs().max() < 0.2)
    assert bool((((spread**2 * 16) / ((matrix**2).sum(-1) - truth**2)).sqrt() - 1).abs().max() < 0.25)  # the formula
    exact, error = diagonal_of(times(matrix), truth, 20, 0)
    check_ratio("pcg, exact diagonal", row_norms(exact - truth), 2.0**-52 * row_norms(truth))
    assert not bool(error.any())


def test_entries_that_are_not_positive_are_replaced() -> None:
    entries = torch.tensor([[4.0, -2.0, 0.0, 2.0], [1e-9, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).double()
    error = torch.tensor([[0.0, 0.0, 0.0, 3.0], [0.125, 0.125, 0.125, 0.125], [0.0, 0.0, 0.0, 0.0]]).double()
    expected = [[4.0, 2.0, 2.0, 3.0], [0.125, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    assert positive(entries, error).tolist() == expected
    assert bool((positive(torch.full((1, 3), torch.nan), torch.full((1, 3), torch.nan)) > 0).all())


@every_kind
def test_indefinite_systems_are_reported_and_definite_ones_never(kind: dict[str, object]) -> None:
    indefinite = symmetric(torch.tensor([[3.0, 2, 1, 1, -1, -2]]).double().expand(20, 6))
    found = decode(pcg(50, **kind).path(times(indefinite), vectors(20, 6))[-1].outcome)
    assert set(found) == {Outcome.NEGATIVE_CURVATURE}
    for solution in pcg(1000, keep=(1, 5, 100), **kind).path(times(checks.spread(50, 20, 1e3)), vectors(50, 20)):
        assert set(decode(solution.outcome)) <= {Outcome.OK, Outcome.UNFINISHED}


@every_kind
def test_singular_systems(kind: dict[str, object]) -> None:
    """A semidefinite one with a solution is solved; a zero matrix has no curvature to go along."""
    matrix = torch.diag(torch.tensor([2.0, 1, 0, 0])).double().unsqueeze(0)
    solution = pcg(50, **kind).path(times(matrix), torch.tensor([[2.0, 1, 0, 0]]).double())[-1]
    assert only(solution.outcome) is Outcome.OK
    check_ratio("pcg, compatible", row_norms(solution.value - torch.tensor([1.0, 1, 0, 0])), 2.0**-52 * 2)
    nothing = pcg(5, **kind).path(times(torch.zeros(1, 4, 4).double()), torch.ones(1, 4).double())[-1]
    assert only(nothing.outcome) is Outcome.NEGATIVE_CURVATURE and not bool(nothing.value.any())


@every_kind
def test_tolerances_and_damping(kind: dict[str, object]) -> None:
    matrix, b = checks.spread(2, 30, 1e3), vectors(2, 30) * 1e-20
    loose = pcg(500, relative_tolerance=1e-3, **kind).path(times(matrix), b)[-1]
    assert only(loose.outcome) is Outcome.OK and bool(
        (loose.residual > 1e-6).all() and (loose.residual < 1.001e-3).all()
    )
    length = float(row_norms(b).max())
    nothing = pcg(500, absolute_tolerance=2 * length, **kind).path(times(matrix), b)[-1]
    assert not bool(nothing.value.any()) and only(nothing.outcome) is Outcome.OK
    damped = pcg(200, damping=0.5, **kind).path(times(matrix), b)[-1]
    truth = checks.exactly(matrix + 0.5 * torch.eye(30), b)
    check_ratio("pcg, damped", row_norms(damped.value - truth), 2.0**-52 * 3 * row_norms(truth))


@every_kind
def test_every_arithmetic(kind: dict[str, object]) -> None:
    checks.check_every_arithmetic("pcg, every arithmetic", pcg(100, **kind), sizes=(12,))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="PCG preconditioner: expected one of diagonal, nystrom, found 'jacobi'"):
        pcg(5, preconditioner="jacobi")
    with pytest.raises(ValueError, match="PCG probes: expected a whole number >= 2, found 1"):
        pcg(5, probes=1)
    with pytest.raises(ValueError, match="PCG rank: expected a whole number >= 1, found 0"):
        pcg(5, rank=0)
    with pytest.raises(ValueError, match="PCG shift: expected a finite number >= 0, found -1"):
        pcg(5, shift=-1.0)
