"""The two references: what an exact meta-gradient would be.

`unrolled`: the exact derivative of the K-step algorithm, MAML's target. `stationary`: the exact derivative of the
minimiser that the inner loop approaches, by the implicit function theorem, iMAML's target. They are different
gradients. Both are computed in an arithmetic of the caller's choice, from the very numbers (theta, data) that the loop
under test was given, so that rounding those is nobody's error.

The stationary one costs little in extended precision: its two linear systems are solved by iterative refinement, with
solutions in float64 and residuals in extended precision (Wilkinson 1963).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.extended import rounded
from diagnostics.arithmetic.precision import Precision, arithmetic_of, enter_rows, precision
from diagnostics.curvature import lanczos
from diagnostics.estimators.implicit import require_implicit_gradient
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import StepMap, Trajectory, advance, loss_gradient, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.meta_gradient import MetaGradient, meta_gradient, outer_gradients
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolution, LinearSolver, MatVec

FLOAT64 = precision("float64")
WRITTEN_OUT = 256  # unknowns up to which the exact solve writes the Hessian out
NEAR = 1e-5  # relative gradient norm at which the inner loop is close enough for Newton's method
STATIONARY = 1e4  # in units of eps: the relative optimality residual that counts as stationary
SETTLED = 2.0**-26  # relative length of a Newton step: one that is still longer says that there is no minimiser near
NEWTON_STEPS = 20
REFINEMENTS = 4  # each gains the digits that a float64 solution has: eight for condition number 1e8


@dataclass(frozen=True)
class Minimiser:
    """Where the inner loop tends: `w (B, N)`, and `outcome` codes, `residual`, `scale` and `steepest`, each `(B,)`.

    The residual is `|d inner/dw|` relative to `scale`, `|d inner/dw at the start| + |H| |w|`: what may cancel in it.
    (`|H w|` would not do: where w lies along the least eigenvectors of an ill-conditioned H, rounding exceeds it.)
    `steepest` is |H|, the greatest eigenvalue of the Hessian there.
    """

    w: Tensor
    outcome: Tensor
    residual: Tensor
    scale: Tensor
    steepest: Tensor


def in_arithmetic(problem: Problem, trajectory: Trajectory, arithmetic: Precision) -> Trajectory:
    """The same inner loop from the same numbers, run in another arithmetic."""
    if arithmetic_of(trajectory.theta) == arithmetic.name:
        return trajectory
    theta, data = _entered(trajectory, arithmetic)
    with arithmetic.running():
        return run_inner(problem, trajectory.optimizer, theta, data, trajectory.steps)


def exact_solver(size: int) -> LinearSolver:
    """The references' linear solver: the Hessian written out where that is cheap, CG to rounding elsewhere."""
    return Dense() if size <= WRITTEN_OUT else ConjugateGradients(min(10 * size, 2000), relative_tolerance=1e-14)


def unrolled_reference(
    problem: Problem, trajectory: Trajectory, steps: Sequence[int], arithmetic: Precision = FLOAT64
) -> tuple[MetaGradient, ...]:
    """The derivative of the loops that end after each of `steps`, by the adjoint sweep in `arithmetic`."""
    loop = in_arithmetic(problem, trajectory, arithmetic)
    with arithmetic.running():
        return UnrolledAdjoint().path(problem, loop, steps)


def stationary_reference(
    problem: Problem, trajectory: Trajectory, patience: int = 5000, arithmetic: Precision = FLOAT64
) -> MetaGradient:
    """The derivative of the minimiser, `d outer/dtheta - (d2 inner / dtheta dw) H^-1 d outer/dw` there.

    NaN, with the outcome `NOT_STATIONARY`, where no minimiser with a positive definite Hessian was reached within
    `patience` further inner steps: then no number is made up.
    """
    require_implicit_gradient(problem)
    loop = in_arithmetic(problem, trajectory, FLOAT64)
    return at_minimiser(problem, loop, trajectory, minimise(problem, loop, patience), arithmetic)


