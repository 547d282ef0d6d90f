"""MAML as published (Finn, Abbeel and Levine 2017): backpropagation through the whole graph of the inner loop."""

from dataclasses import dataclass

import torch

from diagnostics import outcome
from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.one_step import end_adjoint, take_step, through_start
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem


@estimators.register("unrolled")
@dataclass(frozen=True)
class Unrolled:
    """`d outer(w_K(theta), theta) / d theta` with the K steps held as one graph; its memory grows with K.

    The loop is rerun, and each step's graph held until the adjoint comes back through it: with s_(k+1) = Step(s_k,
    theta), theta_bar <- theta_bar + (dStep/dtheta)' a_(k+1) and a_k = (dStep/ds_k)' a_(k+1). A task that does not meet
    its recorded states, bit for bit, has the outcome `REPLAY_DIFFERS`.
    """

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        state = trajectory.optimizer.start(problem.start(trajectory.theta, trajectory.data)).detach()
        strayed = stray(state, trajectory, 0)
        steps = []
        for count in range(1, trajectory.steps + 1):
            steps.append(take_step(problem, trajectory, state))
            state = steps[-1].following
            strayed = strayed | stray(state, trajectory, count)
        adjoint, by_theta = end_adjoint(problem, trajectory)
        while steps:
            adjoint, more = steps.pop().pull(adjoint)
            by_theta = by_theta + more
        return meta_gradient(
            through_start(problem, trajectory, adjoint, by_theta),
            trajectory,
            outcome.where(strayed, Outcome.REPLAY_DIFFERS),
            gradient_count=trajectory.steps + 1,
            hvp_count=trajectory.steps,
        )


def stray(state: torch.Tensor, trajectory: Trajectory, step: int) -> torch.Tensor:
    """Which tasks `(B,)` are not, bit for bit, at the state that was recorded after `step` steps."""
    recorded = trajectory.states[step]
    if state.device.type == "cpu" and type(state) is torch.Tensor and torch.equal(state, recorded):
        return torch.zeros_like(recorded[:, 0], dtype=torch.bool)  # a tenth of the time, where nothing waits for it
    return ~((state == recorded) | (state.isnan() & recorded.isnan())).all(-1)
