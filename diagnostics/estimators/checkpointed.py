"""The unrolled gradient from about sqrt(K) checkpoints (Griewank 1992; Chen, Xu, Zhang and Guestrin 2016).

The loop is cut into segments of ceil(sqrt(K)) steps. The reverse sweep of `unrolled_adjoint` goes through the segments
from the last to the first, and runs each again from the state at its beginning, to have the states in it:

    states held at once   about sqrt(K) checkpoints and sqrt(K) states of one segment, instead of K
    steps taken           fewer than 2 K, instead of K

Every number is that of `unrolled_adjoint`, bit for bit.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.checks import whole_number
from diagnostics.inner import Optimizer, StepMap, Trajectory, advance, run_inner
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.one_step import end_adjoint, take_step, through_start
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.rows import Data


def checkpoints(steps: int) -> tuple[int, ...]:
    """The steps whose states are kept: each `ceil(sqrt(steps))`-th from 0, and the last."""
    return (*range(0, steps, math.isqrt(max(0, steps - 1)) + 1), steps)


@dataclass(frozen=True)
class Checkpoints:
    """An inner loop of `steps` steps of which only the states after `checkpoints(steps)` are kept.

    `kept` is a trajectory of those states alone; its `steps` counts the segments.
    """

    kept: Trajectory
    steps: int

    @staticmethod
    def of(trajectory: Trajectory) -> "Checkpoints":
        """Those of a whole trajectory; the other states are not looked at."""
        at = torch.as_tensor(checkpoints(trajectory.steps), device=trajectory.theta.device)
        return Checkpoints(
            replace(trajectory, states=trajectory.states[at], gradient_norms=trajectory.gradient_norms[at]),
            trajectory.steps,
        )


def run_with_checkpoints(problem: Problem, optimizer: Optimizer, theta: Tensor, data: Data, steps: int) -> Checkpoints:
    """Run the loop of `run_inner`, and keep its checkpoints only; raises `ValueError` for what that refuses."""
    whole_number("inner steps", steps, 0)
    return Checkpoints(run_inner(problem, optimizer, theta, data, steps, keep=checkpoints(steps)), steps)


@estimators.register("checkpointed")
@dataclass(frozen=True)
class Checkpointed:
    """The unrolled gradient in the memory of about 2 sqrt(K) states, for nearly twice the steps.

    A task that does not meet its recorded state at the end of a segment, or differs between the two times that a
    segment is run, bit for bit, has the outcome `REPLAY_DIFFERS`. It counts the gradients of the steps run again, those
    of the steps differentiated, and the outer gradient; and one Hessian-vector product a step.
    """

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        return self.from_checkpoints(problem, Checkpoints.of(trajectory))

    def from_checkpoints(self, problem: Problem, loop: Checkpoints) -> MetaGradient:
        """The meta-gradient of a loop of which only the checkpoints are left."""
        kept, at = loop.kept, checkpoints(loop.steps)
        step = StepMap(problem.inner_loss, kept.optimizer, kept.size, tuple(kept.data))
        adjoint, by_theta = end_adjoint(problem, kept)
        strayed = torch.zeros_like(kept.outcome, dtype=torch.bool)
        again = 0
        for segment in reversed(range(len(at) - 1)):
            states = [kept.states[segment]]
            for _ in range(at[segment + 1] - at[segment] - 1):
                states.append(advance(step, states[-1], kept.theta, kept.data)[0])
            again += len(states) - 1
            following = kept.states[segment + 1]
            while states:
                state = states.pop()
                taken = take_step(problem, kept, state)
                strayed = strayed | _differ(taken.following, following)
                adjoint, more = taken.pull(adjoint)
                by_theta = by_theta + more
                following = state
        return meta_gradient(
            through_start(problem, kept, adjoint, by_theta),
            kept,
            outcome.where(strayed, Outcome.REPLAY_DIFFERS),
            gradient_count=again + loop.steps + 1,
            hvp_count=loop.steps,
        )


def _differ(one: Tensor, other: Tensor) -> Tensor:
    return ~((one == other) | (one.isnan() & other.isnan())).all(-1)
