"""GMRES: right for matrices that are not symmetric, backward stable at any condition, least residual on the way."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import gmres as scipy_gmres
from torch import Tensor

from diagnostics.linear.gmres import GeneralisedMinimalResidual, orthogonalised
from diagnostics.outcome import Outcome, decode
from diagnostics.rows import row_norms
from tests.cases import check_ratio, only, provoked, symmetric, times, vectors
from tests.diagnostics.linear import checks

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64)).unsqueeze(0)


@BOTH
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("size", [1, 2, 5, 30])
def test_matrices_that_are_not_symmetric_are_solved(size: int, condition: float, dtype: torch.dtype) -> None:
    condition = condition if size > 1 else 1.0
    matrix, b = checks.general(3, size, condition, dtype), vectors(3, size, dtype=dtype)
    checks.check_solves("gmres", GeneralisedMinimalResidual(size), matrix, b, condition, times(matrix.mT))


@pytest.mark.parametrize("kind", [checks.spread, checks.general], ids=["symmetric", "not symmetric"])
@pytest.mark.parametrize("size", [5, 50, 200])
def test_at_condition_1e10_the_residual_is_at_rounding_after_n_iterations(
    size: int, kind: Callable[..., Tensor]
) -> None:
    """Backward stable: |b - Hx| <= c eps (|H| |x| + |b|), |H| = 1, and so |x| right to eps kappa."""
    matrix, b = kind(2, size, 1e10), vectors(2, size)
    solution = GeneralisedMinimalResidual(size).path(times(matrix), b, times(matrix.mT))[-1]
    assert only(solution.outcome) is Outcome.OK
    unit = 2.0**-52 * (row_norms(solution.value) / row_norms(b) + 1)
    check_ratio("gmres, condition 1e10, residual", solution.residual, unit, size)
    checks.check_solves("gmres, condition 1e10", GeneralisedMinimalResidual(size), matrix, b, 1e10, times(matrix.mT))


def test_a_basis_made_orthogonal_once_is_not_and_twice_is() -> None:
    """A vector nearly in the span of a basis: 1e-8 of it is not."""
    basis = torch.linalg.qr(vectors(60, 5).view(2, 30, 5)).Q.mT
    inside = (basis.mT @ torch.ones(2, 5, 1).double()).squeeze(-1)
    v = inside + 1e-8 * vectors(2, 30, 7)
    rest, coefficients = orthogonalised(v, basis)
    along = row_norms((basis @ rest.unsqueeze(-1)).squeeze(-1)) / row_norms(rest)
    check_ratio("gmres, orthogonality", along, 2.0**-52)
    check_ratio("gmres, coefficients", row_norms(coefficients - 1), 2.0**-52 * 5 + 1e-8 * 5**0.5)
    once = v - (basis.mT @ (basis @ v.unsqueeze(-1))).squeeze(-1)
    with provoked():
        check_ratio("gmres, once", row_norms((basis @ once.unsqueeze(-1)).squeeze(-1)) / row_norms(once), 2.0**-52)


def test_the_iterates_are_scipys() -> None:
    matrix, b = checks.general(3, 12, 10.0), vectors(3, 12)
    solver = GeneralisedMinimalResidual(8, keep=tuple(range(1, 8)))
    for solution in solver.path(times(matrix), b, times(matrix.mT)):
        for row in range(3):
            theirs, _ = scipy_gmres(
                matrix[row].numpy(), b[row].numpy(), rtol=1e-300, restart=solution.iterations, maxiter=1
            )
            error = np.linalg.norm(solution.value[row].numpy() - theirs)
            check_ratio(
                "gmres, against scipy", torch.tensor(float(error)), 2.0**-52 * 10 * float(np.linalg.norm(theirs))
            )


@given(size=st.integers(1, 8), decades=st.floats(0.0, 2.0), seed=st.integers(0, 10_000))
def test_the_residual_is_the_least_in_the_krylov_space(size: int, decades: float, seed: int) -> None:
    """The oracle is least squares over span(b, Hb, ..), orthonormalised."""
    matrix, b = checks.general(2, size, 10.0**decades if size > 1 else 1.0, seed=seed), vectors(2, size, seed)
    basis = torch.linalg.qr(b.unsqueeze(-1)).Q
    before = torch.ones(2, dtype=torch.float64)
    path = GeneralisedMinimalResidual(size, keep=tuple(range(1, size))).path(times(matrix), b, times(matrix.mT))
    for solution in path:
        # Roundings of what least squares and both bases lose, kappa^2 at worst.
        rounding = 30 * 2.0**-52 * 10.0 ** (2 * decades)
        assert bool((solution.residual <= before + rounding).all())
        before = solution.residual
        if solution.iterations <= 3:
            fit = torch.linalg.lstsq(matrix @ basis, b.unsqueeze(-1)).solution
            least = row_norms(b - (matrix @ basis @ fit).squeeze(-1)) / row_norms(b)
            assert bool(((solution.residual - least).abs() <= rounding).all())
            basis = torch.linalg.qr(torch.cat([basis, matrix @ basis[..., -1:]], dim=-1)[..., :size]).Q


def test_a_cyclic_shift_makes_no_progress_until_its_last_iteration() -> None:
    """The classical worst case: v'Hv = 0 all along, and x = 0 until the space is the whole."""
    matrix = torch.roll(torch.eye(5).double(), 1, 0).unsqueeze(0)
    b = torch.eye(5).double()[:1]
    path = GeneralisedMinimalResidual(9, keep=(1, 2, 3, 4, 5)).path(times(matrix), b, times(matrix.mT))
    for solution in path[:4]:
        assert not bool(solution.value.any()) and only(solution.outcome) is Outcome.UNFINISHED
    assert torch.equal(path[-1].value, times(matrix.mT)(b)) and only(path[-1].outcome) is Outcome.OK
    assert path[-1].products.tolist() == [5]


