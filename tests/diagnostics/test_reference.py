"""The references: right where there is a minimiser, and no number where there is none."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.extended import Extended, extended, rounded
from diagnostics.arithmetic.precision import precision
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Trajectory, loss_gradient, run_inner
from diagnostics.linear.dense import Dense
from diagnostics.metrics import distance
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem, proximal
from diagnostics.problem_names import build
from diagnostics.reference import FLOAT64, Refined, in_arithmetic, minimise, stationary_reference, unrolled_reference
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolution
from tests.cases import check_by_differences, check_ratio, gd, only, small, symmetric, theta_and_data, times, vectors


def of_shape(shape: Callable[[Tensor], Tensor], start: float, steps: int = 5, step: float = 0.1, strength: float = 0.0):
    """`shape(w)` summed over three weights plus strength/2 |w - theta|^2, from theta = start; and its loop."""
    problem = Problem(
        "shape",
        inner_loss=proximal(lambda w, theta, data: shape(w).sum(-1), strength),
        outer_loss=lambda w, theta, data: 0.5 * ((w - 1) ** 2).sum(-1),
        init=lambda seed: torch.full((3,), start).double(),
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
        strength=strength or None,
    )
    theta, data = theta_and_data(problem, 2)
    return problem, run_inner(problem, GradientDescent(step), theta, data, steps)


def no_number(problem: Problem, loop: Trajectory, patience: int = 500) -> bool:
    gradient = stationary_reference(problem, loop, patience)
    return only(gradient.outcome) is Outcome.NOT_STATIONARY and bool(gradient.value.isnan().all())


# ---- where there is a minimiser


def test_logistic_regression_has_one_and_newton_finds_it() -> None:
    """No closed form here: the gradient vanishes to rounding, and differences of minimisers confirm the reference."""
    problem = small("logistic")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, gd(problem), theta, data, 3)
    found = minimise(problem, loop, 2000)
    assert only(found.outcome) is Outcome.OK
    gradient = loss_gradient(problem.inner_loss, found.w, theta, data)
    check_ratio("stationarity, logistic", row_norms(gradient), 2.0**-52 * (1 + row_norms(found.w)))
    check_ratio("stationarity, as reported", found.residual, 2.0**-52)

    # The minimiser as a function of theta, by central differences of minimisations anew: an oracle of its own.
    reference = stationary_reference(problem, loop).value

    class Solved:
        """An 'optimizer' whose one step lands on the minimiser."""

        learning_rate = 1.0

        def start(self, w: Tensor) -> Tensor:
            return w

        def step(self, state: Tensor, gradient: object, size: int) -> Tensor:
            at = state.detach()
            return minimise(problem, run_inner(problem, gd(problem), at, data, 3), 2000).w

    check_by_differences("stationary, central differences", problem, Solved(), theta, data, 1, reference)


def test_a_long_unrolled_loop_tends_to_the_stationary_reference() -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, 2)
    errors = []
    for steps in (10, 40, 160, 640):
        loop = run_inner(problem, gd(problem), theta, data, steps)
        reference = stationary_reference(problem, loop).value
        error = row_norms(UnrolledAdjoint()(problem, loop).value - reference) / row_norms(reference)
        errors.append(float(error.max()))
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and errors[3] < 1e-12


def test_the_reference_does_not_depend_on_how_far_the_loop_went() -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, 2)
    values = [
        stationary_reference(problem, run_inner(problem, gd(problem), theta, data, steps)).value for steps in (0, 5, 80)
    ]
    for value in values[1:]:
        check_ratio("reference, from elsewhere", row_norms(value - values[0]), 2.0**-52 * 10 * row_norms(values[0]))


def test_an_exact_minimiser_and_the_search_agree_where_the_hessian_is_ill_conditioned() -> None:
    """cond(H) = 5e5: minimisers of size 1e6 along the weakest direction, where rounding is a gradient of 1e-10."""
    problem = build("quadratic", dimension=2, condition=1e6, strength=1e-6)
    theta, data = theta_and_data(problem, 4)
    for judged in (problem, replace(problem, minimizer=None)):
        found = stationary_reference(judged, run_inner(judged, gd(judged), theta, data, 5), patience=100)
        assert only(found.outcome) is Outcome.OK


def test_a_loop_that_starts_at_the_minimiser_has_its_reference() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 2)
    data["b"] = torch.zeros_like(data["b"])
    loop = run_inner(problem, gd(problem), torch.zeros_like(theta), data, 3)
    for judged in (problem, replace(problem, minimizer=None)):
        found = stationary_reference(judged, loop)
        assert only(found.outcome) is Outcome.OK
        truth = 0.1 * torch.linalg.solve(
            data["A"] + 0.1 * torch.eye(5).double(), -(data["C"] @ data["c"].unsqueeze(-1)).squeeze(-1)
        )
        check_ratio("reference, at the minimiser", row_norms(found.value - truth), 2.0**-52 * 11 * row_norms(truth))


def test_a_positive_curvature_well_is_found_and_nothing_else_is_needed() -> None:
    """w^4/4 - w from 0.5: minimiser 1 with curvature 3, and theta does not enter but by the term."""
    problem, loop = of_shape(lambda w: w**4 / 4 - w, 0.5, strength=0.5)
    found = minimise(problem, loop, 500)
    assert only(found.outcome) is Outcome.OK
    root = found.w
    assert float((root**3 - 1 + 0.5 * (root - 0.5)).abs().max()) < 1e-15
    truth = 0.5 / (3 * root**2 + 0.5) * (root - 1)
    check_ratio(
        "reference, well", row_norms(stationary_reference(problem, loop).value - truth), 2.0**-52 * row_norms(root)
    )


# ---- where there is none


def test_a_saddle_is_no_minimiser() -> None:
    """Exactly on the ridge the gradient leads to the saddle, where Newton's method would gladly stay."""
    problem = Problem(
        "saddle",
        inner_loss=lambda w, theta, data: 0.5 * w[:, 0] ** 2 - 0.5 * w[:, 1] ** 2,
        outer_loss=lambda w, theta, data: w.sum(-1),
        init=lambda seed: torch.tensor([1.0, 0.0]).double(),
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
    )
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.1), theta, data, 5)
    assert no_number(problem, loop)
    # The maximiser stated as a minimiser is not believed either.
    stated = replace(problem, minimizer=lambda theta, data: torch.zeros_like(theta))
    assert no_number(stated, loop)
    # Nor is a loop that stands on the saddle from its first step, where the gradient is exactly zero.
    standing = run_inner(problem, GradientDescent(0.1), torch.zeros_like(theta), data, 5)
    for judged in (problem, stated):
        assert no_number(judged, standing)
        assert only(minimise(judged, standing, 50).outcome) is Outcome.NOT_STATIONARY


