"""The derivative of the inner loop by tangents that go along with it (Franceschi et al. 2017, "forward-HG").

With Z_k = ds_k/dtheta, of S x P numbers a task,

    Z_0 = ds_0/dtheta,    Z_(k+1) = (dStep/ds_k) Z_k + dStep/dtheta
    d outer / d theta = d outer/dtheta + Z_K' d outer/ds_K

Its memory does not grow with K, and its work grows with P: it is for a theta of few components. The P tangents of a
task are rows of their own, so that all tasks and tangents go ahead as one batch, cut into chunks where memory asks for
it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.checks import whole_number
from diagnostics.chunks import BUDGET, in_chunks, saved_bytes
from diagnostics.estimators.unrolled import stray
from diagnostics.inner import InnerGradient, Trajectory
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.one_step import end_adjoint, take_step
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.rows import repeat_rows, take_rows

LARGEST = 128  # components of theta: beyond it the reverse sweep is faster by far, and no less exact


@estimators.register("forward_mode")
@dataclass(frozen=True)
class ForwardMode:
    """The unrolled gradient by forward accumulation, one tangent a component of theta.

    The tangents are those at the recorded states, which the loop must meet again, bit for bit, or a task's outcome is
    `REPLAY_DIFFERS`. It counts, for every tangent and step, one gradient and one Hessian-vector product; a gradient a
    step for that check; and the outer gradient. Raises `ValueError` for a theta of more than `largest` components.
    """

    largest: int = LARGEST

    def __post_init__(self) -> None:
        """Check the setting."""
        whole_number("forward_mode: largest", self.largest, 1)

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        tasks, size = trajectory.theta.shape
        require_few("forward_mode", size, self.largest)
        adjoint, by_theta = end_adjoint(problem, trajectory)
        unit = torch.eye(size, dtype=by_theta.dtype, device=by_theta.device)
        # A step holds what its gradient saves twice over: for its own derivative, and for the derivative of that.
        each = 2 * tasks * saved_bytes(problem, trajectory.theta[:1], take_rows(trajectory.data, slice(0, 1)))

        def ahead(columns: slice) -> Tensor:
            return _along(problem, trajectory, adjoint, unit[columns])

        slopes = in_chunks(ahead, size, max(1, BUDGET // max(1, each)))
        return meta_gradient(
            by_theta + torch.cat(slopes, dim=-1),
            trajectory,
            outcome.where(_strayed(problem, trajectory), Outcome.REPLAY_DIFFERS),
            gradient_count=trajectory.steps * (size + 1) + 1,
            hvp_count=trajectory.steps * size,
        )


def require_few(name: str, size: int, largest: int) -> None:
    """Raise `ValueError` for a theta whose components are too many to take one by one."""
    if size > largest:
        raise ValueError(
            f"{name}: expected at most {largest} components of theta, found {size}; use 'unrolled_adjoint', whose work "
            "does not grow with them"
        )


def _along(problem: Problem, trajectory: Trajectory, adjoint: Tensor, directions: Tensor) -> Tensor:
    """`adjoint' ds_K` of each task along each of `directions (D, P)`, of shape `(B, D)`.

    Rows run over the tasks fastest, then over the directions.
    """
    count = len(directions)
    data = repeat_rows(trajectory.data, count)
    theta = trajectory.theta.repeat(count, 1).requires_grad_()
    toward = directions.repeat_interleave(len(trajectory.theta), 0)
    with torch.enable_grad():
        start = trajectory.optimizer.start(problem.start(theta, data))
    tangent = _pushed(start, (theta,), (toward,))
    for recorded in trajectory.states[:-1]:
        state = recorded.repeat(count, 1).requires_grad_()
        with torch.enable_grad():
            gradient = InnerGradient(problem.inner_loss, theta, data, graph=True)
            following = trajectory.optimizer.step(state, gradient, trajectory.size)
        tangent = _pushed(following, (state, theta), (tangent, toward))
    return (adjoint.repeat(count, 1) * tangent).sum(-1).view(count, -1).mT


def _pushed(following: Tensor, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """The derivative of `following (R, S)` along tangents of its inputs, by reverse over reverse.

    A pull is linear in the adjoint, and its derivative in the adjoint is what pushes.
    """
    if not following.requires_grad:
        return torch.zeros_like(following)
    adjoint = torch.zeros_like(following).requires_grad_()
    pulled = torch.autograd.grad(
        following, inputs, adjoint, create_graph=True, materialize_grads=True, allow_unused=True
    )
    used = [(pull, tangent) for pull, tangent in zip(pulled, tangents, strict=True) if pull.requires_grad]
    if not used:
        return torch.zeros_like(following)
    (pushed,) = torch.autograd.grad([pull for pull, _ in used], adjoint, [tangent for _, tangent in used])
    return pushed


def _strayed(problem: Problem, trajectory: Trajectory) -> Tensor:
    """Which tasks `(B,)` do not step from each recorded state to the next, bit for bit."""
    strayed = torch.zeros_like(trajectory.outcome, dtype=torch.bool)
    for step in range(trajectory.steps):
        following = take_step(problem, trajectory, trajectory.states[step]).following
        strayed = strayed | stray(following, trajectory, step + 1)
    return strayed
