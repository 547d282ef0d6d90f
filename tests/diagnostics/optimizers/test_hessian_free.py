"""Hessian-free optimisation: its directions, its steps, and the gradients through them."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from diagnostics import models
from diagnostics.arithmetic.precision import PRECISIONS, Precision
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import InnerGradient, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.optimizers import hessian_free
from diagnostics.optimizers.hessian_free import HessianFree, newton_direction
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.rows import row_norms
from tests.cases import (
    check_by_differences,
    check_ratio,
    only,
    provoked,
    small,
    symmetric,
    theta_and_data,
    times,
    vectors,
)

EPS = 2.0**-52
every_arithmetic = pytest.mark.parametrize("arithmetic", PRECISIONS.values(), ids=PRECISIONS)


def numbers(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def saddle(curvature: Tensor, quartic: float = 0.5) -> Problem:
    """Inner loss `sum h w^2 / 2 + quartic w^4 / 4` plus a coupling of neighbours, h of either sign."""

    def inner_loss(w: Tensor, theta: Tensor, data: object) -> Tensor:
        own = 0.5 * curvature * w**2 + 0.25 * quartic * w**4
        return (own + 0.3 * w * w.roll(1, -1) ** 2).sum(-1)

    def outer_loss(w: Tensor, theta: Tensor, data: object) -> Tensor:
        return ((w - 0.5) ** 2).sum(-1) + 0.25 * w.sum(-1) ** 2

    size = curvature.shape[-1]
    return Problem("saddle", inner_loss, outer_loss, lambda seed: vectors(1, size, seed)[0], lambda tasks, seed: {})


# ---- directions


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_directions_are_the_iterates_of_cg(dtype: torch.dtype) -> None:
    matrix = symmetric(torch.tensor([[1.0, 2, 3, 4, 5], [0.5, 0.5, 1, 1, 2], [1, 3, 3, 3, 9]], dtype=dtype))
    g = vectors(3, 5, dtype=dtype)
    g[1] = g[1] * 2.0**-60
    g[2] = g[2] * 2.0**60
    iterates = ConjugateGradients(7, keep=(1, 2, 3, 4, 5, 6, 7)).path(times(matrix), -g)
    for iterate in iterates:
        d = newton_direction(times(matrix), g, iterate.iterations)
        assert d.dtype == dtype and bool(((d * g).sum(-1) < 0).all())
        # The two differ in when they stop at rounding; the condition is 9.
        unit = torch.finfo(dtype).eps * 9 * row_norms(iterate.value)
        check_ratio("Newton directions", row_norms(d - iterate.value), unit, iterate.iterations)
    exact, d = torch.linalg.solve(matrix.double(), -g.double()), newton_direction(times(matrix), g, 7)
    check_ratio("exact directions", row_norms(d.double() - exact), torch.finfo(dtype).eps * 9 * row_norms(exact), "5")


def test_negative_curvature_leaves_the_iterate_before_or_minus_the_gradient() -> None:
    """The first direction is g. Row 0 meets it there, row 1 after one step, row 2 never, row 3 with no curvature."""
    matrix = torch.diag_embed(numbers([1.0, -2.0, 1.0], [3.0, -1.0, 1.0], [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]))
    g = numbers([1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    for iterations in (1, 2, 3, 6):
        d = newton_direction(times(matrix), g, iterations)
        assert torch.equal(d[[0, 3]], -g[[0, 3]])
        check_ratio("one CG step", row_norms(d[1:2] + 5 / 11 * g[1:2]), EPS, iterations)  # g'g = 5, g'Hg = 11
    check_ratio("three CG steps", (d[2] + numbers([1.0, 0.5, 0.25])[0]).abs(), 4 * EPS, "definite row")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_singular_hessian_is_solved_in_its_range_and_stopped_at_rounding_outside(dtype: torch.dtype) -> None:
    """Outside, the quadratic model has no minimum, and iterates grow until the curvature left is of rounding."""
    eps, size = torch.finfo(dtype).eps, 30
    values = torch.cat([torch.linspace(0.5, 2, 20), torch.zeros(10)]).expand(2, size)
    matrix, g = symmetric(values.to(dtype)), vectors(2, size, dtype=dtype)
    g[0] = times(matrix)(g)[0]
    d = newton_direction(times(matrix), g, 60)
    left = row_norms(times(matrix)(d) + g)[:1]
    check_ratio("singular, in range", left, eps * 4 * row_norms(g[:1]), dtype)  # condition 4 in the range
    assert bool(((d * g).sum(-1) < 0).all())
    # A step is |r| / (p'Hp / |p|^2) at most, and |H| is 2.
    assert bool((row_norms(d) < size * row_norms(g) / (2 * 2 * eps)).all())


@every_arithmetic
def test_directions_in_every_arithmetic(arithmetic: Precision) -> None:
    """Of a small gradient too, whose square underflows in float16; numbers that every arithmetic holds exactly."""
    matrix = torch.diag_embed(numbers([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]))
    with arithmetic.running():
        g = arithmetic.enter(numbers([1.0, -2.0, 1.0], [2.0**-12, -(2.0**-11), 2.0**-12]))
        d = arithmetic.leave(newton_direction(times(arithmetic.enter(matrix)), g, 3))
    expected = numbers([-1.0, 1.0, -0.25], [-(2.0**-12), 2.0**-12, -(2.0**-14)])
    check_ratio("directions", row_norms(d - expected), 4 * arithmetic.eps * row_norms(expected), arithmetic.name)


# ---- steps


@pytest.mark.parametrize("problem_name", ["quadratic", "linear_regression"])
def test_one_exact_step_reaches_the_minimiser_with_its_gradient(problem_name: str) -> None:
    """With as many iterations as weights: the unrolled gradient is the stationary one, and stays it."""
    problem = small(problem_name)
    theta, data = theta_and_data(problem, 3)
    at = theta.clone().requires_grad_()
    assert problem.minimizer is not None
    (exact,) = torch.autograd.grad(problem.outer_loss(problem.minimizer(at, data), at, data).sum(), at)
    minimiser = problem.minimizer(theta, data)
    for steps in (1, 2, 5):
        loop = run_inner(problem, HessianFree(1.0, 5), theta, data, steps)
        # The condition of the Hessian is 11 at most, and enters the minimiser once and its derivative twice.
        unit = EPS * 11 * (row_norms(minimiser) + row_norms(theta))
        check_ratio("one Newton step", row_norms(loop.final - minimiser), unit, f"{problem_name}, {steps}")
        for estimator in (Unrolled(), UnrolledAdjoint()):
            found = estimator(problem, loop)
            assert only(found.outcome) is Outcome.OK
            unit = EPS * 11**2 * (row_norms(exact) + row_norms(theta))
            check_ratio("its gradient", row_norms(found.value - exact), unit, f"{problem_name}, {steps}")


def test_the_share_of_a_newton_step_is_the_first_that_lowers_the_loss_enough() -> None:
    """For `sqrt(1 + w^2)` Newton's step from w is to `-w^3`, which lowers the loss for |w| < 1 only."""
    gradient = InnerGradient(lambda w, theta, data: (1 + w * w).sqrt().sum(-1), torch.zeros(3, 1), {})
    w = numbers([0.5], [1.5], [3.0])

    def expected(w: float, rate: float) -> float:
        slope, d = w / math.sqrt(1 + w * w), -rate * w * (1 + w * w)
        for t in (1, 0.5, 0.25, 0.125, 0.0625):
            if math.sqrt(1 + (w + t * d) ** 2) <= math.sqrt(1 + w * w) + 1e-4 * t * slope * d:
                return w + t * d
        return w

    for rate in (1.0, 0.5):
        found = HessianFree(rate, 1, halvings=4).step(w, gradient, 1).flatten()
        wanted = torch.tensor([expected(x, rate) for x in w.flatten().tolist()], dtype=torch.float64)
        check_ratio("shares", (found - wanted).abs(), 8 * EPS * w.flatten() ** 3, rate)
    assert [expected(x, 1.0) + x**3 == pytest.approx(0, abs=1e-9) for x in (0.5, 1.5)] == [True, False]
    unsearched = HessianFree(1.0, 1, halvings=0).step(w, gradient, 1)
    check_ratio("no search", (unsearched + w**3).abs(), 8 * EPS * w**3, "")
    assert torch.equal(HessianFree(2.0**20, 1, halvings=1).step(w, gradient, 1), w)  # none lowers it: w stays


