"""What theory says of a cell of the shared grid, as rows beside the measured ones."""

from collections.abc import Iterator

import torch
from torch import Tensor

from analyses.grid_rows import Ends, GridCell, rows_of
from diagnostics.arithmetic.extended import rounded
from diagnostics.inner import Trajectory
from diagnostics.metrics import Distance, distance
from diagnostics.problem import Problem
from diagnostics.reference import minimise
from diagnostics.theory import chebyshev, convex_bounds, quadratic_prediction


def predicted_rows(cell: GridCell, ends: Ends, problem: Problem, loop: Trajectory) -> Iterator[dict[str, object]]:
    """The lines that theory gives for this problem, as rows with the outcome `prediction`; see `diagnostics.theory`."""
    shape = ends.stationarity.shape
    nothing = torch.full(shape, torch.nan, dtype=torch.float64).flatten()
    outcomes = ["prediction"] * nothing.numel()

    def bound(label: dict[str, object], relative: Tensor) -> Iterator[dict[str, object]]:
        found = Distance(nothing, nothing, relative.flatten(), nothing, nothing)
        return rows_of(ends, label, found, None, outcomes)

    positive = ends.spectrum.smallest > 0
    kappa = torch.where(positive, ends.spectrum.largest / ends.spectrum.smallest, torch.nan)
    for iterations in cell.iterations:
        label = {"estimator": "bound_cg", "solver": "cg", "solver_iterations": iterations, "target": "exact_solve"}
        yield from bound(label, chebyshev(kappa, torch.tensor(iterations)))

    constants = problem.constants(loop.data) if problem.constants else None
    if constants is None or cell.inner_optimizer != "gd":
        return
    if bool((constants.hessian_lipschitz == 0).all()):
        predicted = quadratic_prediction(problem, loop, cell.steps)
        stationary = predicted.stationary.expand_as(predicted.unrolled)
        for name, value, target, against in (
            ("predicted_unrolled", predicted.unrolled, "stationary", stationary),
            ("predicted_implicit", predicted.implicit, "stationary", stationary),
            ("predicted_implicit", predicted.implicit, "unrolled", predicted.unrolled),
        ):
            found = distance(value.flatten(0, 1), against.flatten(0, 1))
            yield from rows_of(ends, {"estimator": name, "target": target}, found, None, outcomes)

    bounds = convex_bounds(problem, loop, minimise(problem, loop, cell.patience).w)
    size = rounded(ends.references["stationary"].sweep.value).norm(dim=-1)
    if bounds is None:
        return
    unrolled = torch.stack([bounds.unrolled(count) for count in cell.steps]) / size
    yield from bound({"estimator": "bound_unrolled", "target": "stationary"}, unrolled)
    for iterations in cell.iterations:
        implicit = torch.stack([bounds.implicit(count, iterations) for count in cell.steps]) / size
        label = {"estimator": "bound_implicit", "solver": "cg", "solver_iterations": iterations, "target": "stationary"}
        yield from bound(label, implicit)
