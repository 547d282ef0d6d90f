"""The implicit gradient of the optimizer's fixed point: equal to `implicit` where it must be, and right where that is
not."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.implicit_fixed_point import ImplicitFixedPoint
from diagnostics.estimators.truncated import Truncated
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Gradient, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.linear.gmres import GeneralisedMinimalResidual
from diagnostics.linear.neumann import Neumann
from diagnostics.meta_gradient import outer_gradients
from diagnostics.optimizers.adam import Adam
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.optimizers.momentum import Momentum
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolver
from tests.cases import check_ratio, make_optimizer, only, theta_and_data
from tests.diagnostics.estimators.test_implicit import closed_form, weighted

EPS = 2.0**-52
GMRES = GeneralisedMinimalResidual(40)
BOTH = pytest.mark.parametrize("solver", [Dense(), GMRES], ids=["dense", "gmres"])


@BOTH
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "nesterov", "rmsprop", "adam", "lbfgs"])
@pytest.mark.parametrize("steps", [1, 7])
def test_it_equals_implicit_at_any_state_of_an_optimizer_that_steps_by_the_gradient(
    steps: int, optimizer: str, solver: LinearSolver
) -> None:
    """A change of w and theta that leaves the gradient alone leaves the whole step alone: converged or not."""
    problem = build("logistic[dimension=4]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, make_optimizer(optimizer), theta, data, steps)
    truth = Implicit(Dense())(problem, loop)
    found = ImplicitFixedPoint(solver)(problem, loop)
    assert only(found.outcome) is Outcome.OK
    # I - M is known to eps, and its least eigenvalue is of the size of a mu = 0.1 * 0.1; adam's entries reach 1e2.
    unit = EPS / 0.01 * (row_norms(truth.value) + row_norms(outer_gradients(problem, loop)[0]))
    check_ratio("fixed point against implicit", row_norms(found.value - truth.value), unit, optimizer)


@BOTH
def test_the_heavy_ball_at_rest_has_the_stationary_gradient(solver: LinearSolver) -> None:
    """strength H^-1 C (w* - c) on the quadratic, after enough steps; the unrolled gradient tends to the same."""
    problem = build("quadratic[dimension=4,condition=10]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, Momentum(0.5, 0.5), theta, data, 300)
    h = data["A"] + 0.1 * torch.eye(4).double()
    w = torch.linalg.solve(h, data["b"] + 0.1 * theta)
    g = (data["C"] @ (w - data["c"]).unsqueeze(-1)).squeeze(-1)
    truth = 0.1 * torch.linalg.solve(h, g)
    # The errors of w* (kappa 6) and of the solve (1 / a mu = 10) through strength / mu <= 1/2.
    unit = EPS * 10 * (row_norms(truth) + row_norms(g) + row_norms(w))
    found = ImplicitFixedPoint(solver)(problem, loop)
    assert only(found.outcome) is Outcome.OK
    check_ratio("fixed point of the heavy ball", row_norms(found.value - truth), unit)
    check_ratio("unrolled heavy ball", row_norms(UnrolledAdjoint()(problem, loop).value - truth), unit)


@dataclass(frozen=True)
class Decaying:
    """Gradient descent that decays the weights by itself: at its fixed point the inner gradient is `-decay w`."""

    learning_rate: float
    decay: float

    def start(self, w: Tensor) -> Tensor:
        return w

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        return state - self.learning_rate * (gradient(state) + self.decay * state)


@BOTH
def test_it_is_right_where_the_fixed_point_is_no_stationary_point(solver: LinearSolver) -> None:
    """Decoupled weight decay: strength (H + decay I)^-1 g, where `implicit` has strength H^-1 g."""
    problem = build("quadratic[dimension=4,condition=10]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, Decaying(0.5, 0.3), theta, data, 200)
    h = data["A"] + 0.4 * torch.eye(4).double()
    g = outer_gradients(problem, loop)[0]
    truth = 0.1 * torch.linalg.solve(h, g)
    unit = EPS * 5 * row_norms(g)
    check_ratio("fixed point, decay", row_norms(ImplicitFixedPoint(solver)(problem, loop).value - truth), unit)
    check_ratio("unrolled, decay", row_norms(UnrolledAdjoint()(problem, loop).value - truth), unit)
    assert bool((row_norms(Implicit(Dense())(problem, loop).value - truth) > 0.2 * row_norms(truth)).all())


def test_a_hyperparameter_that_is_not_where_the_loop_starts() -> None:
    problem = weighted()
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.3), theta, data, 100)
    truth = closed_form(theta, data)
    unit = EPS * (row_norms(truth) + row_norms(data["b"]) * (row_norms(data["b"]) + row_norms(data["c"]))) / 0.3
    check_ratio("fixed point, hyperparameter", row_norms(ImplicitFixedPoint()(problem, loop).value - truth), unit)


def resting(problem: Problem) -> Problem:
    """The problem whose loop starts at its minimiser, as a constant."""
    assert problem.minimizer is not None
    minimizer = problem.minimizer
    return replace(problem, start=lambda theta, data: minimizer(theta, data).detach())


@pytest.mark.parametrize("terms", [0, 1, 5])
def test_a_neumann_series_of_it_is_a_truncated_loop_at_rest(terms: int) -> None:
    """sum_(i <= j) M'^i is what a reverse sweep through the last j + 1 steps at a fixed point adds up."""
    problem = resting(build("quadratic[dimension=4,condition=10]"))
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, Momentum(0.3, 0.5), theta, data, 20)
    series = ImplicitFixedPoint(Neumann(terms, step=1.0))(problem, loop)
    window = Truncated(terms + 1)(problem, loop)
    g = outer_gradients(problem, loop)[0]
    check_ratio("series against window", row_norms(series.value - window.value), EPS * 10 * row_norms(g))
    assert only(series.outcome) is Outcome.UNFINISHED


def test_adam_whose_squares_have_decayed_is_called_singular_in_float32() -> None:
    problem = resting(build("quadratic[dimension=4,condition=10]"))
    for dtype, expected in ((torch.float32, Outcome.SINGULAR), (torch.float64, Outcome.OK)):
        theta, data = theta_and_data(problem, 3, dtype=dtype)
        loop = run_inner(problem, Adam(0.1), theta, data, 0)
        settled = loop.states.clone()
        settled[..., -2:] = 1.0  # the corrections after many steps; m = v = 0, as after many more
        found = ImplicitFixedPoint(Dense())(problem, replace(loop, states=settled))
        assert only(found.outcome) is expected
        assert found.value.isfinite().all()


def test_counts_and_refusals() -> None:
    problem = build("quadratic[dimension=4]")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, Momentum(0.5), theta, data, 3)
    found = ImplicitFixedPoint(Dense())(problem, loop)
    assert found.gradient_count.tolist() == [2, 2] and found.hvp_count.tolist() == [9, 9]
    assert bool((found.solver_residual < 1e-13).all())
    with pytest.raises(ValueError, match="expected a symmetric matrix, found one with a product for its transpose"):
        ImplicitFixedPoint(ConjugateGradients(3))(problem, loop)
    with pytest.raises(ValueError, match="^implicit: expected a proximal strength > 0, found 0.0"):
        ImplicitFixedPoint()(build("quadratic[dimension=4]", strength=0.0), loop)
