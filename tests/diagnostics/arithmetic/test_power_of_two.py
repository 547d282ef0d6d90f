"""Units of powers of two: the same bits where nothing overflows or underflows, and more room where something does."""

import inspect
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.power_of_two import adjoint_norms
from diagnostics.arithmetic.precision import enter_rows, precision
from diagnostics.arithmetic.rescaling import Rescaled, rescale
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import Gradient, Optimizer, Trajectory, loss_gradient, optimizers, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import written_out
from diagnostics.meta_gradient import Estimator, estimators
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.problem_names import build, problems
from diagnostics.rows import Data, row_norms
from tests.cases import check_ratio, gd, only, refusal, small, theta_and_data, vectors

EPS = 2.0**-23  # of float32
STEPS = 4
every_problem = pytest.mark.parametrize("name", problems.names())


def in_float32(found: Rescaled, steps: int) -> Trajectory:
    """The inner loop in float32."""
    there = precision("float32")
    return run_inner(found.problem, found.optimizer, there.enter(found.theta), enter_rows(there, found.data), steps)


def gradient(found: Rescaled, loop: Trajectory, estimator: Estimator | None = None) -> Tensor:
    """Its meta-gradient in the original units."""
    assert found.carry_back is not None
    return found.carry_back((estimator or UnrolledAdjoint())(found.problem, loop).value.double())


def weights(found: Rescaled, loop: Trajectory) -> Tensor:
    """The loop's weights in the original units."""
    return loop.states[:, :, : loop.size] * 2.0 ** (found.powers.inputs - found.powers.targets)


# Their gradient does not scale with the losses: it knows no outer loss, or has numbers of its own in it.
NOT_HOMOGENEOUS = {"reptile", "released_imaml", "released_imaml_loop", "released_gbml"}


def every_estimator() -> dict[str, Estimator]:
    plain = {name: estimators[name]() for name in estimators.names() if name not in {"implicit", *NOT_HOMOGENEOUS}}
    return plain | {"implicit": Implicit(ConjugateGradients(3))}


# ---- the same bits


@every_problem
@pytest.mark.parametrize("estimator", every_estimator())
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_float32_computes_the_same_bits(name: str, estimator: str, scale: float) -> None:
    """Every state and every estimator's gradient, for data as they are and for data that are badly scaled."""
    problem = small(name)
    theta, data = theta_and_data(problem, 3)
    found = rescale(f"scale:{scale}", problem, gd(problem), theta, data)
    optimizer = GradientDescent(problem.learning_rate / scale**2)
    plain = replace(found, optimizer=optimizer, carry_back=lambda g: g)
    units = rescale("power_of_two", found.problem, optimizer, found.theta, found.data, STEPS)
    if units.problem.inputs is not None and units.problem.inputs.with_strength is not None and scale > 1:
        assert units.powers.inputs < 0
    one, two = in_float32(plain, STEPS), in_float32(units, STEPS)
    assert torch.equal(weights(plain, one), weights(units, two))
    rule = every_estimator()[estimator]
    if message := refusal(estimator, problem):
        with pytest.raises(ValueError, match=message):
            rule(plain.problem, one)
        return
    assert torch.equal(gradient(plain, one, rule), gradient(units, two, rule))
    assert torch.equal(rule(units.problem, two).outcome, rule(plain.problem, one).outcome)


