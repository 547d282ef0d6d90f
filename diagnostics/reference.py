"""The two references: what an exact meta-gradient would be.

`unrolled`: the exact derivative of the K-step algorithm, MAML's target. `stationary`: the exact derivative of the
minimiser that the inner loop approaches, by the implicit function theorem, iMAML's target. They are different
gradients. Both are computed in float64, from the very numbers (theta, data) that the loop under test was given, so
that rounding those is nobody's error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.curvature import lanczos
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory, loss_gradient, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.meta_gradient import MetaGradient
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.rows import convert_rows, row_norms
from diagnostics.solvers import LinearSolver

WRITTEN_OUT = 256  # unknowns up to which the exact solve writes the Hessian out
NEAR = 1e-5  # relative gradient norm at which the inner loop is close enough for Newton's method
STATIONARY = 1e4  # in units of eps: the relative optimality residual that counts as stationary
SETTLED = 2.0**-26  # relative length of a Newton step: one that is still longer says that there is no minimiser near
NEWTON_STEPS = 20


@dataclass(frozen=True)
class Minimiser:
    """Where the inner loop tends: `w (B, N)`, `outcome (B,)` codes, `residual (B,)`.

    The residual is `|d inner/dw|` relative to `|d inner/dw at the start| + |H| |w|`, the size of what may cancel in it.
    (`|H w|` would not do: where w lies along the least eigenvectors of an ill-conditioned H, rounding exceeds it.)
    """

    w: Tensor
    outcome: Tensor
    residual: Tensor


def in_float64(problem: Problem, trajectory: Trajectory) -> Trajectory:
    """The same inner loop from the same numbers, run in float64."""
    if trajectory.theta.dtype == torch.float64:
        return trajectory
    data = convert_rows(trajectory.data, torch.float64)
    return run_inner(problem, trajectory.optimizer, trajectory.theta.double(), data, trajectory.steps)


def exact_solver(size: int) -> LinearSolver:
    """The references' linear solver: the Hessian written out where that is cheap, CG to rounding elsewhere."""
    return Dense() if size <= WRITTEN_OUT else ConjugateGradients(min(10 * size, 2000), relative_tolerance=1e-14)


def unrolled_reference(problem: Problem, trajectory: Trajectory, steps: Sequence[int]) -> tuple[MetaGradient, ...]:
    """The derivative of the loops that end after each of `steps`, by the adjoint sweep in float64."""
    return UnrolledAdjoint().path(problem, in_float64(problem, trajectory), steps)


def stationary_reference(problem: Problem, trajectory: Trajectory, patience: int = 5000) -> MetaGradient:
    """The derivative of the minimiser, `d outer/dtheta - (d2 inner/dtheta dw) H^-1 d outer/dw` there, in float64.

    NaN, with the outcome `NOT_STATIONARY`, where no minimiser with a positive definite Hessian was reached within
    `patience` further inner steps: then no number is made up.
    """
    loop = in_float64(problem, trajectory)
    found = minimise(problem, loop, patience)
    there = replace(loop, states=found.w.unsqueeze(0), gradient_norms=found.residual.unsqueeze(0))
    gradient = Implicit(exact_solver(loop.size))(problem, there)
    worst = outcome.graver(loop.outcome, found.outcome, gradient.outcome)
    reached = (worst == Outcome.OK.code).unsqueeze(-1)
    codes = torch.where(reached.squeeze(-1) | (worst == Outcome.DIVERGED.code), worst, Outcome.NOT_STATIONARY.code)
    return replace(gradient, value=torch.where(reached, gradient.value, torch.nan), outcome=codes)


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
    scale = row_norms(start) + spectrum.largest.abs() * row_norms(w)
    residual = row_norms(point.gradient) / torch.where(scale > 0, scale, 1.0)
    # Along a tail such as exp(-w) the gradient vanishes without a minimiser; a Newton step, |g| / mu, does not.
    length = row_norms(w) + row_norms(w - loop.states[0, :, : loop.size])
    settled = row_norms(point.gradient) <= SETTLED * spectrum.smallest * length
    good = (residual <= STATIONARY * torch.finfo(w.dtype).eps) & (spectrum.smallest > 0) & settled
    return Minimiser(w, outcome.where(~good, Outcome.NOT_STATIONARY), residual)


def _continued(problem: Problem, loop: Trajectory, patience: int) -> Tensor:
    """The loop's weights after going on until every task's gradient is small."""
    state, first = loop.states[-1], loop.gradient_norms[0]
    norms = loop.gradient_norms[-1]

    def gradient(w: Tensor) -> Tensor:
        return loss_gradient(problem.inner_loss, w, loop.theta, loop.data)

    for step in range(patience):
        if step % 20 == 0:
            norms = row_norms(gradient(state[:, : loop.size]))
            if bool((~norms.isfinite() | (norms <= NEAR * first)).all()):
                break
        state = loop.optimizer.step(state, gradient, loop.size).detach()
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
