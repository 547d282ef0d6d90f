"""The growth rate against closed forms and dense products, and its predictions against what is measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diagnostics.arithmetic.precision import Precision, enter_rows, precision
from diagnostics.growth import (
    contracting_error,
    digits_run_out,
    growth,
    predicted_error,
    underflow_error,
    underflow_step,
)
from diagnostics.inner import Gradient, Trajectory, run_inner
from diagnostics.one_step import take_step
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rounding import BackwardRounding, TwoLoops, backward_rounding, forward_rounding, run_again
from diagnostics.rows import Data, row_norms
from tests.cases import check_ratio, gd, small, theta_and_data, vectors

FLOAT32, FLOAT64 = precision("float32"), precision("float64")
U = 2.0**-53


@dataclass(frozen=True)
class HeavyBall:
    """Polyak's momentum, whose step is no symmetric map and whose state is twice as long as the weights."""

    learning_rate: float
    momentum: float = 0.8

    def start(self, w: Tensor) -> Tensor:
        return torch.cat([w, torch.zeros_like(w)], dim=-1)

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        w, velocity = state[:, :size], state[:, size:]
        velocity = self.momentum * velocity - self.learning_rate * gradient(w)
        return torch.cat([w + velocity, velocity], dim=-1)


def logistic_map(r: float = 4.0) -> Problem:
    """A loss in one unknown whose gradient descent with step 1 is `w <- r w (1 - w)`: bounded, and chaotic at r = 4."""
    return Problem(
        "logistic map",
        inner_loss=lambda w, theta, data: (0.5 * (1 - r) * w**2 + r / 3 * w**3).sum(-1),
        outer_loss=lambda w, theta, data: w.sum(-1),
        init=lambda seed: torch.tensor([0.2 + 0.011 * seed], dtype=torch.float64),
        sample=lambda tasks, seed: {"x": torch.zeros(tasks, 1).double()},
    )


def at_rest_where_it_expands(tasks: int) -> tuple[Tensor, Data]:
    """A start and data for `quadratic[dimension=4,strength=0]`: eigenvalues 1/4, 1/2, 3/4, 1 on a Hadamard basis.

    All is exact in few bits, and `w_0 - w*` has no part along the eigenvalue 1: with a step above 2 only rounding sets
    the loop moving there, and does so at once unless the step is of few bits as well.
    """
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    basis = torch.kron(one, one) / 2
    matrix = ((basis * torch.tensor([0.25, 0.5, 0.75, 1.0]).double()) @ basis.mT).expand(tasks, 4, 4)
    whole = torch.round(16 * vectors(2 * tasks, 4)) / 16
    rest, away = whole[:tasks], whole[tasks:]
    away = away - basis[:, 3] * (away @ basis[:, 3]).unsqueeze(-1)
    b = (matrix @ rest.unsqueeze(-1)).squeeze(-1)
    return rest + away, {"A": matrix, "C": torch.eye(4).double().expand(tasks, 4, 4), "b": b, "c": 0 * b}


def twice(
    problem: Problem, learning_rate: float, theta: Tensor, data: Data, steps: int, tested: Precision = FLOAT32
) -> TwoLoops:
    """The loop in the arithmetic under test, and from the same numbers in float64."""
    with tested.running():
        optimizer = GradientDescent(learning_rate)
        low = run_inner(problem, optimizer, tested.enter(theta), enter_rows(tested, data), steps)
    return run_again(problem, low, tested, FLOAT64)


def first(reached: Tensor) -> Tensor:
    """The first row `(B,)` where `reached (T, B)` holds, which it must somewhere."""
    assert bool(reached.any(0).all())
    return reached.to(torch.int8).argmax(0)


# ---- one step's derivative


@pytest.mark.parametrize("optimizer", [GradientDescent(0.3), HeavyBall(0.3)], ids=["gd", "heavy ball"])
@pytest.mark.parametrize("name", ["quadratic", "logistic", "sinusoid"])
def test_push_and_pull_are_one_derivative_and_its_transpose(name: str, optimizer: GradientDescent | HeavyBall) -> None:
    problem = small(name)
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, optimizer, theta, data, 2)
    taken = take_step(problem, loop, loop.states[1])
    assert torch.equal(taken.following, loop.states[2])
    v, a = (vectors(2, loop.states.shape[-1], seed) for seed in (0, 1))
    pushed, (pulled, _) = taken.push(v), taken.pull(a)
    # Rounding of the two inner products and of the Hessian, whose norm the step multiplies by at most 10 here.
    unit = 10 * U * row_norms(v) * row_norms(a) + U * row_norms(pushed) * row_norms(a)
    check_ratio("one step, transpose", ((a * pushed).sum(-1) - (pulled * v).sum(-1)).abs(), unit, name)
    h = 1e-5
    states = (loop.states[1] + sign * h * v for sign in (1, -1))
    ahead, behind = (take_step(problem, loop, state).following for state in states)
    # Central differences: h^2 times a third derivative of the step, at most 1000 |v|^3 here; and rounding over h.
    unit = 1000 * h**2 * row_norms(v) ** 3 + U * row_norms(ahead) / h
    check_ratio("one step, differences", row_norms((ahead - behind) / (2 * h) - pushed), unit, name, limit=1.0)


