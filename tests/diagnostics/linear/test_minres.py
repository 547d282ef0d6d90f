"""MINRES: right where H is indefinite, least residual on the way, honest about how it ended.

Units of error: a solve is right to `eps kappa |x|`, kappa the condition number of H, the same as a dense solve; the
residual is right to `eps (|H| |x| + |b|)` where kappa is moderate.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import minres as scipy_minres
from torch import Tensor

from diagnostics.arithmetic.extended import EPS, extended
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.minres import MinimalResidual
from diagnostics.outcome import Outcome, decode
from diagnostics.rows import row_norms
from tests.cases import check_ratio, only, symmetric, times, vectors

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def spread(
    rows: int, size: int, condition: float, dtype: torch.dtype = torch.float64, *, indefinite: bool, seed: int = 0
) -> Tensor:
    """Matrices with eigenvalues from 1/condition to 1 in size; every other one, the largest too, is negative."""
    values = torch.logspace(-float(np.log10(condition)), 0, size, dtype=torch.float64) if size > 1 else torch.ones(1)
    signs = (-1.0) ** torch.arange(size, 0, -1) if indefinite else torch.ones(size)
    return symmetric((values * signs).to(dtype).expand(rows, size), seed)


def exactly(matrix: Tensor, b: Tensor) -> Tensor:
    """The dense solution in float64: the oracle."""
    return torch.linalg.solve(matrix.double(), b.double())


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64)).unsqueeze(0)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# ---- solves


@BOTH
@pytest.mark.parametrize("indefinite", [False, True], ids=["definite", "indefinite"])
@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3, 1e6])
@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_systems_are_solved_to_rounding(size: int, condition: float, indefinite: bool, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    if size == 1 or condition * eps > 1e-3:
        condition = 1.0
    matrix = spread(4, size, condition, dtype, indefinite=indefinite)
    b = vectors(4, size, dtype=dtype)
    solution = MinimalResidual(1000).path(times(matrix), b)[-1]
    truth = exactly(matrix, b)
    unit = eps * condition * row_norms(truth)
    check_ratio(f"minres, {str(dtype)[6:]}", row_norms(solution.value.double() - truth), unit, (size, condition))
    fresh = row_norms(b.double() - times(matrix.double())(solution.value.double()))
    whole = row_norms(truth) + row_norms(b.double())
    check_ratio(f"minres, residual, {str(dtype)[6:]}", fresh, eps * whole, (size, condition))
    assert only(solution.outcome) is (Outcome.NEGATIVE_CURVATURE if indefinite else Outcome.OK)
    assert bool((solution.products < 1000).all())


def test_an_indefinite_system_is_solved_where_cg_fails() -> None:
    matrix, b = diagonal(1.0, -1.0), row(1.0, 1.0)  # b'Hb = 0: the first step of CG would be infinite
    solution = MinimalResidual(2).path(times(matrix), b)[-1]
    check_ratio("minres, closed form", row_norms(solution.value - row(1.0, -1.0)), 2.0**-52)
    assert only(solution.outcome) is Outcome.NEGATIVE_CURVATURE
    cg = ConjugateGradients(2).path(times(matrix), b)[-1]
    assert torch.equal(cg.value, torch.zeros_like(b))


@pytest.mark.parametrize("indefinite", [False, True], ids=["definite", "indefinite"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_n_iterations_solve_an_n_dimensional_system_in_extended_precision(size: int, indefinite: bool) -> None:
    """To float64's rounding and far below: what the basis loses in orthogonality is many digits further down."""
    condition = 10.0 if size > 1 else 1.0
    matrix, b = spread(3, size, condition, indefinite=indefinite), vectors(3, size)
    high, right = extended(matrix), extended(b)
    truth = torch.linalg.solve(high, right)
    solution = MinimalResidual(size).path(times(high), right)[-1]
    # Each step may lose a factor of kappa of the orthogonality of those before it.
    unit = EPS * condition**2 * row_norms(truth)
    check_ratio("minres, n iterations, extended", row_norms(solution.value - truth).double(), unit.double(), size)
    if size > 1:
        short = MinimalResidual(size - 1).path(times(high), right)[-1]
        assert bool((short.residual.double() > 1e-6).all())