def test_from_a_saddle_the_loss_never_rises_and_falls_to_a_minimum() -> None:
    problem = saddle(numbers([1.0, -1.0, 0.5, -0.3])[0])
    theta = vectors(6, 4)
    loop = run_inner(problem, HessianFree(1.0, 4), theta, {}, 40)
    losses = torch.stack([problem.inner_loss(w, theta, {}) for w in loop.states])
    assert bool((losses.diff(dim=0) <= 4 * EPS * losses[1:].abs()).all())
    assert bool((loop.stationarity[-1] < 1e-12).all())


# ---- gradients through it


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("problem_name", ["quadratic", "logistic", "linear_regression"])
def test_the_gradient_is_the_derivative(problem_name: str, iterations: int) -> None:
    """Also with fewer iterations than weights, where the iterates of CG are no linear functions of g."""
    problem, optimizer = small(problem_name), HessianFree(0.7, iterations)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, optimizer, theta, data, 2)
    whole, adjoint = Unrolled()(problem, loop), UnrolledAdjoint()(problem, loop)
    assert only(whole.outcome) is Outcome.OK and only(adjoint.outcome) is Outcome.OK
    unit = EPS * 3 * row_norms(whole.value)
    check_ratio("Hessian-free, unrolled against adjoint", row_norms(whole.value - adjoint.value), unit, problem_name)
    check_by_differences("Hessian-free", problem, optimizer, theta, data, 2, adjoint.value, step=2e-5)


