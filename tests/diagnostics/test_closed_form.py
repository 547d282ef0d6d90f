"""Every gradient against its closed form, on problems whose inner loss is quadratic.

With inner gradient `H w - pull`, H = A + strength I, outer gradient `C w - aim`, inner step a, M = I - aH, and
J* = strength H^-1:

    w* = H^-1 pull,   w_K = w* + M^K (theta - w*),   J_K = J* + M^K (I - J*)

    unrolled after K steps   J_K (C w_K - aim)        implicit at w_K   J* (C w_K - aim)
    stationary               J* (C w* - aim)

The oracle computes these in numpy's longdouble (64-bit significand on x86, where its own error is 2000 times below
eps), from the very numbers that the instrument is given: float32 data are promoted, so that arithmetic is judged and
not the rounding of data.

The units of error, with kappa = cond(H), mu = least eigenvalue of H, and S = |C| (|theta| + |w*| + a |pull|) + |aim|,
the size of what is added up in an outer gradient. A loop of K steps passes its roundings on with a factor of at most
sum_t q^t <= min(K, kappa / aL), so that the outer gradient at w_K carries `loop = (1 + min(K, kappa)) S`:

    unrolled, first order    eps loop
    implicit                 eps (kappa |value| + strength/mu loop): the solve, and the point's own error through J*
    stationary               the same with kappa in place of min(K, kappa), since w* comes from a solve; with eps of
                             float64, in which it is computed whatever the arithmetic of the loop
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.reference import stationary_reference, unrolled_reference
from diagnostics.rows import row_norms
from tests.cases import check_ratio, gd, only, theta_and_data

TASKS = 2
STEPS = (0, 1, 7, 60)
Array = np.ndarray


@dataclass(frozen=True)
class Oracle:
    """One task in longdouble: inner gradient `H w - pull`, outer gradient `C w - aim`."""

    hessian: Array
    pull: Array
    outer: Array
    aim: Array
    theta: Array
    strength: float
    step: float

    def solve(self, v: Array) -> Array:
        """H^-1 v, by refinement: each round gains what float64 resolves, so that five reach longdouble's last digit."""
        x = np.zeros_like(v)
        for _ in range(5):
            x = x + np.linalg.solve(self.hessian.astype(float), (v - self.hessian @ x).astype(float))
        return x

    @property
    def minimiser(self) -> Array:
        return self.solve(self.pull)

    def jacobian(self, v: Array) -> Array:
        return np.longdouble(self.strength) * self.solve(v)

    def shrink(self, v: Array, steps: int) -> Array:
        for _ in range(steps):
            v = v - np.longdouble(self.step) * (self.hessian @ v)
        return v

    def outer_gradient(self, steps: int | None) -> Array:
        """At the end of the loop, or at the minimiser."""
        w = self.minimiser
        if steps is not None:
            w = w + self.shrink(self.theta - w, steps)
        return self.outer @ w - self.aim

    def unrolled(self, steps: int) -> Array:
        gradient = self.outer_gradient(steps)
        inside = self.jacobian(gradient)
        return inside + self.shrink(gradient - inside, steps)

    def implicit(self, steps: int | None) -> Array:
        return self.jacobian(self.outer_gradient(steps))

    def units(self, steps: int | None) -> tuple[float, float]:
        """`(loop, kappa)`: see the head of this file."""
        values = np.linalg.eigvalsh(self.hessian.astype(float))
        kappa = float(values[-1] / values[0])
        size = float(
            np.linalg.norm(self.outer.astype(float), 2)
            * sum(np.linalg.norm(v.astype(float)) for v in (self.theta, self.minimiser, self.step * self.pull))
            + np.linalg.norm(self.aim.astype(float))
        )
        return (1 + (kappa if steps is None else min(steps, kappa))) * size, kappa

    def implicit_unit(self, steps: int | None) -> float:
        loop, kappa = self.units(steps)
        least = float(np.linalg.eigvalsh(self.hessian.astype(float))[0])
        return kappa * float(np.linalg.norm(self.implicit(steps).astype(float))) + self.strength / least * loop


