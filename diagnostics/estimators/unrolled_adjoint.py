"""The derivative of the inner loop by a reverse sweep over its stored states.

With s_(k+1) = Step(s_k, theta), and a_K = d outer / d s_K, the adjoint recursion is

    theta_bar <- theta_bar + (dStep/dtheta)' a_(k+1),    a_k = (dStep/ds_k)' a_(k+1),    k = K-1 ... 0

and at the start theta_bar <- theta_bar + (dstart/dtheta)' a_0. It is the gradient that `unrolled` computes, with the
graph of one step in memory at a time, and one sweep serves the ends of several loop lengths at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.estimators.unrolled import stray
from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.one_step import end_adjoint, take_step, through_start
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem


@estimators.register("unrolled_adjoint")
@dataclass(frozen=True)
class UnrolledAdjoint:
    """The unrolled gradient in memory that does not hold the loop's graph: the stored states and one step's graph."""

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        return self.path(problem, trajectory, (trajectory.steps,))[0]

    def path(self, problem: Problem, trajectory: Trajectory, steps: Sequence[int]) -> tuple[MetaGradient, ...]:
        """The meta-gradients of the loops that end after each of `steps`, in one sweep from the longest.

        One graph a step serves every loop that passes through it; each loop has an adjoint of its own.
        """
        ends = {count: trajectory.prefix(count) for count in steps}
        adjoints: dict[int, Tensor] = {}
        by_theta: dict[int, Tensor] = {}
        strayed: dict[int, Tensor] = {}
        for step in range(max(steps), -1, -1):
            if step in ends:
                adjoints[step], by_theta[step] = end_adjoint(problem, ends[step])
                strayed[step] = torch.zeros_like(trajectory.outcome, dtype=torch.bool)
            if step == 0:
                break
            taken = take_step(problem, trajectory, trajectory.states[step - 1])
            for end, adjoint in adjoints.items():
                adjoints[end], more = taken.pull(adjoint)
                by_theta[end] = by_theta[end] + more
            replayed = stray(taken.following, trajectory, step)
            strayed = {end: seen | replayed for end, seen in strayed.items()}
        return tuple(
            meta_gradient(
                through_start(problem, trajectory, adjoints[count], by_theta[count]),
                ends[count],
                outcome.where(strayed[count], Outcome.REPLAY_DIFFERS),
                gradient_count=count + 1,
                hvp_count=count,
            )
            for count in steps
        )
