"""Q6: what each meta-gradient costs in time, memory and products, beside the accuracy that it buys.

A cell is one problem, seed, arithmetic and inner optimizer. Each way to a gradient (an estimator, with a number of
solver iterations) is priced for each number of inner steps, on one batch of all tasks: seconds in turns, without
anything counting; then bytes and operations, each in a run of its own. What it costs is the batch's, and stands on the
row of every task. The accuracy is a task's own, against both references.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch

from analyses.analysis import Analysis, Cell, Rows, analyses, measurements
from analyses.cost_limits import too_large
from analyses.cost_rows import LOOP, CostCell, Setting, Way, ways
from analyses.grid_rows import Ends, judged
from analyses.settings import Settings
from diagnostics.arithmetic.precision import precision
from diagnostics.certified import affordable, certified_stationary, certified_unrolled
from diagnostics.cost.cuda_bytes import cuda_bytes
from diagnostics.cost.flops import flops
from diagnostics.cost.live_bytes import live_bytes
from diagnostics.cost.process_bytes import process_bytes
from diagnostics.cost.saved_bytes import saved_bytes
from diagnostics.cost.seconds import in_turns
from diagnostics.curvature import Spectrum
from diagnostics.inner import Trajectory, optimizers
from diagnostics.meta_gradient import MetaGradient, estimators
from diagnostics.outcome import Outcome
from diagnostics.problem_names import build
from diagnostics.reference import FLOAT64, in_arithmetic
from diagnostics.sweep import Sweep, spectrum_at_ends, warn_where_indefinite

COUNTED = ("peak_bytes", "saved_bytes", "flops", "process_bytes")
COSTS = ("seconds", "seconds_low", "seconds_high", *COUNTED)
DENSE_BELOW = 64  # weights up to which the Hessian's eigenvalues are computed from the matrix itself

Costs = dict[str, float | int | None]


def cells(settings: Settings) -> list[Cell]:
    """A cell for each problem, seed, arithmetic and inner optimizer; `ValueError` for a name that is unknown."""
    found = []
    for table in settings.costs:
        for known, names in (
            (build, table.problems),
            (precision, table.precisions),
            (optimizers.__getitem__, table.inner_optimizer),
            (estimators.__getitem__, table.estimators),
        ):
            for name in names:
                known(name)
        own = {field.name for field in fields(CostCell)} - {"problem", "seed", "precision", "inner_optimizer"}
        shared = {key: value for key, value in asdict(table).items() if key in own}
        for problem, seed, arithmetic, optimizer in product(
            table.problems, table.seeds, table.precisions, table.inner_optimizer
        ):
            cell = CostCell(problem=problem, seed=seed, precision=arithmetic, inner_optimizer=optimizer, **shared)
            found.append(Cell.of("cost", cell))
    return found


@measurements.register("cost")
def measure_spec(spec: Mapping[str, Any]) -> Rows:
    """`measure` for a cell as a store spells it."""
    tuples = {key: tuple(spec[key]) for key in ("steps", "iterations", "estimators")}
    return measure(CostCell(**{**spec, **tuples}))


def measure(cell: CostCell) -> Rows:
    """The rows of one cell, without the column `analysis`. Raises `ValueError` for settings that mean nothing."""
    setting = Setting.of(cell, cell.tasks, max(cell.steps))
    compared = ways(cell, setting.problem)
    impossible = too_large(cell, compared)
    wanted = [key for key in product(compared, cell.steps) if key not in impossible]
    calls = {key: setting.call(*key) for key in wanted}
    found = {key: call() for key, call in calls.items()}  # for the numbers, and to warm up
    costs: dict[tuple[Way, int], Costs] = {key: dict.fromkeys(COSTS) for key in product(compared, cell.steps)}
    for key, seconds in in_turns(calls, cell.repeats, warm_up=0, device=cell.device).items():
        costs[key] |= {"seconds": seconds.median, "seconds_low": seconds.low, "seconds_high": seconds.high}
    in_processes = cell.processes and setting.loop.theta.device.type == "cpu"  # of a GPU's memory it would not tell
    for key, call in calls.items():
        costs[key] |= {
            "peak_bytes": peak_bytes(call, torch.device(cell.device)),
            "saved_bytes": saved_bytes(call, setting.given),
            "flops": flops(call),
            "process_bytes": process_bytes(partial(in_a_fresh_process, cell, *key)) if in_processes else None,
        }
    return [*_loop_rows(cell, setting, costs), *_gradient_rows(cell, setting, compared, found, costs)]


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes alive at once: of tensors, or on a GPU what its allocator has given out, in its blocks."""
    return cuda_bytes(call, device) if device.type == "cuda" else live_bytes(call).peak


