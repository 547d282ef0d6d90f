"""Conjugate gradients: exact after n iterations, bounded on the way, honest about how it ended.

Units of error: a solve is right to `eps kappa |x|`, kappa the condition number of H. A residual is right to
`eps (|H| |x| + |b|)`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import cg as scipy_cg
from torch import Tensor

from diagnostics.linear.cg import ConjugateGradients
from diagnostics.outcome import Outcome, decode
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolution, LinearSolver, MatVec
from diagnostics.theory import chebyshev
from tests.cases import check_ratio, only, provoked, symmetric, times, vectors

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def spread(rows: int, size: int, condition: float, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Positive definite matrices with eigenvalues from 1/condition to 1."""
    values = torch.logspace(-float(np.log10(condition)), 0, size, dtype=torch.float64) if size > 1 else torch.ones(1)
    return symmetric(values.to(dtype).expand(rows, size), seed)


def exactly(matrix: Tensor, b: Tensor) -> Tensor:
    """The dense solution in float64: the oracle."""
    return torch.linalg.solve(matrix.double(), b.double())


# ---- exact after n iterations, and what is wrong with versions that are not


@dataclass(frozen=True)
class Textbook:
    """Conjugate gradients as in a textbook, with places to break it: the point is that the checks below notice."""

    iterations: int
    previous: bool = False  # returns the iterate before the last, as a loop does that leaves before it stores
    stale: bool = False  # the direction is built from the residual before the update
    scaled: float = 1.0  # the step is too long or too short

    def path(
        self, matvec: MatVec, right_hand_side: Tensor, transposed: MatVec | None = None
    ) -> tuple[LinearSolution, ...]:
        x, r, p = torch.zeros_like(right_hand_side), right_hand_side, right_hand_side
        before = x
        for _ in range(self.iterations):
            hp = matvec(p)
            rr = (r * r).sum(-1, keepdim=True)
            alpha = self.scaled * rr / (p * hp).sum(-1, keepdim=True)
            before, x, old = x, x + alpha * p, r
            r = r - alpha * hp
            p = (old if self.stale else r) + (r * r).sum(-1, keepdim=True) / rr * p
        value = before if self.previous else x
        nothing = torch.zeros(len(value))
        return (LinearSolution(value, nothing, nothing, self.iterations, nothing),)


def check_exact_after_n(make: Callable[[int], LinearSolver], size: int, dtype: torch.dtype) -> None:
    """n iterations solve an n-dimensional system to rounding.

    Eigenvalues from 1/6 to 1: few enough decades that the directions' orthogonality, which CG loses as it converges,
    lasts for ten iterations, and enough that nine of them leave an error far above rounding.
    """
    matrix, b = spread(4, size, 6.0, dtype), vectors(4, size, dtype=dtype)
    value = make(size).path(times(matrix), b)[-1].value
    truth = exactly(matrix, b)
    unit = torch.finfo(dtype).eps * 6.0 * row_norms(truth)
    check_ratio(f"cg, n iterations, {str(dtype)[6:]}", row_norms(value.double() - truth), unit, f"n = {size}")


def check_first_step(make: Callable[[int], LinearSolver]) -> None:
    """One iteration is the exact line search along b: alpha = b'b / b'Hb."""
    matrix, b = spread(4, 5, 10.0), vectors(4, 5)
    value = make(1).path(times(matrix), b)[-1].value
    alpha = (b * b).sum(-1, keepdim=True) / (b * times(matrix)(b)).sum(-1, keepdim=True)
    check_ratio("cg, first step", row_norms(value - alpha * b), torch.finfo(b.dtype).eps * row_norms(alpha * b))


@BOTH
@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_n_iterations_solve_an_n_dimensional_system(size: int, dtype: torch.dtype) -> None:
    check_exact_after_n(ConjugateGradients, size, dtype)
    check_exact_after_n(Textbook, size, dtype)


def test_the_first_step_is_the_exact_line_search() -> None:
    check_first_step(ConjugateGradients)


@BOTH
@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda n: Textbook(n, previous=True),
        lambda n: Textbook(n, stale=True),
        lambda n: Textbook(n, scaled=0.99),
        lambda n: Textbook(n, scaled=1.01),
    ],
    ids=["previous iterate", "stale residual", "short step", "long step"],
)
def test_a_wrong_cg_fails_the_same_check(wrong: Callable[[int], Textbook], size: int, dtype: torch.dtype) -> None:
    with provoked():
        check_exact_after_n(wrong, size, dtype)