def at_minimiser(
    problem: Problem, loop: Trajectory, trajectory: Trajectory, found: "Minimiser", arithmetic: Precision
) -> MetaGradient:
    """The stationary reference, from the minimiser that was `found` in float64, where `loop` is the float64 loop.

    In an arithmetic that is finer, Newton's method goes on from there, with the Hessian of float64.
    """
    theta, data = _entered(trajectory, arithmetic)
    if bool((found.outcome != Outcome.OK.code).all()):  # nothing to refine, and on a network that is dear
        nowhere = replace(loop, theta=theta, data=data)
        return meta_gradient(torch.full_like(theta, torch.nan), nowhere, found.outcome)
    nearby = second_order(problem, found.w, loop.theta, loop.data).hessian
    solver = Refined(nearby, exact_solver(loop.size), arithmetic, found.steepest)

    def inner_gradient(w: Tensor) -> Tensor:
        with arithmetic.running():
            return loss_gradient(problem.inner_loss, w, theta, data)

    w = arithmetic.enter(found.w)
    for _ in range(solver.rounds):
        w = w - solver.nearly(inner_gradient(w))
    norms = row_norms(inner_gradient(w))
    there = replace(loop, theta=theta, data=data, states=w.unsqueeze(0), gradient_norms=norms.unsqueeze(0))
    gradient = _implicit(problem, there, solver)
    unsettled = arithmetic.leave(norms) > STATIONARY * arithmetic.eps * found.scale
    unsettled = outcome.where(unsettled, Outcome.NOT_STATIONARY)
    worst = outcome.graver(loop.outcome, found.outcome, gradient.outcome, unsettled)
    reached = (worst == Outcome.OK.code).unsqueeze(-1)
    diverged = loop.outcome == Outcome.DIVERGED.code  # the loop itself, not the search
    codes = torch.where(reached.squeeze(-1) | diverged, worst, Outcome.NOT_STATIONARY.code)
    return replace(gradient, value=torch.where(reached, gradient.value, torch.nan), outcome=codes)


def _implicit(problem: Problem, there: Trajectory, solver: "Refined") -> MetaGradient:
    """The implicit gradient in the solver's arithmetic; its solutions in float64 are outside of it."""
    running = solver.arithmetic.running
    with running():
        by_w, by_theta = outer_gradients(problem, there)
        point = second_order(problem, there.final, there.theta, there.data)
    (solution,) = solver.path(point.hessian, by_w)
    with running():
        value = by_theta - point.mixed(solution.value)
    return meta_gradient(
        value, there, solution.outcome, gradient_count=2, hvp_count=solution.products, solver_residual=solution.residual
    )


@dataclass(frozen=True)
class Refined:
    """Iterative refinement: `solver` solves with `nearby`, the product in float64; residuals are of the arithmetic.

    Each round divides the error by what one solution in float64 is good for; in float64 itself there is none.
    `steepest (B,)` is the matrix's norm.
    """

    nearby: MatVec
    solver: LinearSolver
    arithmetic: Precision
    steepest: Tensor

    @property
    def rounds(self) -> int:
        """How often a solution is refined."""
        return REFINEMENTS if self.arithmetic.eps < FLOAT64.eps else 0

    def nearly(self, b: Tensor) -> Tensor:
        """The solution to about the digits of float64."""
        return self.arithmetic.enter(self.solver.path(self.nearby, rounded(b))[-1].value)

    def path(self, matvec: MatVec, right_hand_side: Tensor) -> tuple[LinearSolution, ...]:
        """The one solution; `UNFINISHED` where its residual is not down to the arithmetic's rounding."""
        b = right_hand_side

        def residual(x: Tensor) -> Tensor:
            with self.arithmetic.running():
                return b - matvec(x)

        first = self.solver.path(self.nearby, rounded(b))[-1]
        x = self.arithmetic.enter(first.value)
        for _ in range(self.rounds):
            x = x + self.nearly(residual(x))
        norm, left = row_norms(b), row_norms(residual(x))
        met = left <= STATIONARY * self.arithmetic.eps * (self.steepest * row_norms(x) + norm)
        relative = torch.where(norm > 0, left / torch.where(norm > 0, norm, 1.0), 0.0)
        codes = torch.where(first.outcome == Outcome.UNFINISHED.code, Outcome.OK.code, first.outcome)
        codes = outcome.graver(codes, outcome.where(~met, Outcome.UNFINISHED))
        products = first.products * (self.rounds + 1) + self.rounds
        return (LinearSolution(x, codes, relative, 0, products),)