@pytest.mark.parametrize(
    ("shape", "start", "step"),
    [
        (lambda w: -w, 0.0, 0.1),
        (lambda w: w - w**3 / 3, 2.0, 0.1),
        (lambda w: torch.exp(-w), 1.0, 0.01),
        (lambda w: torch.exp(-w), 1.0, 1.0),
        (lambda w: torch.exp(-w), 1.0, 2.0),
        (lambda w: 1 / (1 + w**2), 0.5, 0.1),
        (lambda w: 0.0 * w, 1.0, 0.1),
        (lambda w: w.clamp(min=0) ** 2, -1.0, 0.1),
    ],
    ids=["linear", "cubic", "tail", "tail, long steps", "tail, longer steps", "two tails", "constant", "flat floor"],
)
def test_no_number_is_made_up(shape: Callable[[Tensor], Tensor], start: float, step: float) -> None:
    """Unbounded below, a tail along which the gradient vanishes without end, or no curvature at all."""
    problem, loop = of_shape(shape, start, step=step)
    gradient = stationary_reference(problem, loop, 5000 if start == 1.0 else 500)
    assert bool(gradient.value.isnan().all())
    assert all(o in (Outcome.NOT_STATIONARY, Outcome.DIVERGED) for o in decode(gradient.outcome))


def test_a_stated_minimiser_that_is_none_is_not_believed() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 2)
    exact = problem.minimizer
    assert exact is not None
    wrong = replace(problem, minimizer=lambda theta, data: exact(theta, data) * (1 + 1e-9))
    assert no_number(wrong, run_inner(wrong, gd(wrong), theta, data, 5))


def test_a_kink_where_the_loop_hangs_is_no_minimiser() -> None:
    problem, loop = of_shape(lambda w: w.abs(), 1.0, step=0.03)
    assert no_number(problem, loop)


