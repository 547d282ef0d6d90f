"""What every estimator gives back: a value with the gravest of the outcomes on its way."""

import pytest
import torch

from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.meta_gradient import Estimator, meta_gradient, outer_gradients
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode, where
from diagnostics.problem import Problem, proximal
from tests.cases import gd, small, theta_and_data


@pytest.mark.parametrize(
    "estimator",
    [Unrolled(), UnrolledAdjoint(), FirstOrder(), Implicit(Dense()), Implicit(ConjugateGradients(2))],
    ids=["unrolled", "unrolled_adjoint", "first_order", "dense", "cg"],
)
@pytest.mark.parametrize("bad", [1e4, float("nan")], ids=["overflow", "nan"])
def test_a_gradient_that_overflows_after_a_finite_loop_says_so(bad: float, estimator: Estimator) -> None:
    """The outer loss of one task is exp(1e4 w), or not a number; the inner loop does not see it."""
    steep = torch.tensor([1.0, bad, 1.0]).double()
    problem = Problem(
        "steep",
        inner_loss=proximal(lambda w, theta, data: 0.5 * (w**2).sum(-1), 0.5),
        outer_loss=lambda w, theta, data: (steep.unsqueeze(-1) * w).exp().sum(-1),
        init=lambda seed: torch.ones(2).double(),
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
        strength=0.5,
    )
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.1), theta, data, 2)
    assert decode(loop.outcome) == [Outcome.OK] * 3
    gradient = estimator(problem, loop)
    assert decode(gradient.outcome) == [Outcome.OK, Outcome.NOT_FINITE, Outcome.OK]
    assert bool(gradient.value[[0, 2]].isfinite().all()) and not bool(gradient.value[1].isfinite().any())


def test_the_gravest_outcome_is_kept_and_a_known_cause_is_not_hidden() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 4)
    loop = run_inner(problem, gd(problem), theta, data, 1)
    value = torch.ones_like(theta)
    value[2:] = torch.nan
    codes = where(torch.tensor([False, True, False, True]), Outcome.SINGULAR)
    unfinished = where(torch.tensor([True, True, True, True]), Outcome.UNFINISHED)
    found = decode(meta_gradient(value, loop, codes, unfinished).outcome)
    assert found == [Outcome.UNFINISHED, Outcome.SINGULAR, Outcome.NOT_FINITE, Outcome.SINGULAR]


def test_no_solve_has_no_residual() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, gd(problem), theta, data, 1)
    assert bool(Unrolled()(problem, loop).solver_residual.isnan().all())
    assert bool((Implicit(Dense())(problem, loop).solver_residual < 1e-14).all())


def test_outer_gradients_hold_the_other_argument_fixed() -> None:
    problem = Problem(
        "product",
        inner_loss=lambda w, theta, data: (w**2).sum(-1),
        outer_loss=lambda w, theta, data: (w * theta**2).sum(-1),
        init=lambda seed: torch.tensor([2.0, 3.0]).double(),
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
    )
    theta, data = theta_and_data(problem, 2)
    by_w, by_theta = outer_gradients(problem, run_inner(problem, GradientDescent(0.1), theta, data, 0))
    assert torch.equal(by_w, theta**2) and torch.equal(by_theta, 2 * theta * theta)
