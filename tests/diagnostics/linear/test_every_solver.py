"""What every iterative solver is held to; what is particular to one is tested beside it."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.cg_normal import NormalConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.linear.gmres import GeneralisedMinimalResidual
from diagnostics.linear.minres import MinimalResidual
from diagnostics.linear.neumann import Neumann
from diagnostics.linear.nystrom import Nystrom
from diagnostics.linear.pcg import PreconditionedConjugateGradients
from diagnostics.outcome import Outcome
from diagnostics.rows import row_norms
from diagnostics.solvers import ANY_MATRIX, LinearSolver, solvers
from tests.cases import check_ratio, make_solver, only, times, vectors
from tests.diagnostics.linear import checks

KRYLOV: dict[str, Callable[..., LinearSolver]] = {
    "cg": ConjugateGradients,
    "pcg, exact diagonal": PreconditionedConjugateGradients,
    "pcg, probes": partial(PreconditionedConjugateGradients, probes=2),
    "pcg, nystrom": partial(PreconditionedConjugateGradients, preconditioner="nystrom", rank=2),
    "minres": MinimalResidual,
    "gmres": GeneralisedMinimalResidual,
    "cg_normal": NormalConjugateGradients,
}
every_krylov = pytest.mark.parametrize("make", KRYLOV.values(), ids=KRYLOV)
KEEP_ORTHOGONALITY = [KRYLOV[name] for name in ("cg", "pcg, exact diagonal", "gmres")]
NYSTROM = Nystrom(rank=2, shift=0.5)
everyone = pytest.mark.parametrize(
    "solver",
    [*(make(60) for make in KRYLOV.values()), Neumann(60), NYSTROM, Dense()],
    ids=[*KRYLOV, "neumann", "nystrom", "dense"],
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("size", [1, 2, 3, 10])
@every_krylov
def test_n_iterations_solve_an_n_dimensional_system(
    make: Callable[..., LinearSolver], size: int, dtype: torch.dtype
) -> None:
    checks.check_exact_after_n(make, size, dtype, 6.0 if make in KEEP_ORTHOGONALITY else 2.0)


@every_krylov
def test_more_iterations_than_needed_do_no_harm(make: Callable[..., LinearSolver]) -> None:
    for size in (1, 3, 10):
        checks.check_more_do_no_harm(make, size)


@every_krylov
def test_a_coupling_of_blocks_counts(make: Callable[..., LinearSolver]) -> None:
    checks.check_coupled(make(60))
    checks.check_coupled(Dense())


@everyone
def test_a_power_of_two_on_the_right_hand_side_changes_no_digit(solver: LinearSolver) -> None:
    checks.check_scales(solver, checks.spread(3, 6, 50.0), vectors(3, 6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("of_the_matrix", [False, True], ids=["right-hand side", "matrix"])
@every_krylov
def test_tiny_and_huge_systems_are_solved_to_the_same_digits(
    make: Callable[..., LinearSolver], factor: float, of_the_matrix: bool, dtype: torch.dtype
) -> None:
    matrix, b = checks.spread(3, 5, 4.0, dtype), vectors(3, 5, dtype=dtype)
    matrix, b = (matrix * factor, b) if of_the_matrix else (matrix, b * factor)
    solution = make(40).path(times(matrix), b)[-1]
    truth = checks.exactly(matrix, b)
    error = row_norms(solution.value.double() - truth) / row_norms(truth)
    check_ratio("tiny and huge systems", error, torch.finfo(dtype).eps * 4, factor)
    assert only(solution.outcome) is Outcome.OK


@everyone
def test_there_may_be_nothing_to_solve(solver: LinearSolver) -> None:
    checks.check_nothing_to_solve(solver)


@every_krylov
def test_no_iterations_give_zero_and_say_unfinished(make: Callable[..., LinearSolver]) -> None:
    (solution,) = make(0).path(times(checks.spread(2, 4, 6.0)), vectors(2, 4))
    assert torch.equal(solution.value, torch.zeros(2, 4).double())
    assert torch.equal(solution.residual, torch.ones(2).double()) and only(solution.outcome) is Outcome.UNFINISHED


@everyone
def test_rows_that_are_not_finite_leave_the_others_alone(solver: LinearSolver) -> None:
    checks.check_not_finite(solver)


@everyone
def test_rows_are_what_they_are_alone(solver: LinearSolver) -> None:
    """Solved at once, ill-conditioned, zero, indefinite, singular and non-finite ones in one batch.

    Bit for bit at this size. In large ones the kernels of batched products may sum in another order for another number
    of rows; whatever the size, a row does not depend on what the others hold: see the next test.
    """
    matrix = torch.stack(
        [
            torch.eye(6).double(),
            checks.spread(1, 6, 1e4)[0],
            checks.spread(1, 6, 5.0)[0],
            checks.spread(1, 6, 5.0, indefinite=True)[0],
            torch.diag(torch.tensor([3.0, 2, 1, 1, 1, 0])).double(),
            torch.full((6, 6), torch.nan).double(),
            torch.eye(6).double(),
        ]
    )
    b = vectors(7, 6)
    b[2] = 0
    b[6, 2] = torch.nan
    checks.check_rows_alone(solver, matrix, b)


@everyone
def test_large_rows_do_not_depend_on_what_the_others_hold(solver: LinearSolver) -> None:
    diagonal, b = torch.rand(4, 500, generator=torch.Generator().manual_seed(0)) + 0.05, vectors(4, 500).float()
    before = solver.path(lambda v: diagonal * v, b)[-1]
    others, others_b = diagonal.clone(), b.clone()
    others[1], others_b[2], others_b[3] = torch.nan, 0.0, -7.0 * b[3].flip(0)
    after = solver.path(lambda v: others * v, others_b)[-1]
    assert torch.equal(before.value[0], after.value[0]) and torch.equal(before.residual[0], after.residual[0])
    assert not torch.equal(before.value[3], after.value[3])


@every_krylov
def test_kept_iterates_are_those_of_shorter_runs(make: Callable[..., LinearSolver]) -> None:
    checks.check_kept(lambda count, keep: make(count, keep=keep), checks.spread(3, 8, 1e3), vectors(3, 8))


@every_krylov
def test_the_residual_that_is_reported_is_that_of_the_value(make: Callable[..., LinearSolver]) -> None:
    for dtype in (torch.float64, torch.float32):
        matrix, b = checks.spread(3, 20, 1e3, dtype), vectors(3, 20, dtype=dtype)
        checks.check_residual(make(100, keep=(1, 5, 20)), matrix, b)


@pytest.mark.parametrize("name", solvers.names())
def test_a_matrix_that_is_not_symmetric_is_solved_or_refused(name: str) -> None:
    """The transposed product says so. Its symmetric part is definite, so that a series may converge too."""
    half = vectors(6, 6).view(1, 6, 6) / 12
    matrix = (torch.eye(6).double() + half - half.mT).expand(2, 6, 6)  # eigenvalues 1 + i t, |t| < 0.4
    b, transposed = vectors(2, 6), times(matrix.mT)
    solver = make_solver(name)
    if name in ANY_MATRIX:
        solution = solver.path(times(matrix), b, transposed)[-1]
        assert only(solution.outcome) is Outcome.OK
        truth = checks.exactly(matrix, b)
        check_ratio(f"not symmetric, {name}", row_norms(solution.value - truth), 2.0**-52 * 3 * row_norms(truth))
    else:
        with pytest.raises(ValueError, match="expected a symmetric matrix, .* use one of the solvers cg_normal, dense"):
            solver.path(times(matrix), b, transposed)


@every_krylov
def test_settings_that_mean_nothing_are_refused(make: Callable[..., LinearSolver]) -> None:
    for iterations in (-1, True, 2.0, None):
        with pytest.raises(ValueError, match="iterations: expected a whole number >= 0, found"):
            make(iterations)
    for keep in ((6,), (-1,)):
        with pytest.raises(ValueError, match="expected iterations to keep from 0 to 5"):
            make(5, keep=keep)
    for tolerance in (-1e-3, float("nan")):
        with pytest.raises(ValueError, match="expected relative_tolerance >= 0"):
            make(5, relative_tolerance=tolerance)
