"""Reptile (Nichol, Achiam and Schulman 2018, arXiv 1803.02999): the way that the inner loop went, for a gradient.

Their meta-update moves theta towards w_K, `theta <- theta + e (w_K - theta)`, and they call

    g = (theta - w_K) / learning_rate

the Reptile gradient, the sum of the gradients that plain gradient descent took. That is the scale here. Their released
code takes the step e, and with it `theta - w_K`, without the learning rate; a mean over the K gradients is neither's.
It looks at the inner loss only, so that it is no estimate of d outer / d theta unless the two losses are alike, and
with a proximal term it holds that term's gradients as well.
"""

from dataclasses import dataclass

import torch

from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.problem import Problem


@estimators.register("reptile")
@dataclass(frozen=True)
class Reptile:
    """The Reptile gradient `(theta - w_K) / learning_rate`: zero for no steps.

    It takes no gradient beyond the inner loop's own, so that its counts are 0. What rounding the weights costs it is
    eps |w| / (learning_rate |g|), more than a sum of the gradients would lose. Raises `ValueError` for a loop that does
    not start at theta.
    """

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The Reptile gradient of the trajectory."""
        require_start_at_theta("reptile", problem, trajectory)
        way = trajectory.theta - trajectory.final
        return meta_gradient(way / trajectory.optimizer.learning_rate, trajectory)


def require_start_at_theta(name: str, problem: Problem, loop: Trajectory) -> None:
    """Raise `ValueError` for a loop whose weights do not start at theta, bit for bit."""
    if loop.theta.shape[1] != loop.size or not torch.equal(
        problem.start(loop.theta, loop.data).detach(), loop.theta.detach()
    ):
        raise ValueError(
            f"{name}: expected a loop that starts at theta, found another start in problem {problem.name!r}; "
            "use an estimator that differentiates the start, such as 'unrolled_adjoint'"
        )