def _entered(trajectory: Trajectory, arithmetic: Precision) -> tuple[Tensor, dict[str, Tensor]]:
    return arithmetic.enter(trajectory.theta), enter_rows(arithmetic, trajectory.data)


def minimise(problem: Problem, loop: Trajectory, patience: int) -> Minimiser:
    """The minimiser that a float64 loop approaches: its closed form, or the loop continued and polished by Newton's
    method.

    Newton's method starts where the loop's gradient has fallen to 1e-5 of its first, or `patience` further steps have
    been made; each Newton step must lower the gradient, so that it stays with the minimiser that the loop was
    approaching.
    """
    if problem.minimizer is not None:
        w = problem.minimizer(loop.theta, loop.data)
    else:
        w = _newton(problem, loop, _continued(problem, loop, patience))
    point = second_order(problem, w, loop.theta, loop.data)
    start = loss_gradient(problem.inner_loss, loop.states[0, :, : loop.size], loop.theta, loop.data)
    spectrum = lanczos(point.hessian, w)
    steepest = spectrum.largest.abs()
    scale = row_norms(start) + steepest * row_norms(w)
    residual = row_norms(point.gradient) / torch.where(scale > 0, scale, 1.0)
    # Along a tail such as exp(-w) the gradient vanishes without a minimiser; a Newton step, |g| / mu, does not.
    length = row_norms(w) + row_norms(w - loop.states[0, :, : loop.size])
    settled = row_norms(point.gradient) <= SETTLED * spectrum.smallest * length
    good = (residual <= STATIONARY * FLOAT64.eps) & (spectrum.smallest > 0) & settled
    return Minimiser(w, outcome.where(~good, Outcome.NOT_STATIONARY), residual, scale, steepest)


def _continued(problem: Problem, loop: Trajectory, patience: int) -> Tensor:
    """The loop's weights after going on until every task's gradient is small."""
    state, first = loop.states[-1], loop.gradient_norms[0]
    norms = loop.gradient_norms[-1]
    step = StepMap(problem.inner_loss, loop.optimizer, loop.size, tuple(loop.data))
    for count in range(patience):
        following, gradient = advance(step, state, loop.theta, loop.data)
        if count % 20 == 0:
            norms = row_norms(gradient)
            if bool((~norms.isfinite() | (norms <= NEAR * first)).all()):
                break
        state = following
    return state[:, : loop.size]


def _newton(problem: Problem, loop: Trajectory, w: Tensor) -> Tensor:
    """Newton's method on the inner gradient; a task stops at the first step that does not lower its gradient."""
    solver = exact_solver(loop.size)
    point = second_order(problem, w, loop.theta, loop.data)
    norm = row_norms(point.gradient)
    for _ in range(NEWTON_STEPS):
        step = solver.path(point.hessian, point.gradient)[-1]
        trial = w - step.value
        ahead = second_order(problem, trial, loop.theta, loop.data)
        trial_norm = row_norms(ahead.gradient)
        better = (trial_norm < norm) & (step.outcome < Outcome.NEGATIVE_CURVATURE.code)
        if not bool(better.any()):
            break
        w = torch.where(better.unsqueeze(-1), trial, w)
        point = second_order(problem, w, loop.theta, loop.data)
        norm = torch.where(better, trial_norm, norm)
    return w
