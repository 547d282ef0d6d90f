"""Inner optimizers with a state: their steps, their states, and the gradients through them."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import cast

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.extended import words
from diagnostics.arithmetic.precision import PRECISIONS, Precision, enter_rows
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import InnerGradient, Optimizer, loss_gradient, optimizers, run_inner
from diagnostics.optimizers.adam import Adam
from diagnostics.optimizers.momentum import Momentum
from diagnostics.optimizers.nesterov import Nesterov
from diagnostics.optimizers.rmsprop import RMSprop
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.rows import row_norms
from tests.cases import check_by_differences, check_ratio, only, small, theta_and_data, vectors

EPS = 2.0**-52
STATEFUL = ("momentum", "nesterov", "rmsprop", "adam")
every_stateful = pytest.mark.parametrize("name", STATEFUL)
every_arithmetic = pytest.mark.parametrize("arithmetic", PRECISIONS.values(), ids=PRECISIONS)
columns = {"momentum": lambda n: 2 * n, "nesterov": lambda n: 2 * n, "rmsprop": lambda n: 2 * n,
           "adam": lambda n: 3 * n + 2}  # fmt: skip


def walk(optimizer: Optimizer, w: Tensor, gradient: Callable[[Tensor], Tensor], steps: int) -> list[Tensor]:
    """The states from weights `w (B, N)` on."""
    states = [optimizer.start(w)]
    for _ in range(steps):
        states.append(optimizer.step(states[-1], cast(InnerGradient, gradient), w.shape[1]))
    return states


def bowl(coupling: float = 0.25) -> Problem:
    """Inner loss `sum h (w - target)^2 / 2`, with the last weight out of it; the outer loss couples all weights."""

    def inner_loss(w: Tensor, theta: Tensor, data: object) -> Tensor:
        h = torch.tensor([1.0, 0.5, 0.0]).to(w.dtype)
        target = torch.tensor([1.0, -2.0, 0.0]).to(w.dtype)
        return (0.5 * h * (w - target) ** 2).sum(-1)

    def outer_loss(w: Tensor, theta: Tensor, data: object) -> Tensor:
        return (w**2).sum(-1) + coupling * w.sum(-1) ** 2

    return Problem("bowl", inner_loss, outer_loss, lambda seed: torch.zeros(3), lambda tasks, seed: {})


# ---- steps


def by_hand() -> list[tuple[Optimizer, list[float]]]:
    """Weights from 8 on, where the gradient is w; worked out on paper, roots left as they are."""
    after_adam = 4 - 5 * (16 / 3) / math.sqrt(256 / 7 + 36)
    first, second = (2 + after_adam / 2) / (7 / 8), (12 + after_adam**2 / 4) / (37 / 64)
    return [
        (Momentum(0.5, 0.5), [8, 4, 0, -2]),
        (Nesterov(0.5, 0.5), [8, 2, -0.5, -0.875]),
        (RMSprop(2.5, 0.75, 3.0), [8, 4, 2, 2 - 5 / math.sqrt(22)]),
        (Adam(5.0, 0.5, 0.75, 6.0), [8, 4, after_adam, after_adam - 5 * first / math.sqrt(second + 36)]),
    ]


@pytest.mark.parametrize("optimizer, weights", by_hand(), ids=STATEFUL)
def test_three_steps_are_those_worked_out_by_hand(optimizer: Optimizer, weights: list[float]) -> None:
    states = walk(optimizer, torch.tensor([[8.0]]).double(), lambda w: w, 3)
    for step, (state, weight) in enumerate(zip(states, weights, strict=True)):
        # Of numbers up to 8; each step is a dozen operations.
        check_ratio(
            "optimizers by hand", (state[:, 0] - weight).abs(), 8 * EPS * max(step, 1), type(optimizer).__name__
        )


def test_momentum_is_polyaks_heavy_ball() -> None:
    curvature = torch.tensor([[1.0, 0.3, 0.05]]).double()
    states = walk(Momentum(0.4, 0.8), vectors(1, 3), lambda w: curvature * w, 20)
    w = [state[:, :3] for state in states]
    for before, now, after in zip(w, w[1:], w[2:], strict=False):
        expected = now - 0.4 * curvature * now + 0.8 * (now - before)
        check_ratio("heavy ball", row_norms(after - expected), EPS * row_norms(w[0]), "three terms")


def test_nesterov_steps_from_one_look_ahead_point_to_the_next() -> None:
    curvature = torch.tensor([[1.0, 0.3, 0.05]]).double()
    states = walk(Nesterov(0.4, 0.8), vectors(1, 3), lambda w: curvature * w, 20)
    x, u = vectors(1, 3), torch.zeros(1, 3).double()
    for step, state in enumerate(states):
        # Errors of single steps add up over the twenty, and the iteration contracts.
        unit = EPS * (step + 1) * row_norms(states[0])
        check_ratio("look-ahead points", row_norms(x + 0.8 * u - state[:, :3]), unit, step)
        u = 0.8 * u - 0.4 * curvature * (x + 0.8 * u)
        x = x + u


TORCHS = {
    "momentum": (Momentum(0.05), lambda w: torch.optim.SGD([w], 0.05, momentum=0.9)),
    "nesterov": (Nesterov(0.05), lambda w: torch.optim.SGD([w], 0.05, momentum=0.9, nesterov=True)),
    "rmsprop": (RMSprop(0.05, eps=1e-30), lambda w: torch.optim.RMSprop([w], 0.05, eps=1e-30)),
    "adam": (Adam(0.05, eps=1e-30), lambda w: torch.optim.Adam([w], 0.05, eps=1e-30)),
}


@every_stateful
def test_trajectories_are_those_of_torch_optim(name: str) -> None:
    """With an eps that neither form feels, so that only rounding is left."""
    problem, steps = small("quadratic"), 30
    theta, data = theta_and_data(problem, 3)
    ours, build = TORCHS[name]
    loop = run_inner(problem, ours, theta, data, steps)
    # What a rounding grows to is measured: by how much the end moves when the start does, in units of that.
    nudged = run_inner(problem, ours, theta * (1 + 2.0**-30 * vectors(3, theta.shape[1])), data, steps)
    growth = row_norms((nudged.states - loop.states)[:, :, : loop.size]) / 2.0**-30

    w = theta.clone().requires_grad_()
    theirs = build(w)
    for step in range(steps + 1):
        found = loop.states[step, :, : loop.size]
        unit = EPS * (step + 1) * (growth[: step + 1].amax(0) + row_norms(found))
        check_ratio("torch.optim", row_norms(found - w.detach()), unit, f"{name}, step {step}")
        w.grad = loss_gradient(problem.inner_loss, w.detach(), theta, data)
        theirs.step()


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_eps_is_inside_the_root_where_torch_adds_it_outside(name: str) -> None:
    """Of one step from 0, both forms are known; the root here is the smaller, by at most eps."""
    g, eps = torch.tensor([[1e-4, -1e-2, 3.0]]).double(), 0.01
    ours, theirs = {"rmsprop": (RMSprop, torch.optim.RMSprop), "adam": (Adam, torch.optim.Adam)}[name]
    second = g**2 * (1 - 0.99) if name == "rmsprop" else g**2
    inside = walk(ours(0.1, eps=eps), torch.zeros_like(g), lambda w: g, 1)[1][:, :3]
    w = torch.zeros_like(g).requires_grad_()
    w.grad = g.clone()
    theirs([w], 0.1, eps=eps).step()
    expected = -0.1 * g / (second + eps**2).sqrt()
    check_ratio("eps inside", (inside - expected).abs(), EPS * expected.abs(), name)
    expected = -0.1 * g / (second.sqrt() + eps)
    check_ratio("eps outside", (w.detach() - expected).abs(), EPS * expected.abs(), name)
    assert bool(((w.detach() / inside) < 1).all())
    roots = [-0.1 * g / x for x in (inside, w.detach())]
    assert bool((roots[1] - roots[0] < eps).all())


# ---- states


@every_stateful
@pytest.mark.parametrize("tasks, size", [(3, 4), (1, 1), (2, 0), (0, 2)])
def test_the_state_is_one_row_a_task_that_starts_with_the_weights(name: str, tasks: int, size: int) -> None:
    w = vectors(tasks, size)
    states = walk(optimizers[name](0.1), w, lambda w: 0.5 * w, 2)
    for state in states:
        assert state.shape == (tasks, columns[name](size)) and state.dtype == w.dtype
    assert torch.equal(states[0][:, :size], w) and not bool(states[0][:, size:].any())


def test_what_the_states_hold_after_a_step() -> None:
    w, g = torch.ones(1, 2).double(), torch.tensor([[2.0, -4.0]]).double()
    held = {
        Momentum(0.1): [2.0, -4.0],
        Nesterov(0.1): [2.0, -4.0],
        RMSprop(0.1, decay=0.75): [1.0, 4.0],
        Adam(0.1, beta1=0.5, beta2=0.75): [1.0, -2.0, 1.0, 4.0, 0.5, 0.25],
    }
    for optimizer, rest in held.items():
        assert walk(optimizer, w, lambda w: g, 1)[1][0, 2:].tolist() == rest


@every_stateful
def test_one_gradient_a_step_at_the_weights(name: str) -> None:
    asked: list[Tensor] = []
    states = walk(optimizers[name](0.1), vectors(2, 3), lambda w: asked.append(w) or w, 3)
    assert len(asked) == 3
    assert all(torch.equal(at, state[:, :3]) for at, state in zip(asked, states, strict=False))


@every_stateful
def test_a_row_that_is_not_finite_leaves_the_others_alone(name: str) -> None:
    w = vectors(3, 4)
    clean = walk(optimizers[name](0.1), w, lambda w: w, 3)
    spoiled = w.clone()
    spoiled[1, 2] = torch.nan
    for one, two in zip(clean, walk(optimizers[name](0.1), spoiled, lambda w: w, 3), strict=True):
        assert torch.equal(one[[0, 2]], two[[0, 2]])
        assert bool(two[1].isnan().any())


@every_arithmetic
def test_adams_corrections_are_one_less_a_power(arithmetic: Precision) -> None:
    """Within one rounding a step, against exact fractions, and even where 0.999 itself is 1."""
    with arithmetic.running():
        w = arithmetic.enter(torch.ones(1, 1).double())
        states = walk(Adam(0.1), w, lambda w: w, 50)
    for t, state in enumerate(states):
        for column, beta in ((-2, 0.9), (-1, 0.999)):
            high, low = (Fraction(float(word[0, column])) for word in words(state))
            exact = 1 - Fraction(beta) ** t
            unit = max(t, 1) * arithmetic.eps * float(exact)
            check_ratio("corrections", torch.tensor(float(abs(high + low - exact))), unit, arithmetic.name, limit=1)


def test_in_bfloat16_a_correction_stops_growing_where_the_second_moment_does() -> None:
    """So that v / c2 stays near g^2, as 8 bits allow, where v over 1 - 0.999^1000 is half of it."""
    g = torch.tensor([[1.0, 1.2, 1.4, 0.1]], dtype=torch.bfloat16)
    with PRECISIONS["bfloat16"].running():
        state = walk(Adam(0.1), torch.zeros_like(g), lambda w: g, 1000)[-1].double()
    second = state[:, 8:12]
    corrected, by_count = second / state[:, -1:], second / (1 - 0.999**1000)
    squares = g.double() ** 2
    assert bool((corrected > 0.75 * squares).all() and (corrected < 1.4 * squares).all())
    assert bool((by_count < 0.6 * squares).all())


# ---- gradients through them


@every_stateful
@pytest.mark.parametrize("problem_name", ["quadratic", "logistic"])
def test_the_gradient_is_the_derivative(name: str, problem_name: str) -> None:
    problem = small(problem_name)
    theta, data = theta_and_data(problem, 3)
    # A large eps keeps the loop smooth on the scale of the differences, where a gradient changes sign too.
    optimizer = optimizers[name](0.1) if name in ("momentum", "nesterov") else optimizers[name](0.1, eps=0.5)
    loop = run_inner(problem, optimizer, theta, data, 6)
    for estimator in (Unrolled(), UnrolledAdjoint()):
        found = estimator(problem, loop)
        assert only(found.outcome) is Outcome.OK
        check_by_differences("stateful optimizers", problem, optimizer, theta, data, 6, found.value)


@every_stateful
def test_the_gradient_is_the_derivative_where_a_component_of_the_inner_gradient_is_zero(name: str) -> None:
    """The first weight starts at its minimum, and the last is not in the inner loss at all."""
    problem, theta = bowl(), torch.tensor([[1.0, 3.0, -0.5]]).double()
    optimizer = optimizers[name](0.1) if name in ("momentum", "nesterov") else optimizers[name](0.1, eps=0.5)
    loop = run_inner(problem, optimizer, theta, {}, 4)
    gradient = UnrolledAdjoint()(problem, loop)
    assert only(gradient.outcome) is Outcome.OK
    assert torch.equal(loop.final[:, [0, 2]], theta[:, [0, 2]])
    check_by_differences("zero second moment", problem, optimizer, theta, {}, 4, gradient.value)


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
@pytest.mark.parametrize("arithmetic", ["bfloat16", "float32", "float64", "extended"])
def test_the_slope_at_a_zero_gradient_is_finite_and_known(name: str, arithmetic: str) -> None:
    """One step is `w - learning_rate g / sqrt(c g^2 + eps^2)`: at g = 0 its slope is `1 - learning_rate h / eps`."""
    problem, p = bowl(coupling=0.0), PRECISIONS[arithmetic]
    with p.running():
        theta = p.enter(torch.tensor([[1.0, 3.0, -0.5]]).double())
        loop = run_inner(problem, optimizers[name](0.125), theta, {}, 1)
        gradient = UnrolledAdjoint()(problem, loop)
    assert only(gradient.outcome) is Outcome.OK
    value = p.leave(gradient.value)
    slope = 2 * (1 - 0.125 / 1e-8)  # of w_1^2, at w_1 = 1
    # The settings are float64 in extended precision too, and eps^2 is one rounding of theirs.
    check_ratio("slope at zero", (value[:, 0] - slope).abs(), max(p.eps, EPS) * abs(slope), f"{name}, {arithmetic}")
    assert value[0, 2] == -1.0  # the weight that the inner loss does not see stays, and so does its derivative


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_where_eps_squared_underflows_a_zero_over_zero_is_an_outcome(name: str) -> None:
    half = PRECISIONS["float16"]
    theta = half.enter(torch.tensor([[1.0, 3.0, -0.5]]).double())
    for eps, expected in ((1e-8, Outcome.DIVERGED), (1 / 64, Outcome.OK)):
        with half.running():
            loop = run_inner(bowl(), optimizers[name](0.1, eps=eps), theta, {}, 2)
            found = UnrolledAdjoint()(bowl(), loop)
        assert only(loop.outcome) is expected and only(found.outcome) is expected


@every_stateful
def test_a_task_that_diverges_leaves_the_others_alone(name: str) -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 3)
    clean = UnrolledAdjoint()(problem, run_inner(problem, optimizers[name](0.1), theta, data, 3))
    theta = theta.clone()
    theta[1] = 1e308
    data["A"][1] *= 1e10
    found = UnrolledAdjoint()(problem, run_inner(problem, optimizers[name](0.1), theta, data, 3))
    assert decode(found.outcome) == [Outcome.OK, Outcome.DIVERGED, Outcome.OK]
    assert torch.equal(found.value[[0, 2]], clean.value[[0, 2]])


@every_stateful
def test_float32_is_float64_but_for_its_roundings(name: str) -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    narrow = run_inner(problem, optimizers[name](0.1), theta, data, 5)
    wide = run_inner(problem, optimizers[name](0.1), theta.double(), enter_rows(PRECISIONS["float64"], data), 5)
    # Five steps of at most 0.1 a component each round, and those that divide do so by gradients, which cancel.
    unit = 2.0**-23 * 6 * (row_norms(wide.final) + 1)
    check_ratio("float32 loops", row_norms(narrow.final.double() - wide.final), unit, name)


# ---- settings


@every_stateful
@pytest.mark.parametrize("learning_rate", [0, -0.1, math.nan, math.inf, True, "0.1", None])
def test_a_learning_rate_is_above_zero(name: str, learning_rate: object) -> None:
    with pytest.raises(ValueError, match=r"^learning rate: expected a finite number > 0, found \S+$"):
        optimizers[name](learning_rate)


@pytest.mark.parametrize(
    "name, setting",
    [("momentum", "momentum"), ("nesterov", "momentum"), ("rmsprop", "decay"), ("adam", "beta1"), ("adam", "beta2")],
)
def test_decay_rates_are_below_one(name: str, setting: str) -> None:
    assert getattr(optimizers[name](0.1, **{setting: 0}), setting) == 0
    for value in (1, 1.5):
        with pytest.raises(ValueError, match=f"^{setting}: expected a number >= 0 and below 1, found {value}$"):
            optimizers[name](0.1, **{setting: value})
    for value in (-0.1, math.nan, "0.9"):
        with pytest.raises(ValueError, match=f"^{setting}: expected a finite number >= 0, found "):
            optimizers[name](0.1, **{setting: value})


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_eps_is_above_zero(name: str) -> None:
    for eps in (0, -1e-8, math.nan):
        with pytest.raises(ValueError, match="^eps: expected a finite number > 0, found "):
            optimizers[name](0.1, eps=eps)


def test_no_decay_is_no_memory() -> None:
    w = vectors(2, 3)
    for optimizer in (Momentum(0.1, 0.0), Nesterov(0.1, 0.0)):
        assert torch.equal(walk(optimizer, w, lambda w: 0.5 * w, 1)[1][:, :3], w - 0.1 * (0.5 * w))
    signs = Adam(0.1, 0.0, 0.0, 1e-30)
    for changed in (signs, replace(signs, learning_rate=0.2)):
        found = walk(changed, w, lambda w: w, 1)[1][:, :3]
        check_ratio("signs", (found - (w - changed.learning_rate * w.sign())).abs(), EPS * (w.abs() + 1), "adam")
