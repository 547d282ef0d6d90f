"""A cell of the shared grid, what is known at the ends of its loops, and how measured gradients become its rows."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from diagnostics import outcome
from diagnostics.curvature import Spectrum
from diagnostics.metrics import Distance, distance
from diagnostics.outcome import decode
from diagnostics.sweep import Sweep


@dataclass(frozen=True)
class GridCell:
    """One cell of work, in plain numbers and names.

    `exact_iterations` and `patience` bound the solve to rounding and the search for the minimiser; up to
    `dense_below` weights the Hessian is written out, beyond it is Lanczos's and CG's; `chunk` is a number of tasks, 0
    for as many as fit in memory.
    """

    problem: str
    seed: int
    tasks: int
    steps: tuple[int, ...]
    iterations: tuple[int, ...]
    precision: str = "float64"
    inner_optimizer: str = "gd"
    inner_lr: float | None = None
    strength: float | None = None
    exact_iterations: int = 1000
    patience: int = 5000
    lanczos_iterations: int = 60
    dense_below: int = 256
    chunk: int = 0


@dataclass(frozen=True)
class Ends:
    """What is known at the ends of the loops before any gradient is judged: `(E, B)` each, and the two references."""

    cell: GridCell
    common: dict[str, object]
    first_task: int
    spectrum: Spectrum
    stationarity: Tensor
    diverged_at: Tensor
    references: dict[str, Sweep]


def judged(
    ends: Ends, label: dict[str, object], sweep: Sweep, targets: dict[str, Sweep]
) -> Iterator[dict[str, object]]:
    """One row for each target, end and task."""
    for target, reference in targets.items():
        found = distance(sweep.value.flatten(0, 1), reference.value.flatten(0, 1))
        codes = outcome.graver(sweep.outcome, reference.outcome)
        yield from rows_of(ends, label | {"target": target}, found, sweep, [o.label for o in decode(codes)])


def rows_of(
    ends: Ends, label: dict[str, object], found: Distance, sweep: Sweep | None, outcomes: list[str]
) -> Iterator[dict[str, object]]:
    """One row for each end and task; `found` and `outcomes` run over the ends, then the tasks."""
    steps, tasks = ends.cell.steps, ends.stationarity.shape[1]
    flat = {
        "cosine": found.cosine,
        "cosine_distance": found.cosine_distance,
        "relative_error": found.relative_error,
        "norm_ratio": found.norm_ratio,
        "digits": found.digits,
        "stationarity": ends.stationarity,
        "min_eigenvalue": ends.spectrum.smallest,
        "max_eigenvalue": ends.spectrum.largest,
    }
    if sweep is not None:
        flat["solver_residual"] = sweep.solver_residual
    columns = {name: values.double().flatten().tolist() for name, values in flat.items()}
    if sweep is not None:
        counted = {"gradient_count": sweep.gradient_count, "hvp_count": sweep.hvp_count}
        columns |= {name: values.flatten().tolist() for name, values in counted.items()}
    diverged_at = ends.diverged_at.flatten().tolist()
    for index, what in enumerate(outcomes):
        end, task = divmod(index, tasks)
        yield (
            ends.common
            | label
            | {"task": ends.first_task + task, "inner_steps": steps[end], "outcome": what}
            | {"outcome_step": diverged_at[index] if diverged_at[index] >= 0 else None}
            | {name: values[index] for name, values in columns.items()}
        )
