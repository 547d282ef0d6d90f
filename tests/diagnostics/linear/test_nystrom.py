"""The Nystrom inverse: Woodbury's formula, its error bound, and a residual that tells how good it is."""

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.precision import PRECISIONS
from diagnostics.linear.dense import Dense
from diagnostics.linear.nystrom import Nystrom
from diagnostics.linear.sketch import columns
from diagnostics.outcome import Outcome, decode
from diagnostics.rows import row_norms
from tests.cases import check_ratio, only, provoked, symmetric, times, vectors
from tests.diagnostics.linear import checks


def fading(rows: int, size: int, decades: float = 4.0) -> Tensor:
    """Semidefinite matrices whose eigenvalues fall off: A, without the proximal term."""
    return symmetric(torch.logspace(0, -decades, size).double().expand(rows, size))


def plus(matrix: Tensor, strength: float) -> Tensor:
    return matrix + strength * torch.eye(matrix.shape[-1]).double()


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("damping", [0.0, 0.25])
def test_it_is_woodburys_formula(rank: int, damping: float) -> None:
    """(1/rho) (b - A_c (rho A_cc + A_c'A_c)^-1 A_c'b), from the same columns."""
    a, b = fading(3, 12, 1.0), vectors(3, 12)
    solution = Nystrom(rank, shift=0.5, damping=damping, seed=4).path(times(plus(a, 0.5)), b)[-1]
    rho, test = 0.5 + damping, columns(12, rank, 4)
    c = a @ test
    core = rho * test.mT @ c + c.mT @ c
    expected = (b - (c @ torch.linalg.solve(core, (b.unsqueeze(1) @ c).mT)).squeeze(-1)) / rho
    unit = 2.0**-52 * torch.linalg.cond(core) * row_norms(b) / rho
    check_ratio("nystrom, Woodbury", row_norms(solution.value - expected), unit, rank)
    assert solution.products.tolist() == [rank] * 3 and solution.iterations == 0
    with provoked():
        check_ratio("nystrom, Woodbury", row_norms(solution.value - b / rho), unit, rank)


def test_the_error_stays_below_its_bound_and_the_residual_tells() -> None:
    """|x_r - x| <= e / (rho (rho + e)) |b|, e = |A - A_r|; and the outcome is unfinished."""
    a, b, rho = fading(6, 30), vectors(6, 30), 0.1
    matrix = plus(a, rho)
    truth, before = checks.exactly(matrix, b), float("inf")
    for rank in (2, 5, 10, 20):
        solution = Nystrom(rank, shift=rho).path(times(matrix), b)[-1]
        y = a @ columns(30, rank, 0)
        core = columns(30, rank, 0).mT @ y
        e = torch.linalg.matrix_norm(a - y @ torch.linalg.solve(core, y.mT), 2)
        error = row_norms(solution.value - truth)
        assert bool((error <= e / (rho * (rho + e)) * row_norms(b) * (1 + 1e-6)).all()), rank
        assert only(solution.outcome) is Outcome.UNFINISHED
        # The residual bounds the error from both sides: |r| / |H| <= |x_r - x| <= |r| / rho.
        left = solution.residual * row_norms(b)
        assert bool((left / (1 + rho) <= error * (1 + 1e-9)).all() and (error <= left / rho * (1 + 1e-9)).all())
        assert float(solution.residual.max()) < before
        before = float(solution.residual.max())
    checks.check_residual(Nystrom(10, shift=rho), matrix, b)


def test_a_matrix_of_low_rank_beside_its_shift_is_solved_and_ok() -> None:
    values = torch.tensor([[3.0, 2, 1, *[0.0] * 9]]).double().expand(4, 12)
    matrix, b = plus(symmetric(values), 0.5), vectors(4, 12)
    solution = Nystrom(6, shift=0.5).path(times(matrix), b)[-1]
    assert only(solution.outcome) is Outcome.OK
    truth = checks.exactly(matrix, b)
    # The core of six columns has eigenvalues down to 0.05: their roundings count 3 / 0.05 times.
    check_ratio("nystrom, low rank", row_norms(solution.value - truth), 2.0**-52 * 7 * 60 * row_norms(truth))


def test_the_strength_belongs_in_the_shift_and_not_in_the_sketch() -> None:
    """The same rho, as damping on top of an H that has the strength in it already, solves another system badly."""
    a, b = fading(4, 40), vectors(4, 40)
    matrix = plus(a, 0.5)
    right = Nystrom(10, shift=0.5).path(times(matrix), b)[-1]
    wrong = Nystrom(10, damping=0.5).path(times(matrix), b)[-1]  # of (H + 0.5 I) x = b: the eigenvalues not met count 0
    assert bool((right.residual < wrong.residual / 3).all() and (wrong.residual > 0.5).all())
    both = Nystrom(10, shift=0.5, damping=0.5).path(times(matrix), b)[-1]  # the same system as the wrong one, rightly
    assert bool((both.residual < right.residual).all())


