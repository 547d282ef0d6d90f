"""The Neumann series: its sums, its error bound, and how it says that it does not converge.

Units of error: j terms of size at most a |b| are summed, each rounded to `eps`, so a sum is right to `eps a sum |t_i|`,
which is at most `eps |b| / mu`.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diagnostics.arithmetic.precision import PRECISIONS
from diagnostics.linear.neumann import POWER_ITERATIONS, Neumann, norm_estimate
from diagnostics.outcome import Outcome, decode
from diagnostics.rows import row_norms
from tests.cases import check_ratio, only, symmetric, times, vectors

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def spread(rows: int, size: int, condition: float, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Positive definite matrices with eigenvalues from 1/condition to 1."""
    values = torch.logspace(-float(np.log10(condition)), 0, size, dtype=torch.float64) if size > 1 else torch.ones(1)
    return symmetric(values.to(dtype).expand(rows, size), seed)


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64)).unsqueeze(0)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# ---- the sums


@BOTH
@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_the_sums_are_those_of_the_series(size: int, dtype: torch.dtype) -> None:
    """The oracle forms the powers of I - aH densely, in float64."""
    matrix, b, step = spread(3, size, 10.0, dtype), vectors(3, size, dtype=dtype), 0.7
    power, total = torch.eye(size, dtype=torch.float64).expand(3, size, size), torch.zeros(3, size).double()
    contraction = power - step * matrix.double()
    for solution in Neumann(6, step=step, keep=tuple(range(6))).path(times(matrix), b):
        total = total + step * times(power)(b.double())
        power = power @ contraction
        unit = torch.finfo(dtype).eps * 10 * row_norms(b.double())
        error = row_norms(solution.value.double() - total)
        check_ratio(f"neumann, sums, {str(dtype)[6:]}", error, unit, (size, solution.iterations))
        assert solution.products.tolist() == [solution.iterations] * 3


def test_a_closed_form_in_one_dimension() -> None:
    """H = 2, a = 1/4: x_j = (1 - 2^-(j+1)) b / 2, exactly."""
    for solution in Neumann(5, step=0.25, keep=(0, 1, 2)).path(times(diagonal(2.0)), row(1.0)):
        assert float(solution.value) == (1 - 2.0 ** -(solution.iterations + 1)) / 2
        assert float(solution.residual) == 2.0 ** -(solution.iterations + 1)


@given(size=st.integers(1, 8), decades=st.floats(0.0, 2.0), step=st.floats(0.1, 1.0), seed=st.integers(0, 10_000))
def test_the_error_stays_below_the_bound(size: int, decades: float, step: float, seed: int) -> None:
    """|x_j - x| <= (1 - a mu)^(j+1) |b| / mu for a <= 1 / |H|, with equality along the smallest eigenvector."""
    condition = 10.0**decades if size > 1 else 1.0
    matrix = spread(1, size, condition, seed=seed).expand(2, size, size)
    b = vectors(2, size, seed)
    b[1] = torch.linalg.eigh(matrix[1]).eigenvectors[:, 0]
    truth = torch.linalg.solve(matrix, b)
    for solution in Neumann(30, step=step, keep=(0, 1, 2, 5, 10)).path(times(matrix), b):
        bound = (1 - step / condition) ** (solution.iterations + 1) * condition * row_norms(b)
        rounding = 30 * 2.0**-52 * condition * row_norms(truth)
        error = row_norms(solution.value - truth)
        assert bool((error <= bound + rounding).all())
        assert float(error[1]) >= float((bound - rounding)[1])


@pytest.mark.parametrize("name", PRECISIONS)
def test_ample_iterations_solve_to_rounding_in_every_arithmetic(name: str) -> None:
    arithmetic = PRECISIONS[name]
    with arithmetic.running():
        matrix, b = arithmetic.enter(spread(3, 5, 4.0)), arithmetic.enter(vectors(3, 5))
        solution = Neumann(600).path(times(matrix), b)[-1]
    assert only(solution.outcome) is Outcome.OK
    # |b - Hx| <= 30 eps (|H| |x| + |b|), |x| <= 4 |b|
    check_ratio("neumann, every arithmetic", arithmetic.leave(solution.residual), 5 * arithmetic.eps, name)
    assert bool((solution.products < 600).all())  # it ends by itself


# ---- the step