def test_the_first_step_minimises_the_residual_along_b() -> None:
    """x_1 = (b'Hb / b'HHb) b."""
    matrix, b = spread(4, 5, 10.0, indefinite=True), vectors(4, 5)
    value = MinimalResidual(1).path(times(matrix), b)[-1].value
    hb = times(matrix)(b)
    expected = (b * hb).sum(-1, keepdim=True) / (hb * hb).sum(-1, keepdim=True) * b
    # b'Hb is a sum of terms of both signs: it is right to eps |b| |Hb|.
    unit = 2.0**-52 * row_norms(b) ** 2 / row_norms(hb)
    check_ratio("minres, first step", row_norms(value - expected), unit)


def test_the_iterates_are_scipys() -> None:
    """An independent implementation, iterate by iterate."""
    matrix, b = spread(3, 12, 10.0, indefinite=True), vectors(3, 12)
    for solution in MinimalResidual(8, keep=tuple(range(1, 8))).path(times(matrix), b):
        for one in range(3):
            theirs, _ = scipy_minres(matrix[one].numpy(), b[one].numpy(), rtol=1e-300, maxiter=solution.iterations)
            error = np.linalg.norm(solution.value[one].numpy() - theirs)
            # kappa^2: how far roundings of an iteration are carried by those that follow.
            unit = 2.0**-52 * 100 * np.linalg.norm(theirs)
            check_ratio("minres, against scipy", torch.tensor(float(error)), float(unit), solution.iterations)


@given(size=st.integers(1, 8), decades=st.floats(0.0, 2.0), indefinite=st.booleans(), seed=st.integers(0, 10_000))
def test_the_residual_is_the_least_in_the_krylov_space(size: int, decades: float, indefinite: bool, seed: int) -> None:
    """So it never grows; the oracle is least squares over span(b, Hb, ..), orthonormalised."""
    condition = 10.0**decades if size > 1 else 1.0
    matrix = spread(2, size, condition, indefinite=indefinite, seed=seed)
    b = vectors(2, size, seed)
    rounding = 30 * 2.0**-52 * condition**2
    basis = torch.linalg.qr(b.unsqueeze(-1)).Q
    before = torch.ones(2, dtype=torch.float64)
    for solution in MinimalResidual(size, keep=tuple(range(1, size))).path(times(matrix), b):
        assert bool((solution.residual <= before + rounding).all())
        before = solution.residual
        if solution.iterations <= 3:
            fit = torch.linalg.lstsq(matrix @ basis, b.unsqueeze(-1)).solution
            least = row_norms(b - (matrix @ basis @ fit).squeeze(-1)) / row_norms(b)
            assert bool(((solution.residual - least).abs() <= rounding).all())
            basis = torch.linalg.qr(torch.cat([basis, matrix @ basis[..., -1:]], dim=-1)[..., :size]).Q


# ---- scale


@pytest.mark.parametrize("exponent", [-1000, -100, 100, 1000])
def test_a_power_of_two_on_the_right_hand_side_changes_no_digit(exponent: int) -> None:
    matrix, b = spread(3, 6, 50.0, indefinite=True), vectors(3, 6)
    solver, factor = MinimalResidual(20, keep=(0, 2, 4)), 2.0**exponent
    for plain, scaled in zip(solver.path(times(matrix), b), solver.path(times(matrix), b * factor), strict=True):
        assert torch.equal(plain.value * factor, scaled.value)
        assert torch.equal(plain.residual, scaled.residual)
        assert torch.equal(plain.outcome, scaled.outcome)


@BOTH
@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("of_the_matrix", [False, True], ids=["right-hand side", "matrix"])
def test_tiny_and_huge_systems_are_solved_to_the_same_digits(
    factor: float, of_the_matrix: bool, dtype: torch.dtype
) -> None:
    matrix, b = spread(3, 5, 4.0, dtype, indefinite=True), vectors(3, 5, dtype=dtype)
    matrix, b = (matrix * factor, b) if of_the_matrix else (matrix, b * factor)
    solution = MinimalResidual(30).path(times(matrix), b)[-1]
    truth = exactly(matrix, b)
    assert only(solution.outcome) is Outcome.NEGATIVE_CURVATURE
    error = row_norms(solution.value.double() - truth) / row_norms(truth)
    check_ratio("minres, scale", error, torch.finfo(dtype).eps * 4)


# ---- how a row ends


@pytest.mark.parametrize("iterations", [0, 1, 50])
def test_a_zero_right_hand_side_has_the_zero_solution(iterations: int) -> None:
    (solution,) = MinimalResidual(iterations).path(
        times(spread(2, 3, 10.0, indefinite=True)), torch.zeros(2, 3).double()
    )
    assert torch.equal(solution.value, torch.zeros(2, 3).double())
    assert torch.equal(solution.residual, torch.zeros(2).double())
    assert only(solution.outcome) is Outcome.OK and not bool(solution.products.any())


