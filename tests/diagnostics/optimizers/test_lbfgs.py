"""L-BFGS: its steps, its pairs, and the gradients through them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diagnostics.arithmetic.precision import PRECISIONS, Precision, enter_rows
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import InnerGradient, loss_gradient, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.optimizers.lbfgs import LBFGS
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.rows import row_norms
from tests.cases import check_by_differences, check_ratio, only, small, symmetric, theta_and_data, times, vectors

EPS = 2.0**-52


def quadratic_of(matrix: Tensor, target: Tensor) -> InnerGradient:
    """The loss `(w - target)' matrix (w - target) / 2`."""

    def loss(w: Tensor, theta: Tensor, data: object) -> Tensor:
        away = w - target
        return (away * times(matrix)(away)).sum(-1) / 2

    return InnerGradient(loss, torch.zeros(len(target), 1), {})


def pairs_of(state: Tensor, size: int, memory: int) -> tuple[Tensor, Tensor]:
    """The steps and changes `(B, m, N)` that a state holds."""
    steps, changes = state[:, 3 * size :].reshape(len(state), 2, memory, size).unbind(1)
    return steps, changes


def inverse_hessian(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """BFGS written out as a matrix, from pairs newest first."""
    s, y = pairs[0]
    identity = np.eye(len(s))
    h = (s @ y) / (y @ y) * identity
    for s, y in reversed(pairs):
        rho = 1 / (s @ y)
        h = (identity - rho * np.outer(s, y)) @ h @ (identity - rho * np.outer(y, s)) + rho * np.outer(s, s)
    return h


# ---- steps


def test_the_first_step_is_down_the_gradient_and_no_longer_than_the_learning_rate() -> None:
    """From 3 targets: gradients of length 5, of 1/2, and 0."""
    target = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    gradient = quadratic_of(torch.eye(2).double().expand(3, 2, 2), target)
    optimizer = LBFGS(0.5)
    state = optimizer.start(torch.zeros(3, 2).double())
    w = optimizer.step(state, gradient, 2)[:, :2]
    expected = torch.tensor([[0.3, 0.4], [0.15, 0.2], [0.0, 0.0]], dtype=torch.float64)
    check_ratio("first step", (w - expected).abs(), EPS * expected.abs().clamp_min(1e-300), "")


@pytest.mark.parametrize("memory", [1, 3, 20])
@pytest.mark.parametrize("learning_rate", [0.3, 1.0])
def test_steps_are_those_of_the_matrix_written_out(memory: int, learning_rate: float) -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, LBFGS(learning_rate, memory), theta, data, 8)
    size = loop.size
    w = loop.states[:, :, :size]
    g = torch.stack([loss_gradient(problem.inner_loss, at, theta, data) for at in w])
    for task in range(3):
        for k in range(1, 8):
            pairs = [
                ((w[j + 1] - w[j])[task].numpy(), (g[j + 1] - g[j])[task].numpy())
                for j in range(k - 1, max(k - 1 - memory, -1), -1)
            ]
            h = inverse_hessian(pairs)
            expected = -learning_rate * h @ g[k, task].numpy()
            found = (w[k + 1] - w[k])[task].numpy()
            # What is known of the step: w in units of eps, and H g to eps times the condition of H.
            unit = EPS * (np.linalg.norm(w[k, task]) + np.linalg.cond(h) * np.linalg.norm(expected))
            check_ratio("L-BFGS against matrices", torch.tensor(np.linalg.norm(found - expected)), unit, (memory, k))


@pytest.mark.parametrize("memory", [1, 2, 6])
def test_with_exact_line_searches_it_is_conjugate_gradients(memory: int) -> None:
    """On a quadratic, whatever the memory (Nazareth 1979), so that N steps reach the minimiser."""
    matrix = symmetric(torch.tensor([[1.0, 2, 3, 5, 8]], dtype=torch.float64))
    target = vectors(1, 5)
    gradient = quadratic_of(matrix, target)
    start = torch.zeros(1, 5).double()
    iterates = ConjugateGradients(5, keep=(1, 2, 3, 4, 5)).path(times(matrix), times(matrix)(target))
    state = LBFGS(1.0, memory).start(start)
    for iterate in iterates:
        full = LBFGS(1.0, memory).step(state, gradient, 5)[:, :5] - state[:, :5]
        slope = (gradient(state[:, :5]) * full).sum(-1)
        exact = -float(slope / (full * times(matrix)(full)).sum(-1))
        state = LBFGS(exact, memory).step(state, gradient, 5)
        # The condition is 8; conjugacy is lost by a rounding of it a step.
        unit = EPS * 8 * iterate.iterations * row_norms(target)
        check_ratio("L-BFGS against CG", row_norms(state[:, :5] - iterate.value), unit, iterate.iterations)
    check_ratio("L-BFGS, last step", row_norms(state[:, :5] - target), EPS * 8 * 5 * row_norms(target), memory)


# ---- states


def test_what_the_states_hold() -> None:
    """The newest pair comes first; with two pairs, the oldest of three is forgotten."""
    problem, size, memory = small("quadratic"), 5, 2
    theta, data = theta_and_data(problem, 3)
    optimizer = LBFGS(1.0, memory)
    loop = run_inner(problem, optimizer, theta, data, 4)
    assert loop.states.shape == (5, 3, (3 + 2 * memory) * size)
    assert torch.equal(loop.states[0, :, :size], theta) and not bool(loop.states[0, :, size:].any())
    w, last, before = (loop.states[:, :, i * size : (i + 1) * size] for i in range(3))
    for k in range(1, 5):
        g = loss_gradient(problem.inner_loss, w[k - 1], theta, data)
        assert torch.equal(last[k], w[k] - w[k - 1]) and torch.equal(before[k], g)
        steps, changes = pairs_of(loop.states[k], size, memory)
        for place in range(memory):
            j = k - 1 - place  # the pair of the step to w_j
            if j < 1:
                assert not bool(steps[:, place].any() or changes[:, place].any())
            else:
                assert torch.equal(steps[:, place], last[j])
                assert torch.equal(changes[:, place], before[j + 1] - before[j])


def test_pairs_without_positive_curvature_are_not_kept() -> None:
    """One task has a bowl, the other a saddle along whose unstable direction it goes."""
    matrix = torch.diag_embed(torch.tensor([[1.0, 0.5], [-1.0, 0.5]], dtype=torch.float64))
    gradient = quadratic_of(matrix, torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    optimizer = LBFGS(0.1, 3)
    state = optimizer.start(torch.tensor([[1.0, 0.1], [1.0, 0.1]], dtype=torch.float64))
    for _ in range(3):
        state = optimizer.step(state, gradient, 2)
    steps, changes = pairs_of(state, 2, 3)
    assert bool(steps[0, 0].any()) and bool(steps[0, 1].any())
    assert not bool(steps[1].any()) and not bool(changes[1].any())
    assert bool(state.isfinite().all())


def test_a_loop_that_has_converged_stays_where_it_is() -> None:
    """Its steps are rounding errors, and tell nothing: the pairs stay as they were, bit for bit."""
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, LBFGS(1.0), theta, data, 120)
    assert problem.minimizer is not None
    minimiser = problem.minimizer(theta, data)
    # |H| <= 1.1 and its smallest eigenvalue is above 0.1.
    for k in (60, 90, 120):
        unit = EPS * 11 * row_norms(minimiser)
        check_ratio("L-BFGS, converged", row_norms(loop.states[k, :, : loop.size] - minimiser), unit, k)
    assert torch.equal(loop.states[60, :, 3 * loop.size :], loop.states[120, :, 3 * loop.size :])


# ---- gradients through it


@pytest.mark.parametrize("halvings", [0, 6])
@pytest.mark.parametrize(
    "problem_name, steps", [("quadratic", 3), ("logistic", 6), ("linear_regression", 6), ("sinusoid", 5)]
)
def test_the_gradient_is_the_derivative(problem_name: str, steps: int, halvings: int) -> None:
    problem, optimizer = small(problem_name), LBFGS(1.0, 3, halvings)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, optimizer, theta, data, steps)
    whole, adjoint = Unrolled()(problem, loop), UnrolledAdjoint()(problem, loop)
    assert only(whole.outcome) is Outcome.OK and only(adjoint.outcome) is Outcome.OK
    unit = EPS * steps * row_norms(whole.value)
    check_ratio("L-BFGS, unrolled against adjoint", row_norms(whole.value - adjoint.value), unit, problem_name)
    # A finer step than usual: H bends within the size of the first step.
    check_by_differences("L-BFGS", problem, optimizer, theta, data, steps, adjoint.value, step=2e-5)


@pytest.mark.parametrize("problem_name", ["quadratic", "linear_regression"])
def test_the_gradient_tends_to_that_of_the_minimiser(problem_name: str) -> None:
    """And stays there: the pairs of the last steps are right to 1/16, and with them what a step leaves of an error.

    So there is no bound by eps alone; half of the digits are asked for. Kept pairs of rounding errors leave none.
    """
    problem = small(problem_name)
    theta, data = theta_and_data(problem, 8)
    loop = run_inner(problem, LBFGS(1.0), theta, data, 100)
    at = theta.clone().requires_grad_()
    assert problem.minimizer is not None
    (exact,) = torch.autograd.grad(problem.outer_loss(problem.minimizer(at, data), at, data).sum(), at)
    for found in UnrolledAdjoint().path(problem, loop, (40, 100)):
        assert only(found.outcome) is Outcome.OK
        error = row_norms(found.value - exact)
        check_ratio("L-BFGS against the minimiser", error, EPS**0.5 * row_norms(exact), problem_name, limit=1)


@pytest.mark.parametrize("before", [0, 3])
def test_a_task_that_starts_at_its_minimum_stays_and_has_the_derivative_of_a_step_there(before: int) -> None:
    """At g = 0 it is `1 - learning_rate H A`; H is 1 without pairs, and else does not depend on g."""
    matrix = symmetric(torch.tensor([[1.0, 0.5, 0.25]], dtype=torch.float64))
    target = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    gradient = quadratic_of(matrix, target)
    optimizer = LBFGS(0.5, 3)
    state = optimizer.start(torch.zeros(1, 3).double())
    for _ in range(before):
        state = optimizer.step(state, gradient, 3)
    state = torch.cat([target, state[:, 3:]], -1)

    def weights_after(w: Tensor) -> Tensor:
        graph = InnerGradient(gradient.loss, gradient.theta, {}, graph=True)
        return optimizer.step(torch.cat([w, state[:, 3:]], -1), graph, 3)[:, :3]

    assert torch.equal(weights_after(target.clone().requires_grad_()), target)
    at = target.clone().requires_grad_()
    after = weights_after(at)
    rows = torch.stack([torch.autograd.grad(after[0, i], at, retain_graph=True)[0][0] for i in range(3)])
    steps, changes = pairs_of(optimizer.step(state, gradient, 3), 3, 3)
    known = [(s.numpy(), y.numpy()) for s, y in zip(steps[0], changes[0], strict=True) if bool(s.any())]
    assert len(known) == max(before, 0)
    h = torch.from_numpy(inverse_hessian(known)) if known else torch.eye(3).double()
    check_ratio("L-BFGS at g = 0", (rows - (torch.eye(3) - 0.5 * h @ matrix[0])).abs(), EPS * 16, f"{before} before")


@pytest.mark.parametrize("arithmetic", PRECISIONS.values(), ids=PRECISIONS)
def test_a_stationary_start_has_a_finite_derivative_in_every_arithmetic(arithmetic: Precision) -> None:
    def inner_loss(w: Tensor, theta: Tensor, data: object) -> Tensor:
        return (0.5 * (w - 1.0) ** 2).sum(-1)

    problem = Problem(
        "bowl", inner_loss, lambda w, theta, data: (w**2).sum(-1), lambda seed: torch.ones(2), lambda n, seed: {}
    )
    with arithmetic.running():
        theta = arithmetic.enter(torch.ones(1, 2).double())
        found = UnrolledAdjoint()(problem, run_inner(problem, LBFGS(0.5), theta, {}, 3))
    assert only(found.outcome) is Outcome.OK
    assert arithmetic.leave(found.value).tolist() == [[0.25, 0.25]]  # (1 - 0.5)^3 2


# ---- scales and rows


def test_a_power_of_two_on_the_loss_changes_nothing() -> None:
    """Where the first gradient is longer than 1 both times, bit for bit, the gradient included."""
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 3)

    def scaled(factor: float) -> tuple[Tensor, Tensor]:
        changed = Problem(
            "scaled",
            lambda w, theta, data: factor * problem.inner_loss(w, theta, data),
            problem.outer_loss,
            problem.init,
            problem.sample,
        )
        loop = run_inner(changed, LBFGS(1.0), theta, data, 6)
        assert bool((loop.gradient_norms[0] > 1).all())
        return loop.final, UnrolledAdjoint()(changed, loop).value

    for one, two in zip(scaled(1.0), scaled(2.0**40), strict=True):
        assert torch.equal(one, two)


def test_in_float16_products_below_its_range_are_no_loss() -> None:
    """Steps and gradients of 2^-9, whose products are 2^-18: the next step is that of the same at size 1, bit for bit.

    The other way round, products of sums of 2^17 are above its range.
    """
    half = PRECISIONS["float16"]
    s, g = (x.sign() * (x.abs() + 0.5) for x in (vectors(2, 4), vectors(2, 4, 1)))
    before = g - torch.tensor([0.5, 1.5, 1.0, 2.0], dtype=torch.float64) * s
    ends = []
    for size in (1.0, 2.0**-9, 2.0**8):
        with half.running():
            state = half.enter(torch.cat([torch.zeros_like(s), size * s, size * before, torch.zeros(2, 8)], -1))
            at = InnerGradient(lambda w, theta, data, size=size: (half.enter(size * g) * w).sum(-1), state, {})
            following = LBFGS(1.0, 1).step(state, at, 4)
        assert bool(pairs_of(following, 4, 1)[0].any(-1).all())
        ends.append(following[:, :4].double() / size)
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 3)
    for optimizer in (LBFGS(1.0), LBFGS(1.0, halvings=3)):
        clean = run_inner(problem, optimizer, theta, data, 4)
        far, spoiled = theta.clone(), {key: value.clone() for key, value in data.items()}
        far[1] = 1e308
        spoiled["A"][1] *= 1e10
        loop = run_inner(problem, optimizer, far, spoiled, 4)
        assert decode(loop.outcome) == [Outcome.OK, Outcome.DIVERGED, Outcome.OK]
        assert torch.equal(loop.states[:, [0, 2]], clean.states[:, [0, 2]])
        one, two = (UnrolledAdjoint()(problem, x).value[[0, 2]] for x in (loop, clean))
        assert torch.equal(one, two)


def test_nothing_waits_for_a_number() -> None:
    """Tensors without numbers refuse every `bool(...)` of them."""
    problem = small("logistic")
    theta, data = theta_and_data(problem, 3)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake, rest = mode.from_tensor(theta), {key: mode.from_tensor(value) for key, value in data.items()}
        optimizer = LBFGS(1.0, halvings=2)
        state = optimizer.start(fake)
        for _ in range(2):
            state = optimizer.step(state, InnerGradient(problem.inner_loss, fake, rest), 5)
    assert state.shape == (3, 13 * 5)


def test_float32_is_float64_but_for_its_roundings() -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    narrow = run_inner(problem, LBFGS(1.0), theta, data, 30)
    wide = run_inner(problem, LBFGS(1.0), theta.double(), enter_rows(PRECISIONS["float64"], data), 30)
    assert bool((wide.stationarity[-1] < 1e-10).all())
    # Both are at the minimum, which is known to eps times the condition of the Hessian, below 20.
    unit = 2.0**-23 * 20 * (row_norms(wide.final) + 1)
    check_ratio("float32 L-BFGS", row_norms(narrow.final.double() - wide.final), unit, "logistic")


# ---- backtracking and settings


def test_halvings_keep_the_loss_from_rising() -> None:
    problem = small("sinusoid")
    theta, data = theta_and_data(problem, 6)
    rises = {}
    for halvings in (0, 10):
        loop = run_inner(problem, LBFGS(4.0, halvings=halvings), theta, data, 15)
        losses = torch.stack([problem.inner_loss(state[:, : loop.size], theta, data) for state in loop.states])
        rises[halvings] = int((losses.diff(dim=0) > 4 * EPS * losses[:-1]).sum())
    assert rises[0] > 0 and rises[10] == 0


def test_a_task_whose_search_fails_stays_and_forgets_its_pairs() -> None:
    gradient = quadratic_of(torch.eye(2).double().expand(1, 2, 2), torch.zeros(1, 2).double())
    optimizer = LBFGS(0.5, 2, halvings=1)
    state = optimizer.start(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    for _ in range(3):
        state = optimizer.step(state, gradient, 2)
    assert bool(pairs_of(state, 2, 2)[0].any())
    stuck = LBFGS(64.0, 2, halvings=1).step(state, gradient, 2)  # too long by far, half of it as well
    assert torch.equal(stuck[:, :2], state[:, :2]) and not bool(stuck[:, 2:4].any())
    assert not bool(stuck[:, 6:].any())


@pytest.mark.parametrize("learning_rate", [0, -0.1, math.nan, math.inf, True, "0.1", None])
def test_a_learning_rate_is_above_zero(learning_rate: object) -> None:
    with pytest.raises(ValueError, match=r"^learning rate: expected a finite number > 0, found \S+$"):
        LBFGS(learning_rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting, least", [("memory", 1), ("halvings", 0)])
@pytest.mark.parametrize("value", [-1, 1.5, "2", True])
def test_counts_are_whole_numbers(setting: str, least: int, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{setting}: expected a whole number >= {least}, found "):
        LBFGS(1.0, **{setting: value})  # type: ignore[arg-type]
