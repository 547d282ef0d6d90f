"""Forward mode: the unrolled gradient by tangents, whatever theta does, in chunks of any size."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.estimators import forward_mode
from diagnostics.estimators.forward_mode import ForwardMode
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.inner import Trajectory, optimizers, run_inner
from diagnostics.meta_gradient import outer_gradients
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import Data, row_norms
from tests.cases import check_by_differences, check_ratio, make_optimizer, only, theta_and_data, times
from tests.diagnostics.estimators.test_implicit import weighted

EPS = 2.0**-52


def agree(problem: Problem, loop: Trajectory, family: str = "forward mode against reverse") -> None:
    found, truth = ForwardMode()(problem, loop), Unrolled()(problem, loop).value
    by_w, by_theta = outer_gradients(problem, loop)
    # A tangent is rounded once a step and component, as an adjoint is.
    scale = row_norms(truth) + row_norms(by_w) + row_norms(by_theta)
    check_ratio(family, row_norms(found.value - truth), EPS * (loop.steps + 1) * loop.size**0.5 * scale)
    assert only(found.outcome) is Outcome.OK


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "nesterov", "rmsprop", "adam"])
@pytest.mark.parametrize("steps", [0, 1, 6])
def test_it_equals_the_unrolled_gradient(steps: int, optimizer: str) -> None:
    assert optimizer in optimizers.names()
    for problem in (build("logistic[dimension=4]"), weighted(), replace(weighted(), start=doubled)):
        theta, data = theta_and_data(problem, 3)
        agree(problem, run_inner(problem, make_optimizer(optimizer), theta, data, steps))


def doubled(theta: Tensor, data: Data) -> Tensor:
    return 2 * theta * data["b"]


def test_it_equals_the_closed_form_of_the_quadratic() -> None:
    """J_K' g with J_K = strength H^-1 + M^K (I - strength H^-1), M = I - aH."""
    problem = build("quadratic[dimension=4,condition=10]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 6)
    eye = torch.eye(4).double()
    h, g = data["A"] + 0.1 * eye, outer_gradients(problem, loop)[0]
    settled = 0.1 * torch.linalg.inv(h)
    jacobian = settled + torch.linalg.matrix_power(eye - 0.5 * h, 6) @ (eye - settled)
    found = ForwardMode()(problem, loop).value
    # kappa(H) <= 6 for the inverse in the oracle.
    check_ratio("forward mode, closed form", row_norms(found - times(jacobian)(g)), EPS * 7 * 6 * row_norms(g))


def test_it_is_the_derivative() -> None:
    problem = build("logistic[dimension=4]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, make_optimizer("momentum"), theta, data, 5)
    check_by_differences(
        "forward mode, differences", problem, loop.optimizer, theta, data, 5, ForwardMode()(problem, loop).value
    )


def test_losses_that_are_linear_or_do_not_look_at_theta() -> None:
    """The tangent of a step that is the same everywhere is its own; where theta is not looked at, it is zero."""
    linear = Problem(
        "linear",
        inner_loss=lambda w, theta, data: (data["b"] * w).sum(-1),
        outer_loss=lambda w, theta, data: (w**2).sum(-1),
        init=lambda seed: torch.arange(3).double() + seed,
        sample=lambda tasks, seed: {"b": torch.ones(tasks, 3).double()},
    )
    theta, data = theta_and_data(linear, 2)
    for problem in (linear, replace(linear, start=lambda theta, data: torch.ones_like(theta))):
        agree(problem, run_inner(problem, GradientDescent(0.1), theta, data, 3))


@pytest.mark.parametrize("budget", [0, 1500, 4000])
def test_chunks_of_any_size_give_the_same(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build("logistic[dimension=5]")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 4)
    whole, sizes = ForwardMode()(problem, loop).value, []
    inside: Callable[..., Tensor] = forward_mode._along

    def along(problem: Problem, loop: Trajectory, adjoint: Tensor, directions: Tensor) -> Tensor:
        sizes.append(len(directions))
        return inside(problem, loop, adjoint, directions)

    monkeypatch.setattr(forward_mode, "_along", along)
    monkeypatch.setattr(forward_mode, "BUDGET", budget)
    found = ForwardMode()(problem, loop).value
    assert sum(sizes) == 5 and (budget > 0 or sizes == [1] * 5)
    # Kernels may sum in another order for another size of batch.
    check_ratio("forward mode, chunks", row_norms(found - whole), EPS * 5 * row_norms(whole))


def test_its_counts_are_stated() -> None:
    problem = build("quadratic[dimension=4]")
    theta, data = theta_and_data(problem, 2)
    found = ForwardMode()(problem, run_inner(problem, GradientDescent(0.5), theta, data, 3))
    assert found.hvp_count.tolist() == [12, 12] and found.gradient_count.tolist() == [12 + 3 + 1] * 2


def test_a_recorded_state_that_differs_in_its_last_bit_is_noticed() -> None:
    problem = build("quadratic[dimension=4]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 5)
    for step in (0, 3, 5):
        states = loop.states.clone()
        states[step, 1, 2] = torch.nextafter(states[step, 1, 2], torch.tensor(10.0).double())
        found = ForwardMode()(problem, replace(loop, states=states))
        assert decode(found.outcome) == [Outcome.OK, Outcome.REPLAY_DIFFERS, Outcome.OK]


def test_a_large_theta_is_refused() -> None:
    problem = build("quadratic[dimension=4]")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 1)
    assert only(ForwardMode(largest=4)(problem, loop).outcome) is Outcome.OK
    with pytest.raises(ValueError, match="^forward_mode: expected at most 3 components of theta, found 4; use 'unroll"):
        ForwardMode(largest=3)(problem, loop)
    with pytest.raises(ValueError, match="^forward_mode: largest: expected a whole number >= 1, found 0"):
        ForwardMode(largest=0)