@pytest.mark.parametrize("halvings", [0, 7])
def test_the_gradient_is_the_derivative_where_curvature_is_negative(halvings: int) -> None:
    """Rows that stop at -g, after an iteration, or never, and that take several shares of the step."""
    curvature = torch.cat([numbers([1.0, -1.0, 0.5, -0.3]).expand(12, 4), numbers([1.0, 2.0, 0.5, 3.0]).expand(4, 4)])
    problem, optimizer = saddle(curvature, 0.2), HessianFree(0.5, 3, halvings)
    theta = 0.8 * vectors(16, 4)
    graph = InnerGradient(problem.inner_loss, theta, {})
    g, product = graph.products(theta)
    d = [newton_direction(product, g, count) for count in (1, 2, 3)]
    stopped = [int((row_norms(a - b) == 0).sum()) for a, b in ((d[0], -g), (d[0], d[1]), (d[1], d[2]))]
    assert 0 < stopped[0] < stopped[1] and stopped[2] < 16  # all three kinds are there
    loop = run_inner(problem, optimizer, theta, {}, 2)
    found = UnrolledAdjoint()(problem, loop)
    assert only(found.outcome) is Outcome.OK
    check_by_differences("Hessian-free, saddle", problem, optimizer, theta, {}, 2, found.value, step=1e-5)


def test_the_gradient_is_the_derivative_through_a_network() -> None:
    problem, optimizer = small("sinusoid"), HessianFree(0.1, 2)
    theta, data = theta_and_data(problem, 3)
    found = UnrolledAdjoint()(problem, run_inner(problem, optimizer, theta, data, 2))
    assert only(found.outcome) is Outcome.OK
    check_by_differences("Hessian-free, network", problem, optimizer, theta, data, 2, found.value, step=1e-5)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_images(norm: str) -> None:
    problem, optimizer = small("few_shot", norm=norm), HessianFree(0.1, 1, 0)
    theta, data = theta_and_data(problem, 3)
    found = UnrolledAdjoint()(problem, run_inner(problem, optimizer, theta, data, 1)).value
    check_by_differences("Hessian-free, images", problem, optimizer, theta, data, 1, found, kinks=True)


