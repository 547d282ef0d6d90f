"""Truncated backpropagation and one-step differentiation: closed forms, plain autograd with a cut, and their bounds."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.one_step import OneStep
from diagnostics.estimators.truncated import Truncated
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import InnerGradient, Trajectory, run_inner
from diagnostics.linear.dense import Dense
from diagnostics.meta_gradient import Estimator, outer_gradients
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import row_norms
from tests.cases import check_ratio, gd, make_optimizer, only, theta_and_data, times
from tests.diagnostics.estimators.test_implicit import weighted

EPS = 2.0**-52


def quadratic(steps: int, strength: float = 0.1) -> tuple[Problem, Trajectory]:
    problem = build("quadratic[dimension=4,condition=10]", strength=strength)
    theta, data = theta_and_data(problem, 3)
    return problem, run_inner(problem, gd(problem), theta, data, steps)


def cut(problem: Problem, loop: Trajectory, window: int, start: str) -> Tensor:
    """The oracle: the whole graph by plain autograd, cut where the window begins."""
    theta = loop.theta.clone().requires_grad_()
    state = loop.optimizer.start(problem.start(theta, loop.data).clone())
    first = state
    gradient = InnerGradient(problem.inner_loss, theta, loop.data, graph=True)
    for step in range(loop.steps):
        if step == loop.steps - window:
            state = state.detach() + (first - first.detach() if start == "theta" else 0)
        with torch.enable_grad():
            state = loop.optimizer.step(state, gradient, loop.size)
    if window == 0:
        state = state.detach() + (first - first.detach() if start == "theta" else 0)
    loss = problem.outer_loss(state[:, : loop.size], theta, loop.data).sum()
    if not loss.requires_grad:
        return torch.zeros_like(theta)
    return torch.autograd.grad(loss, theta, allow_unused=True, materialize_grads=True)[0]


@pytest.mark.parametrize("start", ["held", "theta"])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam"])
@pytest.mark.parametrize("window", [0, 1, 3, 5])
def test_it_is_the_graph_cut_at_the_window(window: int, optimizer: str, start: str) -> None:
    """Six steps: none of these windows reaches the loop's start."""
    for problem in (build("logistic[dimension=4]"), replace(weighted(), start=lambda theta, data: theta * data["b"])):
        theta, data = theta_and_data(problem, 3)
        loop = run_inner(problem, make_optimizer(optimizer), theta, data, 6)
        found = Truncated(window, start)(problem, loop)
        truth = cut(problem, loop, window, start)
        by_w, by_theta = outer_gradients(problem, loop)
        scale = row_norms(truth) + row_norms(by_theta) + (start == "theta") * row_norms(by_w)
        check_ratio("truncated against a cut graph", row_norms(found.value - truth), EPS * (window + 1) * scale)
        assert only(found.outcome) is Outcome.OK
        assert found.gradient_count.tolist() == [window + 1] * 3 and found.hvp_count.tolist() == [window] * 3
        if (window, start) == (1, "held"):
            one = OneStep()(problem, loop)
            check_ratio("one_step against a cut graph", row_norms(one.value - truth), EPS * 2 * scale)
            assert one.gradient_count.tolist() == [2] * 3 and one.hvp_count.tolist() == [1] * 3


@pytest.mark.parametrize("window", [1, 2, 5])
def test_it_equals_its_closed_form(window: int) -> None:
    """With M = I - aH: held, sum_(t < k) M^t a strength g; from theta, M^k g more."""
    problem, loop = quadratic(6)
    eye = torch.eye(4).double()
    shrink, g = eye - 0.5 * (loop.data["A"] + 0.1 * eye), outer_gradients(problem, loop)[0]
    held, power = torch.zeros_like(g), g
    for _ in range(window):
        held, power = held + 0.5 * 0.1 * power, times(shrink)(power)
    unit = EPS * (window + 1) * row_norms(g)
    check_ratio("truncated, held", row_norms(Truncated(window)(problem, loop).value - held), unit)
    check_ratio("truncated, theta", row_norms(Truncated(window, "theta")(problem, loop).value - held - power), unit)
    if window == 1:
        check_ratio("one_step", row_norms(OneStep()(problem, loop).value - held), unit)


@pytest.mark.parametrize("start", ["held", "theta"])
@pytest.mark.parametrize("window", [6, 7, 1000])
def test_a_window_of_the_whole_loop_is_the_unrolled_gradient(window: int, start: str) -> None:
    problem, loop = quadratic(6)
    found, full = Truncated(window, start)(problem, loop), UnrolledAdjoint()(problem, loop)
    assert torch.equal(found.value, full.value) and torch.equal(found.gradient_count, full.gradient_count)


