"""Gradients at the ends of several loop lengths at once, from one trajectory.

The axis E runs over the numbers of steps that were asked for, B over tasks. Whatever looks only at the end of a loop
is given all ends as one batch of E * B rows; whatever needs the path is given its prefixes, or sweeps once for all of
them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.curvature import Spectrum, dense_spectrum, lanczos
from diagnostics.estimators.implicit import Implicit
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import Estimator, MetaGradient
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.solvers import LinearSolver


@dataclass(frozen=True)
class Sweep:
    """Meta-gradients `value (E, B, P)`, with `outcome`, `solver_residual` and the counts, each `(E, B)`."""

    value: Tensor
    outcome: Tensor
    solver_residual: Tensor
    gradient_count: Tensor
    hvp_count: Tensor


def outcome_at_ends(trajectory: Trajectory, steps: Sequence[int]) -> Tensor:
    """Codes `(E, B)`: whether the loop had diverged by each end."""
    return torch.stack([trajectory.prefix(count).outcome for count in steps])


def along_the_path(estimator: Estimator, problem: Problem, trajectory: Trajectory, steps: Sequence[int]) -> Sweep:
    """An estimator's gradient for the loop that ends after each of `steps`."""
    path: Callable[..., Sequence[MetaGradient]] | None = getattr(estimator, "path", None)
    if path is None:
        gradients = [estimator(problem, trajectory.prefix(count)) for count in steps]
    else:
        gradients = path(problem, trajectory, steps)
    return Sweep(
        value=torch.stack([g.value for g in gradients]),
        outcome=torch.stack([g.outcome for g in gradients]),
        solver_residual=torch.stack([g.solver_residual for g in gradients]),
        gradient_count=torch.stack([g.gradient_count for g in gradients]),
        hvp_count=torch.stack([g.hvp_count for g in gradients]),
    )


def implicit_at_ends(
    solver: LinearSolver, problem: Problem, trajectory: Trajectory, steps: Sequence[int]
) -> tuple[Sweep, ...]:
    """The implicit gradient at each end, once for every solution that the solver keeps."""
    diverged = outcome_at_ends(trajectory, steps)
    shape = diverged.shape
    return tuple(
        Sweep(
            value=g.value.unflatten(0, shape),
            outcome=outcome.graver(g.outcome.view(shape), diverged),
            solver_residual=g.solver_residual.view(shape),
            gradient_count=g.gradient_count.view(shape),
            hvp_count=g.hvp_count.view(shape),
        )
        for g in Implicit(solver).path(problem, trajectory.endpoints(steps))
    )


def spectrum_at_ends(
    problem: Problem, trajectory: Trajectory, steps: Sequence[int], *, iterations: int, dense_below: int
) -> Spectrum:
    """Extreme eigenvalues `(E, B)` of the inner Hessian: dense up to `dense_below` weights, Lanczos beyond."""
    ends = trajectory.endpoints(steps)
    hessian = second_order(problem, ends.final, ends.theta, ends.data).hessian
    if trajectory.size <= dense_below:
        found = dense_spectrum(hessian, ends.final)
    else:
        found = lanczos(hessian, ends.final, iterations)
    shape = (len(steps), len(trajectory.theta))
    return replace(
        found,
        smallest=found.smallest.view(shape),
        largest=found.largest.view(shape),
        smallest_uncertainty=found.smallest_uncertainty.view(shape),
        largest_uncertainty=found.largest_uncertainty.view(shape),
    )


def warn_where_indefinite(sweep: Sweep, spectrum: Spectrum) -> Sweep:
    """The sweep, its outcome at least `INDEFINITE` wherever the inner Hessian is not positive definite."""
    warning = outcome.where(~(spectrum.smallest > 0), Outcome.INDEFINITE)
    return replace(sweep, outcome=outcome.graver(sweep.outcome, warning))