@pytest.mark.parametrize("rank", [6, 100])
def test_a_rank_of_n_or_more_is_the_dense_solve(rank: int) -> None:
    matrix, b = checks.spread(3, 6, 100.0, indefinite=True), vectors(3, 6)
    ours, dense = Nystrom(rank, damping=0.01).path(times(matrix), b)[-1], Dense(0.01).path(times(matrix), b)[-1]
    for name in ("value", "outcome", "residual", "products"):
        assert torch.equal(getattr(ours, name), getattr(dense, name))


def test_a_negative_eigenvalue_that_the_columns_meet_is_reported() -> None:
    """By the core, whose eigenvalues lie between those of A: A = diag(.., -2), strength 0.5."""
    a = torch.diag(torch.tensor([3.0, 2, 1, 0, 0, -2])).double().unsqueeze(0)
    seeds = {bool(columns(6, 3, seed)[5].any()): seed for seed in range(20)}
    for met, found in ((True, Outcome.NEGATIVE_CURVATURE), (False, Outcome.UNFINISHED)):
        solution = Nystrom(3, shift=0.5, seed=seeds[met]).path(times(plus(a, 0.5)), torch.ones(1, 6).double())[-1]
        assert only(solution.outcome) is found
    definite = Nystrom(3, shift=2.5, seed=seeds[True]).path(times(plus(a, 2.5)), torch.ones(1, 6).double())[-1]
    assert only(definite.outcome) in (Outcome.OK, Outcome.UNFINISHED)


def test_a_singular_sum_says_so_and_stays_finite() -> None:
    a = torch.diag(torch.tensor([3.0, 2, 1, -0.5])).double().unsqueeze(0)
    seed = next(seed for seed in range(20) if bool(columns(4, 3, seed)[3].any()))
    solution = Nystrom(3, shift=0.5, seed=seed).path(times(plus(a, 0.5)), torch.ones(1, 4).double())[-1]
    assert only(solution.outcome) is Outcome.SINGULAR and bool(solution.value.isfinite().all())


def test_other_systems() -> None:
    """A zero matrix beside the shift, one unknown, and rows that end in different ways."""
    b = vectors(2, 4)
    zero = Nystrom(2, shift=0.5).path(times(plus(torch.zeros(2, 4, 4).double(), 0.5)), b)[-1]
    assert only(zero.outcome) is Outcome.OK and torch.equal(zero.value, 2 * b)
    one = Nystrom(2).path(times(torch.full((1, 1, 1), 4.0).double()), torch.ones(1, 1).double())[-1]
    assert one.value.tolist() == [[0.25]] and only(one.outcome) is Outcome.OK
    negative = torch.diag(torch.tensor([-3.0, -3, -3, -3])).double()
    many = Nystrom(2, shift=0.5).path(times(plus(torch.stack([torch.zeros(4, 4).double(), negative]), 0.5)), b)[-1]
    assert decode(many.outcome) == [Outcome.OK, Outcome.NEGATIVE_CURVATURE]


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_arithmetic(name: str) -> None:
    arithmetic = PRECISIONS[name]
    values = torch.tensor([[3.0, 2, 1, *[0.0] * 9]]).double().expand(2, 12)
    with arithmetic.running():
        matrix = arithmetic.enter(plus(symmetric(values), 0.5))
        b = arithmetic.enter(vectors(2, 12))
        solution = Nystrom(6, shift=0.5).path(times(matrix), b)[-1]
        value = arithmetic.leave(solution.value)
    truth = checks.exactly(arithmetic.leave(matrix), arithmetic.leave(b))
    # U is right to float64's rounding at best; the core's eigenvalues count as above.
    unit = max(arithmetic.eps, 2.0**-52) * 7 * 60 * row_norms(truth)
    check_ratio("nystrom, every arithmetic", row_norms(value - truth), unit, name)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="Nystrom rank: expected a whole number >= 1, found 0"):
        Nystrom(0)
    with pytest.raises(ValueError, match="Nystrom shift: expected a finite number >= 0, found -1"):
        Nystrom(3, shift=-1.0)
    with pytest.raises(ValueError, match="Nystrom damping: expected a finite number >= 0, found -1"):
        Nystrom(3, damping=-1.0)
    with pytest.raises(ValueError, match="expected shift . damping > 0 for rank 3 of 4 unknowns, found 0; set shift"):
        Nystrom(3).path(times(fading(1, 4)), vectors(1, 4))