def test_relu_networks_are_judged_row_by_row() -> None:
    """Either a point where the gradient vanishes, checked here anew; or no number."""
    problem = build("sinusoid[activation=relu,shots=3,queries=3,strength=2]")
    theta, data = theta_and_data(problem, 6)
    loop = run_inner(problem, GradientDescent(0.01), theta, data, 10)
    gradient = stationary_reference(problem, loop, 200)
    found = minimise(problem, loop, 200)
    assert Outcome.NOT_STATIONARY in decode(gradient.outcome)  # the loop hangs on a kink for most tasks
    for row, what in enumerate(decode(gradient.outcome)):
        if what is Outcome.OK:
            slope = row_norms(loss_gradient(problem.inner_loss, found.w, theta, data))[row]
            assert float(slope) < 1e-10
        else:
            assert what is Outcome.NOT_STATIONARY and bool(gradient.value[row].isnan().all())


def test_a_task_without_a_minimiser_spares_the_others() -> None:
    problem = Problem(
        "mixed",
        inner_loss=lambda w, theta, data: (
            0.5 * data["h"] * (w**2).sum(-1) - w.sum(-1) + 0.05 * ((w - theta) ** 2).sum(-1)
        ),
        outer_loss=lambda w, theta, data: 0.5 * (w**2).sum(-1),
        init=lambda seed: torch.ones(2).double(),
        sample=lambda tasks, seed: {"h": torch.tensor([1.0, -1.0, 0.5]).double()[:tasks]},
        strength=0.1,
    )
    theta, data = theta_and_data(problem, 3)
    gradient = stationary_reference(problem, run_inner(problem, GradientDescent(0.1), theta, data, 5), 300)
    assert decode(gradient.outcome) == [Outcome.OK, Outcome.NOT_STATIONARY, Outcome.OK]
    h = data["h"][[0, 2]].unsqueeze(-1)
    truth = 0.1 / (h + 0.1) * (1 + 0.1) / (h + 0.1) * torch.ones(1, 2).double()
    check_ratio("reference, mixed", row_norms(gradient.value[[0, 2]] - truth), 2.0**-52 * row_norms(truth))


def test_a_loop_that_diverged_has_no_reference() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 2)
    data["A"][1] *= 1e9
    loop = run_inner(problem, gd(problem), theta, data, 60)
    gradient = stationary_reference(problem, loop)
    assert decode(gradient.outcome) == [Outcome.OK, Outcome.DIVERGED]
    assert bool(gradient.value[1].isnan().all())


def test_an_inner_problem_without_a_proximal_term_is_refused() -> None:
    problem = build("quadratic[dimension=3,strength=0]")
    theta, data = theta_and_data(problem, 2)
    with pytest.raises(ValueError, match="expected a proximal strength > 0, found 0.0"):
        stationary_reference(problem, run_inner(problem, gd(problem), theta, data, 2))


# ---- in float64, whatever the loop under test


def test_references_are_made_in_float64_from_the_numbers_that_the_loop_was_given() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    loop = run_inner(problem, gd(problem), theta, data, 6)
    wide = run_inner(problem, gd(problem), theta.double(), {key: value.double() for key, value in data.items()}, 6)
    assert torch.equal(in_arithmetic(problem, loop, FLOAT64).states, wide.states)
    assert in_arithmetic(problem, wide, FLOAT64) is wide
    for narrow, full in (
        (stationary_reference(problem, loop), stationary_reference(problem, wide)),
        *zip(unrolled_reference(problem, loop, (0, 6)), unrolled_reference(problem, wide, (0, 6)), strict=True),
    ):
        assert narrow.value.dtype == torch.float64 and torch.equal(narrow.value, full.value)


def test_more_weights_than_are_written_out_are_solved_by_cg() -> None:
    """300 unknowns: beyond the 256 up to which the reference uses the dense solve."""
    problem = build("quadratic", dimension=300, condition=10.0)
    theta, data = theta_and_data(problem, 1)
    loop = run_inner(problem, gd(problem), theta, data, 5)
    truth = Implicit(Dense())(problem, replace(loop, states=problem.minimizer(theta, data).unsqueeze(0))).value  # type: ignore[misc]
    for judged in (problem, replace(problem, minimizer=None)):
        found = stationary_reference(judged, loop, 100)
        assert only(found.outcome) is Outcome.OK
        # cond(H) is 5.5; |C| |w| beside |value| stands for the minimiser's own rounding.
        unit = 2.0**-52 * 5.5 * (row_norms(truth) + row_norms(vectors(1, 300)))
        check_ratio("reference, cg", row_norms(found.value - truth), unit)


