"""The unrolled gradients: they hold second-order terms, and they know the loop that they differentiate."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics import inner
from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Trajectory, loss_gradient, run_inner
from diagnostics.meta_gradient import Estimator, outer_gradients
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Loss, Problem, proximal
from diagnostics.problem_names import build
from diagnostics.rows import Data, row_norms
from tests.cases import check_by_differences, check_ratio, only, provoked, theta_and_data, vectors

BOTH = pytest.mark.parametrize("estimator", [Unrolled(), UnrolledAdjoint()], ids=["unrolled", "unrolled_adjoint"])


def sinusoid(tasks: int = 2, steps: int = 5) -> tuple[Problem, Trajectory]:
    problem = build("sinusoid", shots=5, queries=5)
    theta, data = theta_and_data(problem, tasks)
    return problem, run_inner(problem, GradientDescent(0.01), theta, data, steps)


def check_second_order(estimator: Estimator) -> None:
    """The gradient is the loop's derivative, which is another vector than FOMAML by far more than any tolerance."""
    problem, loop = sinusoid()
    gradient = estimator(problem, loop).value
    first = FirstOrder()(problem, loop).value
    assert bool((row_norms(gradient - first) > 0.05 * row_norms(first)).all()), "no second-order terms"
    check_by_differences("second-order terms", problem, loop.optimizer, loop.theta, loop.data, loop.steps, gradient)


@BOTH
def test_the_gradient_holds_second_order_terms(estimator: Estimator) -> None:
    check_second_order(estimator)


@BOTH
def test_the_check_fails_if_the_graph_of_the_inner_gradient_is_dropped(
    estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in scripts that call `autograd.grad` in the inner loop without `create_graph`: FOMAML under MAML's name."""

    def without_graph(loss: Loss, w: Tensor, theta: Tensor, data: Data, *, graph: bool = False) -> Tensor:
        return loss_gradient(loss, w, theta, data, graph=False)

    monkeypatch.setattr(inner, "loss_gradient", without_graph)
    problem, loop = sinusoid()
    first = FirstOrder()(problem, loop).value
    # Not even the outcome tells: the states are the right ones.
    assert only(estimator(problem, loop).outcome) is Outcome.OK
    assert torch.equal(estimator(problem, loop).value, first)
    with provoked("no second-order terms"):
        check_second_order(estimator)
    with provoked():
        check_by_differences("dropped graph", problem, loop.optimizer, loop.theta, loop.data, loop.steps, first)


# ---- the replay


def tampered(loop: Trajectory, change: Callable[[Tensor], None]) -> Trajectory:
    states = loop.states.clone()
    change(states)
    return replace(loop, states=states)


@BOTH
@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_recorded_state_that_differs_in_its_last_bit_is_noticed(step: int, estimator: Estimator) -> None:
    problem, loop = sinusoid(tasks=3)

    def change(states: Tensor) -> None:
        states[step, 1, 7] = torch.nextafter(states[step, 1, 7], torch.tensor(10.0).double())

    gradient = estimator(problem, tampered(loop, change))
    if step == 0 and isinstance(estimator, UnrolledAdjoint):
        # It sets out from the recorded state: what it does not meet is the next.
        assert decode(gradient.outcome)[1] is Outcome.REPLAY_DIFFERS
    assert decode(gradient.outcome) == [Outcome.OK, Outcome.REPLAY_DIFFERS, Outcome.OK]
    assert Outcome.REPLAY_DIFFERS.failed


@BOTH
def test_a_loss_that_is_not_the_same_twice_is_noticed(estimator: Estimator) -> None:
    problem = build("quadratic[dimension=3]")
    calls = [0]

    def noisy(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        calls[0] += 1
        return problem.inner_loss(w, theta, data) * (1 + 1e-9 * calls[0])

    restless = replace(problem, inner_loss=noisy)
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(restless, GradientDescent(0.5), theta, data, 3)
    gradient = estimator(restless, loop)
    assert only(gradient.outcome) is Outcome.REPLAY_DIFFERS
    assert "not deterministic" in Outcome.REPLAY_DIFFERS.advice


def test_an_infinite_state_is_not_mistaken_for_a_replay_that_differs() -> None:
    problem = build("quadratic[dimension=3]")
    theta, data = theta_and_data(problem, 2)
    data["A"][1] *= 1e8
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 100)
    assert decode(Unrolled()(problem, loop).outcome) == [Outcome.OK, Outcome.DIVERGED]


# ---- the sweep, and theta anywhere


def test_one_sweep_serves_many_lengths_in_any_order() -> None:
    problem, loop = sinusoid(steps=6)
    counts = (6, 0, 3, 3)
    for count, gradient in zip(counts, UnrolledAdjoint().path(problem, loop, counts), strict=True):
        alone = UnrolledAdjoint()(problem, loop.prefix(count))
        assert torch.equal(gradient.value, alone.value)
        assert bool((gradient.gradient_count == count + 1).all() and (gradient.hvp_count == count).all())
    # A sweep that ends before the trajectory does needs no more of it.
    (short,) = UnrolledAdjoint().path(problem, loop, (2,))
    assert torch.equal(short.value, UnrolledAdjoint()(problem, loop.prefix(2)).value)


def hyperparameters(start_at_theta: bool = False) -> Problem:
    """Ridge regression: theta is the log of each weight's penalty, and the outer loss sees theta too."""

    def inner_loss(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        error = (data["x"] @ w.unsqueeze(-1)).squeeze(-1) - data["y"]
        return 0.5 * (error**2).mean(-1) + 0.5 * (theta.exp() * w**2).sum(-1)

    def outer_loss(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        error = (data["qx"] @ w.unsqueeze(-1)).squeeze(-1) - data["qy"]
        return 0.5 * (error**2).mean(-1) + 0.01 * (theta**2).sum(-1)

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        return {
            "x": vectors(tasks, 24, seed).view(tasks, 8, 3),
            "y": vectors(tasks, 8, seed + 1),
            "qx": vectors(tasks, 24, seed + 2).view(tasks, 8, 3),
            "qy": vectors(tasks, 8, seed + 3),
        }

    problem = Problem("ridge", inner_loss, outer_loss, lambda seed: -1 + 0.3 * vectors(1, 3, seed)[0], sample)
    return problem if start_at_theta else replace(problem, start=lambda theta, data: torch.zeros_like(theta))


@BOTH
@pytest.mark.parametrize("start_at_theta", [False, True], ids=["start at zero", "start at theta"])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_theta_may_enter_the_inner_loss_in_any_way(steps: int, start_at_theta: bool, estimator: Estimator) -> None:
    problem = hyperparameters(start_at_theta)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.2), theta, data, steps)
    gradient = estimator(problem, loop)
    assert only(gradient.outcome) is Outcome.OK
    check_by_differences(
        "central differences, hyperparameters", problem, loop.optimizer, theta, data, steps, gradient.value
    )


@BOTH
def test_with_no_steps_from_a_fixed_start_only_the_outer_loss_looks_at_theta(estimator: Estimator) -> None:
    problem = hyperparameters()
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.2), theta, data, 0)
    assert torch.equal(estimator(problem, loop).value, outer_gradients(problem, loop)[1])


