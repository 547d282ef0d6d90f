"""What a meta-gradient estimator is given and gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.inner import Trajectory
from diagnostics.outcome import Outcome
from diagnostics.problem import Loss, Problem
from diagnostics.recording import Linearised, recorded
from diagnostics.registry import Registry
from diagnostics.rows import finite_rows


@dataclass(frozen=True)
class MetaGradient:
    """A meta-gradient for every task: `value (B, P)`, `outcome (B,)` codes, and what it took.

    `gradient_count` and `hvp_count` `(B,)` count what a task took beyond the inner loop's own gradients;
    `solver_residual (B,)` is the linear solve's, relative and recomputed, or NaN where there was no solve.
    """

    value: Tensor
    outcome: Tensor
    gradient_count: Tensor
    hvp_count: Tensor
    solver_residual: Tensor


class Estimator(Protocol):
    """A way to differentiate the outer loss at the end of an inner loop with respect to theta."""

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        ...


estimators: Registry[Callable[..., Estimator]] = Registry("estimator", "diagnostics.estimators")


def meta_gradient(
    value: Tensor,
    trajectory: Trajectory,
    *codes: Tensor,
    gradient_count: int = 0,
    hvp_count: int | Tensor = 0,
    solver_residual: Tensor | None = None,
) -> MetaGradient:
    """A `MetaGradient` whose outcome is the gravest of the trajectory's, `codes`, and a value that is not finite."""
    known = outcome.graver(trajectory.outcome, *codes)
    unexplained = ~finite_rows(value) & (known < Outcome.SINGULAR.code)  # a singular system says why by itself
    if solver_residual is None:
        solver_residual = torch.full_like(value[:, 0], torch.nan)
    worst = outcome.graver(known, outcome.where(unexplained, Outcome.NOT_FINITE))
    none = torch.zeros_like(worst)
    return MetaGradient(value.detach(), worst, none + gradient_count, none + hvp_count, solver_residual)


def outer_gradients(problem: Problem, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """`(d outer / dw (B, N), d outer / dtheta (B, P))` at the trajectory's end, each with the other held fixed."""
    key = ("outer", problem.outer_loss, *trajectory.data)
    linearise = partial(_outer, problem.outer_loss, tuple(trajectory.data))
    (by_w, by_theta), _ = recorded(key, linearise, trajectory.final, trajectory.theta, *trajectory.data.values())
    return by_w, by_theta


def _outer(loss: Loss, names: tuple[str, ...], w: Tensor, theta: Tensor, *data: Tensor) -> Linearised:
    w, theta = w.detach().requires_grad_(), theta.detach().requires_grad_()
    with torch.enable_grad():
        total = loss(w, theta, dict(zip(names, data, strict=True))).sum()
        return torch.autograd.grad(total, (w, theta), materialize_grads=True, allow_unused=True), ()