# ---- in extended precision


EXTENDED = precision("extended")


def closed_form(problem: Problem, theta: Tensor, data: dict[str, Tensor], steps: int | None) -> tuple[Tensor, Tensor]:
    """The unrolled gradient after `steps`, or for None the stationary one, `(B, P)` in extended precision; its unit.

    Of formulas that the references do not use, with M = I - aH and J* v = strength H^-1 v, w* = H^-1 pull:

        w_K = w* + M^K (theta - w*),    unrolled = J* g + M^K (g - J* g) with g = C w_K - aim
        stationary = J* (C w* - aim)

    The unit, without eps, is that of `test_closed_form`: what is added up in g, times how many roundings of the loop
    still count; for the stationary one the condition number of two solves.
    """
    assert problem.strength is not None
    d = {key: extended(value) for key, value in data.items()}
    theta, strength, size = extended(theta), problem.strength, theta.shape[1]
    if problem.name == "quadratic":
        plain, push, outer, aim = d["A"], d["b"], d["C"], times(d["C"])(d["c"])
    else:
        x, q, n = d["support_x"], d["query_x"], d["support_x"].shape[1]
        plain, outer = x.mT @ x / n, q.mT @ q / n
        push, aim = times(x.mT)(d["support_y"]) / n, times(q.mT)(d["query_y"]) / n
    hessian = plain + strength * torch.eye(size, dtype=torch.float64)
    pull = push + strength * theta
    minimiser = torch.linalg.solve(hessian, pull)

    def shrink(v: Tensor) -> Tensor:
        for _ in range(steps or 0):
            v = v - problem.learning_rate * times(hessian)(v)
        return v

    at = minimiser if steps is None else minimiser + shrink(theta - minimiser)
    slope = times(outer)(at) - aim
    inside = strength * torch.linalg.solve(hessian, slope)
    value = inside if steps is None else inside + shrink(slope - inside)

    values = torch.linalg.eigvalsh(rounded(hessian))
    kappa = values[:, -1] / values[:, 0]
    norms = [row_norms(rounded(v)) for v in (theta, minimiser, problem.learning_rate * pull, aim)]
    added = torch.linalg.eigvalsh(rounded(outer))[:, -1] * (norms[0] + norms[1] + norms[2]) + norms[3]
    if steps is not None:
        return value, (1 + kappa.clamp(max=steps)) * added
    return value, kappa * row_norms(rounded(value)) + strength / values[:, 0] * (1 + kappa) * added


extended_cases = [
    pytest.param(name, dimension, condition, id=f"{name}-{dimension}-{condition:g}")
    for name in ("quadratic", "linear_regression")
    for dimension, condition in ((1, 1.0), (3, 1e2), (6, 1e4), (4, 1e8))
]


def extended_case(name: str, dimension: int, condition: float) -> tuple[Problem, Trajectory]:
    """With a strength of 1/condition, the inner Hessian has half the condition number."""
    more = {"examples": 2 * dimension} if name == "linear_regression" else {}
    problem = build(name, dimension=dimension, condition=condition, strength=1 / condition, **more)
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    return problem, run_inner(problem, gd(problem), theta, data, 7)


@pytest.mark.parametrize(("name", "dimension", "condition"), extended_cases)
def test_the_unrolled_reference_in_extended_precision_is_the_closed_form(
    name: str, dimension: int, condition: float
) -> None:
    problem, loop = extended_case(name, dimension, condition)
    steps = (0, 1, 7)
    for count, found in zip(steps, unrolled_reference(problem, loop, steps, EXTENDED), strict=True):
        assert isinstance(found.value, Extended) and only(found.outcome) is Outcome.OK
        truth, unit = closed_form(problem, loop.theta, dict(loop.data), count)
        error = row_norms(rounded(found.value - truth))
        check_ratio("unrolled reference, extended", error, EXTENDED.eps * unit, f"{problem.name}, {condition:g}")