def test_a_wrong_cg_in_one_dimension_fails_too() -> None:
    for wrong in (Textbook(1, previous=True), Textbook(1, scaled=0.99)):
        with provoked():
            check_exact_after_n(lambda n, wrong=wrong: wrong, 1, torch.float64)
        with provoked():
            check_first_step(lambda n, wrong=wrong: wrong)


def test_as_many_iterations_as_distinct_eigenvalues_are_enough() -> None:
    values = torch.tensor([[1.0, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]], dtype=torch.float64)
    matrix, b = symmetric(values), vectors(1, 8)
    truth = exactly(matrix, b)
    three = ConjugateGradients(3).path(times(matrix), b)[-1]
    assert only(three.outcome) is Outcome.OK
    check_ratio("cg, three eigenvalues", row_norms(three.value - truth), 2.0**-52 * 4 * row_norms(truth))
    assert only(ConjugateGradients(2).path(times(matrix), b)[-1].outcome) is Outcome.UNFINISHED


def test_the_iterates_are_scipys() -> None:
    """An independent implementation, iterate by iterate."""
    matrix, b = spread(3, 12, 10.0), vectors(3, 12)
    path = ConjugateGradients(8, keep=tuple(range(1, 8))).path(times(matrix), b)
    for row in range(3):
        for solution in path:
            theirs, left = scipy_cg(
                matrix[row].numpy(), b[row].numpy(), rtol=0.0, atol=0.0, maxiter=solution.iterations
            )
            assert left == solution.iterations  # scipy too says that it is not finished
            # The condition number is how far roundings of one iteration are carried by those that follow.
            error = np.linalg.norm(solution.value[row].numpy() - theirs)
            unit = 2.0**-52 * 10 * np.linalg.norm(theirs)
            check_ratio("cg, against scipy", torch.tensor(float(error)), float(unit), solution.iterations)


# ---- bounds


@given(
    size=st.integers(1, 12),
    decades=st.floats(0.0, 4.0),
    seed=st.integers(0, 10_000),
)
def test_the_error_never_grows_and_stays_below_chebyshevs_bound(size: int, decades: float, seed: int) -> None:
    """In the norm of H: |x_k - x|_H <= |x_(k-1) - x|_H, and <= 2 ((sqrt kappa - 1) / (sqrt kappa + 1))^k |x|_H."""
    condition = 10.0**decades if size > 1 else 1.0
    matrix, b = spread(2, size, condition, seed=seed), vectors(2, size, seed)
    truth = exactly(matrix, b)
    rounding = 30 * 2.0**-52 * condition  # relative; the dense oracle's own error and CG's

    def h_norm(v: Tensor) -> Tensor:
        return (v * times(matrix)(v)).sum(-1).clamp(min=0).sqrt()

    whole = h_norm(truth)
    before = whole
    root = condition**0.5
    for solution in ConjugateGradients(size + 2, keep=tuple(range(size + 2))).path(times(matrix), b):
        error = h_norm(solution.value - truth)
        assert bool((error <= before + rounding * whole).all())
        bound = 2 * ((root - 1) / (root + 1)) ** solution.iterations
        assert bool((error <= (bound + rounding) * whole).all())
        euclidean = chebyshev(torch.tensor(condition, dtype=torch.float64), torch.tensor(solution.iterations))
        assert bool((row_norms(solution.value - truth) <= (euclidean + rounding) * row_norms(truth)).all())
        before = error


# ---- scale


@pytest.mark.parametrize("exponent", [-100, 100, -900, 900])
def test_a_power_of_two_on_the_right_hand_side_changes_no_digit(exponent: int) -> None:
    matrix, b = spread(3, 6, 50.0), vectors(3, 6)
    factor = 2.0**exponent
    for plain, scaled in zip(
        ConjugateGradients(6, keep=(2, 4)).path(times(matrix), b),
        ConjugateGradients(6, keep=(2, 4)).path(times(matrix), b * factor),
        strict=True,
    ):
        assert torch.equal(plain.value * factor, scaled.value)
        assert torch.equal(plain.residual, scaled.residual)
        assert torch.equal(plain.outcome, scaled.outcome)


