"""A cell of the shared grid, what is known at the ends of its loops, and how measured gradients become its rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.extended import rounded
from diagnostics.certified import Certified
from diagnostics.curvature import Spectrum
from diagnostics.metrics import Distance, distance
from diagnostics.outcome import Outcome, decode
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
    reference_seconds: float = 0.0
    device: str = "cpu"


@dataclass(frozen=True)
class Ends:
    """What is known at the ends of the loops before any gradient is judged: `(E, B)` each, and the two references."""

    steps: tuple[int, ...]
    common: dict[str, object]
    first_task: int
    spectrum: Spectrum
    stationarity: Tensor
    stopped_at: Tensor  # the step at which the loop diverged or a gradient underflowed; -1 for neither
    references: dict[str, Certified]


def judged(
    ends: Ends, label: dict[str, object], sweep: Sweep, targets: dict[str, Certified]
) -> Iterator[dict[str, object]]:
    """One row for each target, end and task."""
    for target, reference in targets.items():
        found = distance(sweep.value.flatten(0, 1), reference.sweep.value.flatten(0, 1))
        too_small = outcome.where(reference.cannot_tell(found.relative_error), Outcome.UNRESOLVED)
        codes = outcome.graver(sweep.outcome.flatten(), reference.sweep.outcome.flatten(), too_small)
        named = label | {"target": target, "reference": reference.arithmetic}
        more = {"reference_uncertainty": reference.uncertainty}
        yield from rows_of(ends, named, found, sweep, [o.label for o in decode(codes)], more)


def rows_of(
    ends: Ends,
    label: dict[str, object],
    found: Distance,
    sweep: Sweep | None,
    outcomes: list[str],
    more: Mapping[str, Tensor] = MappingProxyType({}),
) -> Iterator[dict[str, object]]:
    """One row for each end and task; `found` and `outcomes` run over the ends, then the tasks.

    `more` are columns `(E, B)`.
    """
    tasks = ends.stationarity.shape[1]
    flat = {
        "cosine": found.cosine,
        "cosine_distance": found.cosine_distance,
        "relative_error": found.relative_error,
        "norm_ratio": found.norm_ratio,
        "digits": found.digits,
        "stationarity": ends.stationarity,
        "min_eigenvalue": ends.spectrum.smallest,
        "max_eigenvalue": ends.spectrum.largest,
        **more,
    }
    if sweep is not None:
        flat["solver_residual"] = sweep.solver_residual
    columns = {name: rounded(values).flatten().tolist() for name, values in flat.items()}
    if sweep is not None:
        counted = {"gradient_count": sweep.gradient_count, "hvp_count": sweep.hvp_count}
        columns |= {name: values.flatten().tolist() for name, values in counted.items()}
    stopped_at = ends.stopped_at.flatten().tolist()
    for index, what in enumerate(outcomes):
        end, task = divmod(index, tasks)
        yield (
            ends.common
            | label
            | {"task": ends.first_task + task, "inner_steps": ends.steps[end], "outcome": what}
            | {"outcome_step": stopped_at[index] if stopped_at[index] >= 0 else None}
            | {name: values[index] for name, values in columns.items()}
        )
