"""One-step differentiation (Bolte, Pauwels and Vaiter 2023, arXiv 2305.13768): of the last inner step alone.

    d outer / d theta ~ d outer/dtheta + (dStep/dtheta)'(s_(K-1), theta) a_K,    a_K = d outer / d s_K

with the state s_(K-1) held fixed. Near a fixed point of a step that contracts by q, the neglected part of the
derivative is J - dStep/dtheta = M (I - M)^-1 dStep/dtheta, of norm at most q |dStep/dtheta| / (1 - q): small for a step
that nearly solves the inner problem (Newton), and nearly all of it for gradient descent with a small step.
"""

from dataclasses import dataclass

from diagnostics import outcome
from diagnostics.estimators.unrolled import stray
from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.one_step import end_adjoint, take_step, through_start
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem


@estimators.register("one_step")
@dataclass(frozen=True)
class OneStep:
    """The derivative of the last inner step with the state before it held, a start at theta included.

    The paper defines it for one step or more; without a step it is the derivative of the start. It counts one gradient
    and one Hessian-vector product for the step, and the outer gradient.
    """

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        adjoint, by_theta = end_adjoint(problem, trajectory)
        if trajectory.steps == 0:
            by_theta = through_start(problem, trajectory, adjoint, by_theta)
            return meta_gradient(by_theta, trajectory, gradient_count=1)
        taken = take_step(problem, trajectory, trajectory.states[-2])
        _, more = taken.pull(adjoint)
        strayed = stray(taken.following, trajectory, trajectory.steps)
        codes = outcome.where(strayed, Outcome.REPLAY_DIFFERS)
        return meta_gradient(by_theta + more, trajectory, codes, gradient_count=2, hvp_count=1)