def test_no_iterations_give_zero_and_say_unfinished() -> None:
    (solution,) = MinimalResidual(0).path(times(spread(2, 3, 10.0, indefinite=False)), vectors(2, 3))
    assert torch.equal(solution.value, torch.zeros(2, 3).double())
    assert torch.equal(solution.residual, torch.ones(2).double())
    assert only(solution.outcome) is Outcome.UNFINISHED


def test_no_tasks_have_no_solutions() -> None:
    (solution,) = MinimalResidual(3).path(times(torch.zeros(0, 3, 3).double()), torch.zeros(0, 3).double())
    assert solution.value.shape == (0, 3) and solution.outcome.shape == (0,)


def test_a_singular_incompatible_system_has_a_least_squares_solution() -> None:
    matrix, b = diagonal(2.0, 1.0, 0.0), row(2.0, 1.0, 1.0)
    solution = MinimalResidual(50).path(times(matrix), b)[-1]
    assert only(solution.outcome) is Outcome.SINGULAR
    check_ratio("minres, least squares", row_norms((solution.value - row(1.0, 1.0, 0.0))[:, :2]), 2.0**-52 * 2)
    left = 1 / row_norms(b)
    check_ratio("minres, least residual", (solution.residual - left).abs(), 2.0**-52)


@pytest.mark.parametrize("size", [3, 6, 20])
def test_semidefinite_incompatible_systems_are_singular_and_not_indefinite(size: int) -> None:
    """In random bases, where the zero eigenvalue is one of rounding, of either sign."""
    values = torch.cat([torch.zeros(1), torch.linspace(0.1, 1, size - 1)]).double()
    solution = MinimalResidual(100).path(times(symmetric(values.expand(50, size))), vectors(50, size))[-1]
    found = decode(solution.outcome)
    assert Outcome.NEGATIVE_CURVATURE not in found and found.count(Outcome.SINGULAR) > 40


def test_a_zero_matrix_is_singular() -> None:
    solution = MinimalResidual(5).path(times(torch.zeros(1, 2, 2).double()), row(1.0, 1.0))[-1]
    assert only(solution.outcome) is Outcome.SINGULAR
    assert torch.equal(solution.value, torch.zeros(1, 2).double())


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["semidefinite", "indefinite"])
def test_a_singular_compatible_system_is_solved(sign: float) -> None:
    matrix, b = diagonal(2.0, sign, 0.0), row(2.0, 1.0, 0.0)
    solution = MinimalResidual(50).path(times(matrix), b)[-1]
    assert only(solution.outcome) is (Outcome.OK if sign > 0 else Outcome.NEGATIVE_CURVATURE)
    check_ratio("minres, compatible", row_norms(solution.value - row(1.0, sign, 0.0)), 2.0**-52 * 2)


@pytest.mark.parametrize("size", [2, 5, 20])
@pytest.mark.parametrize("condition", [10.0, 1e3, 1e6])
def test_definite_systems_are_never_called_indefinite(size: int, condition: float) -> None:
    matrix, b = spread(50, size, condition, indefinite=False), vectors(50, size)
    for solution in MinimalResidual(1000, keep=(1, 2, size, 50)).path(times(matrix), b):
        assert set(decode(solution.outcome)) <= {Outcome.OK, Outcome.UNFINISHED}


def test_one_small_negative_eigenvalue_is_seen() -> None:
    values = torch.tensor([[1.0, 0.7, 0.5, 0.3, -1e-3]]).double()
    solution = MinimalResidual(30).path(times(symmetric(values)), vectors(1, 5))[-1]
    assert only(solution.outcome) is Outcome.NEGATIVE_CURVATURE


