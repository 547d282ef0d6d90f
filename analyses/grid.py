"""The shared grid: every gradient of one problem over inner steps and solver iterations, for one seed and one
arithmetic.

One trajectory is run to the most steps and kept at each step; the linear systems at all ends and tasks are solved as
one batch, with the solver's iterates kept on the way; the unrolled references of all ends come from one reverse
sweep. A grid of |steps| x |iterations| cells thus costs about max(steps) inner steps and |steps| solves. The analyses
are views of its rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import torch

from analyses.analysis import Cell, Rows, measurements
from analyses.grid_predictions import predicted_rows
from analyses.grid_rows import Ends, GridCell, judged
from analyses.settings import Settings
from diagnostics import outcome
from diagnostics.arithmetic.precision import Precision, enter_rows, epsilon, precision
from diagnostics.certified import Certified, affordable, certified_stationary, certified_unrolled
from diagnostics.chunks import in_chunks, tasks_that_fit
from diagnostics.inner import Trajectory, make_optimizer, optimizers, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.meta_gradient import estimators
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.reference import FLOAT64, in_arithmetic
from diagnostics.rows import take_rows
from diagnostics.solvers import LinearSolver
from diagnostics.sweep import Sweep, along_the_path, implicit_at_ends, spectrum_at_ends, warn_where_indefinite

WHOLE_PATH = ("unrolled", "unrolled_adjoint", "first_order")  # estimators that need no linear solver
SOLVED = 1e-10  # the relative residual at which a linear system counts as solved exactly


def implicit_grid_cells(settings: Settings) -> list[Cell]:
    """As `grid_cells`, for an analysis of implicit gradients: `ValueError` where a strength is not above 0."""
    for grid in settings.grids:
        for name in grid.problems:
            problem = build(name, strength=grid.strength)
            if not problem.has_implicit_gradient:
                raise ValueError(
                    f"strength: expected > 0 for an implicit gradient, found {problem.strength:g} for {name!r}; "
                    "without the proximal term the minimiser does not depend on theta; the analysis 'steps' needs none"
                )
    return grid_cells(settings)


def grid_cells(settings: Settings) -> list[Cell]:
    """A cell for each problem, seed and arithmetic of the settings' grids; `ValueError` for a name that is unknown."""
    cells = []
    for grid in settings.grids:
        optimizers[grid.inner_optimizer]
        for name in grid.problems:
            build(name)
        for name in grid.precisions:
            precision(name)
        own = {key: value for key, value in asdict(grid).items() if key not in ("problems", "seeds", "precisions")}
        for problem, seed, arithmetic in product(grid.problems, grid.seeds, grid.precisions):
            cells.append(Cell.of("grid", GridCell(problem=problem, seed=seed, precision=arithmetic, **own)))
    return cells


@measurements.register("grid")
def measure_spec(spec: Mapping[str, Any]) -> Rows:
    """`measure` for a cell as a store spells it."""
    tuples = {key: tuple(spec[key]) for key in ("steps", "iterations")}
    return measure(GridCell(**{**spec, **tuples}))


def measure(cell: GridCell) -> Rows:
    """The rows of the grid, without the column `analysis`. Raises `ValueError` for settings that mean nothing."""
    problem = build(cell.problem, strength=cell.strength, learning_rate=cell.inner_lr)
    arithmetic = precision(cell.precision)
    theta, data = problem.draw(cell.tasks, cell.seed, cell.device)
    exact = affordable(problem, theta, data, max(cell.steps), cell.reference_seconds)
    theta, data = arithmetic.enter(theta), enter_rows(arithmetic, data)
    size = cell.chunk or tasks_that_fit(problem, theta, data, copies=max(*cell.steps, len(cell.steps)))

    def chunk(tasks: slice) -> Rows:
        optimizer = make_optimizer(cell.inner_optimizer, problem, cell.inner_lr)
        with arithmetic.running():
            loop = run_inner(problem, optimizer, theta[tasks], take_rows(data, tasks), max(cell.steps))
        return list(_measured(cell, problem, loop, arithmetic, exact, tasks.start))

    return [row for rows in in_chunks(chunk, cell.tasks, size) for row in rows]


