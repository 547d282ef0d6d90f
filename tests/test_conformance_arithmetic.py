"""Every registered estimator, linear solver, inner optimizer and problem in every arithmetic, those added later too.

The yardstick is measured, not assumed: how far a result moves when every operation in extended precision is cut short
(`arithmetic.cut`, epsilon 2^-78) says what rounding errors of that size grow to, and those of an arithmetic grow alike.
So an error in an arithmetic is compared with `eps / 2^-78` times that movement, and with its eps, which is what the one
rounding of the result may take.
"""

from functools import lru_cache

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic.extended import Extended, extended
from diagnostics.arithmetic.precision import PRECISIONS, Precision, arithmetic_of, enter_rows, precision
from diagnostics.certified import COARSER, coarser
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.implicit_fixed_point import ImplicitFixedPoint
from diagnostics.inner import Trajectory, loss_gradient, optimizers, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.neumann import Neumann
from diagnostics.meta_gradient import MetaGradient, estimators
from diagnostics.metrics import distance
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import problems
from diagnostics.solvers import solvers
from tests.cases import (
    check_ratio,
    gd,
    make_estimator,
    make_optimizer,
    make_solver,
    refusal,
    small,
    symmetric,
    theta_and_data,
    times,
    vectors,
)

TASKS = 2
EXTENDED = precision("extended")
every_arithmetic = pytest.mark.parametrize("arithmetic", PRECISIONS.values(), ids=PRECISIONS)
FINE = [p for p in PRECISIONS.values() if p.eps <= 2.0**-23]
every_fine_arithmetic = pytest.mark.parametrize("arithmetic", FINE, ids=[p.name for p in FINE])
FEW_ITERATIONS = ConjugateGradients(3)
# Differences in the low precisions have no digit left, and say so.
HARMLESS = {Outcome.OK, Outcome.UNRESOLVED, Outcome.UNFINISHED, Outcome.NEGATIVE_CURVATURE, Outcome.SINGULAR}
# Convolutions that round every term take a second each, so that a network of images is smaller still, and its loop.
SMALLER: dict[str, dict[str, object]] = {
    "few_shot": {"width": 2, "ways": 2, "queries": 1},
    "generalized_few_shot": {"width": 2, "base": 2, "ways": 1, "queries": 1},
}
STEPS = {"few_shot": 1, "generalized_few_shot": 1}


def held(x: Tensor) -> Tensor:
    """Numbers that every arithmetic holds exactly."""
    for arithmetic in PRECISIONS.values():
        x = arithmetic.leave(arithmetic.enter(x))
    return x


@lru_cache
def smaller(problem_name: str) -> Problem:
    return small(problem_name, **SMALLER.get(problem_name, {}))


@lru_cache
def loop_in(problem_name: str, arithmetic: Precision) -> Trajectory:
    """The inner loop of a small problem, from the same numbers in every arithmetic; all estimators share it."""
    problem = smaller(problem_name)
    theta, data = theta_and_data(problem, TASKS)
    data = {key: held(value) if value.is_floating_point() else value for key, value in data.items()}
    with arithmetic.running():
        entered = arithmetic.enter(held(theta)), enter_rows(arithmetic, data)
        return run_inner(problem, gd(problem), *entered, STEPS.get(problem_name, 2))


@lru_cache
def gradient(estimator: str, problem_name: str, arithmetic: Precision) -> MetaGradient:
    """An estimator's gradient at the end of that loop."""
    loop = loop_in(problem_name, arithmetic)
    # The exact solver would write the Hessian of a network out.
    few = {"implicit": Implicit(FEW_ITERATIONS), "implicit_fixed_point": ImplicitFixedPoint(Neumann(3, step=1.0))}
    known = few.get(estimator, make_estimator(estimator)) if loop.size >= 100 else make_estimator(estimator)
    with arithmetic.running():
        return known(smaller(problem_name), loop)


def is_in(x: Tensor, arithmetic: Precision) -> bool:
    """Whether a tensor's numbers are of the arithmetic's kind."""
    return arithmetic_of(x) == arithmetic.name.removesuffix("_pure")


@every_arithmetic
@pytest.mark.parametrize("problem_name", problems.names())
@pytest.mark.parametrize("estimator", estimators.names())
def test_every_estimator_and_problem_runs_in_every_arithmetic(
    estimator: str, problem_name: str, arithmetic: Precision
) -> None:
    message = refusal(estimator, smaller(problem_name))
    if message is not None:
        with pytest.raises(ValueError, match=message):
            gradient(estimator, problem_name, arithmetic)
        return
    found = gradient(estimator, problem_name, arithmetic)
    assert is_in(found.value, arithmetic) and not found.value.requires_grad
    assert bool(found.value.isfinite().all()) and set(decode(found.outcome)) <= HARMLESS