@pytest.mark.parametrize("size", [1, 2, 5, 20, 200])
def test_the_estimate_of_the_norm_is_below_it_and_within_the_margin(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    values = torch.rand(20, size, generator=generator, dtype=torch.float64) + 0.01
    estimate, largest = norm_estimate(times(symmetric(values)), vectors(20, size)), values.amax(-1)
    assert bool((estimate <= largest * (1 + 30 * 2.0**-52)).all()) and bool((estimate > 0.75 * largest).all())


def test_the_step_left_open_is_of_the_size_of_the_matrix() -> None:
    """2 / (4/3 |H|), and the power iterations are counted."""
    for scale in (1e-30, 1.0, 1e30):
        solution = Neumann(0).path(times(diagonal(1.0, 0.5) * scale), row(1.0, 1.0))[-1]
        # What is left of the second eigenvector after 20 iterations is 2^-19 of it, and 2^-38 of the norm.
        check_ratio("neumann, step", (solution.value * scale - 1.5).abs(), 1.5 * 2.0**-38)
        assert solution.products.tolist() == [POWER_ITERATIONS]


# ---- scale


@pytest.mark.parametrize("step", [None, 0.5])
@pytest.mark.parametrize("exponent", [-900, -100, 100, 900])
def test_a_power_of_two_on_the_right_hand_side_changes_no_digit(exponent: int, step: float | None) -> None:
    matrix, b, factor = spread(3, 6, 10.0), vectors(3, 6), 2.0**exponent
    solver = Neumann(40, step=step, keep=(0, 2, 4))
    for plain, scaled in zip(solver.path(times(matrix), b), solver.path(times(matrix), b * factor), strict=True):
        assert torch.equal(plain.value * factor, scaled.value)
        assert torch.equal(plain.residual, scaled.residual)
        assert torch.equal(plain.outcome, scaled.outcome)


@BOTH
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_a_tiny_or_huge_right_hand_side_is_solved_to_the_same_digits(factor: float, dtype: torch.dtype) -> None:
    matrix, b = spread(3, 5, 4.0, dtype), vectors(3, 5, dtype=dtype) * factor
    solution = Neumann(200).path(times(matrix), b)[-1]
    truth = torch.linalg.solve(matrix.double(), b.double())
    assert only(solution.outcome) is Outcome.OK
    error = row_norms(solution.value.double() - truth) / row_norms(truth)
    check_ratio("neumann, scale", error, torch.finfo(dtype).eps * 4)


# ---- how a row ends


def test_a_step_that_is_too_large_diverges_and_stops() -> None:
    solution = Neumann(5000, step=2.1).path(times(diagonal(1.0, 0.5)), row(1.0, 1.0))[-1]
    assert only(solution.outcome) is Outcome.SOLVER_DIVERGED
    assert bool(solution.value.isfinite().all()) and int(solution.products) < 100


def test_a_step_just_below_two_over_the_norm_converges() -> None:
    solution = Neumann(5000, step=1.99).path(times(diagonal(1.0, 0.5)), row(1.0, 1.0))[-1]
    assert only(solution.outcome) is Outcome.OK


@pytest.mark.parametrize("step", [None, 0.3])
def test_an_indefinite_matrix_is_reported_at_the_sum_before(step: float | None) -> None:
    matrix, b = diagonal(3.0, -1.0), row(1.0, 0.5)
    path = Neumann(60, step=step, keep=tuple(range(60))).path(times(matrix), b)
    found = [only(s.outcome) for s in path]
    met = found.index(Outcome.NEGATIVE_CURVATURE)
    assert met > 1 and found[:met] == [Outcome.UNFINISHED] * met  # b'Hb > 0: not at once
    assert found[met:] == [Outcome.NEGATIVE_CURVATURE] * (len(path) - met)
    assert all(torch.equal(s.value, path[met - 1].value) for s in path[met:])


def test_what_is_left_in_the_null_space_is_singular() -> None:
    solution = Neumann(300, step=0.5).path(times(diagonal(2.0, 0.0)), row(1.0, 1.0))[-1]
    assert only(solution.outcome) is Outcome.SINGULAR
    assert only(Neumann(3).path(times(diagonal(0.0)), row(1.0))[-1].outcome) is Outcome.SINGULAR


@pytest.mark.parametrize("iterations", [0, 1, 50])
def test_a_zero_right_hand_side_has_the_zero_solution(iterations: int) -> None:
    (solution,) = Neumann(iterations).path(times(spread(2, 3, 10.0)), torch.zeros(2, 3).double())
    assert torch.equal(solution.value, torch.zeros(2, 3).double())
    assert only(solution.outcome) is Outcome.OK


def test_no_tasks_have_no_solutions() -> None:
    (solution,) = Neumann(3).path(times(torch.zeros(0, 3, 3).double()), torch.zeros(0, 3).double())
    assert solution.value.shape == (0, 3) and solution.outcome.shape == (0,)


def test_rows_end_on_their_own() -> None:
    """A solved, a zero, a slow, an indefinite, a divergent and non-finite rows: each as if alone."""
    matrix = torch.cat(
        [
            torch.eye(3).double().unsqueeze(0).expand(2, 3, 3),
            diagonal(1.0, 0.5, 1e-4), diagonal(1.0, 0.5, -0.5), diagonal(5.0, 1.0, 1.0),
            torch.full((1, 3, 3), torch.nan).double(),
            torch.eye(3).double().unsqueeze(0).expand(2, 3, 3),
        ]
    )  # fmt: skip
    b = vectors(8, 3)
    b[1] = 0
    b[6, 2], b[7, 2] = torch.nan, torch.inf
    solver = Neumann(100, step=1.0, keep=(0, 1, 6, 40))
    together = solver.path(times(matrix), b)
    assert decode(together[-1].outcome) == [
        Outcome.OK, Outcome.OK, Outcome.UNFINISHED, Outcome.NEGATIVE_CURVATURE, Outcome.SOLVER_DIVERGED,
        Outcome.NOT_FINITE, Outcome.NOT_FINITE, Outcome.NOT_FINITE,
    ]  # fmt: skip
    for one in range(8):
        alone = solver.path(times(matrix[one : one + 1]), b[one : one + 1])
        for single, many in zip(alone, together, strict=True):
            assert torch.equal(single.value.nan_to_num(), many.value[one : one + 1].nan_to_num())
            assert torch.equal(single.outcome, many.outcome[one : one + 1])
            assert torch.equal(single.products, many.products[one : one + 1])


# ---- kept sums, tolerance, damping, settings


def test_kept_sums_are_those_of_shorter_runs_bit_for_bit() -> None:
    matrix, b = spread(3, 8, 5.0), vectors(3, 8)
    counts = (0, 1, 3, 20, 150)
    path = Neumann(150, keep=(20, *counts)).path(times(matrix), b)
    assert [s.iterations for s in path] == list(counts)
    for solution in path:
        (short,) = Neumann(solution.iterations).path(times(matrix), b)
        for name in ("value", "residual", "outcome", "products"):
            assert torch.equal(getattr(solution, name), getattr(short, name))


def test_the_tolerance_is_relative_and_met_by_the_first_sum_that_can() -> None:
    matrix, b = spread(1, 10, 100.0), vectors(1, 10)
    loose = Neumann(2000, step=1.0, relative_tolerance=1e-3).path(times(matrix), b)[-1]
    every = Neumann(2000, step=1.0, keep=tuple(range(2000))).path(times(matrix), b)
    first = next(s for s in every if float(s.residual) <= 1e-3)
    assert torch.equal(loose.value, first.value) and only(loose.outcome) is Outcome.OK
    assert loose.products.tolist() == [first.iterations + 1]  # the term after it is its residual


def test_damping_is_zero_unless_asked_for() -> None:
    matrix, b = diagonal(2.0, -1.0), row(4.0, 2.0)
    assert Neumann(2).damping == 0
    damped = Neumann(200, damping=2.0).path(times(matrix), b)[-1]
    check_ratio("neumann, damped", row_norms(damped.value - row(1.0, 2.0)), 2.0**-52 * 4 * 5**0.5)
    assert only(damped.outcome) is Outcome.OK


def test_settings_that_mean_nothing_are_refused() -> None:
    for iterations in (-1, True, 2.0, None):
        with pytest.raises(ValueError, match="Neumann iterations: expected a whole number >= 0, found"):
            Neumann(iterations)  # type: ignore[arg-type]
    for keep in ((6,), (-1,)):
        with pytest.raises(ValueError, match="Neumann: expected iterations to keep from 0 to 5"):
            Neumann(5, keep=keep)
    for step in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Neumann: expected a finite step > 0, or None, found"):
            Neumann(5, step=step)
    for tolerance in (-1e-3, float("nan")):
        with pytest.raises(ValueError, match="Neumann: expected relative_tolerance >= 0"):
            Neumann(5, relative_tolerance=tolerance)