def exact(x: Tensor) -> Array:
    return x.double().numpy().astype(np.longdouble)


def oracles(problem: Problem, theta: Tensor, data: dict[str, Tensor]) -> list[Oracle]:
    """The numbers of each task, written down anew from the data and not from the problem's own functions."""
    found = []
    assert problem.strength is not None
    for task in range(len(theta)):
        d = {key: exact(value[task]) for key, value in data.items()}
        here, size = exact(theta[task]), theta.shape[1]
        if problem.name == "quadratic":
            plain, push, outer, aim = d["A"], d["b"], d["C"], d["C"] @ d["c"]
        else:
            x, y, n = d["support_x"], d["support_y"], np.longdouble(len(d["support_x"]))
            q, z = d["query_x"], d["query_y"]
            plain, push, outer, aim = x.T @ x / n, x.T @ y / n, q.T @ q / n, q.T @ z / n
        strength = np.longdouble(problem.strength)
        hessian = plain + strength * np.eye(size, dtype=np.longdouble)
        pull = push + strength * here
        found.append(Oracle(hessian, pull, outer, aim, here, problem.strength, problem.learning_rate))
    return found


def compare(family: str, value: Tensor, truth: list[Array], units: list[float], eps: float, where: str) -> None:
    """The ratio for each task, the difference taken in longdouble."""
    error = [float(np.linalg.norm((exact(v) - t).astype(float))) for v, t in zip(value, truth, strict=True)]
    check_ratio(family, torch.tensor(error), eps * torch.tensor(units), where)


def the_problem(name: str, dimension: int, condition: float, weak: bool) -> Problem:
    """With strength 0.1, cond(H) is at most 11; with strength 1/condition it is half the condition number of A."""
    more = {"examples": 2 * dimension} if name == "linear_regression" else {}
    strength = 1 / condition if weak else 0.1
    return build(name, dimension=dimension, condition=condition, strength=strength, **more)


cases = [
    pytest.param(
        name, dimension, condition, weak, dtype, id=f"{name}-{dimension}-{condition:g}-{label}-{str(dtype)[6:]}"
    )
    for name in ("quadratic", "linear_regression")
    for dimension in (1, 2, 3, 10, 50)
    for condition in (1.0, 1e2, 1e4, 1e6)
    for weak, label in ((False, "strong"), (True, "weak"))
    for dtype in (torch.float64, torch.float32)
]


@pytest.mark.parametrize(("name", "dimension", "condition", "weak", "dtype"), cases)
def test_every_gradient_equals_its_closed_form(
    name: str, dimension: int, condition: float, weak: bool, dtype: torch.dtype
) -> None:
    problem = the_problem(name, dimension, condition, weak)
    theta, data = theta_and_data(problem, TASKS, dtype=dtype)
    loop = run_inner(problem, gd(problem), theta, data, max(STEPS))
    tasks = oracles(problem, theta, data)
    eps, fine = torch.finfo(dtype).eps, torch.finfo(torch.float64).eps
    short = str(dtype)[6:]
    where = f"{name}, dimension {dimension}, condition {condition:g}, strength {problem.strength:g}"

    def judge(family: str, value: Tensor, truth: list[Array], units: list[float], unit_eps: float) -> None:
        compare(f"{family}, {short}", value, truth, units, unit_eps, where)

    references = unrolled_reference(problem, loop, STEPS)
    swept = UnrolledAdjoint().path(problem, loop, STEPS)
    for index, steps in enumerate(STEPS):
        end = loop.prefix(steps)
        truth, units = [task.unrolled(steps) for task in tasks], [task.units(steps)[0] for task in tasks]
        for family, gradient, unit_eps in (
            ("unrolled", Unrolled()(problem, end), eps),
            ("unrolled_adjoint", UnrolledAdjoint()(problem, end), eps),
            ("unrolled_adjoint, one sweep", swept[index], eps),
            ("unrolled reference", references[index], fine),
        ):
            assert only(gradient.outcome) is Outcome.OK
            judge(family, gradient.value, truth, units, unit_eps)
        first = FirstOrder()(problem, end)
        judge("first_order", first.value, [task.outer_gradient(steps) for task in tasks], units, eps)

    for steps in (0, 7, 60):
        end = loop.prefix(steps)
        truth, units = [task.implicit(steps) for task in tasks], [task.implicit_unit(steps) for task in tasks]
        # To convergence: the recursion's residual at eps. Finite precision may take it many times n iterations.
        for family, solver in (
            ("implicit, dense", Dense()),
            ("implicit, cg", ConjugateGradients(40 * dimension + 100, relative_tolerance=eps)),
        ):
            gradient = Implicit(solver)(problem, end)
            if eps * tasks[0].units(None)[1] < 1e-3:  # beyond it, a system may rightly be called singular
                assert only(gradient.outcome) is Outcome.OK, (family, where)
            judge(family, gradient.value, truth, units, eps)


