"""CG on the normal equations: right for any matrix, at the square of the condition number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.cg_normal import NormalConjugateGradients
from diagnostics.outcome import Outcome, decode
from diagnostics.rows import row_norms
from tests.cases import check_ratio, only, symmetric, times, vectors
from tests.diagnostics.linear import checks

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64)).unsqueeze(0)


@BOTH
@pytest.mark.parametrize("indefinite", [False, True], ids=["definite", "indefinite"])
@pytest.mark.parametrize("condition", [1.0, 1e2])
@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_symmetric_systems_are_solved(size: int, condition: float, indefinite: bool, dtype: torch.dtype) -> None:
    condition = condition if size > 1 else 1.0
    matrix = checks.spread(3, size, condition, dtype, indefinite=indefinite)
    checks.check_solves("cg_normal", NormalConjugateGradients(2000), matrix, vectors(3, size, dtype=dtype), condition)


@BOTH
@pytest.mark.parametrize("condition", [1.0, 1e2])
@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_matrices_that_are_not_symmetric_are_solved(size: int, condition: float, dtype: torch.dtype) -> None:
    condition = condition if size > 1 else 1.0
    matrix, b = checks.general(3, size, condition, dtype), vectors(3, size, dtype=dtype)
    checks.check_solves("cg_normal", NormalConjugateGradients(2000), matrix, b, condition, times(matrix.mT))


def test_an_ill_conditioned_system_is_solved_in_the_end() -> None:
    """Forming H'H would lose all digits at 1e8."""
    matrix, b = checks.general(3, 5, 1e8), vectors(3, 5)
    checks.check_solves("cg_normal, 1e8", NormalConjugateGradients(2000), matrix, b, 1e8, times(matrix.mT))


@given(size=st.integers(1, 8), decades=st.floats(0.0, 1.5), seed=st.integers(0, 10_000))
def test_it_is_cg_on_the_normal_equations(size: int, decades: float, seed: int) -> None:
    """Iterate by iterate, for a few: the same as CG's on H'H x = H'b."""
    condition = 10.0**decades if size > 1 else 1.0
    matrix, b = checks.general(2, size, condition, seed=seed), vectors(2, size, seed)
    keep = (1, 2, 3)
    ours = NormalConjugateGradients(4, keep=keep).path(times(matrix), b, times(matrix.mT))
    theirs = ConjugateGradients(4, keep=keep).path(times(matrix.mT @ matrix), times(matrix.mT)(b))
    for one, other in zip(ours, theirs, strict=True):
        unit = 2.0**-52 * condition**4 * row_norms(other.value)  # kappa(H'H), and once more for each carried rounding
        check_ratio("cg_normal, against cg", row_norms(one.value - other.value), unit, one.iterations)


def test_the_error_stays_below_the_bound_of_the_squared_condition() -> None:
    """|r_k| <= 2 ((kappa - 1) / (kappa + 1))^k |b|; and it is slow as that, where CG goes with the root of kappa."""
    condition = 30.0
    matrix, b = checks.spread(3, 60, condition), vectors(3, 60)
    for solution in NormalConjugateGradients(40, keep=tuple(range(40))).path(times(matrix), b):
        assert bool((solution.residual <= 2 * ((condition - 1) / (condition + 1)) ** solution.iterations + 1e-12).all())
    cg = ConjugateGradients(40).path(times(matrix), b)[-1]
    assert bool((cg.residual < 1e-3 * NormalConjugateGradients(40).path(times(matrix), b)[-1].residual).all())


def test_products_are_two_an_iteration_and_one_at_the_start() -> None:
    calls = {"H": 0, "H'": 0}
    matrix, b = checks.general(2, 12, 10.0), vectors(2, 12)

    def counted(name: str, h: Tensor):
        def product(v: Tensor) -> Tensor:
            calls[name] += 1
            return times(h)(v)

        return product

    solution = NormalConjugateGradients(4).path(counted("H", matrix), b, counted("H'", matrix.mT))[-1]
    assert calls == {"H": 4 + 1, "H'": 5}  # and one for the residual that is reported
    assert solution.products.tolist() == [9, 9]


