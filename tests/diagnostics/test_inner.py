"""The inner loop and its record."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Gradient, Optimizer, loss_gradient, optimizers, run_inner
from diagnostics.linear.dense import Dense
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import row_norms
from tests.cases import check_by_differences, check_ratio, gd, make_optimizer, only, small, theta_and_data


def quadratic(tasks: int = 3) -> tuple[Problem, Tensor, dict[str, Tensor]]:
    problem = small("quadratic")
    return problem, *theta_and_data(problem, tasks)


def test_the_states_are_those_of_a_loop_written_out() -> None:
    problem, theta, data = quadratic()
    loop = run_inner(problem, gd(problem), theta, data, 4)
    w = theta
    for step in range(5):
        gradient = loss_gradient(problem.inner_loss, w, theta, data)
        assert torch.equal(loop.states[step], w)
        assert torch.equal(loop.gradient_norms[step], row_norms(gradient))
        w = w - 0.5 * gradient
    assert loop.steps == 4 and loop.size == 5
    assert torch.equal(loop.final, loop.states[-1])
    assert torch.equal(loop.stationarity, loop.gradient_norms / loop.gradient_norms[0])
    assert not loop.states.requires_grad


def test_no_steps_are_the_identity() -> None:
    problem, theta, data = quadratic()
    loop = run_inner(problem, gd(problem), theta, data, 0)
    assert loop.steps == 0 and loop.states.shape == (1, 3, 5)
    assert torch.equal(loop.final, theta)
    assert only(loop.outcome) is Outcome.OK


@pytest.mark.parametrize("steps", [True, -1, 2.0, "3", None])
def test_steps_are_a_whole_number(steps: object) -> None:
    problem, theta, data = quadratic()
    with pytest.raises(ValueError, match="inner steps: expected a whole number >= 0, found"):
        run_inner(problem, gd(problem), theta, data, steps)  # type: ignore[arg-type]


def test_mixed_arithmetics_are_refused_by_name() -> None:
    problem, theta, data = quadratic()
    with pytest.raises(ValueError, match=r"problem 'quadratic': expected one arithmetic, .*float32.*data\['A'\]"):
        run_inner(problem, gd(problem), theta.float(), data, 1)
    data["c"] = data["c"].float()
    with pytest.raises(ValueError, match=r"data\['c'\] in float32"):
        run_inner(problem, gd(problem), theta, data, 1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("task", [0, 2])
def test_numbers_that_are_not_finite_are_refused_with_their_task(task: int, bad: float) -> None:
    problem, theta, data = quadratic()
    spoiled = data | {"A": data["A"].clone()}
    spoiled["A"][task, 1, 1] = bad
    message = rf"expected finite numbers, found data\['A'\] with NaN or infinity in task {task}"
    with pytest.raises(ValueError, match=message):
        run_inner(problem, gd(problem), theta, spoiled, 1)
    theta = theta.clone()
    theta[task, 0] = bad
    with pytest.raises(ValueError, match=f"found theta with NaN or infinity in task {task}"):
        run_inner(problem, gd(problem), theta, data, 1)


def test_one_number_a_task_is_checked_too() -> None:
    problem = Problem(
        "scaled",
        inner_loss=lambda w, theta, data: data["scale"] * (w**2).sum(-1),
        outer_loss=lambda w, theta, data: w.sum(-1),
        init=lambda seed: torch.ones(2).double(),
        sample=lambda tasks, seed: {"scale": torch.ones(tasks).double()},
    )
    theta, data = theta_and_data(problem, 3)
    assert only(run_inner(problem, GradientDescent(0.1), theta, data, 2).outcome) is Outcome.OK
    data["scale"][1] = torch.nan
    with pytest.raises(ValueError, match=r"data\['scale'\] with NaN or infinity in task 1"):
        run_inner(problem, GradientDescent(0.1), theta, data, 2)


def test_whole_numbers_in_the_data_are_of_no_arithmetic() -> None:
    problem, theta, data = quadratic()
    run_inner(problem, gd(problem), theta, data | {"label": torch.tensor([1, 2, 3])}, 1)


# ---- divergence


def test_divergence_is_an_outcome_with_its_step_and_spares_the_others() -> None:
    """w grows by a known factor a step, so that the step at which it overflows is known."""
    problem = Problem(
        "runaway",
        inner_loss=lambda w, theta, data: -0.5 * data["rate"] * (w**2).sum(-1),
        outer_loss=lambda w, theta, data: w.sum(-1),
        init=lambda seed: torch.ones(1).double(),
        sample=lambda tasks, seed: {"rate": torch.zeros(tasks).double()},
    )
    theta = torch.ones(3, 1).double()
    data = {"rate": torch.tensor([0.0, 2.0**100 - 1, -0.5], dtype=torch.float64)}
    loop = run_inner(problem, GradientDescent(1.0), theta, data, 20)
    # w = 2^(100 k) is finite up to k = 10; its gradient 2^100 w overflows there already, at 2^1100.
    assert loop.diverged_at.tolist() == [-1, 10, -1]
    assert decode(loop.outcome) == [Outcome.OK, Outcome.DIVERGED, Outcome.OK]
    assert torch.equal(loop.states[:, 0], torch.ones(21, 1).double())
    assert torch.equal(loop.states[:, 2, 0], 0.5 ** torch.arange(21).double())
    assert only(loop.prefix(9).outcome) is Outcome.OK
    assert decode(loop.prefix(10).outcome)[1] is Outcome.DIVERGED
    assert Outcome.DIVERGED.failed and "smaller inner step" in Outcome.DIVERGED.advice


def test_gradients_of_a_loop_that_diverged_do_not_raise() -> None:
    problem, theta, data = quadratic()
    data["A"][0] *= 1e9
    loop = run_inner(problem, gd(problem), theta, data, 60)
    for estimator in (Unrolled(), Implicit(Dense())):
        gradient = estimator(problem, loop)
        assert decode(gradient.outcome)[0] is Outcome.DIVERGED
        assert bool(gradient.value[1:].isfinite().all())


# ---- the record, cut


def test_a_prefix_is_the_shorter_loop() -> None:
    problem, theta, data = quadratic()
    loop, short = (run_inner(problem, gd(problem), theta, data, steps) for steps in (6, 2))
    cut = loop.prefix(2)
    assert torch.equal(cut.states, short.states) and torch.equal(cut.gradient_norms, short.gradient_norms)
    for steps in (-1, 7):
        with pytest.raises(ValueError, match=f"expected 0 to 6 steps of this trajectory, found {steps}"):
            loop.prefix(steps)


@pytest.mark.parametrize("name", optimizers.names())
def test_only_the_states_asked_for_are_kept_and_they_are_the_same(name: str) -> None:
    problem, theta, data = quadratic()
    whole = run_inner(problem, make_optimizer(name), theta, data, 6)
    for kept in ((6,), (0,), (0, 3, 6), range(7)):
        some = run_inner(problem, make_optimizer(name), theta, data, 6, kept)
        at = list(kept)
        assert torch.equal(some.states, whole.states[at]) and torch.equal(some.gradient_norms, whole.gradient_norms[at])
    for wrong in ((), (7,), (-1, 2)):
        with pytest.raises(ValueError, match="expected some of the states after 0 to 6 steps to keep, found"):
            run_inner(problem, make_optimizer(name), theta, data, 6, wrong)


def test_rows_are_the_loop_of_those_tasks() -> None:
    problem, theta, data = quadratic()
    whole = run_inner(problem, gd(problem), theta, data, 3).rows(slice(1, 3))
    part = run_inner(problem, gd(problem), theta[1:3], {key: value[1:3] for key, value in data.items()}, 3)
    assert torch.equal(whole.states, part.states)
    assert torch.equal(whole.theta, part.theta)
    assert all(torch.equal(whole.data[key], part.data[key]) for key in data)
    assert torch.equal(Unrolled()(problem, whole).value, Unrolled()(problem, part).value)


def test_endpoints_are_the_ends_as_rows_the_task_running_fastest() -> None:
    problem, theta, data = quadratic()
    loop = run_inner(problem, gd(problem), theta, data, 5)
    ends = loop.endpoints((5, 0, 2))
    assert ends.final.shape == (9, 5)
    for index, steps in enumerate((5, 0, 2)):
        rows = slice(3 * index, 3 * index + 3)
        assert torch.equal(ends.final[rows], loop.states[steps])
        assert torch.equal(ends.theta[rows], theta)
        assert torch.equal(ends.data["A"][rows], data["A"])
        assert torch.equal(ends.gradient_norms[0, rows], loop.gradient_norms[steps])


# ---- optimizers with more state than the weights


@dataclass(frozen=True)
class HeavyBall:
    """Momentum, as a contributor would write it: the state is the weights and the velocity."""

    learning_rate: float

    def start(self, w: Tensor) -> Tensor:
        return torch.cat([w, torch.zeros_like(w)], dim=-1)

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        w, velocity = state[:, :size], state[:, size:]
        velocity = 0.5 * velocity + gradient(w)
        return torch.cat([w - self.learning_rate * velocity, velocity], dim=-1)


@dataclass(frozen=True)
class LookAhead:
    """An optimizer that asks for the gradient elsewhere than at the state, where norms are recorded all the same."""

    learning_rate: float

    def start(self, w: Tensor) -> Tensor:
        return w

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        return state - self.learning_rate * gradient(state - self.learning_rate * gradient(0.9 * state))


@pytest.mark.parametrize("kind", [HeavyBall, LookAhead])
def test_the_whole_state_is_recorded_and_differentiated(kind: Callable[[float], Optimizer]) -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, 2)
    optimizer = kind(0.3)
    loop = run_inner(problem, optimizer, theta, data, 4)
    assert loop.size == 5 and loop.final.shape == (2, 5)
    for step in range(5):
        there = loss_gradient(problem.inner_loss, loop.states[step, :, :5], theta, data)
        assert torch.equal(loop.gradient_norms[step], row_norms(there))
    whole, adjoint = Unrolled()(problem, loop), UnrolledAdjoint()(problem, loop)
    assert only(whole.outcome) is Outcome.OK and only(adjoint.outcome) is Outcome.OK
    check_ratio("state, unrolled against adjoint", row_norms(whole.value - adjoint.value), 2.0**-52 * 5)
    check_by_differences("state, central differences", problem, optimizer, theta, data, 4, whole.value)


def test_a_gradient_that_asks_for_no_graph_leaves_none() -> None:
    problem, theta, data = quadratic()
    assert not loss_gradient(problem.inner_loss, theta, theta, data).requires_grad
    with torch.no_grad():
        assert loss_gradient(problem.inner_loss, theta, theta, data).shape == theta.shape
    assert loss_gradient(problem.inner_loss, theta.clone().requires_grad_(), theta, data, graph=True).requires_grad


def test_a_loop_is_the_same_twice() -> None:
    problem = build("sinusoid")
    theta, data = theta_and_data(problem, 2)
    one, two = (run_inner(problem, gd(problem), theta, data, 10) for _ in range(2))
    assert torch.equal(one.states, two.states) and torch.equal(one.gradient_norms, two.gradient_norms)
    assert replace(one, states=two.states).steps == 10