def test_rows_end_on_their_own() -> None:
    """A converged, a zero, an ill-conditioned, an indefinite, a singular and non-finite rows: each as if alone."""
    matrix = torch.stack(
        [
            torch.eye(6).double(),
            torch.eye(6).double(),
            spread(1, 6, 1e3, indefinite=False)[0],
            spread(1, 6, 10.0, indefinite=True)[0],
            diagonal(3.0, 2.0, 1.0, 1.0, 1.0, 0.0)[0],
            torch.full((6, 6), torch.nan).double(),
            torch.eye(6).double(),
            torch.eye(6).double(),
        ]
    )
    b = vectors(8, 6)
    b[1] = 0
    b[6, 2], b[7, 2] = torch.nan, torch.inf
    solver = MinimalResidual(100, keep=(1, 6, 40))
    together = solver.path(times(matrix), b)
    assert decode(together[-1].outcome) == [
        Outcome.OK, Outcome.OK, Outcome.OK, Outcome.NEGATIVE_CURVATURE, Outcome.SINGULAR,
        Outcome.NOT_FINITE, Outcome.NOT_FINITE, Outcome.NOT_FINITE,
    ]  # fmt: skip
    assert bool(together[-1].value[:5].isfinite().all()) and bool(together[-1].value[6:].isnan().all())
    for one in range(8):
        alone = solver.path(times(matrix[one : one + 1]), b[one : one + 1])
        for single, many in zip(alone, together, strict=True):
            assert torch.equal(single.value.nan_to_num(), many.value[one : one + 1].nan_to_num())
            assert torch.equal(single.outcome, many.outcome[one : one + 1])
            assert torch.equal(single.products, many.products[one : one + 1])


# ---- kept iterates, tolerance, damping, settings


def test_kept_iterates_are_those_of_shorter_runs_bit_for_bit() -> None:
    matrix, b = spread(3, 8, 1e3, indefinite=True), vectors(3, 8)
    counts = (0, 1, 3, 7, 8, 20, 60)
    path = MinimalResidual(60, keep=(20, *counts)).path(times(matrix), b)
    assert [s.iterations for s in path] == list(counts)
    for solution in path:
        (short,) = MinimalResidual(solution.iterations).path(times(matrix), b)
        for name in ("value", "residual", "outcome", "products"):
            assert torch.equal(getattr(solution, name), getattr(short, name))


def test_the_residual_that_is_reported_is_that_of_the_value() -> None:
    matrix, b = spread(3, 20, 1e3, indefinite=True), vectors(3, 20)
    for solution in MinimalResidual(400, keep=(1, 5, 20)).path(times(matrix), b):
        fresh = row_norms(b - times(matrix)(solution.value)) / row_norms(b)
        unit = 2.0**-52 * (1 + row_norms(solution.value) / row_norms(b))
        check_ratio("minres, recomputed residual", (solution.residual - fresh).abs(), unit, solution.iterations)
        assert bool((solution.residual > 2.0**-78).all())  # the recursion's falls to eps^2


def test_the_tolerance_is_relative_and_met_by_the_first_iterate_that_can() -> None:
    matrix, b = spread(1, 20, 100.0, indefinite=True), vectors(1, 20)
    loose = MinimalResidual(200, relative_tolerance=1e-3).path(times(matrix), b)[-1]
    every = MinimalResidual(200, keep=tuple(range(200))).path(times(matrix), b)
    first = next(s for s in every if float(s.residual) <= 1e-3)
    assert torch.equal(loose.value, first.value)
    assert loose.products.tolist() == [first.iterations + 1]  # and one to see whether x is as good as it seems


def test_too_few_iterations_say_unfinished() -> None:
    matrix, b = spread(2, 20, 1e3, indefinite=False), vectors(2, 20)
    solution = MinimalResidual(5, relative_tolerance=1e-8).path(times(matrix), b)[-1]
    assert only(solution.outcome) is Outcome.UNFINISHED and solution.products.tolist() == [5, 5]


def test_damping_is_zero_unless_asked_for() -> None:
    matrix, b = diagonal(2.0, -1.0), row(4.0, 2.0)
    assert MinimalResidual(2).damping == 0
    damped = MinimalResidual(10, damping=2.0).path(times(matrix), b)[-1]
    check_ratio("minres, damped", row_norms(damped.value - row(1.0, 2.0)), 2.0**-52 * 4)
    assert only(damped.outcome) is Outcome.OK


def test_settings_that_mean_nothing_are_refused() -> None:
    for iterations in (-1, True, 2.0, None):
        with pytest.raises(ValueError, match="MINRES iterations: expected a whole number >= 0, found"):
            MinimalResidual(iterations)  # type: ignore[arg-type]
    for keep in ((6,), (-1,)):
        with pytest.raises(ValueError, match="MINRES: expected iterations to keep from 0 to 5"):
            MinimalResidual(5, keep=keep)
    for tolerance in (-1e-3, float("nan")):
        with pytest.raises(ValueError, match="MINRES: expected relative_tolerance >= 0"):
            MinimalResidual(5, relative_tolerance=tolerance)