@pytest.mark.parametrize(("name", "dimension", "condition", "weak", "dtype"), cases)
def test_both_ways_to_the_stationary_reference_equal_the_closed_form(
    name: str, dimension: int, condition: float, weak: bool, dtype: torch.dtype
) -> None:
    problem = the_problem(name, dimension, condition, weak)
    theta, data = theta_and_data(problem, TASKS, dtype=dtype)
    truth = oracles(problem, theta, data)
    where = f"{name}, dimension {dimension}, condition {condition:g}, strength {problem.strength:g}, from {dtype}"
    for family, judged in (("minimizer", problem), ("continue and polish", replace(problem, minimizer=None))):
        loop = run_inner(judged, gd(judged), theta, data, 5)
        gradient = stationary_reference(judged, loop, patience=100)
        assert only(gradient.outcome) is Outcome.OK, (family, where)
        assert gradient.value.dtype == torch.float64
        compare(
            f"stationary reference, {family}",
            gradient.value,
            [o.implicit(None) for o in truth],
            [o.implicit_unit(None) for o in truth],
            torch.finfo(torch.float64).eps,
            where,
        )


def test_the_oracle_itself_is_no_copy_of_the_instrument() -> None:
    """The closed form equals a plain-autograd derivative of a loop written out here, on one small case."""
    problem = the_problem("quadratic", 3, 100.0, False)
    theta, data = theta_and_data(problem, 1)
    (truth,) = oracles(problem, theta, data)
    at = theta[0].clone().requires_grad_()
    a, b, c, outer = (data[key][0] for key in ("A", "b", "c", "C"))
    w = at
    for _ in range(7):
        w = w - 0.5 * (a @ w - b + 0.1 * (w - at))
    (gradient,) = torch.autograd.grad(0.5 * (w - c) @ outer @ (w - c), at)
    compare("oracle, by autograd", gradient[None], [truth.unrolled(7)], [truth.units(7)[0]], 2.0**-52, "quadratic")


def test_the_estimators_differ_by_far_more_than_the_tolerance() -> None:
    """So that the checks above cannot pass by the gradients being alike: unconverged, each is another vector."""
    problem = the_problem("quadratic", 10, 1e2, False)
    theta, data = theta_and_data(problem, TASKS)
    loop = run_inner(problem, gd(problem), theta, data, 7)
    values = [
        Unrolled()(problem, loop).value,
        FirstOrder()(problem, loop).value,
        Implicit(Dense())(problem, loop).value,
        stationary_reference(problem, loop).value,
    ]
    for index, one in enumerate(values):
        for other in values[:index]:
            assert bool((row_norms(one - other) > 1e-3 * row_norms(one)).all())
