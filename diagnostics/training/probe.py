"""How right the estimator's gradient is while a network is being trained: against both references, task by task.

The references are of the very loop that training runs at this theta (the same optimizer, steps, strength and
rescaling, from the same rounded numbers), and all are compared in the original coordinates, where training uses them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.extended import rounded
from diagnostics.certified import ACCEPTED, Certified, affordable, certified_stationary, certified_unrolled
from diagnostics.metrics import Distance, distance
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.reference import FLOAT64
from diagnostics.rows import Data, row_norms
from diagnostics.training.loops import Loops, run_loops
from diagnostics.training.recipe import Parts


@dataclass(frozen=True)
class Probe:
    """The estimator's gradients of T tasks, and in the last row their mean, which training follows, against a target.

    `distance`'s fields and `uncertainty`, `outcome` codes are `(T+1,)`; `stationarity` is the loops', with NaN for the
    mean. `reference` names the arithmetic of the target.
    """

    target: str
    reference: str
    distance: Distance
    uncertainty: Tensor
    outcome: Tensor
    stationarity: Tensor


def probe(parts: Parts, theta: Tensor, data: Data) -> tuple[Probe, ...]:
    """Compare at `theta (P,)` with the `unrolled` reference, and with the `stationary` one where it is asked for.

    Nothing where theta is beyond the arithmetic's range.
    """
    recipe = parts.recipe
    loops = run_loops(parts, parts.problems["train"], theta, data, recipe.inner_steps)
    if loops is None:
        return ()
    with parts.arithmetic.running():
        found = parts.estimator(loops.problem, loops.trajectory)
    value = loops.gradient_back(parts.arithmetic.leave(found.value))
    stationarity = parts.arithmetic.leave(loops.trajectory.stationarity[-1])
    return tuple(
        _compared(name, value, found.outcome, stationarity, reference, loops.gradient_back)
        for name, reference in _references(parts, loops, theta, data)
    )


def _references(parts: Parts, loops: Loops, theta: Tensor, data: Data) -> list[tuple[str, Certified]]:
    recipe, problem, loop = parts.recipe, loops.problem, loops.trajectory
    count, finest = (recipe.inner_steps,), parts.arithmetic
    exact = FLOAT64
    if recipe.reference_seconds:
        many = theta.double().expand(len(loop.theta), -1)
        exact = affordable(parts.problems["train"], many, data, recipe.inner_steps, recipe.reference_seconds)
    unrolled = certified_unrolled(problem, loop, count, exact, finest)
    found = [("unrolled", unrolled)]
    if has_stationary_target(problem, recipe.patience):
        stationary = certified_stationary(problem, loop, unrolled.sweep, recipe.patience, exact, finest)
        found.append(("stationary", stationary))
    return found


def has_stationary_target(problem: Problem, patience: int) -> bool:
    """Whether the minimiser is looked for: where it is known, and wherever inner steps are allowed for the search."""
    return problem.has_implicit_gradient and (patience > 0 or problem.minimizer is not None)


def _compared(
    target: str,
    value: Tensor,
    codes: Tensor,
    stationarity: Tensor,
    reference: Certified,
    back: Callable[[Tensor], Tensor],
) -> Probe:
    exact = back(rounded(reference.sweep.value[0]))
    value, exact = (torch.cat([x, x.mean(0, keepdim=True)]) for x in (value, exact))
    apart = distance(value, exact)
    uncertainty = reference.uncertainty[0]
    # |mean of errors| <= mean of |errors|
    of_mean = (uncertainty * row_norms(exact[:-1])).mean() / row_norms(exact[-1:])
    uncertainty = torch.cat([uncertainty, of_mean])
    untold = outcome.where(apart.relative_error < ACCEPTED * uncertainty, Outcome.UNRESOLVED)
    each = outcome.graver(codes, reference.sweep.outcome[0])
    whole = torch.cat([each, each.max().unsqueeze(0)])
    return Probe(
        target,
        reference.arithmetic,
        apart,
        uncertainty,
        outcome.graver(whole, untold),
        torch.cat([stationarity, stationarity.new_full((1,), torch.nan)]),
    )
