"""First-order MAML (Finn, Abbeel and Levine 2017): every inner step is taken for the identity."""

from dataclasses import dataclass

import torch

from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient, outer_gradients
from diagnostics.problem import Problem


@estimators.register("first_order")
@dataclass(frozen=True)
class FirstOrder:
    """FOMAML, `d outer / dw` at w_K carried to theta as if no step had been taken: `(dw_0/dtheta)' d outer/dw + d
    outer/dtheta`.

    Where the loop starts at theta, as in MAML, the first factor is the identity.
    """

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        by_w, by_theta = outer_gradients(problem, trajectory)
        theta = trajectory.theta.detach().requires_grad_()
        with torch.enable_grad():
            start = problem.start(theta, trajectory.data)
        if start.requires_grad:
            (by_w_0,) = torch.autograd.grad(start, theta, by_w)
            by_theta = by_theta + by_w_0
        return meta_gradient(by_theta, trajectory, gradient_count=1)