def test_push_and_pull_on_a_quadratic_are_the_matrix() -> None:
    problem = small("quadratic", strength=0.1)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, gd(problem), theta, data, 1)
    v = vectors(3, 5)
    truth = v - 0.5 * ((data["A"] @ v.unsqueeze(-1)).squeeze(-1) + 0.1 * v)
    taken = take_step(problem, loop, loop.states[0])
    by_state, by_theta = taken.pull(v)
    for result, expected in ((taken.push(v), truth), (by_state, truth), (by_theta, 0.5 * 0.1 * v)):
        check_ratio("one step, quadratic", row_norms(result - expected), 5 * U * row_norms(v))


# ---- the growth rate


@given(
    dimension=st.integers(1, 6),
    learning_rate=st.floats(0.1, 3.0),
    strength=st.sampled_from([0.0, 0.1, 1.0]),
    steps=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12)
def test_on_a_quadratic_the_rate_is_that_of_the_largest_factor(
    dimension: int, learning_rate: float, strength: float, steps: int, seed: int
) -> None:
    problem = small("quadratic", dimension=dimension, strength=strength, learning_rate=learning_rate)
    theta, data = theta_and_data(problem, 2, seed)
    loop = run_inner(problem, gd(problem), theta, data, steps)
    found = growth(problem, loop, iterations=10, tolerance=0.0, seed=seed)
    factors = (1 - learning_rate * (torch.linalg.eigvalsh(data["A"]) + strength)).abs()
    rate = factors.amax(-1).log()
    # A factor is known to rounding of 1 + learning_rate * |H|; and power iteration may not have ended, which it tells.
    rounding = dimension * U * (1 + learning_rate * (1 + strength)) / factors.amax(-1)
    check_ratio("growth, quadratic", (found.rate - rate).abs(), rounding + found.uncertainty)
    assert bool((found.rate <= rate + 30 * rounding).all())  # from below
    assert torch.equal(found.along[0], torch.zeros(2).double()) and found.along.shape == (steps + 1, 2)
    check_ratio("growth, along", (found.along[-1] - steps * found.rate).abs(), U * steps * found.rate.abs())


def test_with_factors_apart_power_iteration_ends_at_rounding() -> None:
    problem = build("quadratic", dimension=4, condition=10.0, strength=0.0, learning_rate=2.5)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, gd(problem), theta, data, 40)
    found = growth(problem, loop, tolerance=1e-14)
    check_ratio("growth, apart", (found.rate - math.log(1.5)).abs(), 4 * U)
    check_ratio("growth, its uncertainty", found.uncertainty, 4 * U)


@pytest.mark.parametrize("problem", [small("quadratic"), logistic_map(3.7)], ids=lambda problem: problem.name)
@pytest.mark.parametrize("steps", [1, 8])
def test_with_momentum_the_rate_is_that_of_the_dense_product(problem: Problem, steps: int) -> None:
    """P is then not symmetric, and its norm above its greatest eigenvalue."""
    theta, data = theta_and_data(problem, 2)
    loop = run_inner(problem, HeavyBall(0.2), theta, data, steps)
    size = loop.states.shape[-1]
    product = torch.eye(size).double().expand(2, -1, -1)
    for state in loop.states[:-1]:
        push = take_step(problem, loop, state).push
        product = torch.stack([push(product[..., column]) for column in range(size)], dim=-1)
    norm = torch.linalg.matrix_norm(product, 2)
    assert bool((norm > 1.05 * torch.linalg.eigvals(product).abs().amax(-1)).all())
    found = growth(problem, loop, iterations=40, tolerance=0.0)
    assert bool((found.uncertainty < 0.01).all())  # else the check below would be blunt
    unit = 10 * U + found.uncertainty
    check_ratio("growth, dense product", (found.rate - norm.log() / steps).abs(), unit, problem.name)


