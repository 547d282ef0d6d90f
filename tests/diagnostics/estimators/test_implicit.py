"""The implicit gradient: the formula for any theta, the counts, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem, proximal
from diagnostics.problem_names import build
from diagnostics.reference import stationary_reference
from diagnostics.rows import Data, row_norms
from tests.cases import check_ratio, only, theta_and_data, vectors


def weighted() -> Problem:
    """Inner loss `w'w/2 - b'w + exp(theta) w'w/2`: w* = b / (1 + exp(theta)), one theta for all weights."""
    return Problem(
        name="penalty",
        inner_loss=lambda w, theta, data: 0.5 * (w**2).sum(-1) * (1 + theta[:, 0].exp()) - (data["b"] * w).sum(-1),
        outer_loss=lambda w, theta, data: 0.5 * ((w - data["c"]) ** 2).sum(-1) + (0.1 * theta[:, 0]) ** 2,
        init=lambda seed: 0.3 * vectors(1, 1, seed)[0],
        sample=lambda tasks, seed: {"b": vectors(tasks, 4, seed), "c": vectors(tasks, 4, seed + 1)},
        start=lambda theta, data: torch.zeros_like(data["b"]),
    )


def closed_form(theta: Tensor, data: Data) -> Tensor:
    """d/dtheta of the outer loss at w*: -exp(theta)/(1 + exp(theta))^2 b'(w* - c) + 0.02 theta."""
    e = theta.exp()
    w = data["b"] / (1 + e)
    return -e / (1 + e) ** 2 * (data["b"] * (w - data["c"])).sum(-1, keepdim=True) + 0.02 * theta


@pytest.mark.parametrize("solver", [Dense(), ConjugateGradients(4)], ids=["dense", "cg"])
def test_a_hyperparameter_that_is_not_where_the_loop_starts(solver: Dense) -> None:
    """H = (1 + exp(theta)) I is perfectly conditioned, and 100 steps of 0.3 end at its minimiser to rounding."""
    problem = weighted()
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.3), theta, data, 100)
    truth = closed_form(theta, data)
    unit = 2.0**-52 * (row_norms(truth) + row_norms(data["b"]) * (row_norms(data["b"]) + row_norms(data["c"])))
    gradient = Implicit(solver)(problem, loop)
    assert only(gradient.outcome) is Outcome.OK
    check_ratio("implicit, hyperparameter", row_norms(gradient.value - truth), unit)
    check_ratio("unrolled to the end, hyperparameter", row_norms(UnrolledAdjoint()(problem, loop).value - truth), unit)
    found = stationary_reference(problem, loop)
    assert only(found.outcome) is Outcome.OK
    check_ratio("stationary reference, hyperparameter", row_norms(found.value - truth), unit)


def test_theta_may_enter_beside_the_proximal_term() -> None:
    """Inner loss `w'w/2 - (theta * b)'w + strength/2 |w - theta|^2`: dw*/dtheta = (b + strength) / (1 + strength)."""
    problem = Problem(
        "both",
        inner_loss=proximal(lambda w, theta, data: (w * (0.5 * w - theta * data["b"])).sum(-1), 0.5),
        outer_loss=lambda w, theta, data: 0.5 * ((w - data["c"]) ** 2).sum(-1),
        init=lambda seed: vectors(1, 4, seed)[0],
        sample=lambda tasks, seed: {"b": vectors(tasks, 4, seed), "c": vectors(tasks, 4, seed + 1)},
        strength=0.5,
    )
    theta, data = theta_and_data(problem, 3)
    jacobian = (data["b"] + 0.5) / 1.5
    truth = jacobian * (theta * jacobian - data["c"])
    loop = run_inner(problem, GradientDescent(0.6), theta, data, 60)  # 0.1^60 is far below rounding
    unit = 2.0**-52 * row_norms(jacobian) * (row_norms(theta * jacobian) + row_norms(data["c"]))
    for solver in (Dense(), ConjugateGradients(4)):
        check_ratio("implicit, theta twice", row_norms(Implicit(solver)(problem, loop).value - truth), unit)
    check_ratio("unrolled, theta twice", row_norms(UnrolledAdjoint()(problem, loop).value - truth), unit)