def test_an_indefinite_system_is_solved_and_reported() -> None:
    matrix, b = diagonal(3.0, 2.0, -1.0), torch.tensor([[1.0, 1.0, 0.5]]).double()
    solution = NormalConjugateGradients(30).path(times(matrix), b)[-1]
    assert only(solution.outcome) is Outcome.NEGATIVE_CURVATURE
    truth = checks.exactly(matrix, b)
    check_ratio("cg_normal, indefinite", row_norms(solution.value - truth), 2.0**-52 * 3 * row_norms(truth))
    same = NormalConjugateGradients(30).path(times(matrix), b, times(matrix.mT))[-1]
    assert only(same.outcome) is Outcome.OK and torch.equal(same.value, solution.value)  # it is not asked


def test_definite_and_semidefinite_systems_are_never_called_indefinite() -> None:
    values = torch.cat([torch.zeros(1), torch.linspace(0.1, 1, 9)]).double().expand(50, 10)
    for matrix in (checks.spread(50, 10, 1e3), symmetric(values)):
        for solution in NormalConjugateGradients(500, keep=(1, 5, 10, 50)).path(times(matrix), vectors(50, 10)):
            assert Outcome.NEGATIVE_CURVATURE not in decode(solution.outcome)


def test_a_singular_incompatible_system_has_a_least_squares_solution() -> None:
    matrix, b = diagonal(2.0, 1.0, 0.0), torch.tensor([[2.0, 1.0, 1.0]]).double()
    solution = NormalConjugateGradients(50).path(times(matrix), b)[-1]
    assert only(solution.outcome) is Outcome.SINGULAR
    check_ratio("cg_normal, least squares", row_norms(solution.value - torch.tensor([1.0, 1.0, 0.0])), 2.0**-52 * 4)
    check_ratio("cg_normal, least residual", (solution.residual - 1 / row_norms(b)).abs(), 2.0**-52)


def test_other_singular_systems() -> None:
    zero = NormalConjugateGradients(5).path(times(torch.zeros(1, 2, 2).double()), torch.ones(1, 2).double())[-1]
    assert only(zero.outcome) is Outcome.SINGULAR and not bool(zero.value.any())
    b = torch.tensor([[2.0, 1.0, 0.0]]).double()
    solved = NormalConjugateGradients(50).path(times(diagonal(2.0, 1.0, 0.0)), b)[-1]
    assert only(solved.outcome) is Outcome.OK
    check_ratio("cg_normal, compatible", row_norms(solved.value - torch.tensor([1.0, 1.0, 0.0])), 2.0**-52 * 4)


def test_rows_alone_and_scales_of_matrices_that_are_not_symmetric() -> None:
    matrix, b = checks.general(3, 6, 30.0), vectors(3, 6)
    b[1] = 0
    checks.check_rows_alone(NormalConjugateGradients(60, keep=(1, 4)), matrix, b, matrix.mT)
    checks.check_scales(NormalConjugateGradients(60, keep=(1, 4)), matrix, b, times(matrix.mT))


def test_damping_is_of_both_products() -> None:
    matrix, b = checks.general(2, 6, 30.0), vectors(2, 6)
    damped = NormalConjugateGradients(100, damping=2.0).path(times(matrix), b, times(matrix.mT))[-1]
    truth = checks.exactly(matrix + 2 * torch.eye(6), b)
    check_ratio("cg_normal, damped", row_norms(damped.value - truth), 2.0**-52 * 3 * row_norms(truth))


def test_every_arithmetic() -> None:
    checks.check_every_arithmetic("cg_normal, every arithmetic", NormalConjugateGradients(200))