def _measured(
    cell: GridCell, problem: Problem, loop: Trajectory, arithmetic: Precision, exact: Precision, first_task: int
) -> Iterator[dict[str, object]]:
    exact_loop = in_arithmetic(problem, loop, FLOAT64)
    ends = _ends(cell, problem, loop, exact_loop, arithmetic, exact, first_task)
    for name in WHOLE_PATH:
        with arithmetic.running():
            sweep = along_the_path(estimators[name](), problem, loop, cell.steps)
        yield from judged(ends, {"estimator": name}, sweep, ends.references)
    if problem.has_implicit_gradient:
        with arithmetic.running():
            rows = list(_implicit(cell, ends, problem, loop, exact_loop))
        yield from rows
        yield from predicted_rows(cell, ends, problem, exact_loop)


def _ends(
    cell: GridCell,
    problem: Problem,
    loop: Trajectory,
    exact_loop: Trajectory,
    arithmetic: Precision,
    exact: Precision,
    first_task: int,
) -> Ends:
    steps = torch.as_tensor(cell.steps, device=loop.theta.device)
    unrolled = certified_unrolled(problem, loop, cell.steps, exact, arithmetic)
    references = {"unrolled": unrolled}
    if problem.has_implicit_gradient:
        references["stationary"] = certified_stationary(problem, loop, unrolled.sweep, cell.patience, exact, arithmetic)
    return Ends(
        steps=cell.steps,
        common={
            "problem": cell.problem,
            "seed": cell.seed,
            "inner_optimizer": cell.inner_optimizer,
            "inner_lr": loop.optimizer.learning_rate,
            "strength": problem.strength,
            "damping": 0.0,
            "precision": cell.precision,
            "scaling": "none",
            "chunk": len(loop.theta),
        },
        first_task=first_task,
        spectrum=spectrum_at_ends(
            problem, exact_loop, cell.steps, iterations=cell.lanczos_iterations, dense_below=cell.dense_below
        ),
        stationarity=loop.stationarity[steps],
        stopped_at=torch.where(loop.diverged_at <= steps.unsqueeze(-1), loop.diverged_at, -1),
        references=references,
    )


def _implicit(
    cell: GridCell, ends: Ends, problem: Problem, loop: Trajectory, exact_loop: Trajectory
) -> Iterator[dict[str, object]]:
    """The implicit gradients: by CG as released (on past negative curvature), by CG that stops there, and exact."""

    def solver_to_rounding(loop: Trajectory) -> LinearSolver:
        if loop.size <= cell.dense_below:
            return Dense()
        tolerance = 0.1 * epsilon(loop.states)
        return ConjugateGradients(cell.exact_iterations, relative_tolerance=tolerance, past_negative_curvature=True)

    def solved_exactly(loop: Trajectory) -> Sweep:
        return implicit_at_ends(solver_to_rounding(loop), problem, loop, cell.steps)[-1]

    exact = solved_exactly(exact_loop)
    solved = exact.solver_residual <= SOLVED
    reference = replace(
        exact,
        value=torch.where(solved.unsqueeze(-1), exact.value, torch.nan),
        outcome=outcome.where(~solved, Outcome.UNSOLVED),
    )
    # It stands by its recomputed residual, not by two settings.
    untold = torch.full_like(exact.solver_residual, torch.nan)
    targets = ends.references | {"exact_solve": Certified(reference, "float64", untold)}

    sweep = warn_where_indefinite(exact if loop is exact_loop else solved_exactly(loop), ends.spectrum)
    yield from judged(ends, {"estimator": "implicit", "solver": "exact"}, sweep, targets)

    most = max(cell.iterations)
    for name, past in (("cg_unchecked", True), ("cg", False)):
        solver = ConjugateGradients(most, keep=cell.iterations, past_negative_curvature=past)
        sweeps = implicit_at_ends(solver, problem, loop, cell.steps)
        for iterations, sweep in zip(sorted(set(cell.iterations)), sweeps, strict=True):
            label = {"estimator": "implicit", "solver": name, "solver_iterations": iterations}
            yield from judged(ends, label, warn_where_indefinite(sweep, ends.spectrum), targets)
