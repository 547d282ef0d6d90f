"""The inner loops of a batch of tasks, in the arithmetic and under the rescaling of a recipe, and the way back.

A rescaling is made anew for every batch from its data: theta stays in the original coordinates, the loop runs in the
others, and what comes of it is carried back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from diagnostics.arithmetic.precision import enter_rows
from diagnostics.arithmetic.rescaling import parse, rescale
from diagnostics.chunks import tasks_that_fit
from diagnostics.inner import Trajectory, run_inner
from diagnostics.problem import Problem
from diagnostics.rows import Data
from diagnostics.training.recipe import Parts


@dataclass(frozen=True)
class Loops:
    """Inner loops that were run, of the problem that they were run on.

    `gradient_back` takes a gradient `(B, P)` in float64 to the original coordinates; a loss of the problem is
    `loss_unit` times the original one.
    """

    problem: Problem
    trajectory: Trajectory
    gradient_back: Callable[[Tensor], Tensor]
    loss_unit: float


def run_loops(
    parts: Parts, problem: Problem, theta: Tensor, data: Data, steps: int, keep: Sequence[int] | None = None
) -> Loops | None:
    """Run the loops of all tasks in `data` from `theta (P,)`; None where theta is beyond the arithmetic's range.

    Raises `ValueError` for data beyond its range, and for a rescaling that cannot be.
    """
    tasks = len(next(iter(data.values())))
    scaled = rescale(
        parts.recipe.scaling, problem, parts.optimizer, theta.double().expand(tasks, -1), data, steps,
        parts.arithmetic.tiny,
    )  # fmt: skip
    with parts.arithmetic.running():
        entered = parts.arithmetic.enter(scaled.theta)
        if not bool(entered.isfinite().all()):
            return None
        loop = run_inner(
            scaled.problem, scaled.optimizer, entered, enter_rows(parts.arithmetic, scaled.data), steps, keep
        )
    kind, factor = parse(parts.recipe.scaling)
    unit = factor if kind == "loss_scale" else 2.0 ** (2 * scaled.powers.targets + scaled.powers.outer)
    return Loops(scaled.problem, loop, scaled.carry_back or _same, unit)


def tasks_together(parts: Parts, problem: Problem, theta: Tensor, data: Data, tasks: int) -> int:
    """How many of `tasks` tasks like the first of `data` to run together, in the dtype that `theta (P,)` is held in.

    Half the bytes a number let twice the tasks stay in the processor's cache.
    """
    held = {key: x.to(parts.held) if x.is_floating_point() else x for key, x in data.items()}
    copies = parts.recipe.inner_steps if parts.recipe.estimator == "unrolled" else 2
    return tasks_that_fit(problem, theta.to(parts.held).expand(tasks, -1), held, copies)


def _same(gradient: Tensor) -> Tensor:
    """Where a rescaling is no change of variables, theta is that of the rescaled problem itself."""
    return gradient