def test_an_invariant_krylov_space_ends_a_row() -> None:
    """Three different eigenvalues: three products, and one more where what is left over is a few roundings."""
    matrix = symmetric(torch.tensor([[1.0, 1, 2, 2, 2, -3]]).double())
    solution = GeneralisedMinimalResidual(50).path(times(matrix), vectors(1, 6))[-1]
    assert 3 <= int(solution.products) <= 4 and only(solution.outcome) is Outcome.NEGATIVE_CURVATURE


@pytest.mark.parametrize(("low", "found"), [(-1e-3, Outcome.NEGATIVE_CURVATURE), (1e-3, Outcome.OK)])
def test_a_negative_eigenvalue_is_seen_where_the_matrix_is_symmetric(low: float, found: Outcome) -> None:
    matrix, b = symmetric(torch.tensor([[1.0, 0.7, 0.5, 0.3, low]]).double().expand(5, 5)), vectors(5, 5)
    solver = GeneralisedMinimalResidual(30)
    assert only(solver.path(times(matrix), b)[-1].outcome) is found
    assert only(solver.path(times(matrix), b, times(matrix.mT))[-1].outcome) is Outcome.OK  # it is not asked


def test_definite_systems_are_never_called_indefinite() -> None:
    for condition in (10.0, 1e4, 1e10):
        matrix, b = checks.spread(50, 20, condition), vectors(50, 20)
        for solution in GeneralisedMinimalResidual(30, keep=(1, 5, 10)).path(times(matrix), b):
            assert set(decode(solution.outcome)) <= {Outcome.OK, Outcome.UNFINISHED}


def test_a_singular_incompatible_system_says_so() -> None:
    nilpotent = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]).double()
    for matrix, b in (
        (diagonal(2.0, 1.0, 0.0), torch.tensor([[2.0, 1.0, 1.0]]).double()),
        (torch.zeros(1, 2, 2).double(), torch.ones(1, 2).double()),
        (nilpotent, torch.tensor([[0.0, 1.0]]).double()),
        (nilpotent, torch.tensor([[1.0, 0.0]]).double()),  # has a solution, (0, 1), that no Krylov space holds
    ):
        solution = GeneralisedMinimalResidual(9).path(times(matrix), b, times(matrix.mT))[-1]
        assert only(solution.outcome) is Outcome.SINGULAR and bool(solution.value.isfinite().all())
        assert bool((solution.residual <= 1 + 2.0**-50).all())


@pytest.mark.parametrize("size", [3, 6, 20])
def test_semidefinite_incompatible_systems_in_random_bases_are_singular(size: int) -> None:
    values = torch.cat([torch.zeros(1), torch.linspace(0.1, 1, size - 1)]).double().expand(50, size)
    found = decode(GeneralisedMinimalResidual(100).path(times(symmetric(values)), vectors(50, size))[-1].outcome)
    assert Outcome.NEGATIVE_CURVATURE not in found and found.count(Outcome.SINGULAR) > 40


def test_a_singular_compatible_system_is_solved() -> None:
    b = torch.tensor([[2.0, 1.0, 0.0]]).double()
    solution = GeneralisedMinimalResidual(9).path(times(diagonal(2.0, 1.0, 0.0)), b)[-1]
    assert only(solution.outcome) is Outcome.OK
    check_ratio("gmres, compatible", row_norms(solution.value - torch.tensor([1.0, 1.0, 0.0])), 2.0**-52 * 2)


def test_kept_iterates_of_a_matrix_that_is_not_symmetric_and_rows_alone() -> None:
    matrix, b = checks.general(3, 9, 1e3), vectors(3, 9)
    b[1] = 0
    matrix[2] = torch.eye(9).double()
    checks.check_rows_alone(GeneralisedMinimalResidual(20, keep=(1, 4)), matrix, b, matrix.mT)
    checks.check_scales(GeneralisedMinimalResidual(20, keep=(1, 4)), matrix, b, times(matrix.mT))


def test_tolerance_and_damping() -> None:
    matrix, b = checks.general(1, 20, 100.0), vectors(1, 20)
    every = GeneralisedMinimalResidual(20, keep=tuple(range(20))).path(times(matrix), b, times(matrix.mT))
    first = next(solution for solution in every if float(solution.residual) <= 0.1)
    loose = GeneralisedMinimalResidual(20, relative_tolerance=0.1).path(times(matrix), b, times(matrix.mT))[-1]
    assert torch.equal(loose.value, first.value) and loose.products.tolist() == [first.iterations]
    assert only(loose.outcome) is Outcome.OK and only(first.outcome) is Outcome.UNFINISHED
    damped = GeneralisedMinimalResidual(20, damping=2.0).path(times(matrix), b, times(matrix.mT))[-1]
    truth = checks.exactly(matrix + 2 * torch.eye(20), b)  # singular values from 1 to 3
    check_ratio("gmres, damped", row_norms(damped.value - truth), 2.0**-52 * 3 * row_norms(truth))


def test_every_arithmetic() -> None:
    checks.check_every_arithmetic("gmres, every arithmetic", GeneralisedMinimalResidual(6))