@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_it_refuses_a_problem_without_a_proximal_term(strength: float) -> None:
    problem = replace(build("quadratic[dimension=3]", strength=0.0), strength=strength)
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 2)
    for solver in (Dense(), ConjugateGradients(3)):
        with pytest.raises(
            ValueError, match="implicit: expected a proximal strength > 0, found .*'quadratic'"
        ) as caught:
            Implicit(solver)(problem, loop)
        assert "\n" not in str(caught.value)


def test_it_needs_no_term_where_theta_enters_otherwise() -> None:
    """strength None states nothing, and is not refused."""
    problem = replace(weighted(), strength=None)
    theta, data = theta_and_data(problem, 2)
    assert (
        only(Implicit(Dense())(problem, run_inner(problem, GradientDescent(0.3), theta, data, 1)).outcome) is Outcome.OK
    )


def test_every_iterate_that_the_solver_keeps_gives_a_gradient() -> None:
    problem = build("quadratic[dimension=10]")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 5)
    path = Implicit(ConjugateGradients(8, keep=(0, 2))).path(problem, loop)
    assert [g.hvp_count.unique().tolist() for g in path] == [[0], [2], [8]]
    assert torch.equal(path[0].value, torch.zeros_like(theta))  # no iterations, no gradient
    for gradient, iterations in zip(path, (0, 2, 8), strict=True):
        alone = Implicit(ConjugateGradients(iterations))(problem, loop)
        assert torch.equal(gradient.value, alone.value)
        assert torch.equal(gradient.solver_residual, alone.solver_residual)
    assert only(path[1].outcome) is Outcome.UNFINISHED
    assert torch.equal(path[-1].value, Implicit(ConjugateGradients(8, keep=(0, 2)))(problem, loop).value)


def test_a_singular_hessian_is_called_singular_and_not_an_overflow() -> None:
    """w_1 has no curvature: no term, one flat direction, and theta enters by the other."""
    problem = Problem(
        "flat",
        inner_loss=lambda w, theta, data: (
            0.5 * data["h"] * (w[:, 0] - theta[:, 0]) ** 2 + 0.5 * data["g"] * w[:, 1] ** 2
        ),
        outer_loss=lambda w, theta, data: w.sum(-1),
        init=lambda seed: torch.ones(2).double(),
        sample=lambda tasks, seed: {
            "h": torch.ones(tasks).double(),
            "g": torch.tensor([1.0, 0.0, -1.0]).double()[:tasks],
        },
    )
    theta, data = theta_and_data(problem, 3)
    gradient = Implicit(Dense())(problem, run_inner(problem, GradientDescent(0.1), theta, data, 1))
    assert decode(gradient.outcome) == [Outcome.OK, Outcome.SINGULAR, Outcome.NEGATIVE_CURVATURE]
    assert [o.failed for o in decode(gradient.outcome)] == [False, True, False]


def test_damping_makes_a_known_bias() -> None:
    """strength (H + damping)^-1 g = (H + damping)^-1 H times the undamped gradient."""
    problem = build("quadratic[dimension=4]")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 3)
    exact = Implicit(Dense())(problem, loop).value
    damped = Implicit(Dense(damping=0.5))(problem, loop).value
    eye = torch.eye(4, dtype=torch.float64)
    h = data["A"] + 0.1 * eye
    truth = torch.linalg.solve(h + 0.5 * eye, (h @ exact.unsqueeze(-1)).squeeze(-1))
    check_ratio("implicit, damped", row_norms(damped - truth), 2.0**-52 * 11 * row_norms(exact))
    assert bool((row_norms(damped) < 0.9 * row_norms(exact)).all())
