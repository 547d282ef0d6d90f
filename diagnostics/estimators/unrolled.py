"""MAML as published (Finn, Abbeel and Levine 2017): backpropagation through the whole graph of the inner loop."""

from dataclasses import dataclass

import torch

from diagnostics import outcome
from diagnostics.inner import Trajectory, loss_gradient
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem


@estimators.register("unrolled")
@dataclass(frozen=True)
class Unrolled:
    """`d outer(w_K(theta), theta) / d theta` with the K steps held as one graph; its memory grows with K.

    The loop is rerun to build the graph; a task that does not meet its recorded states, bit for bit, has the outcome
    `REPLAY_DIFFERS`.
    """

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        theta = trajectory.theta.detach().requires_grad_()
        with torch.enable_grad():
            # Cloned for a `start` that returns theta itself: d/dw at w_0 would pick up the loss's own use of theta.
            state = trajectory.optimizer.start(problem.start(theta, trajectory.data).clone())
            strayed = stray(state, trajectory, 0)
            for step in range(trajectory.steps):
                state = trajectory.optimizer.step(
                    state,
                    lambda w: loss_gradient(problem.inner_loss, w, theta, trajectory.data, graph=True),
                    trajectory.size,
                )
                strayed = strayed | stray(state, trajectory, step + 1)
            loss = problem.outer_loss(state[:, : trajectory.size], theta, trajectory.data).sum()
            value = torch.zeros_like(theta)  # what stands where neither the start nor the loss looks at theta
            if loss.requires_grad:
                (value,) = torch.autograd.grad(loss, theta, materialize_grads=True, allow_unused=True)
        return meta_gradient(
            value,
            trajectory,
            outcome.where(strayed, Outcome.REPLAY_DIFFERS),
            gradient_count=trajectory.steps + 1,
            hvp_count=trajectory.steps,
        )


def stray(state: torch.Tensor, trajectory: Trajectory, step: int) -> torch.Tensor:
    """Which tasks `(B,)` are not, bit for bit, at the state that was recorded after `step` steps."""
    recorded = trajectory.states[step]
    same = (state.detach() == recorded) | (state.detach().isnan() & recorded.isnan())
    return ~same.all(-1)