@BOTH
def test_where_nothing_looks_at_theta_the_gradient_is_zero(estimator: Estimator) -> None:
    problem = Problem(
        "unmoved",
        inner_loss=lambda w, theta, data: (w**2).sum(-1),
        outer_loss=lambda w, theta, data: (w**2).sum(-1),
        init=lambda seed: torch.ones(2).double(),
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
        start=lambda theta, data: torch.ones(len(theta), 3).double(),
    )
    theta, data = theta_and_data(problem, 2)
    for steps in (0, 3):
        loop = run_inner(problem, GradientDescent(0.1), theta, data, steps)
        assert torch.equal(estimator(problem, loop).value, torch.zeros(2, 2).double())


@BOTH
def test_a_start_that_returns_theta_itself_is_the_same_as_a_copy(estimator: Estimator) -> None:
    """Else d/dw at w_0 would hold the loss's direct dependence on theta as well."""
    problem = hyperparameters(start_at_theta=True)
    itself = replace(problem, start=lambda theta, data: theta)
    theta, data = theta_and_data(problem, 2)
    one, two = (estimator(p, run_inner(p, GradientDescent(0.2), theta, data, 3)) for p in (problem, itself))
    assert only(two.outcome) is Outcome.OK
    assert torch.equal(one.value, two.value)


@BOTH
def test_the_unrolled_gradient_needs_no_proximal_term(estimator: Estimator) -> None:
    plain = build("quadratic[dimension=3]", strength=0.0)
    for problem in (plain, replace(plain, inner_loss=proximal(plain.inner_loss, -0.05))):
        theta, data = theta_and_data(problem, 2)
        loop = run_inner(problem, GradientDescent(0.5), theta, data, 4)
        gradient = estimator(problem, loop)
        assert only(gradient.outcome) is Outcome.OK
        check_by_differences("central differences, no term", problem, loop.optimizer, theta, data, 4, gradient.value)


def test_without_the_term_unrolling_is_the_product_of_contractions() -> None:
    problem = build("quadratic[dimension=3,strength=0]")
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, 4)
    truth = outer_gradients(problem, loop)[0]
    for _ in range(4):
        truth = truth - 0.5 * (data["A"] @ truth.unsqueeze(-1)).squeeze(-1)
    check_ratio("no term", row_norms(Unrolled()(problem, loop).value - truth), 2.0**-52 * 5 * row_norms(truth))


# ---- first order


def test_first_order_is_the_outer_gradient_carried_to_theta() -> None:
    problem, loop = sinusoid()
    by_w, by_theta = outer_gradients(problem, loop)
    assert torch.equal(FirstOrder()(problem, loop).value, by_w + by_theta)
    # From a start that does not depend on theta nothing is carried.
    ridge = hyperparameters()
    theta, data = theta_and_data(ridge, 2)
    loop = run_inner(ridge, GradientDescent(0.2), theta, data, 3)
    assert torch.equal(FirstOrder()(ridge, loop).value, outer_gradients(ridge, loop)[1])
    # From a start that is a matrix times theta, its transpose carries.
    doubled = replace(ridge, start=lambda theta, data: 2 * theta)
    loop = run_inner(doubled, GradientDescent(0.2), theta, data, 3)
    by_w, by_theta = outer_gradients(doubled, loop)
    assert torch.equal(FirstOrder()(doubled, loop).value, by_theta + 2 * by_w)