@pytest.mark.parametrize("name", ["quadratic", "linear_regression", "logistic"])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_bits_on_hundreds_of_random_problems(name: str, seed: int) -> None:
    """Fifty tasks a draw, with inputs and targets of random exponents."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (float(x) for x in torch.randint(-12, 13, (2,), generator=generator))
    strength = (0.0, 0.1)[seed % 2]
    problem = small(name, strength=strength * 4**p, condition=10.0)
    theta, data = theta_and_data(problem, 50, seed)
    plain = rescale(f"scale:{1.3 * 2**p}", problem, GradientDescent(0.25 / 4**p), theta, data)
    targets = problem.inputs.targets if problem.inputs is not None else ()
    plain = replace(plain, data={**plain.data, **{key: 0.7 * 2**q * plain.data[key] for key in targets}})
    units = rescale("power_of_two", problem, plain.optimizer, plain.theta, plain.data, 10)
    plain = replace(plain, carry_back=lambda g: g)
    one, two = in_float32(plain, 10), in_float32(units, 10)
    assert units.powers.inputs != 0 or p == 0
    assert torch.equal(weights(plain, one), weights(units, two))
    assert torch.equal(gradient(plain, one), gradient(units, two))


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_takes_the_same_steps(name: str) -> None:
    """In other units, or in the original ones where it is not homogeneous in the gradient."""
    builder = optimizers[name]
    settings = {"learning_rate": 0.01} if "learning_rate" in inspect.signature(builder).parameters else {}
    check_optimizer(builder(**settings))


def check_optimizer(optimizer: Optimizer) -> Rescaled:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, 3)
    data = {**data, "b": 1e4 * data["b"], "c": 1e4 * data["c"]}
    plain = rescale("none", problem, optimizer, theta, data)
    units = rescale("power_of_two", problem, optimizer, theta, data, STEPS)
    one, two = in_float32(plain, STEPS), in_float32(units, STEPS)
    assert torch.equal(weights(plain, one), weights(units, two))
    assert torch.equal(gradient(plain, one), gradient(units, two))
    return units


@dataclass(frozen=True)
class SignDescent:
    """Not homogeneous in the gradient, as Adam is not."""

    learning_rate: float

    def start(self, w: Tensor) -> Tensor:
        return w

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        g = gradient(state)
        return state - self.learning_rate * g / (g.detach().abs() + 1e-3)


class Plain:
    """An optimizer that is no dataclass, so that its step cannot be replaced."""

    learning_rate = 0.1

    def start(self, w: Tensor) -> Tensor:
        return w

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        return state - 0.1 * gradient(state)


@pytest.mark.parametrize("optimizer", [SignDescent(0.1), Plain()], ids=["sign", "plain"])
def test_an_optimizer_that_knows_no_other_units_keeps_its_own(optimizer: Optimizer) -> None:
    found = check_optimizer(optimizer)
    assert (found.powers.inputs, found.powers.targets) == (0, 0) and found.powers.outer < 0
    assert found.optimizer is optimizer
    assert check_optimizer(GradientDescent(0.1)).powers.targets < 0  # which gradient descent does not


@pytest.mark.parametrize("side", ["inner_loss", "outer_loss"])
def test_a_loss_that_was_exchanged_is_not_lost(side: str) -> None:
    """The inputs speak of the problem that they were stated for; another loss, of another degree, keeps its units."""
    own = small("quadratic")
    loss = getattr(own, side)
    problem = replace(own, **{side: lambda w, theta, data: loss(w, theta, data) + (w**4).sum(-1)})
    theta, data = theta_and_data(problem, 3)
    data = {**data, "b": 1e4 * data["b"], "c": 1e4 * data["c"]}
    plain = rescale("none", problem, GradientDescent(1e-10), theta, data)
    units = rescale("power_of_two", problem, GradientDescent(1e-10), theta, data, STEPS)
    assert units.powers.targets == 0
    assert torch.equal(gradient(plain, in_float32(plain, STEPS)), gradient(units, in_float32(units, STEPS)))


def test_a_problem_that_states_no_inputs_has_its_outer_loss_scaled() -> None:
    problem = Problem.from_task_losses(
        "mine",
        lambda w, theta, data: (torch.tanh(w) * data["x"]).sum(),
        lambda w, theta, data: 2.0**40 * ((w * data["x"]).sin().sum() + (theta**2).sum()),
        lambda seed: vectors(1, 3, seed)[0],
        lambda tasks, seed: {"x": vectors(tasks, 3, seed + 7)},
        strength=0.5,
    )
    theta, data = theta_and_data(problem, 2)
    plain = rescale("none", problem, GradientDescent(0.1), theta, data)
    units = rescale("power_of_two", problem, GradientDescent(0.1), theta, data, STEPS)
    assert units.powers.inputs == units.powers.targets == 0 and -43 <= units.powers.outer <= -37
    assert units.optimizer == plain.optimizer and units.theta is theta
    assert torch.equal(gradient(plain, in_float32(plain, STEPS)), gradient(units, in_float32(units, STEPS)))


# ---- the new problem is whole


@pytest.mark.parametrize("name", ["quadratic", "linear_regression", "logistic"])
def test_what_the_problem_states_about_itself_holds_in_the_new_units(name: str) -> None:
    problem = small(name)
    theta, data = theta_and_data(problem, 3)
    at = rescale("scale:50", problem, GradientDescent(1e-4), theta, data)
    units = rescale("power_of_two", at.problem, at.optimizer, at.theta, at.data, 3)
    new, p, q = units.problem, units.powers.inputs, units.powers.targets
    assert p < 0 and new.name == name and problem.strength is not None and problem.constants is not None
    assert new.strength == problem.strength * 4.0**p and new.learning_rate == problem.learning_rate * 4.0**-p
    assert new.has_implicit_gradient
    if problem.minimizer is not None and new.minimizer is not None:
        there, here = new.minimizer(units.theta, units.data), problem.minimizer(at.theta, at.data)
        assert torch.equal(there, 2.0 ** (q - p) * here)
    assert new.constants is not None
    stated = new.constants(units.data)
    w = vectors(3, theta.shape[1])
    values = torch.linalg.eigvalsh(written_out(second_order(new, w, units.theta, units.data).hessian, w))
    assert bool((values[:, 0] * (1 + 1e-12) >= stated.smallest).all())
    assert bool((values[:, -1] <= stated.largest * (1 + 1e-12)).all())
    before = problem.constants(at.data)
    ratio = stated.outer_smoothness / before.outer_smoothness  # of 2^(2q+s) outer, by the square of 2^(q-p) w
    check_ratio("outer smoothness", (ratio / 4.0**p / 2.0**units.powers.outer - 1).abs(), 2.0**-52)
    assert torch.equal(stated.hessian_lipschitz, 8.0**p * before.hessian_lipschitz)  # q is 0 where it is not zero


@pytest.mark.parametrize("steps", [0, 1, 6])
@pytest.mark.parametrize("size", [1, 4])
def test_the_norms_of_the_adjoint(steps: int, size: int) -> None:
    """a_k = (I - aH)^(K-k) C (w_K - c) on a quadratic."""
    problem = build("quadratic", dimension=size)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, GradientDescent(0.5), theta, data, steps)
    norms = adjoint_norms(problem, loop)
    adjoint = loss_gradient(problem.outer_loss, loop.final, theta, data)
    truth = [row_norms(adjoint)]
    hessian = data["A"] + 0.1 * torch.eye(size).double()
    for _ in range(steps):
        adjoint = adjoint - 0.5 * (hessian @ adjoint.unsqueeze(-1)).squeeze(-1)
        truth.insert(0, row_norms(adjoint))
    assert norms.shape == (steps + 1, 3)
    check_ratio("adjoint norms", (norms - torch.stack(truth)).abs(), 2.0**-52 * (steps + 1) * torch.stack(truth))


# ---- the exponents are centred


@pytest.mark.parametrize("learning_rate", [0.5, 2.5])
@pytest.mark.parametrize("tiny", [2.0**-126, 2.0**-14])
def test_the_adjoint_is_centred_in_the_range(learning_rate: float, tiny: float) -> None:
    """Contracting and expanding: about 1 where there is room, and under a quarter of headroom where there is not."""
    room = -math.log2(tiny)
    problem = build("quadratic", dimension=3, strength=0.0, condition=2.0)
    theta, data = theta_and_data(problem, 3)
    for steps in (0, 5, 60, 400):
        units = rescale("power_of_two", problem, GradientDescent(learning_rate), theta, data, steps, tiny)
        loop = run_inner(units.problem, units.optimizer, units.theta, units.data, steps)
        norms = adjoint_norms(units.problem, loop).log2()
        high, middle = float(norms.max()), float(norms.max() + norms.min()) / 2
        if high - middle < 0.75 * room:
            assert abs(middle) <= 1 or abs(units.powers.outer) == math.floor(0.75 * room)
        else:
            assert 0.75 * room - 1 <= high <= 0.75 * room or units.powers.outer == -math.ceil(0.75 * room)


def test_no_gradient_at_all_is_left_alone() -> None:
    problem = replace(small("quadratic"), outer_loss=lambda w, theta, data: 0.0 * w.sum(-1))
    theta, data = theta_and_data(problem, 2)
    assert rescale("power_of_two", problem, GradientDescent(0.1), theta, data, 2).powers.outer == 0
    zeros = {key: torch.zeros_like(x) for key, x in data.items()}
    found = rescale("power_of_two", small("quadratic", strength=0.0), GradientDescent(0.1), 0 * theta, zeros, 2)
    assert (found.powers.inputs, found.powers.targets, found.powers.outer) == (0, 0, 0)


def test_step_and_strength_stay_within_the_range() -> None:
    problem = small("linear_regression", strength=0.1)
    for scale in (2.0**-200, 2.0**200):
        theta, data = theta_and_data(problem, 2)
        at = rescale(f"scale:{scale!r}", problem, GradientDescent(0.5), theta, data)
        units = rescale("power_of_two", problem, at.optimizer, at.theta, at.data)
        for value in (units.optimizer.learning_rate, units.problem.strength or 0.0):
            assert 2.0**-127 <= value <= 2.0**127
        # Large inputs are divided until the strength is as small as it can be; beside tiny ones it is the Hessian.
        assert units.powers.inputs == (-61 if scale > 1 else 2)


# ---- where float32 ends


def unit_problem(exponent: int, strength: float, step: float) -> tuple[Problem, GradientDescent, Tensor, Data]:
    """Inputs and targets of size 2^exponent with weights of size 1."""
    problem = small("linear_regression", strength=strength)
    theta, data = theta_and_data(problem, 3)
    return problem, GradientDescent(step), theta, {key: 2.0**exponent * x for key, x in data.items()}


@pytest.mark.parametrize(
    ("exponent", "strength", "step"),
    [
        (-70, 0.0, 2.0**139),  # the inner step is no float32
        (-70, 0.1, 0.5),  # and here the outer gradient, 2^-140, has nine bits left
        (70, 0.0, 2.0**-141),  # squares overflow
    ],
)
def test_squares_that_leave_the_range_are_brought_back(exponent: int, strength: float, step: float) -> None:
    problem, optimizer, theta, data = unit_problem(exponent, strength, step)
    truth = UnrolledAdjoint()(problem, run_inner(problem, optimizer, theta, data, 10)).value
    plain = rescale("none", problem, optimizer, theta, data)
    units = rescale("power_of_two", problem, optimizer, theta, data, 10)
    # Entering rounds theta and data, which y = x'v + noise turns into eps of the size of x'theta.
    unit = EPS * 10 * row_norms(truth)
    check_ratio("beyond float32's range", row_norms(gradient(units, in_float32(units, 10)) - truth), unit)
    loop = in_float32(plain, 10)
    lost = row_norms(gradient(plain, loop) - truth)
    assert not bool((lost < 100 * unit).any())  # without it, too large an error, or no number at all
    if step == 2.0**139:
        assert only(loop.outcome) is Outcome.DIVERGED


@pytest.mark.parametrize("condition", [10.0, pytest.param(100.0, marks=pytest.mark.slow)])
def test_the_collapse_of_a_vanishing_gradient_moves_as_predicted(condition: float) -> None:
    """With strength 0 the gradient is (I - aA)^K C (w_K - c), in the end its part v along the least eigenvector, and
    underflows at

        K_uf = (ln |v'C(w* - c)| - ln tiny + s ln 2) / -ln(1 - a mu)

    Up to there, tiny being the smallest normal number, the error is eps K; with tiny the smallest subnormal one, 23
    bits further on, all is lost. Both for the loop as it is (s = 0) and with its adjoint times 2^s.
    """
    step, tiny = 1.0, torch.finfo(torch.float32).tiny
    problem = build("quadratic", dimension=3, condition=condition, strength=0.0)
    theta, data = theta_and_data(problem, 2, dtype=torch.float32)
    theta, data = theta.double(), {key: x.double() for key, x in data.items()}  # so that entering rounds nothing
    values, basis = torch.linalg.eigh(data["A"])
    pull = basis.mT @ data["b"].unsqueeze(-1)
    start = basis.mT @ theta.unsqueeze(-1)

    def truth(steps: int) -> Tensor:
        """The gradient in closed form, in the eigenvectors' coordinates."""
        shrink = ((1 - step * values) ** steps).unsqueeze(-1)
        minimiser = pull / values.unsqueeze(-1)
        away = basis @ (minimiser + shrink * (start - minimiser)) - data["c"].unsqueeze(-1)
        return (shrink * (basis.mT @ (data["C"] @ away))).squeeze(-1)

    minimiser = (basis @ (pull / values.unsqueeze(-1))).squeeze(-1)
    outer = loss_gradient(problem.outer_loss, minimiser, theta, data)
    along = (basis[:, :, 0] * outer).sum(-1).abs().log()
    rate = -torch.log1p(-step * values[:, 0])

    def underflow(exponent: int, smallest: float) -> Tensor:
        return (along - math.log(smallest) + exponent * math.log(2)) / rate

    longest = math.ceil(float(underflow(96, tiny * 2.0**-23).max()))
    plain = rescale("none", problem, GradientDescent(step), theta, data)
    units = rescale("power_of_two", problem, GradientDescent(step), theta, data, longest)
    assert units.powers.inputs == units.powers.targets == 0  # this one states well-scaled data
    moved = units.powers.outer
    assert float(underflow(moved, tiny).min()) > float(underflow(0, tiny * 2.0**-23).max())  # good when that is lost
    for found, exponent in ((plain, 0), (units, moved)):
        good = math.floor(float(underflow(exponent, tiny).min()))
        lost = math.ceil(float(underflow(exponent, tiny * 2.0**-23).max()))
        assert lost - good <= 0.25 * good
        loop = in_float32(found, lost)
        assert found.carry_back is not None
        ends = UnrolledAdjoint().path(found.problem, loop, (good, lost))
        error = []
        for end, count in zip(ends, (good, lost), strict=True):
            value = (basis.mT @ found.carry_back(end.value.double()).unsqueeze(-1)).squeeze(-1)
            error.append(row_norms(value - truth(count)) / row_norms(truth(count)))
        check_ratio("up to the underflow step", error[0], EPS * good, f"condition {condition}, s = {exponent}")
        assert bool((error[1] > 0.5).all()), error
