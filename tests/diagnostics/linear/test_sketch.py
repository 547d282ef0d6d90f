"""Nystrom's approximation: exact where the rank suffices, and within the known bound of the best where it does not."""

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.precision import PRECISIONS
from diagnostics.linear.sketch import Sketch, columns, gaussian, sketched
from diagnostics.rows import row_norms
from tests.cases import check_ratio, provoked, symmetric, times

TESTS = pytest.mark.parametrize("draw", [columns, gaussian], ids=["columns", "gaussian"])


def written(sketch: Sketch) -> Tensor:
    """`U L U'`."""
    return sketch.vectors * sketch.values.unsqueeze(-2) @ sketch.vectors.mT


def of(matrix: Tensor, test: Tensor, eps: float = 2.0**-52) -> Sketch:
    return sketched(times(matrix), test, matrix[:, 0], eps)


def low_rank(rows: int, size: int, *values: float) -> Tensor:
    """Matrices of the given eigenvalues, the rest zero."""
    return symmetric(torch.tensor([*values, *[0.0] * (size - len(values))]).double().expand(rows, size))


@TESTS
@pytest.mark.parametrize(
    "values", [(3.0, 2, 1), (3.0, -2, 1), (-1.0, -2, -3)], ids=["definite", "indefinite", "negative"]
)
@pytest.mark.parametrize("rank", [3, 5, 12])
def test_a_matrix_of_low_rank_is_met_exactly(draw, values: tuple[float, ...], rank: int) -> None:
    """From as many products as its rank, or more: those beyond are noise, and are left out."""
    matrix, test = low_rank(4, 12, *values), draw(12, rank, 1)
    sketch = of(matrix, test)
    # A core of small eigenvalues magnifies the roundings of Y by |A| over the least of them that counts.
    core = torch.linalg.eigvalsh(test.mT @ matrix @ test).abs()
    least = torch.where(core > 1e-12, core, torch.inf).amin(-1)
    error = torch.linalg.matrix_norm(written(sketch) - matrix, 2)
    check_ratio("sketch, low rank", error, 2.0**-52 * 3 * (3 / least), (draw.__name__, rank))
    assert torch.equal((sketch.values != 0).sum(-1), torch.full((4,), 3))
    assert bool((sketch.norm == sketch.values.abs().amax(-1)).all())
    unit = torch.eye(rank).double()
    check_ratio("sketch, orthonormal", (sketch.vectors.mT @ sketch.vectors - unit).abs().amax((-2, -1)), 2.0**-52)


@TESTS
def test_it_is_the_textbook_formula(draw) -> None:
    """Y (O'Y)^-1 Y', where the core is well-conditioned; a formula without the inverse of the core is not."""
    matrix, test = symmetric(torch.logspace(-1, 0, 10).double().expand(3, 10)), draw(10, 4, 2)
    y = matrix @ test
    core = test.mT @ y
    condition = torch.linalg.cond(core)
    found = written(of(matrix, test))
    check_ratio(
        "sketch, formula", torch.linalg.matrix_norm(found - y @ torch.linalg.solve(core, y.mT), 2), 2.0**-52 * condition
    )
    with provoked():
        check_ratio("sketch, formula", torch.linalg.matrix_norm(found - y @ y.mT, 2), 2.0**-52 * condition)


def test_of_a_semidefinite_matrix_it_lies_below_and_near_the_best() -> None:
    """0 <= A_r <= A, and for any p from 2 to r - 2, k = r - p (Frangella, Tropp and Udell 2023, proposition 2.2),

    E |A - A_r| <= (1 + 2k / (p - 1)) lambda_(k+1) + 2 e^2 r / (p^2 - 1) sum_(j > k) lambda_j.
    """
    values = torch.logspace(0, -6, 40).double()
    matrix, rank = symmetric(values.expand(20, 40)), 16
    sketch = of(matrix, gaussian(40, rank, 3))
    left = torch.linalg.eigvalsh(matrix - written(sketch))
    assert bool((left[:, 0] > -30 * 2.0**-52 / 1e-3).all())  # the least value of the core is about 1e-3
    p = 8
    k = rank - p
    bound = (1 + 2 * k / (p - 1)) * values[k] + 2 * torch.e**2 * rank / (p**2 - 1) * values[k:].sum()
    assert float(left[:, -1].mean()) < float(bound)
    assert bool((left[:, -1] >= values[rank] * (1 - 1e-9)).all())  # no approximation of rank r is better


def test_zero_and_non_finite_matrices_are_zero_and_leave_the_others_alone() -> None:
    matrix = low_rank(3, 8, 2.0, 1.0)
    alone = of(matrix[:1], columns(8, 4, 0))
    matrix[1] = 0
    matrix[2, 1, 1] = torch.nan
    sketch = of(matrix, columns(8, 4, 0))
    assert not bool(sketch.values[1:].any()) and not bool(sketch.norm[1:].any())
    assert bool(sketch.vectors.isfinite().all())
    assert torch.equal(sketch.vectors[:1], alone.vectors) and torch.equal(sketch.values[:1], alone.values)


@pytest.mark.parametrize("factor", [1e-200, 1e-30, 1e30, 1e200])
def test_the_size_of_the_matrix_does_not_matter(factor: float) -> None:
    plain, scaled = (of(low_rank(2, 8, 2.0, 1.0) * f, columns(8, 4, 0)) for f in (1.0, factor))
    check_ratio("sketch, scale", row_norms(scaled.values / factor - plain.values), 2.0**-52 * 2 * 100)


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_arithmetic(name: str) -> None:
    """Products in the arithmetic, factors in float64: right to the roundings of the products."""
    arithmetic = PRECISIONS[name]
    test = gaussian(12, 4, 1)
    with arithmetic.running():
        matrix = arithmetic.enter(low_rank(2, 12, 3.0, 2.0, 1.0))
        sketch = sketched(times(matrix), test, matrix[:, 0], arithmetic.eps)
        vectors_, values = arithmetic.leave(sketch.vectors), arithmetic.leave(sketch.values)
    found = vectors_ * values.unsqueeze(-2) @ vectors_.mT
    core = torch.linalg.eigvalsh(test.mT @ low_rank(2, 12, 3.0, 2.0, 1.0) @ test)[:, 1:].amin(-1)
    eps = max(arithmetic.eps, 2.0**-52)
    error = torch.linalg.matrix_norm(found - arithmetic.leave(matrix), 2)
    check_ratio("sketch, every arithmetic", error, eps * 3 * (3 / core), name)


def test_draws_are_of_the_seed_orthonormal_and_the_columns_distinct() -> None:
    for draw in (columns, gaussian):
        assert torch.equal(draw(9, 4, 5), draw(9, 4, 5)) and not torch.equal(draw(9, 4, 5), draw(9, 4, 6))
        check_ratio("sketch, draws", (draw(9, 4, 5).mT @ draw(9, 4, 5) - torch.eye(4)).abs().amax(), 2.0**-52)
    assert bool((columns(9, 9, 0).sum(-1) == 1).all())
