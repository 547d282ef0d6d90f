"""What a theta is good for: the loss, and for classification the accuracy, of each task after some inner steps.

One loop serves all numbers of steps. Its arithmetic, optimizer, step and strength are those of training.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.chunks import in_chunks
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.protocols.hits import accuracy
from diagnostics.rows import Data, take_rows
from diagnostics.training.loops import Loops, run_loops
from diagnostics.training.recipe import Parts


@dataclass(frozen=True)
class Evaluation:
    """`loss`, `accuracy` and `outcome` codes, each `(E, T)`: after each of E numbers of inner steps, for T tasks.

    A loop that is no longer finite has the outcome `DIVERGED` and no loss (NaN); its queries count as wrong. The
    accuracy is NaN where there are no classes.
    """

    steps: tuple[int, ...]
    loss: Tensor
    accuracy: Tensor
    outcome: Tensor


def evaluate(
    parts: Parts, problem: Problem, theta: Tensor, data: Iterable[Data], steps: tuple[int, ...], chunk: int
) -> Evaluation:
    """Evaluate `theta (P,)` on the tasks of all of `data`, `chunk` at a time."""
    counts = tuple(sorted(set(steps)))
    found = [
        each
        for some in data
        for each in in_chunks(
            lambda rows, some=some: _evaluated(parts, problem, theta, take_rows(some, rows), counts),
            len(next(iter(some.values()))),
            chunk,
        )
    ]
    loss, right, codes = (torch.cat(columns, dim=1) for columns in zip(*found, strict=True))
    return Evaluation(counts, loss, right, codes)


def _evaluated(
    parts: Parts, problem: Problem, theta: Tensor, data: Data, counts: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """`(loss, accuracy, outcome)`, each `(E, B)`."""
    loops = run_loops(parts, problem, theta, data, max(counts), keep=counts)
    if loops is None:
        nothing = torch.full((len(counts), len(next(iter(data.values())))), torch.nan, dtype=torch.float64)
        wrong = nothing if problem.scores is None else torch.zeros_like(nothing)
        return nothing, wrong, torch.full_like(nothing, Outcome.DIVERGED.code, dtype=torch.long)
    ends = [_at_end(parts, loops, state[:, : loops.trajectory.size], data) for state in loops.trajectory.states]
    loss, right = (torch.stack(columns).cpu() for columns in zip(*ends, strict=True))
    lost = ~loss.isfinite()
    return loss.where(~lost, torch.nan), right, outcome.where(lost, Outcome.DIVERGED)


def _at_end(parts: Parts, loops: Loops, w: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """`(loss (B,), accuracy (B,))` at weights `w (B, N)`, in float64."""
    problem, theta, entered = loops.problem, loops.trajectory.theta, loops.trajectory.data
    with torch.no_grad(), parts.arithmetic.running():
        loss = parts.arithmetic.leave(problem.outer_loss(w, theta, entered)) / loops.loss_unit
        if problem.scores is None:
            return loss, torch.full_like(loss, torch.nan)
        scores = parts.arithmetic.leave(problem.scores(w, theta, entered))
    return loss, accuracy(scores, data["query_labels"])
