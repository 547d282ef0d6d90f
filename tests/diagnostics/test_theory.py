"""The predictions: exact for quadratics, and bounds that hold on every problem drawn."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense, written_out
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem import ConvexConstants, Problem, proximal
from diagnostics.problem_names import build
from diagnostics.reference import minimise, stationary_reference
from diagnostics.rows import Data, row_norms
from diagnostics.theory import chebyshev, convex_bounds, quadratic_prediction
from tests.cases import check_ratio, gd, small, theta_and_data, vectors

STEPS = (0, 1, 3, 10, 40)


@pytest.mark.parametrize("name", ["quadratic", "linear_regression"])
@pytest.mark.parametrize("strength", [0.1, 0.0])
def test_the_quadratic_prediction_is_what_is_measured(name: str, strength: float) -> None:
    problem = build(name, dimension=6, condition=50.0, strength=strength)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, gd(problem), theta, data, max(STEPS))
    predicted = quadratic_prediction(problem, loop, STEPS)
    kappa = 1.1 / 0.12 if strength else 50.0
    # What is added up in an outer gradient: w_K and w* are at most about |theta| + 2 |w*|.
    size = 1 + row_norms(theta) + 2 * row_norms(problem.minimizer(theta, data))  # type: ignore[misc]
    for index, steps in enumerate(STEPS):
        unit = 2.0**-52 * kappa * size
        measured = UnrolledAdjoint()(problem, loop.prefix(steps)).value
        check_ratio(
            "prediction, unrolled", row_norms(predicted.unrolled[index] - measured), unit, f"{name}, {steps} steps"
        )
        if strength:
            measured = Implicit(Dense())(problem, loop.prefix(steps)).value
            check_ratio(
                "prediction, implicit", row_norms(predicted.implicit[index] - measured), unit, f"{name}, {steps} steps"
            )
        else:
            assert torch.equal(predicted.implicit[index], torch.zeros_like(theta))  # theta would not matter
    if strength:
        measured = stationary_reference(problem, loop).value
        check_ratio("prediction, stationary", row_norms(predicted.stationary - measured), 2.0**-52 * kappa * size, name)


@given(
    name=st.sampled_from(["quadratic", "logistic", "linear_regression"]),
    dimension=st.integers(1, 6),
    decades=st.floats(0.0, 3.0),
    strength=st.floats(0.02, 2.0),
    step=st.floats(0.05, 1.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_the_bounds_hold(name: str, dimension: int, decades: float, strength: float, step: float, seed: int) -> None:
    """For every number of steps and of iterations; where a step is too long for the assumption, they are infinite."""
    more = {} if name == "quadratic" else {"examples": 12}
    problem = build(name, dimension=dimension, condition=10.0**decades, strength=strength, **more)
    theta, data = theta_and_data(problem, 2, seed)
    optimizer = GradientDescent(step)
    loop = run_inner(problem, optimizer, theta, data, max(STEPS))
    # A loop with the problem's own step, to find the minimiser whatever the step under test does.
    minimiser = minimise(problem, run_inner(problem, gd(problem), theta, data, 5), 2000).w
    reference = stationary_reference(problem, run_inner(problem, gd(problem), theta, data, 5), 2000).value
    bounds = convex_bounds(problem, loop, minimiser)
    assert bounds is not None and bool(reference.isfinite().all())

    constants = problem.constants(data)  # type: ignore[misc]
    point = second_order(problem, minimiser, theta, data)
    values = torch.linalg.eigvalsh(written_out(point.hessian, minimiser))
    slack = 1 + 1e-9
    assert bool((values[:, 0] * slack >= constants.smallest).all())
    assert bool((values[:, -1] <= constants.largest * slack).all())

    rounding = 1e-11 * (1 + row_norms(reference))
    for steps in STEPS:
        error = row_norms(UnrolledAdjoint()(problem, loop.prefix(steps)).value - reference)
        assert bool((error <= bounds.unrolled(steps) * slack + rounding).all()), ("unrolled", steps)
        for iterations in (0, 1, 2, 5):
            value = Implicit(ConjugateGradients(iterations))(problem, loop.prefix(steps)).value
            error = row_norms(value - reference)
            assert bool((error <= bounds.implicit(steps, iterations) * slack + rounding).all()), (steps, iterations)
    assert bool((bounds.unrolled(3).isinf() == (bounds.rate >= 1)).all())


def test_the_bounds_fall_and_are_not_idle() -> None:
    """A bound that is always enormous holds too. These fall as q^t, and are within a factor of 100 of the truth."""
    problem = small("quadratic", condition=10.0)
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, gd(problem), theta, data, 60)
    bounds = convex_bounds(problem, loop, problem.minimizer(theta, data))  # type: ignore[misc]
    assert bounds is not None
    for steps in (5, 20, 60):  # eigenvalues of H from 0.2 to 1.1 and a step of 0.5: q = 0.9
        fall = bounds.unrolled(steps) / bounds.unrolled(0)
        check_ratio("bounds, fall", (fall - 0.9**steps).abs(), 2.0**-52 * steps * 0.9**steps, steps)
    reference = stationary_reference(problem, loop).value
    error = row_norms(UnrolledAdjoint()(problem, loop.prefix(20)).value - reference)
    assert bool((bounds.unrolled(20) < 100 * error).all())


def test_a_wrong_constant_would_be_noticed() -> None:
    """With the constants of a problem ten times better conditioned, the same bounds do not hold."""
    problem = small("quadratic", condition=100.0)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, gd(problem), theta, data, 60)
    bounds = convex_bounds(problem, loop, problem.minimizer(theta, data))  # type: ignore[misc]
    assert bounds is not None
    better = replace(bounds, rate=bounds.rate**4)
    error = row_norms(UnrolledAdjoint()(problem, loop).value - stationary_reference(problem, loop).value)
    assert bool((error <= bounds.unrolled(60)).all())
    assert bool((error > better.unrolled(60)).any())


def ramp() -> Problem:
    """`softplus(10 w) - 5 w + (w - theta)^2 / 2`, from theta near 1, where it is flat, to w* near 0.

    Curvature is greatest at 0. The outer loss is w itself, so that all the error is that of the Jacobian, and all of
    that is the Hessian's change.
    """

    def constants(data: Data) -> ConvexConstants:
        one = torch.ones(len(data["x"]), dtype=torch.float64)
        return ConvexConstants(one, 26 * one, 1000 / (6 * 3**0.5) * one, 0 * one)

    return Problem(
        "ramp",
        inner_loss=proximal(lambda w, theta, data: (functional.softplus(10 * w) - 5 * w).sum(-1), 1.0),
        outer_loss=lambda w, theta, data: w.sum(-1),
        init=lambda seed: torch.tensor([1.0 + seed / 8], dtype=torch.float64),
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
        strength=1.0,
        constants=constants,
    )


@pytest.mark.parametrize("step", [0.01, 0.03, 0.07])
def test_the_bounds_hold_where_the_hessian_changes_most(step: float) -> None:
    """Without the terms in the Hessian's Lipschitz constant they would not hold here, which is asserted too."""
    problem = ramp()
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(step), theta, data, 200)
    bounds = convex_bounds(problem, loop, minimise(problem, loop, 2000).w)
    assert bounds is not None
    rigid = replace(bounds, constants=replace(bounds.constants, hessian_lipschitz=torch.zeros(3).double()))
    reference = stationary_reference(problem, loop).value
    too_small = {"unrolled": False, "implicit": False}
    for steps in (0, 1, 2, 5, 10, 20, 50, 200):
        end = loop.prefix(steps)
        unrolled, implicit = UnrolledAdjoint()(problem, end).value, Implicit(Dense())(problem, end).value
        for name, value, bound, without in (
            ("unrolled", unrolled, bounds.unrolled(steps), rigid.unrolled(steps)),
            ("implicit", implicit, bounds.implicit(steps, 500), rigid.implicit(steps, 500)),
        ):
            error = row_norms(value - reference)
            assert bool((error <= bound * (1 + 1e-9) + 1e-13).all()), (name, steps)
            too_small[name] |= bool((error > without + 1e-13).any())
    assert too_small == {"unrolled": True, "implicit": True}


def test_chebyshev_of_known_condition_numbers() -> None:
    assert float(chebyshev(torch.tensor(1.0), torch.tensor(3))) == 0.0
    assert float(chebyshev(torch.tensor(4.0), torch.tensor(0))) == 4.0
    assert float(chebyshev(torch.tensor(9.0), torch.tensor(2))) == pytest.approx(6 / 4)


def test_a_problem_that_does_not_say_how_convex_it_is_has_no_bounds() -> None:
    problem = small("sinusoid")
    theta, data = theta_and_data(problem, 1)
    assert convex_bounds(problem, run_inner(problem, gd(problem), theta, data, 1), vectors(1, theta.shape[1])) is None