@pytest.mark.parametrize(("name", "dimension", "condition"), extended_cases)
def test_the_stationary_reference_in_extended_precision_is_the_closed_form(
    name: str, dimension: int, condition: float
) -> None:
    problem, loop = extended_case(name, dimension, condition)
    truth, unit = closed_form(problem, loop.theta, dict(loop.data), None)
    for family, judged in (("minimizer", problem), ("continue and polish", replace(problem, minimizer=None))):
        found = stationary_reference(judged, loop, 100, EXTENDED)
        assert isinstance(found.value, Extended) and only(found.outcome) is Outcome.OK
        error = row_norms(rounded(found.value - truth))
        check_ratio(f"stationary reference, extended, {family}", error, EXTENDED.eps * unit, f"{name}, {condition:g}")


def test_a_minimiser_that_float64_knows_to_eight_digits_is_refined() -> None:
    """Condition number 5e7: float64 has the gradient to 1e-10 or so, and extended precision 1e-25."""
    problem, loop = extended_case("quadratic", 4, 1e8)
    truth, _ = closed_form(problem, loop.theta, dict(loop.data), None)
    plain, fine = (stationary_reference(problem, loop, 100, arithmetic).value for arithmetic in (FLOAT64, EXTENDED))
    coarse = distance(plain, truth).relative_error
    assert bool((coarse > 1e-13).any())
    assert bool((distance(fine, truth).relative_error < 2.0**-40 * coarse.max()).all())


def test_logistic_regression_in_extended_precision_is_the_limit_of_float64() -> None:
    """No closed form: the gradient at the refined minimiser vanishes to extended's rounding, and the value is near."""
    problem = small("logistic")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, gd(problem), theta, data, 3)
    found = stationary_reference(problem, loop, 2000, EXTENDED)
    assert only(found.outcome) is Outcome.OK
    plain = stationary_reference(problem, loop, 2000)
    # cond(H) is at most 11 in small problems: the inputs' second moment is at most 1, and the strength is 0.1.
    check_ratio(
        "stationary, logistic, extended",
        row_norms(plain.value - rounded(found.value)),
        2.0**-52 * 11 * row_norms(plain.value),
    )
    assert bool((distance(plain.value, found.value).relative_error > 0).any())


@pytest.mark.parametrize("shape", ["linear", "tail", "constant"])
def test_no_number_is_made_up_in_extended_precision(shape: str) -> None:
    shapes: dict[str, Callable[[Tensor], Tensor]] = {
        "linear": lambda w: -w,
        "tail": lambda w: torch.exp(-w),
        "constant": lambda w: 0.0 * w,
    }
    problem, loop = of_shape(shapes[shape], 1.0)
    found = stationary_reference(problem, loop, 200, EXTENDED)
    assert only(found.outcome) is Outcome.NOT_STATIONARY and bool(rounded(found.value).isnan().all())


def test_refinement_in_extended_precision_needs_the_residual_and_not_a_better_solver() -> None:
    """A solution good to 10% is refined as far as four rounds take it, and said to be unfinished."""

    class Rough:
        def path(
            self, matvec: object, right_hand_side: Tensor, transposed: object = None
        ) -> tuple[LinearSolution, ...]:
            (exact,) = Dense().path(times(matrix), right_hand_side)
            return (replace(exact, value=1.1 * exact.value),)

    matrix, b = symmetric(torch.tensor([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]]).double()), vectors(2, 3)
    steepest = torch.tensor([4.0, 1.0]).double()
    truth = torch.linalg.solve(extended(matrix), extended(b))
    for solver, outcome in ((Dense(), Outcome.OK), (Rough(), Outcome.UNFINISHED)):
        (found,) = Refined(times(matrix), solver, EXTENDED, steepest).path(times(extended(matrix)), extended(b))
        assert only(found.outcome) is outcome
        error = distance(found.value, truth).relative_error
        if outcome is Outcome.OK:
            check_ratio("refined solutions", error, 4 * EXTENDED.eps)
        else:  # each round leaves a tenth
            assert bool((error < 1e-3).all()) and bool((error > 1e-20).all())
    (nothing,) = Refined(times(matrix), Dense(), EXTENDED, steepest).path(times(extended(matrix)), extended(0 * b))
    assert only(nothing.outcome) is Outcome.OK and rounded(nothing.residual).tolist() == [0.0, 0.0]
    assert rounded(nothing.value).tolist() == [[0.0] * 3] * 2
