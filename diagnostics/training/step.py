"""One batch's meta-gradient: the mean over tasks of what the estimator says at the end of their inner loops.

Every task's gradient enters the mean, with a warning (a solver that is not finished, negative curvature) or not, since
to leave some out would train on other tasks; how many are not `OK` is counted. One that is not finite ends the run.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.chunks import in_chunks
from diagnostics.outcome import Outcome
from diagnostics.rows import Data, take_rows
from diagnostics.training.loops import run_loops
from diagnostics.training.recipe import Parts


@dataclass(frozen=True)
class BatchGradient:
    """`gradient (P,)` in float64, the mean of the tasks'; `loss (B,)` where the loops ended, and `outcome (B,)`."""

    gradient: Tensor
    loss: Tensor
    outcome: Tensor

    @property
    def finite(self) -> bool:
        """Whether the gradient and every loss are numbers."""
        return bool(self.gradient.isfinite().all() & self.loss.isfinite().all())


def batch_gradient(parts: Parts, theta: Tensor, data: Data, chunk: int) -> BatchGradient:
    """The meta-gradient of a batch of training tasks at `theta (P,)`, `chunk` tasks at a time."""
    tasks = len(next(iter(data.values())))
    found = in_chunks(lambda rows: _gradients(parts, theta, take_rows(data, rows)), tasks, chunk)
    values, losses, codes = (torch.cat(columns) for columns in zip(*found, strict=True))
    return BatchGradient(values.mean(0), losses, codes)


def _gradients(parts: Parts, theta: Tensor, data: Data) -> tuple[Tensor, Tensor, Tensor]:
    """`(values (B, P), losses (B,), outcomes (B,))` of some tasks, in float64 and the original coordinates."""
    loops = run_loops(parts, parts.problems["train"], theta, data, parts.recipe.inner_steps)
    if loops is None:
        nothing = theta.new_full((len(next(iter(data.values()))), len(theta)), torch.nan, dtype=torch.float64)
        return nothing, nothing[:, 0], torch.full_like(nothing[:, 0], Outcome.DIVERGED.code, dtype=torch.long)
    with parts.arithmetic.running():
        found = parts.estimator(loops.problem, loops.trajectory)
        with torch.no_grad():
            loss = loops.problem.outer_loss(loops.trajectory.final, loops.trajectory.theta, loops.trajectory.data)
    value = loops.gradient_back(parts.arithmetic.leave(found.value))
    return value, parts.arithmetic.leave(loss) / loops.loss_unit, found.outcome