def test_torchs_batch_norm_is_refused_and_its_third_derivatives_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this finds them right, the refusal has had its day."""
    torchs = partial(functional.batch_norm, running_mean=None, running_var=None, training=True)
    monkeypatch.setattr(models, "batch_norm", lambda x, weight, bias: torchs(x, weight=weight, bias=bias))
    problem, optimizer = small("few_shot"), HessianFree(0.1, 1, 0)
    theta, data = theta_and_data(problem, 3)
    loop = run_inner(problem, optimizer, theta, data, 1)
    with pytest.raises(ValueError, match="expected a loss with third derivatives, found torch's NativeBatchNorm"):
        UnrolledAdjoint()(problem, loop)
    monkeypatch.setattr(hessian_free, "_require_third_derivatives", lambda g: None)
    found = UnrolledAdjoint()(problem, loop).value
    with provoked():
        check_by_differences("batch norm", problem, optimizer, theta, data, 1, found, kinks=True)


@every_arithmetic
def test_a_stationary_start_stays_and_has_the_derivative_of_the_identity(arithmetic: Precision) -> None:
    problem = Problem(
        "bowl",
        lambda w, theta, data: (0.5 * (w - 1.0) ** 2).sum(-1),
        lambda w, theta, data: (w**2).sum(-1),
        lambda seed: torch.ones(2),
        lambda tasks, seed: {},
    )
    with arithmetic.running():
        theta = arithmetic.enter(torch.ones(1, 2).double())
        loop = run_inner(problem, HessianFree(0.5), theta, {}, 3)
        found = UnrolledAdjoint()(problem, loop)
    assert torch.equal(arithmetic.leave(loop.final), torch.ones(1, 2).double())
    assert only(found.outcome) is Outcome.OK
    assert arithmetic.leave(found.value).tolist() == [[2.0, 2.0]]


def test_a_loss_that_is_linear_in_the_weights_is_descended_along_its_gradient() -> None:
    problem = Problem(
        "plane",
        lambda w, theta, data: (theta * w).sum(-1),
        lambda w, theta, data: (w**2).sum(-1),
        lambda seed: torch.ones(2),
        lambda tasks, seed: {},
    )
    theta = numbers([1.0, -2.0])
    loop = run_inner(problem, HessianFree(0.25), theta, {}, 2)
    assert loop.final.tolist() == [[0.5, -1.0]]  # from theta, two steps of -theta / 4
    assert UnrolledAdjoint()(problem, loop).value.tolist() == [[0.5, -1.0]]  # of |theta|^2 / 4


# ---- scales, rows, settings


def test_powers_of_two_on_the_loss_change_nothing() -> None:
    """Newton's step does not depend on the unit of the loss: bit for bit, the gradient included."""
    problem = small("logistic")
    theta, data = theta_and_data(problem, 3)

    def scaled(factor: float) -> tuple[Tensor, Tensor]:
        changed = Problem(
            "scaled",
            lambda w, theta, data: factor * problem.inner_loss(w, theta, data),
            problem.outer_loss,
            problem.init,
            problem.sample,
        )
        loop = run_inner(changed, HessianFree(1.0, 3), theta, data, 3)
        return loop.final, UnrolledAdjoint()(changed, loop).value

    for factor in (2.0**-60, 2.0**60):
        for one, two in zip(scaled(1.0), scaled(factor), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("halvings", [0, 7])
def test_a_row_that_is_not_finite_leaves_the_others_alone(halvings: int) -> None:
    problem, optimizer = small("quadratic"), HessianFree(0.5, halvings=halvings)
    theta, data = theta_and_data(problem, 3)
    clean = run_inner(problem, optimizer, theta, data, 3)
    far, spoiled = theta.clone(), {key: value.clone() for key, value in data.items()}
    far[1] = 1e308
    spoiled["A"][1] *= 1e10
    loop = run_inner(problem, optimizer, far, spoiled, 3)
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
        state = HessianFree(1.0).step(fake, InnerGradient(problem.inner_loss, fake, rest), 5)
    assert state.shape == (3, 5)


@pytest.mark.parametrize("learning_rate", [0, -0.1, math.nan, math.inf, True, "0.1", None])
def test_a_learning_rate_is_above_zero(learning_rate: object) -> None:
    with pytest.raises(ValueError, match=r"^learning rate: expected a finite number > 0, found \S+$"):
        HessianFree(learning_rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting, least", [("iterations", 1), ("halvings", 0)])
@pytest.mark.parametrize("value", [-1, 1.5, "2", True])
def test_counts_are_whole_numbers(setting: str, least: int, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{setting}: expected a whole number >= {least}, found "):
        HessianFree(1.0, **{setting: value})  # type: ignore[arg-type]
