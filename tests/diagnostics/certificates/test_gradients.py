"""Meta-gradients in balls against closed forms, central differences in balls, and each other."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from flint import arb, arb_mat, ctx, fmpq
from torch import Tensor

from diagnostics.certificates.balls import MOST_BITS, Enclosure, each, enclosed, matrix
from diagnostics.certificates.gradients import implicit, implicit_after, unrolled
from diagnostics.certificates.minimiser import minimiser, stationary
from diagnostics.certificates.problems import Losses, quadratic
from tests.cases import symmetric, theta_and_data, vectors
from tests.diagnostics.certificates.differences import BITS, close, differences, loss_by_hand
from tests.diagnostics.certificates.tasks import BY_HAND, CONVEX, NAMES, losses, one_task, problem

A, B, C, CENTRE, THETA, STRENGTH, RATE = 0.7, -1.3, 0.6, 0.4, 1.7, 0.1, 0.3


def single() -> Losses:
    """One weight, everything in closed form."""
    data = {"A": [[A]], "C": [[C]], "b": [B], "c": [CENTRE]}
    return quadratic({key: torch.tensor(value, dtype=torch.float64) for key, value in data.items()})


def scalar(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def small(name: str) -> tuple[Losses, Tensor, dict[str, Tensor], float]:
    given = problem(name, **({"dimension": 3} if name in BY_HAND else {}))
    theta, data = theta_and_data(given, 1)
    assert given.strength is not None
    return losses(name, data), theta[0], one_task(data, 0), given.strength


def contains(enclosure: Enclosure, truth: Fraction) -> bool:
    with ctx.workprec(MOST_BITS):  # in which the fraction is rounded before it is looked for
        return bool(enclosure.balls[0, 0].contains(fmpq(truth.numerator, truth.denominator)))


def overlap(one: Enclosure, other: Enclosure) -> bool:
    return bool(one.balls.overlaps(other.balls))


# ---- closed forms


@pytest.mark.parametrize("rate", [RATE, 4.0], ids=["contracting", "expanding"])
@pytest.mark.parametrize("steps", [0, 1, 2, 30, 300])
def test_one_weight_has_rational_gradients_which_the_balls_contain(steps: int, rate: float) -> None:
    """With q = 1 - a (A + s): w_K = w* + q^K (theta - w*), and dw_K/dtheta = q^K + (1 - q^K) s / (A + s)."""
    a, b, c, centre, theta, strength, learning = map(Fraction, (A, B, C, CENTRE, THETA, STRENGTH, rate))
    root = (b + strength * theta) / (a + strength)
    power = (1 - learning * (a + strength)) ** steps
    end = root + power * (theta - root)
    slope = strength / (a + strength)

    found = unrolled(single(), scalar(THETA), STRENGTH, rate, steps)
    assert contains(found, c * (end - centre) * (power + (1 - power) * slope))
    assert not contains(found, c * (end - centre) * (power + (1 - power) * slope) * (1 + Fraction(1, 2**110)))
    assert contains(implicit_after(single(), scalar(THETA), STRENGTH, rate, steps), c * (end - centre) * slope)
    assert contains(implicit(single(), scalar(CENTRE + 1), STRENGTH), c * (Fraction(CENTRE + 1) - centre) * slope)
    assert contains(stationary(single(), scalar(THETA), scalar(0.0), STRENGTH), c * (root - centre) * slope)
    assert contains(enclosed(lambda: minimiser(single(), matrix(scalar(THETA)), arb_mat(1, 1), STRENGTH)), root)


def test_two_words_of_theta_and_of_a_point_are_both_read() -> None:
    low = 2.0**-60
    slope = Fraction(STRENGTH) / (Fraction(A) + Fraction(STRENGTH))
    for found, truth in (
        (unrolled(single(), (scalar(THETA), scalar(low)), STRENGTH, RATE, 0), Fraction(1)),
        (implicit(single(), (scalar(THETA), scalar(low)), STRENGTH), slope),
    ):
        assert contains(found, truth * Fraction(C) * (Fraction(THETA) + Fraction(low) - Fraction(CENTRE)))


# ---- central differences


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_the_unrolled_gradient_is_the_derivative_of_the_loop(name: str, steps: int) -> None:
    """Of losses and loop written anew, to 300 bits, along a random direction; the learning rate is a large one."""
    known, theta, data, strength = small(name)
    rate = 0.3
    direction = vectors(1, known.size)[0]
    with ctx.workprec(BITS):

        def outer(at: arb_mat) -> arb_mat:
            w = at
            for _ in range(steps):
                w = w - known.gradient(w) * rate - (w - at) * (arb(strength) * rate)
            return arb_mat(1, 1, [loss_by_hand(name, data, "query", w.entries())])

        slope = differences(outer, matrix(theta), matrix(direction))
        found = unrolled(known, theta, strength, rate, steps, bits=BITS)
        assert close(found.balls.transpose() * matrix(direction), slope)
        assert steps == 0 or not close(known.outer_gradient(matrix(theta)), found.balls)


@pytest.mark.parametrize("name", NAMES)
def test_the_stationary_gradient_is_the_derivative_of_the_minimiser(name: str) -> None:
    """Of minimisers found anew at theta +- step."""
    known, theta, data, strength = small(name)
    direction = vectors(1, known.size)[0]
    near = approached(known, theta, strength)
    with ctx.workprec(BITS):

        def outer(at: arb_mat) -> arb_mat:
            return arb_mat(1, 1, [loss_by_hand(name, data, "query", minimiser(known, at, near, strength).entries())])

        slope = differences(outer, matrix(theta), matrix(direction))
        found = stationary(known, theta, Enclosure(near, 64).high, strength, bits=BITS)
        assert close(found.balls.transpose() * matrix(direction), slope)


def approached(known: Losses, theta: Tensor, strength: float, rate: float = 0.05, steps: int = 400) -> arb_mat:
    """Where plain gradient descent leads, in the midpoints; close enough for Newton's method."""
    start = matrix(theta)
    w = start
    for _ in range(steps):
        w = (w - (known.gradient(w) + (w - start) * strength) * rate).mid()
    return w