def test_an_empty_window_is_first_order_or_the_direct_term() -> None:
    problem, loop = quadratic(6)
    assert torch.equal(Truncated(0, "theta")(problem, loop).value, FirstOrder()(problem, loop).value)
    assert torch.equal(Truncated(0, "held")(problem, loop).value, outer_gradients(problem, loop)[1])


def test_without_a_proximal_term_a_held_window_gives_nothing() -> None:
    problem, loop = quadratic(6, strength=0.0)
    for estimator in (Truncated(3, "held"), OneStep()):
        assert torch.equal(estimator(problem, loop).value, torch.zeros_like(loop.theta))
    assert bool((row_norms(Truncated(3, "theta")(problem, loop).value) > 0.01).all())


def test_the_error_of_a_held_window_keeps_within_its_bound() -> None:
    """|g| q^k (a strength (1 - q^(K-k)) / (a mu) + q^(K-k)): and along the least eigenvector the bound is the error."""
    problem, loop = quadratic(40)
    values, basis = torch.linalg.eigh(loop.data["A"] + 0.1 * torch.eye(4).double())
    full, g = UnrolledAdjoint()(problem, loop).value, outer_gradients(problem, loop)[0]
    a, mu = 0.5, values[:, 0]
    q = 1 - a * mu
    for window in (0, 1, 5, 10, 20, 39):
        away = full - Truncated(window)(problem, loop).value
        factor = q**window * (0.1 * (1 - q ** (40 - window)) / mu + q ** (40 - window))
        # Rounding: K steps' worth of |g|.
        assert bool((row_norms(away) <= factor * row_norms(g) + EPS * 40 * row_norms(g)).all())
        least = basis[..., 0]
        along = ((away * least).sum(-1) - factor * (g * least).sum(-1)).abs()
        check_ratio("truncation error along the least eigenvector", along, EPS * 41 * row_norms(g))


def test_the_error_of_one_step_keeps_within_its_bound() -> None:
    """Against the implicit gradient: q |dStep/dtheta| / (1 - q) |g|, with dStep/dtheta = a strength I."""
    problem, loop = quadratic(30)
    values = torch.linalg.eigvalsh(loop.data["A"] + 0.1 * torch.eye(4).double())
    q = 1 - 0.5 * values[:, 0]
    away = Implicit(Dense())(problem, loop).value - OneStep()(problem, loop).value
    bound = q * 0.5 * 0.1 / (1 - q) * row_norms(outer_gradients(problem, loop)[0])
    assert bool((row_norms(away) <= bound).all() and (row_norms(away) >= 0.1 * bound).all())


def test_one_step_is_exact_for_a_step_that_solves_the_inner_problem() -> None:
    """A = I: the step 1 / 1.1 ends at the minimiser at once, as Newton's method does."""
    problem = build("quadratic[dimension=4,condition=1]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(1 / 1.1), theta, data, 1)
    truth = Implicit(Dense())(problem, loop).value
    unit = EPS * (row_norms(truth) + row_norms(outer_gradients(problem, loop)[0]))
    check_ratio("one_step of Newton", row_norms(OneStep()(problem, loop).value - truth), unit)


def test_one_step_holds_the_start_too_and_is_its_derivative_without_a_step() -> None:
    problem, loop = quadratic(1)
    g = outer_gradients(problem, loop)[0]
    check_ratio("one_step, one step", row_norms(OneStep()(problem, loop).value - 0.05 * g), EPS * row_norms(g))
    none = loop.prefix(0)
    assert torch.equal(OneStep()(problem, none).value, UnrolledAdjoint()(problem, none).value)
    assert OneStep()(problem, none).hvp_count.tolist() == [0] * 3


@pytest.mark.parametrize("estimator", [Truncated(2), OneStep()], ids=["truncated", "one_step"])
def test_a_state_in_the_window_that_differs_in_its_last_bit_is_noticed(estimator: Estimator) -> None:
    problem, loop = quadratic(6)
    states = loop.states.clone()
    states[6, 1, 2] = torch.nextafter(states[6, 1, 2], torch.tensor(10.0).double())
    found = estimator(problem, replace(loop, states=states))
    assert decode(found.outcome) == [Outcome.OK, Outcome.REPLAY_DIFFERS, Outcome.OK]


@pytest.mark.parametrize("window", [-1, 2.0, True])
def test_settings_that_mean_nothing_are_refused(window: int) -> None:
    with pytest.raises(ValueError, match="^truncated: window: expected a whole number >= 0, found"):
        Truncated(window)
    with pytest.raises(ValueError, match="^truncated: start: expected one of held, theta, found 'here'$"):
        Truncated(3, "here")
