"""Truncated backpropagation (Shaban, Cheng, Hatch and Boots 2019): the derivative of the last steps of the loop.

With a_K = d outer / d s_K and a_k = (dStep/ds_k)' a_(k+1), a window of k steps keeps the last k terms of

    d outer / d theta = d outer/dtheta + sum_t (dStep/dtheta)' a_(t+1) + (ds_0/dtheta)' a_0

and does one of two things with a_(K-k), which it stops at: `held` drops it, as that paper does, and `theta` carries it
to theta as if the loop had started there, as first-order MAML does with a_K. Where theta enters by the loop's start
alone (MAML, strength 0), `held` leaves the direct term only, which is zero for the usual outer loss.

For steps w - a (gradient + strength (w - theta)) of an inner loss with Hessian >= mu on the whole path, a <= 1 / |H|
and M_B = max |dStep/dtheta|, the dropped terms are a geometric series:

    |held - full| <= |d outer/dw| (1 - a mu)^k (M_B (1 - (1 - a mu)^(K-k)) / (a mu) + (1 - a mu)^(K-k) |ds_0/dtheta|)
"""

from dataclasses import dataclass

import torch

from diagnostics import outcome
from diagnostics.checks import one_of, whole_number
from diagnostics.estimators.unrolled import stray
from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.one_step import end_adjoint, take_step, through_start
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem

STARTS = ("held", "theta")


@estimators.register("truncated")
@dataclass(frozen=True)
class Truncated:
    """The derivative of the last `window` steps, the state before them `held`, or taken for the start at `theta`.

    A window of K steps or more is the unrolled gradient, whatever `start` says; a window of 0 from `theta` is
    `first_order`. It counts one gradient and one Hessian-vector product for each step of the window, and the outer
    gradient. Raises `ValueError` for a window that is not a whole number >= 0, and for another `start`.
    """

    window: int = 5
    start: str = "held"

    def __post_init__(self) -> None:
        """Check the settings."""
        whole_number("truncated: window", self.window, 0)
        one_of("truncated: start", self.start, STARTS)

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        window = min(self.window, trajectory.steps)
        adjoint, by_theta = end_adjoint(problem, trajectory)
        strayed = torch.zeros_like(trajectory.outcome, dtype=torch.bool)
        for step in reversed(range(trajectory.steps - window, trajectory.steps)):
            taken = take_step(problem, trajectory, trajectory.states[step])
            adjoint, more = taken.pull(adjoint)
            by_theta = by_theta + more
            strayed = strayed | stray(taken.following, trajectory, step + 1)
        if window == trajectory.steps or self.start == "theta":
            by_theta = through_start(problem, trajectory, adjoint, by_theta)
        return meta_gradient(
            by_theta,
            trajectory,
            outcome.where(strayed, Outcome.REPLAY_DIFFERS),
            gradient_count=window + 1,
            hvp_count=window,
        )