def test_on_a_chaotic_map_the_rate_is_the_mean_logarithm_of_the_slope() -> None:
    problem = logistic_map()
    theta, data = theta_and_data(problem, 40)
    loop = run_inner(problem, GradientDescent(1.0), theta, data, 400)
    found = growth(problem, loop)
    slopes = (4 * (1 - 2 * loop.states[:-1, :, 0])).abs().log()
    # Where the slope is near 0 its own rounding is what is seen: the sum of 1/|slope| counts it.
    check_ratio("growth, chaotic map", (found.rate - slopes.mean(0)).abs(), U * 10 * (-slopes).exp().mean(0))
    check_ratio("growth, chaotic map, along", (found.along[1:] - slopes.cumsum(0)).abs(),
                10 * U * (-slopes).exp().cumsum(0))  # fmt: skip
    # The exponent of the map is ln 2, and 40 loops of 400 steps meet it within five deviations of their mean.
    deviation = found.rate.std() / 40**0.5
    assert bool((found.rate.mean() - math.log(2)).abs() < 5 * deviation) and bool(deviation < 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [9.0, 0.05])
def test_growth_beyond_any_exponent_is_measured(factor: float, dtype: torch.dtype) -> None:
    """9^400 is 10^382 and 0.05^400 is 10^-520; the loop is one whose states are held still, so that they are finite."""
    problem = build("quadratic", dimension=1, strength=0.0, learning_rate=1 + factor if factor > 1 else 1 - factor)
    theta, data = theta_and_data(problem, 2, dtype=dtype)
    loop = run_inner(problem, gd(problem), theta, data, 0)
    still = loop.states.expand(401, -1, -1), loop.gradient_norms.expand(401, -1)
    found = growth(problem, replace(loop, states=still[0], gradient_norms=still[1]), iterations=2)
    eps = torch.finfo(dtype).eps
    # The factor is 1 less the step, rounded; the sum of 400 logarithms rounds 400 times at its own size.
    unit = eps / factor + 400 * eps * abs(math.log(factor))
    check_ratio("growth, exponents", (found.rate - math.log(factor)).abs(), unit)


def test_a_loop_that_forgets_and_one_that_diverges() -> None:
    problem = build("quadratic", dimension=1, strength=0.0, learning_rate=1.0)
    theta, data = theta_and_data(problem, 3)
    data["A"][1] *= 1e200
    loop = run_inner(problem, gd(problem), theta, data, 4)
    found = growth(problem, loop)
    assert decode(found.outcome) == [Outcome.OK, Outcome.DIVERGED, Outcome.OK]
    assert found.rate[0] == found.rate[2] == -math.inf and bool(found.rate[1].isnan())  # 1 - 1 * A = 0
    assert found.uncertainty[0] == found.uncertainty[2] == 0


def test_bad_counts_are_refused() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 1)
    with pytest.raises(ValueError, match="growth: inner steps: expected a whole number >= 1, found 0"):
        growth(problem, run_inner(problem, gd(problem), theta, data, 0))
    with pytest.raises(ValueError, match="growth: iterations: expected a whole number >= 1, found 0"):
        growth(problem, run_inner(problem, gd(problem), theta, data, 1), iterations=0)
    with pytest.raises(ValueError, match="steps: expected a whole number >= 0, found -1"):
        contracting_error([-1], torch.tensor([-1.0]), 1e-7, 1.0)


# ---- the predictions, in closed form


def test_the_predicted_steps_of_known_arithmetics() -> None:
    """16.6/Lambda for float32, 36.7/Lambda for float64, 73/Lambda for double-double; 87/(a mu) and 708/(a mu)."""
    rate = torch.tensor([0.5, 0.0, -0.5, torch.nan, -torch.inf]).double()
    for eps, predicted in ((2.0**-23, 16.6), (2.0**-52, 36.7), (2.0**-105, 73.4)):
        run_out = digits_run_out(rate, eps)
        assert float(run_out[0]) == pytest.approx(predicted / 0.5, rel=0.01)
        assert run_out[1:].tolist()[:2] == [math.inf, math.inf] and bool(run_out[3].isnan()) and run_out[4] == math.inf
    one = torch.ones(5).double()
    for dtype, predicted in ((torch.float32, 87.3), (torch.float64, 708.4)):
        step = underflow_step(rate, one, torch.finfo(dtype).tiny)
        assert float(step[2]) == pytest.approx(predicted / 0.5, rel=0.001)
        assert step.tolist()[:2] == [math.inf, math.inf] and bool(step[3].isnan()) and step[4] == 0
    # A power of two moves the step by ln 2 over the rate, each.
    moved = underflow_step(rate, 2.0**20 * one, 2.0**-126) - underflow_step(rate, one, 2.0**-126)
    assert float(moved[2]) == pytest.approx(20 * math.log(2) / 0.5)