# ---- one another


def test_a_recursion_that_is_wrong_is_noticed() -> None:
    """The adjoint applies M_k where it should apply its transpose: the same for a Hessian, and for nothing else."""
    known, theta, _, strength = small("quadratic")
    skew = arb_mat([[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    wrong = replace(known, hessian=lambda w, v: known.hessian(w, v) + skew * v * arb(2) ** -100)
    unrolled(known, theta, strength, RATE, 2)
    with pytest.raises(ArithmeticError, match="the adjoint and the tangent recursion exclude each other"):
        unrolled(wrong, theta, strength, RATE, 2)


@pytest.mark.parametrize("name", CONVEX)
def test_as_many_iterations_as_unknowns_solve_the_system(name: str) -> None:
    known, theta, _, strength = small(name)
    exact = implicit(known, theta, strength)
    assert overlap(implicit(known, theta, strength, known.size), exact)
    assert not overlap(implicit(known, theta, strength, known.size - 1), exact)
    assert implicit(known, theta, strength, 0).balls == arb_mat(known.size, 1)


@pytest.mark.parametrize("name", CONVEX)
def test_the_implicit_gradient_after_a_loop_is_that_at_its_end(name: str) -> None:
    known, theta, _, strength = small(name)
    for iterations in (None, 1):
        start = implicit(known, theta, strength, iterations)
        assert overlap(implicit_after(known, theta, strength, RATE, 0, iterations), start)
        with ctx.workprec(256):
            end = matrix(theta) - (known.gradient(matrix(theta))) * RATE  # the proximal term is zero at theta
        words = Enclosure(end, 256)
        after = implicit_after(known, theta, strength, RATE, 1, iterations)
        there = implicit(known, (words.high, words.low), strength, iterations)
        assert not overlap(after, there)  # two words are not the exact end, and the balls tell
        assert bool(((after.high - there.high).abs() <= 2.0**-52 * after.high.abs()).all())
        assert not overlap(after, start)


def test_one_iteration_is_the_step_along_the_right_hand_side() -> None:
    known, theta, _, strength = small("linear_regression")

    def step() -> arb_mat:
        v = known.outer_gradient(matrix(theta))
        product = known.hessian(matrix(theta), v) + v * strength
        return v * (strength * (v.transpose() * v)[0, 0] / (v.transpose() * product)[0, 0])

    found = implicit(known, theta, strength, 1)
    assert overlap(found, enclosed(step)) and float(found.radius.max()) < 2.0**-100


def test_more_iterations_than_solve_the_system_prove_nothing() -> None:
    known, theta, _, strength = small("quadratic")
    assert bool(implicit(known, theta, strength, 4).radius.isinf().all())
    solved = implicit(single(), scalar(CENTRE), STRENGTH, 5)  # right-hand side zero, which is solved exactly
    assert solved.balls == arb_mat(1, 1) and float(solved.radius) == 0


def test_a_long_loop_tends_to_the_stationary_gradient() -> None:
    known, theta, _, strength = small("logistic")
    limit = stationary(known, theta, Enclosure(approached(known, theta, strength), 64).high, strength)
    for steps in (50, 500):
        # |H| <= 0.35 and >= 0.1: each step shrinks the distance by 1 - 0.1 or more, and the derivative's with it.
        found = unrolled(known, theta, strength, 1.0, steps)
        gap = float((found.high - limit.high).abs().max())
        assert 0.9**steps > gap / (10 * steps)
        assert steps == 500 or not overlap(found, limit)


def test_bits_are_raised_to_what_a_long_loop_needs() -> None:
    """A step shrinks errors by |1 - a H| = 0.5, which balls do not know: they grow by 1 + a H = 2.5, or 1.3 bits."""
    rate = 1.5 / (A + STRENGTH)
    found = [unrolled(single(), scalar(THETA), STRENGTH, rate, steps) for steps in (10, 200, 1000)]
    assert [known.bits for known in found] == [256, 512, 2048]
    assert all(bool((known.radius <= 2.0**-100 * known.high.abs()).all()) for known in found)
    rough = unrolled(single(), scalar(THETA), STRENGTH, rate, 10, bits=64, radius=1e-3)
    assert rough.bits == 64 and overlap(found[0], rough) and float(rough.radius) > float(found[0].radius)


# ---- where there is no such number


def curved(values: tuple[float, float]) -> tuple[Losses, Tensor]:
    """A quadratic whose Hessian has these eigenvalues."""
    spectrum = torch.tensor([values], dtype=torch.float64)
    data = {"A": symmetric(spectrum)[0], "C": symmetric(spectrum.abs() + 1, 1)[0]}
    return quadratic({**data, "b": vectors(1, 2, 1)[0], "c": vectors(1, 2, 2)[0]}), vectors(1, 2)[0]


def test_a_saddle_has_no_stationary_gradient_though_the_formula_has_a_value() -> None:
    known, theta = curved((1.0, -0.5))
    assert bool(stationary(known, theta, theta, 0.1).radius.isinf().all())
    assert bool((implicit(known, theta, 0.1).radius < 2.0**-100).all())
    assert bool((stationary(known, theta, theta, 0.6).radius < 2.0**-100).all())


def test_a_singular_hessian_gives_balls_that_say_nothing() -> None:
    known = quadratic({"A": -torch.eye(2).double(), "C": torch.eye(2).double(), "b": theta_2(), "c": 2 * theta_2()})
    assert bool(implicit(known, theta_2(), 1.0).radius.isinf().all())
    assert bool(stationary(known, theta_2(), theta_2(), 1.0).radius.isinf().all())
    assert bool(implicit(known, theta_2(), 1.0, 1).radius.isinf().all())


def theta_2() -> Tensor:
    return vectors(1, 2)[0]


def test_where_newtons_method_stops_short_nothing_is_proven() -> None:
    """Inner loss exp(w): steps of -1, too many to the zero at -684; the Hessian is positive where they end."""
    known = Losses(
        size=1,
        gradient=lambda w: each(lambda ball: ball.exp(), w),
        hessian=lambda w, v: each(lambda ball, along: ball.exp() * along, w, v),
        outer_gradient=lambda w: w,
    )
    zero = arb_mat(1, 1)
    assert minimiser(known, zero, zero, 1.0)[0, 0].is_finite()
    assert not minimiser(known, zero, zero, 1e-300)[0, 0].is_finite()
    assert float(stationary(known, scalar(0.0), scalar(0.0), 1e-300).radius) == math.inf


def test_a_start_far_from_any_minimiser_proves_nothing_or_a_minimiser() -> None:
    known, theta, _, strength = small("tanh_mlp[1,3,1]")
    for seed in range(3):
        found = stationary(known, theta, 3 * vectors(1, known.size, seed)[0], strength)
        assert bool(found.radius.isinf().all()) or bool((found.radius < 2.0**-100).all())


def test_what_is_refused() -> None:
    known, theta = single(), scalar(THETA)
    with pytest.raises(ValueError, match="certificate: strength: expected a finite number >= 0, found -1"):
        unrolled(known, theta, -1.0, RATE, 1)
    with pytest.raises(ValueError, match="certificate: learning_rate: expected a finite number > 0, found 0"):
        unrolled(known, theta, 0.0, 0.0, 1)
    with pytest.raises(ValueError, match="certificate: steps: expected a whole number >= 0, found -1"):
        unrolled(known, theta, 0.0, RATE, -1)
    with pytest.raises(ValueError, match="certificate: expected a vector of 1 numbers in theta, found 2"):
        unrolled(known, vectors(1, 2)[0], 0.0, RATE, 1)
    with pytest.raises(ValueError, match="certificate: expected a vector of 1 numbers in w, found 2"):
        implicit(known, vectors(1, 2)[0], 0.1)
    with pytest.raises(ValueError, match="certificate: expected a vector of 1 numbers in near, found 2"):
        stationary(known, theta, vectors(1, 2)[0], 0.1)
    for call in (
        lambda: implicit(known, theta, 0.0),
        lambda: implicit_after(known, theta, 0.0, RATE, 1),
        lambda: stationary(known, theta, theta, 0.0),
    ):
        with pytest.raises(ValueError, match="certificate: strength: expected a finite number > 0, found 0"):
            call()
    with pytest.raises(ValueError, match="certificate: iterations: expected a whole number >= 0, found -1"):
        implicit(known, theta, 0.1, -1)