def in_a_fresh_process(cell: CostCell, way: Way, steps: int) -> Any:
    """The call to be measured in a process of its own, after it was made once for one task and a step."""
    Setting.of(cell, tasks=1, steps=1).call(way, min(1, steps))()
    return Setting.of(cell, cell.tasks, steps).call(way, steps)


def _loop_rows(cell: CostCell, setting: Setting, costs: Mapping[tuple[Way, int], Costs]) -> Iterator[dict[str, object]]:
    """The inner loop alone: a row for each number of steps, which speaks of no single task and has no target."""
    for (way, steps), found in costs.items():
        if way.estimator == LOOP:
            became = Outcome.TOO_LARGE if found["seconds"] is None else Outcome.OK
            label = {"task": -1, "inner_steps": steps, "outcome": became.label}
            yield _common(cell, setting) | way.label | label | found


def _gradient_rows(
    cell: CostCell,
    setting: Setting,
    compared: list[Way],
    found: Mapping[tuple[Way, int], MetaGradient | None],
    costs: Mapping[tuple[Way, int], Costs],
) -> Iterator[dict[str, object]]:
    """A row for each way, number of steps, task and target."""
    ends = _ends(cell, setting)
    for way in compared:
        if way.estimator == LOOP:
            continue
        sweep = _stacked(setting.loop, [found.get((way, steps)) for steps in cell.steps])
        if way.estimator == "implicit":
            sweep = warn_where_indefinite(sweep, ends.spectrum)
        for row in judged(ends, way.label, sweep, ends.references):
            steps = row["inner_steps"]
            assert isinstance(steps, int)
            missing = {} if (way, steps) in found else {"gradient_count": None, "hvp_count": None}
            yield row | missing | costs[way, steps]


def _stacked(loop: Trajectory, gradients: list[MetaGradient | None]) -> Sweep:
    """The gradients at all ends; one that was not tried is NaN, with the outcome `TOO_LARGE`."""
    none = torch.zeros_like(loop.outcome)
    untried = MetaGradient(
        value=torch.full_like(loop.theta, torch.nan),
        outcome=none + Outcome.TOO_LARGE.code,
        gradient_count=none,
        hvp_count=none,
        solver_residual=torch.full_like(loop.theta[:, 0], torch.nan),
    )
    all_ends = [untried if gradient is None else gradient for gradient in gradients]
    return Sweep(
        **{field.name: torch.stack([getattr(gradient, field.name) for gradient in all_ends]) for field in fields(Sweep)}
    )


def _ends(cell: CostCell, setting: Setting) -> Ends:
    """What is known where the loops end, and the references."""
    problem, loop = setting.problem, setting.loop
    theta, data = problem.draw(cell.tasks, cell.seed, cell.device)
    exact = affordable(problem, theta, data, max(cell.steps), cell.reference_seconds)
    exact_loop = in_arithmetic(problem, loop, FLOAT64)
    unrolled = certified_unrolled(problem, loop, cell.steps, exact, setting.arithmetic)
    references = {"unrolled": unrolled}
    if problem.has_implicit_gradient:
        references["stationary"] = certified_stationary(
            problem, loop, unrolled.sweep, cell.patience, exact, setting.arithmetic
        )
    steps = torch.as_tensor(cell.steps, device=loop.theta.device)
    return Ends(
        steps=cell.steps,
        common=_common(cell, setting),
        first_task=0,
        spectrum=_spectrum(cell, setting, exact_loop),
        stationarity=loop.stationarity[steps],
        stopped_at=torch.where(loop.diverged_at <= steps.unsqueeze(-1), loop.diverged_at, -1),
        references=references,
    )


def _spectrum(cell: CostCell, setting: Setting, exact_loop: Trajectory) -> Spectrum:
    """Extreme eigenvalues at all ends, one end after the other: together they would take the most memory of all."""
    found = [
        spectrum_at_ends(
            setting.problem, exact_loop, (steps,), iterations=cell.lanczos_iterations, dense_below=DENSE_BELOW
        )
        for steps in cell.steps
    ]
    names = ("smallest", "largest", "smallest_uncertainty", "largest_uncertainty")
    return replace(found[0], **{name: torch.cat([getattr(one, name) for one in found]) for name in names})


def _common(cell: CostCell, setting: Setting) -> dict[str, object]:
    return {
        "problem": cell.problem,
        "seed": cell.seed,
        "inner_optimizer": cell.inner_optimizer,
        "inner_lr": setting.loop.optimizer.learning_rate,
        "strength": setting.problem.strength,
        "damping": 0.0,
        "precision": cell.precision,
        "scaling": "none",
        "chunk": cell.tasks,
    }


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """All of them."""
    return rows


analyses.register("cost")(
    Analysis(("Q6",), "seconds, bytes and products of every meta-gradient, beside its accuracy", cells, view)
)
