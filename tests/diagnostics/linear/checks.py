"""What every linear solver is held to, as functions that take one: ours pass them, and faulty ones must not."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import extended
from diagnostics.arithmetic.precision import PRECISIONS, epsilon
from diagnostics.outcome import Outcome
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolver, MatVec
from tests.cases import check_ratio, only, symmetric, times, vectors

Make = Callable[[int], LinearSolver]  # of a number of iterations


def spread(
    rows: int,
    size: int,
    condition: float,
    dtype: torch.dtype = torch.float64,
    *,
    indefinite: bool = False,
    seed: int = 0,
) -> Tensor:
    """Symmetric matrices with eigenvalues from 1/condition to 1 in size; every other one negative if `indefinite`."""
    values = condition ** torch.linspace(-1, 0, size, dtype=torch.float64) if size > 1 else torch.ones(1)
    signs = (-1.0) ** torch.arange(size, 0, -1) if indefinite else torch.ones(size)
    return symmetric((values * signs).to(dtype).expand(rows, size), seed)


def general(rows: int, size: int, condition: float, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Matrices with singular values from 1/condition to 1 between two random bases: nothing symmetric."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(rows, size, size, generator=generator).double()).Q for _ in range(2))
    values = condition ** torch.linspace(-1, 0, size, dtype=torch.float64) if size > 1 else torch.ones(1)
    return (left * values @ right).to(dtype)


def exactly(matrix: Tensor, b: Tensor) -> Tensor:
    """The dense solution in float64: the oracle."""
    return torch.linalg.solve(matrix.double(), b.double())


def check_solves(
    family: str, solver: LinearSolver, matrix: Tensor, b: Tensor, condition: float, transposed: MatVec | None = None
) -> None:
    """The solution is right to `eps kappa |x|`, and the residual that is reported is that of the value."""
    solution = solver.path(times(matrix), b, transposed)[-1]
    truth = exactly(matrix, b)
    where = (tuple(matrix.shape), condition, b.dtype)
    check_ratio(family, row_norms(solution.value.double() - truth), epsilon(b) * condition * row_norms(truth), where)
    check_residual(solver, matrix, b, transposed)


def check_residual(solver: LinearSolver, matrix: Tensor, b: Tensor, transposed: MatVec | None = None) -> None:
    """Every reported residual is `|b - Hx| / |b|` of the value beside it, to `eps (|H||x| + |b|) / |b|`."""
    norm = torch.linalg.matrix_norm(matrix.double(), 2)
    for solution in solver.path(times(matrix), b, transposed):
        value = solution.value.double()
        fresh = row_norms(b.double() - times(matrix.double())(value)) / row_norms(b.double())
        unit = epsilon(b) * (1 + norm * row_norms(value) / row_norms(b.double()))
        check_ratio("reported residual", (solution.residual.double() - fresh).abs(), unit, solution.iterations)


def check_exact_after_n(make: Make, size: int, dtype: torch.dtype = torch.float64, condition: float = 6.0) -> None:
    """n iterations solve an n-dimensional system to rounding.

    Eigenvalues from 1/6 to 1: few enough decades that orthogonality lasts for ten iterations, and enough that nine of
    them leave an error far above rounding. From 1/2 to 1 for solvers that lose it sooner; nine leave 1e-7 still.
    """
    matrix, b = spread(4, size, condition, dtype), vectors(4, size, dtype=dtype)
    check_solves("n iterations", make(size), matrix, b, condition)


def check_more_do_no_harm(make: Make, size: int) -> None:
    """200 iterations where n are enough leave the solution as good as it was."""
    check_solves("200 iterations", make(200), spread(4, size, 6.0), vectors(4, size), 6.0)


def check_coupled(solver: LinearSolver) -> None:
    """Two blocks of unknowns, the parameters of two tensors, and a Hessian that couples them: the coupling counts."""
    block, coupling = torch.eye(3).double() * 2, torch.full((3, 3), 0.5, dtype=torch.float64)
    matrix = torch.cat([torch.cat([block, coupling], -1), torch.cat([coupling, block], -1)], -2).expand(2, 6, 6)
    # Eigenvalues 2, and 2 +- 1.5: a condition number of 7.
    check_solves("coupled blocks", solver, matrix, vectors(2, 6), 7.0)


def check_scales(solver: LinearSolver, matrix: Tensor, b: Tensor, transposed: MatVec | None = None) -> None:
    """A power of two on the right-hand side changes no digit."""
    for factor in (2.0**-900, 2.0**-100, 2.0**100, 2.0**900):
        plain, scaled = solver.path(times(matrix), b, transposed), solver.path(times(matrix), b * factor, transposed)
        for one, other in zip(plain, scaled, strict=True):
            assert torch.equal(one.value * factor, other.value)
            assert torch.equal(one.residual, other.residual) and torch.equal(one.outcome, other.outcome)


def check_rows_alone(solver: LinearSolver, matrix: Tensor, b: Tensor, transposed: Tensor | None = None) -> None:
    """Each row of a batch is what it is alone, bit for bit."""

    def adjoint(rows: slice) -> MatVec | None:
        return None if transposed is None else times(transposed[rows])

    together = solver.path(times(matrix), b, adjoint(slice(None)))
    for row in range(len(b)):
        at = slice(row, row + 1)
        for one, many in zip(solver.path(times(matrix[at]), b[at], adjoint(at)), together, strict=True):
            assert torch.equal(one.value.nan_to_num(), many.value[at].nan_to_num()), row
            assert torch.equal(one.residual.nan_to_num(), many.residual[at].nan_to_num()), row
            assert torch.equal(one.outcome, many.outcome[at]) and torch.equal(one.products, many.products[at]), row


def check_kept(make: Callable[[int, tuple[int, ...]], LinearSolver], matrix: Tensor, b: Tensor) -> None:
    """Kept iterates come sorted, once each, with the last, and are those of shorter runs, bit for bit."""
    counts = (0, 1, 3, 7, 20)
    path = make(20, (7, 3, 0, 1, 3)).path(times(matrix), b)
    assert [solution.iterations for solution in path] == list(counts)
    for solution in path:
        (short,) = make(solution.iterations, ()).path(times(matrix), b)
        for name in ("value", "residual", "outcome", "products"):
            assert torch.equal(getattr(solution, name), getattr(short, name)), (name, solution.iterations)


def check_nothing_to_solve(solver: LinearSolver) -> None:
    """A right-hand side of zero has the solution zero; no tasks have none."""
    solution = solver.path(times(spread(2, 4, 6.0)), torch.zeros(2, 4).double())[-1]
    assert torch.equal(solution.value, torch.zeros(2, 4).double())
    assert torch.equal(solution.residual, torch.zeros(2).double()) and only(solution.outcome) is Outcome.OK
    none = solver.path(times(torch.zeros(0, 4, 4).double()), torch.zeros(0, 4).double())[-1]
    assert none.value.shape == (0, 4) and none.outcome.shape == none.products.shape == (0,)


def check_not_finite(solver: LinearSolver) -> None:
    """Rows with a NaN or an infinity in them say so and leave the others alone."""
    matrix, b = spread(4, 4, 6.0), vectors(4, 4)
    alone = solver.path(times(matrix[:1]), b[:1])[-1]
    matrix[1, 0, 2] = torch.nan
    b[2, 1], b[3, 0] = torch.nan, torch.inf
    solution = solver.path(times(matrix), b)[-1]
    assert only(solution.outcome[1:]) is Outcome.NOT_FINITE and bool(solution.value[2:].isnan().all())
    assert torch.equal(solution.value[:1], alone.value) and torch.equal(solution.outcome[:1], alone.outcome)


def check_every_arithmetic(
    family: str, solver: LinearSolver, sizes: Sequence[int] = (6,), condition: float = 4.0
) -> None:
    """Right to `eps kappa |x|` in every arithmetic, extended precision by its own dense solve."""
    for size in sizes:
        matrix, b = spread(2, size, condition), vectors(2, size)
        for arithmetic in PRECISIONS.values():
            with arithmetic.running():
                h, right = arithmetic.enter(matrix), arithmetic.enter(b)
                solution = solver.path(times(h), right)[-1]
            held, left = (extended(arithmetic.leave(x)) if arithmetic.name != "extended" else x for x in (h, right))
            truth = torch.linalg.solve(held, left)
            value = solution.value if arithmetic.name == "extended" else extended(arithmetic.leave(solution.value))
            error = arithmetic.leave(row_norms(value - truth)).double() / arithmetic.leave(row_norms(truth)).double()
            check_ratio(family, error, arithmetic.eps * condition, (arithmetic.name, size))
            assert only(solution.outcome) is Outcome.OK, arithmetic.name
