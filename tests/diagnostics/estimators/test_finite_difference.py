"""Finite differences: right within the uncertainty that they state, which is small where it can be and tells where
not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.precision import enter_rows, precision
from diagnostics.estimators import finite_difference
from diagnostics.estimators.finite_difference import Differences, FiniteDifference
from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Trajectory, run_inner
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import Data, row_norms
from tests.cases import check_ratio, make_optimizer, only, theta_and_data, vectors
from tests.diagnostics.estimators.test_implicit import weighted

SHARP = 2.0 ** (-52 * 0.8) * 100  # eps^(4/5), and what the loss is larger than its slope times theta by


def run(problem: Problem, steps: int, optimizer: str = "gd", tasks: int = 3) -> Trajectory:
    theta, data = theta_and_data(problem, tasks)
    return run_inner(problem, make_optimizer(optimizer), theta, data, steps)


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "nesterov", "rmsprop"])
@pytest.mark.parametrize("steps", [0, 1, 6])
def test_it_is_the_derivative_within_its_uncertainty(steps: int, optimizer: str) -> None:
    for problem in (build("logistic[dimension=4]"), build("quadratic[dimension=4]"), weighted()):
        loop = run(problem, steps, optimizer)
        truth = UnrolledAdjoint()(problem, loop).value
        found = FiniteDifference().along(problem, loop, torch.eye(truth.shape[1]).double())
        scale = row_norms(truth) + problem.outer_loss(loop.final, loop.theta, loop.data)
        check_ratio("differences, uncertainty", row_norms(found.uncertainty), SHARP * scale, f"{optimizer}, {steps}")
        where = f"{problem.name}, {optimizer}, {steps} steps"
        check_ratio("differences", row_norms(found.value - truth), row_norms(found.uncertainty), where, limit=3)
        gradient = FiniteDifference()(problem, loop)
        assert only(gradient.outcome) is Outcome.OK and torch.equal(gradient.value, found.value)


def test_a_step_of_adam_bends_within_the_size_of_h_and_the_uncertainty_says_so() -> None:
    problem = build("quadratic[dimension=5]")
    loop = run(problem, 7, "adam")
    truth = UnrolledAdjoint()(problem, loop).value
    found = FiniteDifference().along(problem, loop, torch.eye(5).double())
    check_ratio("differences, adam", row_norms(found.value - truth), row_norms(found.uncertainty), limit=3)


def test_along_chosen_directions_theta_may_be_large() -> None:
    problem = build("sinusoid", shots=5, queries=5)
    loop = run(problem, 3)
    directions = vectors(4, loop.size)
    found = FiniteDifference().along(problem, loop, directions)
    truth = UnrolledAdjoint()(problem, loop).value @ directions.mT
    assert found.value.shape == (3, 4)
    check_ratio("differences along directions", (found.value - truth).abs(), found.uncertainty, limit=3)
    assert bool((found.uncertainty < 1e-6 * row_norms(truth).unsqueeze(-1)).all())
    # The length of a direction is a factor of its slope, and of nothing else.
    twice = FiniteDifference().along(problem, loop, directions[:1] / row_norms(directions[:1]))
    unit = found.uncertainty[:, 0] / row_norms(directions[:1]) + twice.uncertainty[:, 0]
    check_ratio("direction's length", (twice.value[:, 0] - found.value[:, 0] / row_norms(directions[:1])).abs(), unit)


@pytest.mark.parametrize("power", [-300, -40, 40, 300])
def test_the_scale_of_theta_and_of_the_loss_do_not_matter(power: int) -> None:
    """In units of powers of two, every number is the same."""
    problem = build("quadratic[dimension=4]")
    loop, unit = run(problem, 3), 2.0**power
    scaled = {key: value * unit if key in ("b", "c") else value for key, value in loop.data.items()}
    other = run_inner(problem, loop.optimizer, loop.theta * unit, scaled, 3)
    one, two = (FiniteDifference()(problem, trajectory) for trajectory in (loop, other))
    assert only(two.outcome) is Outcome.OK and torch.equal(one.value * unit, two.value)


def test_at_theta_of_zero_the_step_is_one_of_its_own() -> None:
    problem = replace(build("quadratic[dimension=4]"), init=lambda seed: torch.zeros(4).double())
    loop = run(problem, 3)
    truth = UnrolledAdjoint()(problem, loop).value
    check_ratio("differences at zero", row_norms(FiniteDifference()(problem, loop).value - truth), SHARP)


def test_a_kink_within_the_step_is_not_resolved() -> None:
    kinked = replace(
        build("quadratic[dimension=2]"),
        outer_loss=lambda w, theta, data: (w[:, 0] - data["c"][:, 0]).abs() + w[:, 1] ** 2,
    )
    theta, data = theta_and_data(kinked, 3)
    data["c"][1, 0] = theta[1, 0] + 1e-5  # no step is made: the kink is 1e-5 from theta, within the largest h
    found = FiniteDifference()(kinked, run_inner(kinked, GradientDescent(0.5), theta, data, 0))
    assert decode(found.outcome) == [Outcome.OK, Outcome.UNRESOLVED, Outcome.OK]


def test_a_loop_that_is_chaotic_is_not_resolved() -> None:
    """The logistic map w <- w - (w - 4 w (1 - w)): a change of 1e-16 has grown to 1 after 50 steps."""
    chaotic = Problem(
        "chaotic",
        inner_loss=lambda w, theta, data: (w**3 * 4 / 3 - w**2 * 3 / 2).sum(-1),
        outer_loss=lambda w, theta, data: (w**2).sum(-1),
        init=lambda seed: torch.tensor([0.3]).double() + 0.01 * seed,
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
    )
    theta, data = theta_and_data(chaotic, 3)
    short, long = (
        FiniteDifference()(chaotic, run_inner(chaotic, GradientDescent(1.0), theta, data, k)) for k in (2, 60)
    )
    assert only(short.outcome) is Outcome.OK and only(long.outcome) is Outcome.UNRESOLVED


def test_no_automatic_derivative_of_the_loop_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where autograd through the loop is broken, differences are what they were: an oracle for the others."""
    problem = build("logistic[dimension=4]")
    loop = run(problem, 4)
    before = FiniteDifference()(problem, loop)

    def first_derivatives_only(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return Once.apply(problem.inner_loss, w, theta, data)  # type: ignore[no-any-return]

    class Once(torch.autograd.Function):
        """A loss whose gradient is a constant to autograd."""

        @staticmethod
        def forward(ctx, loss, w, theta, data):  # noqa: ANN001, ANN205
            with torch.enable_grad():
                at = w.detach().requires_grad_()
                value = loss(at, theta.detach(), data)
                (ctx.gradient,) = torch.autograd.grad(value.sum(), at)
            return value.detach()

        @staticmethod
        def backward(ctx, *grad_outputs):  # noqa: ANN001, ANN205
            return None, ctx.gradient.detach() * grad_outputs[0].unsqueeze(-1), None, None

    broken = replace(problem, inner_loss=first_derivatives_only)
    assert torch.equal(FiniteDifference()(broken, loop).value, before.value)
    first = FirstOrder()(problem, loop).value
    assert bool((row_norms(UnrolledAdjoint()(broken, loop).value - first) < 1e-12 * row_norms(first)).all())
    assert bool((row_norms(before.value - first) > 0.01 * row_norms(first)).all())


@pytest.mark.parametrize("budget", [0, 20_000])
def test_chunks_of_any_size_give_the_same(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build("quadratic[dimension=5]")
    loop = run(problem, 4)
    whole, sizes = FiniteDifference()(problem, loop), []
    inside: Callable[..., Differences] = finite_difference._differences

    def noted(problem: Problem, loop: Trajectory, directions: Tensor) -> Differences:
        sizes.append(len(directions))
        return inside(problem, loop, directions)

    monkeypatch.setattr(finite_difference, "_differences", noted)
    monkeypatch.setattr(finite_difference, "BUDGET", budget)
    found = FiniteDifference()(problem, loop)
    assert sum(sizes) == 5 and len(sizes) > 1
    check_ratio("differences, chunks", row_norms(found.value - whole.value), SHARP * row_norms(whole.value))


def test_its_count_is_what_it_takes() -> None:
    problem, rows = build("quadratic[dimension=4]"), [0]
    loop = run(problem, 3)

    def watched(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        rows[0] += len(w)
        return problem.inner_loss(w, theta, data)

    found = FiniteDifference()(replace(problem, inner_loss=watched), loop)
    # A loop takes one gradient more, at its end, for its record; and one row measured the memory of a task.
    assert found.gradient_count.tolist() == [3 * (6 * 4 + 1)] * 3
    assert rows[0] == 3 * (3 + 1) * (6 * 4 + 1) + 1


def test_what_becomes_of_other_arithmetics() -> None:
    problem = build("logistic[dimension=4]")
    theta, data = theta_and_data(problem, 2)
    truth = UnrolledAdjoint()(problem, run_inner(problem, GradientDescent(0.5), theta, data, 3)).value
    for name, digits, expected in (
        ("bfloat16", 0.0, Outcome.UNRESOLVED),
        ("float32", 3.0, Outcome.OK),
        ("extended", 13.0, Outcome.OK),
    ):
        arithmetic = precision(name)
        with arithmetic.running():
            entered = arithmetic.enter(theta), enter_rows(arithmetic, data)
            found = FiniteDifference()(problem, run_inner(problem, GradientDescent(0.5), *entered, 3))
        assert only(found.outcome) is expected, name
        if digits:
            away = row_norms(arithmetic.leave(found.value) - truth) / row_norms(truth)
            assert bool((away < 10**-digits).all()), (name, away)


def test_a_loss_that_is_not_the_same_twice_is_noticed() -> None:
    problem, calls = build("quadratic[dimension=3]"), [0]

    def noisy(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        calls[0] += 1
        return problem.inner_loss(w, theta, data) * (1 + 1e-9 * calls[0])

    restless = replace(problem, inner_loss=noisy)
    assert only(FiniteDifference()(restless, run(restless, 3)).outcome) is Outcome.REPLAY_DIFFERS


def test_a_large_theta_is_refused() -> None:
    problem = build("quadratic[dimension=4]")
    with pytest.raises(ValueError, match="^finite_difference: expected at most 3 components of theta, found 4; use 'u"):
        FiniteDifference(largest=3)(problem, run(problem, 1))
    with pytest.raises(ValueError, match="^finite_difference: largest: expected a whole number >= 1, found 0"):
        FiniteDifference(largest=0)
