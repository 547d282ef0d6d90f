"""Central differences of the outer loss at the end of the loop: an oracle that no automatic derivative enters but the
inner loop's own gradients.

Along a direction u, with F(theta) = outer(w_K(theta), theta) and D(h) = (F(theta + h u) - F(theta - h u)) / 2h,

    R(h) = D(h/2) + (D(h/2) - D(h)) / 3 = F' + O(h^4) + O(eps |F| / h)

(Richardson). The two parts balance at h = eps^(1/5) times the scale of theta, here the root mean square of its
components (1 where it is zero), with a relative error of the size of eps^(4/5). The value is R(h/2), and R(h) - R(h/2)
says what it may be wrong by: where F is smooth on that scale it is 15 times the error of h^4, and across a kink, or
where the loop is chaotic, it shows that. The roundings of F are added, as one eps |F| each; those that a loop
amplifies are in the difference of the two.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.precision import epsilon
from diagnostics.checks import whole_number
from diagnostics.chunks import BUDGET, in_chunks, saved_bytes
from diagnostics.estimators.forward_mode import require_few
from diagnostics.estimators.unrolled import stray
from diagnostics.inner import Trajectory, run_inner
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.rows import repeat_rows, row_norms, take_rows

LARGEST = 128  # components of theta: each takes six inner loops
HALVINGS = 3  # of the step: h, h/2 and h/4
RESOLVED = 0.01  # uncertainty, relative to the gradient, up to which two digits of it can be trusted


@dataclass(frozen=True)
class Differences:
    """Slopes `value (B, D)` along D directions, each with its `uncertainty (B, D)`."""

    value: Tensor
    uncertainty: Tensor


@estimators.register("finite_difference")
@dataclass(frozen=True)
class FiniteDifference:
    """The derivative of the loop's outer loss by central differences along every component of theta.

    `UNRESOLVED` where the uncertainty is above a hundredth of the gradient: only its size can be trusted then. The loop
    is run once more from theta itself, and a task that does not meet its recorded end, bit for bit, has the outcome
    `REPLAY_DIFFERS`. It counts the gradients of the inner loops that it runs, six loops for each component and that
    one, of one gradient a step. Raises `ValueError` for a theta of more than `largest` components; `along` takes any.
    """

    largest: int = LARGEST

    def __post_init__(self) -> None:
        """Check the setting."""
        whole_number("finite_difference: largest", self.largest, 1)

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        theta, steps = trajectory.theta, trajectory.steps
        size = theta.shape[1]
        require_few("finite_difference", size, self.largest)
        found = self.along(problem, trajectory, torch.eye(size, dtype=theta.dtype, device=theta.device))
        again = run_inner(problem, trajectory.optimizer, theta, trajectory.data, steps, keep=(steps,))
        # Not `<=`: an uncertainty that is no number is not resolved either.
        blurred = ~(row_norms(found.uncertainty) <= RESOLVED * row_norms(found.value))
        return meta_gradient(
            found.value,
            trajectory,
            outcome.where(blurred, Outcome.UNRESOLVED),
            outcome.where(stray(again.states[-1], trajectory, steps), Outcome.REPLAY_DIFFERS),
            gradient_count=steps * (2 * HALVINGS * size + 1),
        )

    def along(self, problem: Problem, trajectory: Trajectory, directions: Tensor) -> Differences:
        """The slopes along `directions (D, P)`, of any length, the same for all tasks.

        Every direction, step and sign is a row of its own, in chunks that fit in memory.
        """
        each = saved_bytes(problem, trajectory.theta[:1], take_rows(trajectory.data, slice(0, 1)))
        rows = 2 * HALVINGS * len(trajectory.theta)
        parts = in_chunks(
            lambda chunk: _differences(problem, trajectory, directions[chunk]),
            len(directions),
            max(1, BUDGET // max(1, each * rows)),
        )
        return Differences(
            torch.cat([part.value for part in parts], -1), torch.cat([part.uncertainty for part in parts], -1)
        )


def _differences(problem: Problem, trajectory: Trajectory, directions: Tensor) -> Differences:
    """The slopes along `directions (D, P)`, from one batch of `3 x 2 x D x B` inner loops."""
    theta, eps = trajectory.theta, epsilon(trajectory.theta)
    step = eps**0.2 * _scale(theta)
    halves = torch.stack([step / 2**halving for halving in range(HALVINGS)])  # (3, B, 1)
    moved = halves.unsqueeze(1) * directions.unsqueeze(1)  # (3, D, B, P)
    ahead, behind = theta + moved, theta - moved
    points = torch.stack([ahead, behind])  # (2, 3, D, B, P)
    count = points.shape[:-2].numel()
    at, data = points.flatten(0, -2), repeat_rows(trajectory.data, count)
    end = run_inner(problem, trajectory.optimizer, at, data, trajectory.steps, keep=(trajectory.steps,))
    with torch.no_grad():
        values = problem.outer_loss(end.final, at, data).view(points.shape[:-1])
    # The distance that was really moved, in units of the direction, differs from 2 h by the rounding of theta.
    length = (directions * directions).sum(-1).view(-1, 1)
    width = ((ahead - behind) * directions.unsqueeze(1)).sum(-1) / length
    slopes = (values[0] - values[1]) / width  # (3, D, B)
    rounding = eps * (values[0].abs() + values[1].abs())[-1] / width[-1].abs()
    better = slopes[1:] + (slopes[1:] - slopes[:-1]) / 3
    return Differences(better[1].mT, ((better[1] - better[0]).abs() + rounding).mT)


def _scale(theta: Tensor) -> Tensor:
    """The root mean square `(B, 1)` of each row, as a power of two; 1 where it is zero."""
    size = row_norms(theta).unsqueeze(-1) / theta.shape[1] ** 0.5
    _, exponent = torch.frexp(torch.where(size > 0, size, 1.0))
    return torch.ldexp(torch.ones_like(size), exponent)