@BOTH
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_a_tiny_or_huge_right_hand_side_is_solved_to_the_same_digits(factor: float, dtype: torch.dtype) -> None:
    matrix, b = spread(3, 3, 4.0, dtype), vectors(3, 3, dtype=dtype) * factor
    solution = ConjugateGradients(3).path(times(matrix), b)[-1]
    truth = exactly(matrix, b)
    assert only(solution.outcome) is Outcome.OK
    check_ratio("cg, scale", row_norms(solution.value.double() - truth) / row_norms(truth), torch.finfo(dtype).eps * 4)


# ---- how a row ends


def test_a_zero_right_hand_side_has_the_zero_solution() -> None:
    for iterations in (0, 1, 50):
        (solution,) = ConjugateGradients(iterations).path(times(spread(2, 3, 10.0)), torch.zeros(2, 3).double())
        assert torch.equal(solution.value, torch.zeros(2, 3).double())
        assert torch.equal(solution.residual, torch.zeros(2).double())
        assert only(solution.outcome) is Outcome.OK


def test_no_iterations_give_zero_and_say_unfinished() -> None:
    (solution,) = ConjugateGradients(0).path(times(spread(2, 3, 10.0)), vectors(2, 3))
    assert torch.equal(solution.value, torch.zeros(2, 3).double())
    assert torch.equal(solution.residual, torch.ones(2).double())
    assert only(solution.outcome) is Outcome.UNFINISHED


@BOTH
@pytest.mark.parametrize("past", [False, True], ids=["stops", "goes on"])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e3])
def test_many_more_iterations_than_needed_do_no_harm(factor: float, size: int, past: bool, dtype: torch.dtype) -> None:
    """Tolerance 0: a positive definite system stays solved, is never called indefinite, and underflow never shows."""
    matrix, b = spread(20, size, 10.0, dtype) * factor, vectors(20, size, dtype=dtype)
    truth = exactly(matrix, b)
    for solution in ConjugateGradients(1000, keep=(200,), past_negative_curvature=past).path(times(matrix), b):
        assert only(solution.outcome) is Outcome.OK
        unit = torch.finfo(dtype).eps * 10 * row_norms(truth)
        check_ratio(f"cg, 1000 iterations, {str(dtype)[6:]}", row_norms(solution.value.double() - truth), unit, size)


def test_rows_end_on_their_own() -> None:
    """A converged, a zero, an ill-conditioned, an indefinite and a non-finite row in one batch: each as if alone."""
    matrix = torch.stack(
        [
            torch.eye(6).double(),
            torch.eye(6).double(),
            spread(1, 6, 1e5)[0],
            symmetric(torch.tensor([[1.0, 2, 3, 4, 5, -6]]).double())[0],
            torch.full((6, 6), torch.nan).double(),
            spread(1, 6, 10.0)[0],
            spread(1, 6, 10.0)[0],
        ]
    )
    b = vectors(7, 6)
    b[1] = 0
    b[5, 2] = torch.nan
    b[6, 2] = torch.inf
    solver = ConjugateGradients(200, keep=(1, 6, 40))
    together = solver.path(times(matrix), b)
    last = decode(together[-1].outcome)
    assert last == [
        Outcome.OK, Outcome.OK, Outcome.OK, Outcome.NEGATIVE_CURVATURE,
        Outcome.NOT_FINITE, Outcome.NOT_FINITE, Outcome.NOT_FINITE,
    ]  # fmt: skip
    assert bool(together[-1].value[:4].isfinite().all())
    assert bool(together[-1].value[5:].isnan().all())
    for row in range(7):
        alone = solver.path(times(matrix[row : row + 1]), b[row : row + 1])
        for one, many in zip(alone, together, strict=True):
            assert torch.equal(one.value.nan_to_num(), many.value[row : row + 1].nan_to_num())
            assert torch.equal(one.outcome, many.outcome[row : row + 1])


def test_a_row_that_is_solved_keeps_its_value_while_others_go_on() -> None:
    matrix, b = torch.stack([torch.eye(6).double(), spread(1, 6, 1e4)[0]]), vectors(2, 6)
    path = ConjugateGradients(200, keep=(1, 2, 20)).path(times(matrix), b)
    for solution in path:
        assert torch.equal(solution.value[0], path[0].value[0])
        assert decode(solution.outcome)[0] is Outcome.OK
    assert torch.equal(path[0].value[0], b[0])  # the identity is solved by one step, exactly