def test_the_predicted_errors_in_closed_form() -> None:
    u, q = 2.0**-24, 0.9
    rate = torch.tensor([math.log(q), math.log(1.5)]).double()
    steps = (0, 1, 5, 10, 100)
    bound = contracting_error(steps, rate, 2 * u, 3.0)
    assert bound[:, 0].tolist() == pytest.approx([3 * u * count for count in (1, 1, 5, 10, 10)])
    assert bool(bound[:, 1].isinf().all())
    walk = contracting_error(steps, rate, 2 * u, 3.0, walk=True)
    assert walk[:, 0].tolist() == pytest.approx([3 * u * min(max(k, 1), 1 / (1 - q * q)) ** 0.5 for k in steps])

    norm, tiny = torch.tensor([8.0, 8.0]).double(), 2.0**-10
    lost = underflow_error((0, 50, 100, 200), rate, 2 * u, norm, tiny)
    onset = float(underflow_step(rate, norm, tiny)[0])
    assert 50 < onset < 100 and lost[:2, 0].tolist() == [0, 0]
    assert lost[2:, 0].tolist() == pytest.approx([u * tiny * 10 / (8 * q**k) for k in (100, 200)])

    total = predicted_error(steps, rate, 2 * u, tiny, norm=norm, condition=3.0)
    assert torch.equal(total[:, 0], bound[:, 0])
    assert total[:, 1].tolist() == pytest.approx([min(u * 1.5**k, 1) for k in steps])
    without = predicted_error((0, 50, 1000), rate, 2 * u, tiny, norm=norm, condition=None)
    assert without[:, 0].tolist() == pytest.approx([u, 50 * u, 1])
    for condition in (3.0, None):
        neutral = predicted_error((0, 9), 0 * rate, 2 * u, tiny, norm=norm, condition=condition)
        assert neutral[:, 0].tolist() == [u, 9 * u]
        neutral = predicted_error((0, 9), 0 * rate, 2 * u, tiny, norm=norm, condition=condition, walk=True)
        assert neutral[:, 0].tolist() == [u, 3 * u]
    unknown = predicted_error((1,), torch.tensor([torch.nan]).double(), 2 * u, tiny, norm=norm[:1], condition=None)
    assert bool(unknown.isnan().all())


# ---- the predictions against what is measured


@pytest.mark.parametrize("learning_rate", [2.2, 2.35])
def test_float32_loses_all_digits_where_it_is_predicted_to(learning_rate: float) -> None:
    """A quadratic at rest along what expands: states, and the gradient because of the states.

    20% of ln(1/u) allows the first rounding there to be 27 times less or more than u.
    """
    problem = build("quadratic", dimension=4, strength=0.0)
    theta, data = at_rest_where_it_expands(8)
    loops = twice(problem, learning_rate, theta, data, int(1.3 * 16.6 / math.log(learning_rate - 1)))
    rate = growth(problem, loops.exact).rate
    check_ratio("growth, at rest", (rate - math.log(learning_rate - 1)).abs(), 4 * U)
    predicted = digits_run_out(rate, FLOAT32.eps)
    states = first(forward_rounding(loops).accumulated >= 1)
    assert bool(((states - predicted).abs() < 0.2 * predicted).all()), (states, predicted)
    for fraction, lost in ((0.8, False), (1.2, True)):
        end = backward_rounding(prefix(loops, int(fraction * predicted[0])))
        assert bool(((relative_error(end) >= 1) == lost).all()), fraction
        assert bool((end.by_states[0] > 1e3 * end.by_sweep[0]).all())


def test_float64_loses_all_digits_where_it_is_predicted_to() -> None:
    """The same against extended precision; 53 bits last 53/24 times as long as 24."""
    problem = build("quadratic", dimension=4, strength=0.0)
    theta, data = at_rest_where_it_expands(8)
    low = run_inner(problem, GradientDescent(2.35), theta, data, int(1.3 * 36.7 / math.log(1.35)))
    loops = run_again(problem, low, FLOAT64, precision("extended"))
    predicted = digits_run_out(torch.tensor(math.log(1.35)), FLOAT64.eps)
    states = first(forward_rounding(loops).accumulated >= 1)
    assert bool(((states - predicted).abs() < 0.1 * predicted).all()), (states, predicted)


def prefix(loops: TwoLoops, steps: int) -> TwoLoops:
    return replace(loops, low=loops.low.prefix(steps), exact=loops.exact.prefix(steps))