@every_fine_arithmetic
@pytest.mark.parametrize("problem_name", problems.names())
def test_the_error_in_an_arithmetic_is_of_the_size_of_its_roundings(problem_name: str, arithmetic: Precision) -> None:
    exact = gradient("unrolled_adjoint", problem_name, EXTENDED).value
    cut = gradient("unrolled_adjoint", problem_name, coarser(EXTENDED)).value
    moved = distance(cut, exact).relative_error
    assert bool((moved > 0).all())  # or nothing was cut, and nothing is measured
    if arithmetic == EXTENDED:
        there, eps = cut, COARSER["extended"]
    else:
        there, eps = gradient("unrolled_adjoint", problem_name, arithmetic).value, arithmetic.eps
    # Cutting sees a sum inside a kernel as one operation; its N terms, rounded one by one, add up like the root of N.
    unit = eps * (1 + moved / COARSER["extended"]) * exact.shape[1] ** 0.5
    error = distance(there, exact).relative_error
    check_ratio("rounding against what cutting short moves", error, unit, f"{problem_name}, {arithmetic.name}")


@every_arithmetic
@pytest.mark.parametrize("name", solvers.names())
def test_every_solver_runs_in_every_arithmetic(name: str, arithmetic: Precision) -> None:
    matrix = held(symmetric(torch.tensor([[1.0, 2, 3, 4, 5], [0.5, 0.5, 1, 1, 2]]).double()))
    b = held(vectors(2, 5))
    with arithmetic.running():
        entered, right = arithmetic.enter(matrix), arithmetic.enter(b)
        solution = make_solver(name).path(times(entered), right)[-1]
    assert is_in(solution.value, arithmetic) and is_in(solution.residual, arithmetic)
    assert decode(solution.outcome) == [Outcome.OK] * 2
    truth = torch.linalg.solve(extended(matrix), extended(b))
    lifted = solution.value if arithmetic == EXTENDED else extended(arithmetic.leave(solution.value))
    # The condition number is 5; of one rounding an entry there are 5.
    check_ratio("solvers in every arithmetic", distance(lifted, truth).relative_error, 25 * arithmetic.eps, name)


@every_arithmetic
@pytest.mark.parametrize("name", optimizers.names())
@pytest.mark.parametrize("estimator", ["unrolled", "unrolled_adjoint"])
def test_every_optimizer_runs_and_is_differentiated_in_every_arithmetic(
    name: str, estimator: str, arithmetic: Precision
) -> None:
    problem = small("logistic")
    theta, data = theta_and_data(problem, TASKS)
    data = {key: held(value) for key, value in data.items()}
    with arithmetic.running():
        loop = run_inner(problem, make_optimizer(name), arithmetic.enter(held(theta)), enter_rows(arithmetic, data), 3)
        found = make_estimator(estimator)(problem, loop)
    assert is_in(loop.states, arithmetic) and is_in(loop.gradient_norms, arithmetic)
    assert is_in(found.value, arithmetic) and decode(found.outcome) == [Outcome.OK] * TASKS


@pytest.mark.parametrize("problem_name", problems.names())
def test_every_tensor_that_autograd_saves_is_extended(problem_name: str) -> None:
    """Nothing falls back to float64: what a differentiable gradient keeps, and its derivative, is in double words."""
    problem = smaller(problem_name)
    theta, data = theta_and_data(problem, TASKS)
    theta, data = extended(theta), enter_rows(EXTENDED, data)
    saved: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    w = problem.start(theta, data).detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        gradient = loss_gradient(problem.inner_loss, w, theta, data, graph=True)
        (product,) = torch.autograd.grad((gradient * gradient.detach()).sum(), w, create_graph=True)
    numbers = [x for x in saved if x.is_floating_point()]
    assert len(numbers) > 3 and isinstance(product, Extended)
    assert [x.shape for x in numbers if not isinstance(x, Extended)] == []


def test_a_loop_of_two_arithmetics_is_refused() -> None:
    problem = small("quadratic")
    theta, data = theta_and_data(problem, TASKS)
    with pytest.raises(ValueError, match="expected one arithmetic, found theta in extended and data.* in float64"):
        run_inner(problem, gd(problem), extended(theta), data, 1)


@pytest.mark.parametrize("problem_name", problems.names())
def test_a_reference_in_extended_precision_has_digits_beyond_float64s(problem_name: str) -> None:
    """Cut short it is still nearer to itself in full than float64 is, by far; a hidden float64 would not be."""
    exact, cut = (gradient("unrolled_adjoint", problem_name, p).value for p in (EXTENDED, coarser(EXTENDED)))
    plain = gradient("unrolled_adjoint", problem_name, precision("float64")).value
    near, away = distance(cut, exact).relative_error, distance(plain, exact).relative_error
    assert bool((near < 2.0**-20 * away).all())