def test_kept_iterates_are_those_of_shorter_runs_bit_for_bit() -> None:
    matrix, b = spread(3, 8, 1e3), vectors(3, 8)
    counts = (0, 1, 3, 7, 8, 20)
    path = ConjugateGradients(20, keep=counts).path(times(matrix), b)
    assert [s.iterations for s in path] == list(counts)
    for solution in path:
        (short,) = ConjugateGradients(solution.iterations).path(times(matrix), b)
        assert torch.equal(solution.value, short.value)
        assert torch.equal(solution.residual, short.residual)
        assert torch.equal(solution.outcome, short.outcome)
        assert torch.equal(solution.products, short.products)


def test_iterates_to_keep_come_sorted_once_and_with_the_last() -> None:
    path = ConjugateGradients(5, keep=(3, 1, 3)).path(times(spread(1, 6, 10.0)), vectors(1, 6))
    assert [s.iterations for s in path] == [1, 3, 5]


@BOTH
def test_the_residual_that_is_reported_is_formed_anew(dtype: torch.dtype) -> None:
    """Not the recursion's, which keeps falling when x no longer improves: here it stops at eps kappa."""
    matrix, b = spread(3, 20, 1e4, dtype), vectors(3, 20, dtype=dtype)
    path = ConjugateGradients(400, keep=(1, 5, 20)).path(times(matrix), b)
    for solution in path:
        fresh = row_norms(b.double() - times(matrix.double())(solution.value.double())) / row_norms(b.double())
        size = 1 + row_norms(solution.value.double()) / row_norms(b.double())  # (|H| |x| + |b|) / |b|, |H| = 1
        error = (solution.residual.double() - fresh).abs()
        check_ratio("cg, recomputed residual", error, torch.finfo(dtype).eps * size, solution.iterations)
    assert bool((path[-1].residual > torch.finfo(dtype).eps ** 1.5).all())  # the recursion's has fallen to eps^2


# ---- negative curvature


def indefinite() -> tuple[Tensor, Tensor]:
    """One product, b'Hb = 5 > 0, and then a direction of negative curvature."""
    matrix = torch.diag(torch.tensor([3.0, 2.0, -1.0], dtype=torch.float64)).unsqueeze(0)
    return matrix, torch.tensor([[1.0, 1.0, 0.5]], dtype=torch.float64)


def test_negative_curvature_stops_at_the_iterate_before_it() -> None:
    matrix, b = indefinite()
    path = ConjugateGradients(10, keep=(1, 2, 3)).path(times(matrix), b)
    outcomes = [only(s.outcome) for s in path]
    assert Outcome.NEGATIVE_CURVATURE in outcomes and outcomes[-1] is Outcome.NEGATIVE_CURVATURE
    met = outcomes.index(Outcome.NEGATIVE_CURVATURE)
    assert met > 0 and outcomes[:met] == [Outcome.UNFINISHED] * met
    for solution in path[met:]:
        assert torch.equal(solution.value, path[met - 1].value)  # where it stood


def test_a_first_direction_of_negative_curvature_leaves_zero() -> None:
    matrix, b = -torch.eye(3).double().unsqueeze(0), vectors(1, 3)
    (solution,) = ConjugateGradients(5).path(times(matrix), b)
    assert only(solution.outcome) is Outcome.NEGATIVE_CURVATURE
    assert torch.equal(solution.value, torch.zeros(1, 3).double())


def test_cg_that_goes_on_past_negative_curvature_solves_and_still_says_so() -> None:
    """The recursion ends in the solution of an indefinite system too, if no p'Hp is near zero."""
    matrix, b = indefinite()
    solution = ConjugateGradients(3, past_negative_curvature=True).path(times(matrix), b)[-1]
    assert only(solution.outcome) is Outcome.NEGATIVE_CURVATURE
    truth = exactly(matrix, b)
    # |p'Hp| / |p||Hp| is at least 0.1 on the way here, which multiplies the roundings of a definite system.
    check_ratio("cg, past negative curvature", row_norms(solution.value - truth), 2.0**-52 * 3 / 0.1 * row_norms(truth))


def test_a_direction_of_no_curvature_stops_both_kinds() -> None:
    matrix = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)).unsqueeze(0)
    b = torch.ones(1, 2).double()  # b'Hb = 0: the step would be infinite
    for past in (False, True):
        (solution,) = ConjugateGradients(5, past_negative_curvature=past).path(times(matrix), b)
        assert only(solution.outcome) is Outcome.NEGATIVE_CURVATURE
        assert torch.equal(solution.value, torch.zeros(1, 2).double())


