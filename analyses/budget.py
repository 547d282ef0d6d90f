"""Q7: which part of a meta-gradient's error is whose.

The loops in all the arithmetics start from the same numbers, those that the coarsest can hold, so that the exact
gradients are computed once, and the parts that are not rounding are the same in every arithmetic.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analyses.analysis import Analysis, Cell, Rows, analyses, measurements
from analyses.grid_rows import Ends, rows_of
from analyses.rounding import Loop, held_by_all
from analyses.settings import Settings
from diagnostics.arithmetic.precision import Precision, precision
from diagnostics.certified import Certified, affordable
from diagnostics.chunks import in_chunks, tasks_that_fit
from diagnostics.curvature import Spectrum
from diagnostics.error_split import TARGETS, TOTAL, ErrorSplit, chain, exact_gradients, measured_gradients, split
from diagnostics.inner import Trajectory, make_optimizer, optimizers
from diagnostics.metrics import Distance, distance
from diagnostics.outcome import decode
from diagnostics.problem_names import build
from diagnostics.reference import FLOAT64, in_arithmetic
from diagnostics.rows import take_rows
from diagnostics.sweep import Sweep, spectrum_at_ends, warn_where_indefinite


@dataclass(frozen=True)
class BudgetCell:
    """One cell of work, in plain numbers and names; see `settings.Budget`."""

    problem: str
    seed: int
    tasks: int
    steps: tuple[int, ...]
    iterations: tuple[int, ...]
    precisions: tuple[str, ...]
    inner_optimizer: str = "gd"
    inner_lr: float | None = None
    strength: float | None = None
    exact_iterations: int = 1000
    patience: int = 5000
    reference_seconds: float = 5.0
    device: str = "cpu"


def cells(settings: Settings) -> list[Cell]:
    """A cell for each problem and seed of the budgets.

    Raises `ValueError` for a name that is unknown, and for an arithmetic finer than what the parts are told by.
    """
    found = []
    for budget in settings.budgets:
        optimizers[budget.inner_optimizer]
        for name in budget.problems:
            build(name)
        for name in budget.precisions:
            if precision(name).eps < FLOAT64.eps:
                raise ValueError(
                    f"precisions: expected float64 or coarser arithmetics, found {name}, which the parts are told by; "
                    "leave it out"
                )
        own = {key: value for key, value in asdict(budget).items() if key not in ("problems", "seeds")}
        for problem, seed in product(budget.problems, budget.seeds):
            found.append(Cell.of("budget", BudgetCell(problem=problem, seed=seed, **own)))
    return found


@measurements.register("budget")
def measure_spec(spec: Mapping[str, Any]) -> Rows:
    """`measure` for a cell as a store spells it."""
    tuples = {key: tuple(spec[key]) for key in ("steps", "iterations", "precisions")}
    return measure(BudgetCell(**{**spec, **tuples}))


def measure(cell: BudgetCell) -> Rows:
    """The rows of one problem and seed, without the column `analysis`: one for each part of each gradient's error.

    Raises `ValueError` for settings that mean nothing, and for data beyond the range of an arithmetic.
    """
    problem = build(cell.problem, strength=cell.strength, learning_rate=cell.inner_lr)
    optimizer = make_optimizer(cell.inner_optimizer, problem, cell.inner_lr)
    theta, data = problem.draw(cell.tasks, cell.seed, cell.device)
    exact = affordable(problem, theta, data, max(cell.steps), cell.reference_seconds)
    size = tasks_that_fit(problem, theta, data, copies=4 * len(cell.steps))

    def chunk(tasks: slice) -> Rows:
        loop = Loop(problem, optimizer, theta[tasks], take_rows(data, tasks))
        return list(_measured(cell, loop, exact, tasks.start))

    return [row for rows in in_chunks(chunk, cell.tasks, size) for row in rows]


def _measured(cell: BudgetCell, loop: Loop, exact: Precision, first_task: int) -> Iterator[dict[str, object]]:
    arithmetics = [precision(name) for name in cell.precisions]
    loop, longest = held_by_all(arithmetics, loop), max(cell.steps)
    run = loop.run(exact, longest)
    finest = min(arithmetics, key=lambda arithmetic: arithmetic.eps)
    known = exact_gradients(
        loop.problem, run, cell.steps, cell.iterations, exact, finest,
        patience=cell.patience, exact_iterations=cell.exact_iterations,
    )  # fmt: skip
    spectrum = spectrum_at_ends(
        loop.problem, in_arithmetic(loop.problem, run, FLOAT64), cell.steps, iterations=60, dense_below=256
    )
    for arithmetic in arithmetics:
        low = loop.run(arithmetic, longest)
        ends = _ends(cell, loop, low, arithmetic, spectrum, first_task)
        for name, sweep in measured_gradients(loop.problem, low, cell.steps, cell.iterations, arithmetic).items():
            if name.startswith("cg "):
                sweep = warn_where_indefinite(sweep, spectrum)
            for target in (name for name in TARGETS if name in known):
                yield from _rows(ends, name, target, sweep, known, split(sweep, chain(name, target), known))


def _ends(
    cell: BudgetCell, loop: Loop, run: Trajectory, arithmetic: Precision, spectrum: Spectrum, first_task: int
) -> Ends:
    steps = torch.as_tensor(cell.steps, device=run.theta.device)
    return Ends(
        steps=cell.steps,
        common={
            "problem": cell.problem,
            "seed": cell.seed,
            "inner_optimizer": cell.inner_optimizer,
            "inner_lr": loop.optimizer.learning_rate,
            "strength": loop.problem.strength,
            "damping": 0.0,
            "precision": arithmetic.name,
            "scaling": "none",
            "chunk": len(loop.theta),
        },
        first_task=first_task,
        spectrum=spectrum,
        stationarity=run.stationarity[steps],
        stopped_at=torch.where(run.diverged_at <= steps.unsqueeze(-1), run.diverged_at, -1),
        references={},
    )


def _label(name: str) -> dict[str, object]:
    """What the table calls a gradient."""
    if name.startswith("cg "):
        return {"estimator": "implicit", "solver": "cg_unchecked", "solver_iterations": int(name.removeprefix("cg "))}
    return {"estimator": "unrolled_adjoint" if name == "unrolled" else name}


def _rows(
    ends: Ends, name: str, target: str, sweep: Sweep, known: Mapping[str, Certified], found: ErrorSplit
) -> Iterator[dict[str, object]]:
    """The rows of one gradient's split against one target; those of the whole have its direction too."""
    whole = distance(sweep.value.flatten(0, 1), known[target].sweep.value.flatten(0, 1))
    for part_name, part in found.all.items():
        size = found.relative(part).flatten()
        label = _label(name) | {"target": target, "part": part_name, "reference": known[target].arithmetic}
        outcomes = [what.label for what in decode(found.outcome(part))]
        more: dict[str, Tensor] = {"share": found.share(part), "reference_uncertainty": part.uncertainty}
        distances = whole if part_name == TOTAL else _only(size)
        yield from rows_of(ends, label, distances, sweep if part_name == TOTAL else None, outcomes, more)


def _only(relative_error: Tensor) -> Distance:
    """The distances of a part, which has a size and no direction of its own."""
    nothing = torch.full_like(relative_error, torch.nan)
    return Distance(nothing, nothing, relative_error, nothing, nothing)


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """Every part of every gradient's error, against all targets and in every arithmetic."""
    return rows


analyses.register("budget")(
    Analysis(
        ("Q7",),
        "the error of each gradient split into unconverged inner loop, unfinished linear solve and rounding",
        cells,
        view,
    )
)
