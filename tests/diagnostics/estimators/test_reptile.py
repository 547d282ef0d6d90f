"""Reptile: the sum of the gradients that were taken, and the scale that the paper gives it."""

from dataclasses import replace

import pytest
import torch

from diagnostics.estimators.reptile import Reptile
from diagnostics.inner import loss_gradient, run_inner
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome
from diagnostics.problem_names import build
from diagnostics.rows import row_norms
from tests.cases import check_ratio, make_optimizer, only, theta_and_data
from tests.diagnostics.estimators.test_implicit import weighted


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("rate", [0.5, 0.01])
def test_it_is_the_sum_of_the_gradients_that_were_taken(rate: float, steps: int) -> None:
    problem = build("logistic[dimension=4]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(rate), theta, data, steps)
    truth = torch.stack([loss_gradient(problem.inner_loss, w, theta, data) for w in loop.states[:-1]]).sum(0)
    found = Reptile()(problem, loop)
    # Each step rounds the weights, and the difference has no more digits than they do.
    unit = 2.0**-52 * (steps * row_norms(theta) / rate + row_norms(truth))
    check_ratio("reptile", row_norms(found.value - truth), unit)
    assert only(found.outcome) is Outcome.OK and found.gradient_count.tolist() == [0] * 3


def test_it_is_the_way_that_any_optimizer_went() -> None:
    problem = build("quadratic[dimension=4]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, make_optimizer("adam"), theta, data, 5)
    assert torch.equal(Reptile()(problem, loop).value, (theta - loop.states[-1][:, :4]) / 0.1)
    assert torch.equal(Reptile()(problem, loop.prefix(0)).value, torch.zeros_like(theta))


def test_it_does_not_look_at_the_outer_loss() -> None:
    problem = build("quadratic[dimension=4]")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 5)
    other = replace(problem, outer_loss=lambda w, theta, data: w.sum(-1))
    assert torch.equal(Reptile()(problem, loop).value, Reptile()(other, loop).value)


def test_a_loop_that_starts_elsewhere_is_refused() -> None:
    shifted = replace(build("quadratic[dimension=4]"), start=lambda theta, data: theta + 1)
    for problem in (shifted, weighted()):
        theta, data = theta_and_data(problem, 2)
        loop = run_inner(problem, GradientDescent(0.1), theta, data, 2)
        with pytest.raises(ValueError, match="^reptile: expected a loop that starts at theta, found another .*; use"):
            Reptile()(problem, loop)