def test_other_rows_are_untouched_by_negative_curvature() -> None:
    good = spread(1, 3, 10.0)
    matrix, b = torch.cat([good, indefinite()[0]]), torch.cat([vectors(1, 3), indefinite()[1]])
    for past in (False, True):
        solver = ConjugateGradients(3, past_negative_curvature=past)
        both, alone = solver.path(times(matrix), b)[-1], solver.path(times(good), b[:1])[-1]
        assert torch.equal(both.value[:1], alone.value)
        assert decode(both.outcome) == [Outcome.OK, Outcome.NEGATIVE_CURVATURE]


# ---- tolerance and damping


def test_the_relative_tolerance_ends_a_row() -> None:
    matrix, b = spread(1, 30, 1e3), vectors(1, 30)
    loose = ConjugateGradients(200, relative_tolerance=1e-3).path(times(matrix), b)[-1]
    tight = ConjugateGradients(200).path(times(matrix), b)[-1]
    assert only(loose.outcome) is Outcome.OK
    assert (
        1e-6 < float(loose.residual) <= 1e-3 * (1 + 1e-9)
    )  # the recursion's residual and the fresh one differ by rounding
    assert float(tight.residual) < 1e-11
    first = next(
        s.iterations
        for s in ConjugateGradients(200, keep=tuple(range(200))).path(times(matrix), b)
        if float(s.residual) <= 1e-3
    )
    assert torch.equal(loose.value, ConjugateGradients(first).path(times(matrix), b)[-1].value)


def test_the_absolute_tolerance_is_in_the_units_of_the_right_hand_side() -> None:
    matrix, b = spread(1, 30, 1e3), vectors(1, 30) * 1e-20
    length = float(row_norms(b))
    same = ConjugateGradients(200, relative_tolerance=1e-3).path(times(matrix), b)[-1]
    absolute = ConjugateGradients(200, absolute_tolerance=1e-3 * length).path(times(matrix), b)[-1]
    assert torch.equal(same.value, absolute.value)
    nothing = ConjugateGradients(200, absolute_tolerance=2 * length).path(times(matrix), b)[-1]
    assert torch.equal(nothing.value, torch.zeros_like(b)) and only(nothing.outcome) is Outcome.OK


def test_too_few_iterations_say_unfinished() -> None:
    matrix, b = spread(1, 30, 1e4), vectors(1, 30)
    assert only(ConjugateGradients(5, relative_tolerance=1e-8).path(times(matrix), b)[-1].outcome) is Outcome.UNFINISHED


def test_damping_is_zero_unless_asked_for() -> None:
    matrix, b = spread(2, 4, 10.0), vectors(2, 4)
    assert ConjugateGradients(4).damping == 0
    damped = ConjugateGradients(4, damping=0.5).path(times(matrix), b)[-1]
    truth = exactly(matrix + 0.5 * torch.eye(4), b)
    check_ratio("cg, damped", row_norms(damped.value - truth), 2.0**-52 * 10 * row_norms(truth))
    assert float(damped.residual.max()) < 1e-14  # of the damped system, the one that was solved
    assert bool((row_norms(damped.value - exactly(matrix, b)) > 0.1 * row_norms(truth)).all())


def test_damping_makes_an_indefinite_system_definite() -> None:
    matrix, b = indefinite()
    assert only(ConjugateGradients(3, damping=1.5).path(times(matrix), b)[-1].outcome) is Outcome.OK


# ---- manners


def test_the_right_hand_side_is_left_as_it_was() -> None:
    matrix, b = spread(2, 4, 10.0), vectors(2, 4)
    before = b.clone()
    ConjugateGradients(4, keep=(1, 2)).path(times(matrix), b)
    assert torch.equal(b, before)


@pytest.mark.parametrize("iterations", [-1, True, 2.0, "3", None])
def test_iterations_are_a_whole_number(iterations: object) -> None:
    with pytest.raises(ValueError, match="CG iterations: expected a whole number >= 0, found"):
        ConjugateGradients(iterations)  # type: ignore[arg-type]


@pytest.mark.parametrize("keep", [(6,), (-1,)])
def test_iterates_to_keep_lie_within_the_iterations(keep: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected iterations to keep from 0 to 5"):
        ConjugateGradients(5, keep=keep)


@pytest.mark.parametrize("name", ["relative_tolerance", "absolute_tolerance"])
@pytest.mark.parametrize("value", [-1e-3, float("nan")])
def test_tolerances_are_not_negative(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected {name} >= 0"):
        ConjugateGradients(5, **{name: value})  # type: ignore[arg-type]