def relative_error(found: BackwardRounding) -> Tensor:
    return row_norms(found.error) / row_norms(found.gradient)


def test_a_chaotic_map_loses_its_digits_where_it_is_predicted_to() -> None:
    """Bounded and not linear; over 24 steps its rate varies with the loop, and so the median is compared."""
    problem = logistic_map()
    theta, data = theta_and_data(problem, 40)
    loops = twice(problem, 1.0, theta, data, 60)
    predicted = digits_run_out(growth(problem, loops.exact).rate, FLOAT32.eps).median()
    states = first(forward_rounding(loops).accumulated >= 1).double().median()
    gradients = torch.stack([relative_error(backward_rounding(prefix(loops, steps))) for steps in range(1, 40)])
    for measured in (states, 1 + first(gradients >= 1).double().median()):
        assert bool((measured - predicted).abs() < 0.2 * predicted), (measured, predicted)


def contracting(steps: int, ends: tuple[int, ...], condition: float, strength: float) -> None:
    problem = build("quadratic", dimension=20, condition=condition, strength=strength)
    theta, data = theta_and_data(problem, 4)
    constants = problem.constants(data)  # type: ignore[misc]
    loops = twice(problem, 0.5, theta, data, steps)
    rate = growth(problem, loops.exact.prefix(100), iterations=8).rate
    truth = (1 - 0.5 * torch.stack([constants.smallest, constants.largest])).abs().amax(0).log()
    # Eigenvalues that lie close hold power iteration up; a percent of the rate is a percent of what it predicts.
    check_ratio("growth, contracting", (rate - truth).abs(), 0.01 * truth.abs(), limit=1.0)
    amplified = constants.largest / strength
    for end in ends:
        error = relative_error(backward_rounding(prefix(loops, end)))
        # A product with a full matrix of dimension 20 rounds sqrt(20) times as often as the model says.
        for walk in (False, True):
            unit = contracting_error((end,), rate, FLOAT32.eps, amplified, walk=walk)[0]
            check_ratio(f"contracting{', walk' * walk}", error, unit, f"{end} steps", limit=20**0.5)
        assert bool(((error > 3e-8) & (error < 1e-5)).all())


@pytest.mark.parametrize(("condition", "strength"), [(10.0, 0.1), (1000.0, 1.0)])
def test_a_contracting_loop_stays_within_the_prediction(condition: float, strength: float) -> None:
    contracting(100, (1, 10, 30, 100), condition, strength)


@pytest.mark.slow
@pytest.mark.parametrize("condition", [10.0, 1000.0])
def test_a_contracting_loop_of_ten_thousand_steps_stays_within_the_prediction(condition: float) -> None:
    contracting(10_000, (10, 100, 1000, 10_000), condition, 0.1)


@pytest.mark.parametrize(
    ("name", "pulls", "levels"), [("float32", 750, (1e-3, 1e-2, 0.1, 0.9)), ("float16", 140, (0.3, 0.9))]
)
def test_with_strength_0_the_adjoint_collapses_where_it_is_predicted_to(
    name: str, pulls: int, levels: Sequence[float]
) -> None:
    """Each pull shrinks the adjoint by 0.85; gradual underflow takes its digits one by one, from `tiny` on."""
    problem = build("quadratic", dimension=4, condition=10.0, strength=0.0)
    theta, data = theta_and_data(problem, 4)
    tested = precision(name)
    loops = twice(problem, 1.5, theta, data, pulls, tested)
    measured = backward_rounding(loops).accumulated.flip(0)  # row j is after j pulls
    rate = growth(problem, loops.exact.prefix(30)).rate
    # What entering the arithmetic does to the eigenvalues of A, and where power iteration stops.
    check_ratio("growth, strength 0", (rate - math.log(0.85)).abs(), tested.eps + 1e-3 / 30, limit=1.0)
    norm = row_norms(outer_gradient(loops.exact))
    predicted = predicted_error(range(pulls + 1), rate, tested.eps, tested.tiny, norm=norm, condition=None)
    onset = underflow_step(rate, norm, tested.tiny)
    for level in levels:
        at, should = first(measured >= level), first(predicted >= level)
        # A few percent, and a factor of two in the error, which the adjoint shrinks by in four pulls.
        assert bool(((at - should).abs() <= 0.03 * should + 4).all()), (level, at, should)
        assert bool((at > onset).all())
    before = measured[: int(onset.min())]
    check_ratio("before underflow", before, predicted[: len(before)], name)


def outer_gradient(loop: Trajectory) -> Tensor:
    away = loop.final - loop.data["c"]
    return (loop.data["C"] @ away.unsqueeze(-1)).squeeze(-1)
