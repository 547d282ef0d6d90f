"""Hundreds of random problems: every estimator's result lies inside its ball, widened by the arithmetic's own bound.

The bound is the unit `eps * (condition + |gradient|)`. The condition is measured in float64, without a look at the
result under test: every number that an inner step or a loss reads or makes (weights, theta, data) is changed by a
random sign times 2^-26 of itself, anew each time, and the change of the gradient is divided by 2^-26. That is the
model of rounding (each operation commits one relative eps), and what an expanding loop makes of it is part of it. Of
eight such changes the largest counts.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.extended import words
from diagnostics.arithmetic.precision import enter_rows, precision
from diagnostics.certificates.balls import Enclosure, inside
from diagnostics.certificates.gradients import implicit, unrolled
from diagnostics.certificates.minimiser import stationary
from diagnostics.certificates.problems import Losses
from diagnostics.draws import stream
from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Gradient, Trajectory, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.meta_gradient import Estimator, MetaGradient
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome
from diagnostics.problem import Loss, Problem
from diagnostics.reference import minimise, stationary_reference
from diagnostics.rows import Data, repeat_rows, row_norms
from tests.cases import check_ratio, provoked, theta_and_data
from tests.diagnostics.certificates.tasks import BY_HAND, CONVEX, NAMES, losses, problem

ARITHMETICS = ("float64", "extended")
SIZES, STEPS = (1, 2, 3, 5), (0, 1, 2, 5, 10, 20)
NOISE, DRAWS = 2.0**-26, 8
PATIENCE = 300  # inner steps before Newton's method
FAST, SLOW = range(6), range(6, 42)


@dataclass(frozen=True)
class Setting:
    """One problem with its settings drawn, some tasks of it, and how its loop is run."""

    name: str
    problem: Problem
    theta: Tensor
    data: dict[str, Tensor]
    rate: float
    steps: int

    @property
    def losses(self) -> list[Losses]:
        return [losses(self.name, self.data, row) for row in range(len(self.theta))]


def drawn(name: str, seed: int, tasks: int) -> Setting:
    """Condition numbers 1 to 1e4, strengths 1e-3 to 10, inner steps of 0.05 to 3 over the curvature: some expand."""
    rng = stream(seed, 99)
    size, steps = SIZES[seed % len(SIZES)], STEPS[(seed // len(SIZES) + seed) % len(STEPS)]
    strength = float(10 ** rng.uniform(-3, 1))
    settings: dict[str, float] = {"points": size, "strength": strength}
    if name in BY_HAND:
        settings = {"dimension": size, "condition": float(10 ** rng.uniform(0, 4)), "strength": strength}
        if name != "quadratic":
            settings["examples"] = size + int(rng.integers(0, 4))
    given = problem(name, **settings)
    curvature = 1.0 if name in BY_HAND else 10.0  # of the loss: at most, and about
    rate = float(rng.choice([0.05, 0.3, 1.0, 1.8, 2.3, 3.0])) / (curvature + strength)
    theta, data = theta_and_data(given, tasks, seed)
    return Setting(name, given, theta, data, rate, steps)


# ---- the condition, by random perturbations


@dataclass
class Perturbation:
    """Relative changes of random sign; each call makes others."""

    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        signs = torch.randint(0, 2, x.shape, generator=self.generator).double() * 2 - 1
        return x * (1 + NOISE * signs)

    def loss(self, loss: Loss) -> Loss:
        def perturbed(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            return loss(self(w), self(theta), {key: self(value) for key, value in data.items()})

        return perturbed


@dataclass(frozen=True)
class PerturbedDescent:
    """Gradient descent whose every state is perturbed."""

    learning_rate: float
    perturb: Perturbation

    def start(self, w: Tensor) -> Tensor:
        return self.perturb(w)

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        return self.perturb(state - self.learning_rate * gradient(state))


def perturbed_gradients(estimator: Estimator, setting: Setting, ends: Tensor | None, perturb: Perturbation) -> Tensor:
    """The gradients, all draws of all tasks at once; at `ends (B, N)`, where given, and not where a loop ends."""
    theta, data = setting.theta.repeat(DRAWS, 1), repeat_rows(setting.data, DRAWS)
    noisy = replace(
        setting.problem,
        inner_loss=perturb.loss(setting.problem.inner_loss),
        outer_loss=perturb.loss(setting.problem.outer_loss),
    )
    steps = setting.steps if ends is None else 0
    loop = run_inner(noisy, PerturbedDescent(setting.rate, perturb), theta, data, steps)
    if ends is not None:
        loop = replace(loop, states=ends.repeat(DRAWS, 1).unsqueeze(0))
    return estimator(noisy, loop).value


def perturbed_references(setting: Setting, loop: Trajectory, near: Tensor, perturb: Perturbation) -> Tensor:
    """The stationary gradients of inputs that are perturbed once, of minimisers near `near (B, N)`."""
    theta = perturb(setting.theta.repeat(DRAWS, 1))
    data = {key: perturb(value) for key, value in repeat_rows(setting.data, DRAWS).items()}
    data |= {key: (data[key] + data[key].mT) / 2 for key in ("A", "C") if key in data}  # as closed forms expect
    states = torch.stack([loop.states[0], near]).repeat(1, DRAWS, 1)
    norms = torch.stack([loop.gradient_norms[0], 0 * loop.gradient_norms[0]]).repeat(1, DRAWS)
    there = replace(loop, theta=theta, data=data, states=states, gradient_norms=norms)
    return stationary_reference(setting.problem, there, PATIENCE).value


def largest_change(perturbed: Tensor, value: Tensor) -> Tensor:
    """The condition `(B,)` from gradients `(DRAWS * B, P)`."""
    change = row_norms(perturbed - value.repeat(DRAWS, 1)).view(DRAWS, -1)
    return change.amax(0) / NOISE


def measured(condition: Tensor, value: Tensor) -> list[int]:
    """The tasks whose changes stayed small, so that they say what smaller ones would do; most, or the test is blunt."""
    small = condition * NOISE <= 0.01 * row_norms(value)
    assert int(small.sum()) >= 0.75 * len(small), f"the condition of only {int(small.sum())} of {len(small)} is known"
    return [row for row in range(len(small)) if small[row]]


# ---- the check


def check(family: str, balls: list[Enclosure], value: Tensor, condition: Tensor, eps: float, where: object) -> None:
    """Every row of `value` inside its ball, within a few units; the balls themselves are far narrower than a unit."""
    if not balls:
        return
    high, low = words(value)
    exact = torch.stack([ball.high for ball in balls])
    unit = eps * (condition + row_norms(exact))
    for row in measured(condition, exact):
        assert bool((balls[row].radius <= 2.0**-105 * row_norms(exact)[row]).all()), "a ball too wide to judge by"
        check_ratio(family, inside(balls[row], high[row], low[row], unit[row]), 1.0, f"{where}, task {row}")


def run(setting: Setting, arithmetic: str) -> tuple[Trajectory, float]:
    """The inner loop in an arithmetic, and its eps."""
    entered = precision(arithmetic)
    theta, data = entered.enter(setting.theta), enter_rows(entered, setting.data)
    return run_inner(setting.problem, GradientDescent(setting.rate), theta, data, setting.steps), entered.eps


def check_unrolled(setting: Setting, arithmetic: str, estimators: list[tuple[str, Estimator]], where: object) -> None:
    loop, eps = run(setting, arithmetic)
    strength = setting.problem.strength or 0.0
    balls = [
        unrolled(known, theta, strength, setting.rate, setting.steps)
        for known, theta in zip(setting.losses, setting.theta, strict=True)
    ]
    perturb = Perturbation(torch.Generator().manual_seed(0))
    middle = torch.stack([ball.high for ball in balls])
    condition = largest_change(perturbed_gradients(Unrolled(), setting, None, perturb), middle)
    for label, estimator in estimators:
        value = estimator(setting.problem, loop).value
        check(f"{label} in its ball, {arithmetic}", balls, value, condition, eps, where)


def check_implicit(setting: Setting, arithmetic: str, where: object) -> None:
    """At the very point where the loop ended in its own arithmetic, whose two words the ball is given."""
    loop, eps = run(setting, arithmetic)
    strength = setting.problem.strength or 0.0
    high, low = words(loop.final)
    for label, solver, iterations in (("dense", Dense(), None), ("1 CG iteration", ConjugateGradients(1), 1)):
        balls = [
            implicit(known, point, strength, iterations)
            for known, point in zip(setting.losses, zip(high, low, strict=True), strict=True)
        ]
        found = Implicit(solver)(setting.problem, loop)
        proven = torch.tensor([bool(ball.radius.isfinite().all()) for ball in balls])
        refused = found.outcome >= Outcome.NEGATIVE_CURVATURE.code
        assert iterations is None or bool((refused == ~proven).all()), "negative curvature: seen by one alone"
        perturb = Perturbation(torch.Generator().manual_seed(1))
        kept = [row for row in range(len(balls)) if proven[row]]
        middle = torch.stack([ball.high for ball in balls])
        condition = largest_change(perturbed_gradients(Implicit(solver), setting, high, perturb), middle)
        family = f"implicit, {label}, in its ball, {arithmetic}"
        check(family, [balls[row] for row in kept], found.value[kept], condition[kept], eps, where)


def check_stationary(setting: Setting, arithmetic: str, where: object) -> int:
    """How many of the tasks had a minimiser that the reference found, with and without perturbation.

    Each is proven to be a minimiser. The loop takes a step that contracts, so that it comes near.
    """
    strength = setting.problem.strength or 0.0
    setting = replace(setting, rate=min(setting.rate, 1 / (1 + strength)))
    loop, _ = run(setting, "float64")
    entered = precision(arithmetic)
    reference = stationary_reference(setting.problem, loop, PATIENCE, entered)
    rows = [row for row, code in enumerate(reference.outcome.tolist()) if code == Outcome.OK.code]
    if not rows:
        return 0
    near = minimise(setting.problem, loop, PATIENCE).w
    known = setting.losses
    balls = [stationary(known[row], setting.theta[row], near[row], strength) for row in rows]
    perturbed = perturbed_references(setting, loop, near, Perturbation(torch.Generator().manual_seed(2)))
    middle = torch.stack([ball.high for ball in balls])
    condition = largest_change(perturbed.view(DRAWS, len(near), -1)[:, rows].flatten(0, 1), middle)
    kept = [index for index in range(len(rows)) if condition[index].isfinite()]
    balls, value = [balls[index] for index in kept], reference.value[rows][kept]
    check(f"stationary in its ball, {arithmetic}", balls, value, condition[kept], entered.eps, where)
    return len(kept)


BOTH: list[tuple[str, Estimator]] = [("unrolled", Unrolled()), ("adjoint", UnrolledAdjoint())]


def check_all(name: str, arithmetic: str, seeds: range, tasks: int) -> int:
    """How many stationary gradients there were."""
    found = 0
    for seed in seeds:
        setting, where = drawn(name, seed, tasks), f"{name}, seed {seed}"
        check_unrolled(setting, arithmetic, BOTH, where)
        check_implicit(setting, arithmetic, where)
        found += check_stationary(setting, arithmetic, where)
    return found


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", CONVEX)
def test_convex_problems(name: str, arithmetic: str) -> None:
    """96 a problem: 6 settings of 16 tasks each, and all have a minimiser."""
    assert check_all(name, arithmetic, FAST, 16) == 96


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(("name", "tasks"), [("tanh_mlp[1,3,1]", 5), ("tanh_mlp[1,4,4,1]", 1)])
def test_networks(name: str, tasks: int, arithmetic: str) -> None:
    """18 in all, after 2, 5 and 20 steps; whether a minimiser is near is the problem's affair."""
    assert check_all(name, arithmetic, range(2, 5), tasks) > 0


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", NAMES)
def test_many_more(name: str, arithmetic: str) -> None:
    check_all(name, arithmetic, SLOW, 12 if name in CONVEX else 2)


# ---- the check can fail


def test_first_order_is_outside_the_ball() -> None:
    setting = drawn("logistic", 3, 4)
    assert setting.steps > 0
    with provoked():
        check_unrolled(setting, "float64", [("first order", FirstOrder())], "provoked")


def test_a_few_bits_off_is_outside_the_ball() -> None:
    setting = drawn("linear_regression", 3, 4)

    def spoilt(problem: Problem, trajectory: Trajectory) -> MetaGradient:
        gradient = Unrolled()(problem, trajectory)
        return replace(gradient, value=gradient.value * (1 + 2.0**-42))

    with provoked():
        check_unrolled(setting, "float64", [("spoilt", spoilt)], "provoked")
