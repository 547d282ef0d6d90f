"""A study of rounding: the same gradients of the same inner loop in every arithmetic, against extended precision.

Every arithmetic is given the same numbers, those that the coarsest of them can hold. What a gradient in an arithmetic
then differs by from the same gradient in extended precision (target `exact_arithmetic`) is rounding, and nothing else;
what it is off the stationary gradient by in extended precision too is not rounding.

A rescaled problem has references of its own. Where its gradient can be carried back to the original coordinates, the
target `original` is the unrolled gradient of the problem as it was.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from analyses.analysis import Cell, Rows, measurements
from analyses.grid_rows import Ends, judged
from analyses.rounding_lines import predicted_rows, traced_rows
from analyses.settings import Rounding, Settings
from diagnostics import outcome
from diagnostics.arithmetic.extended import rounded
from diagnostics.arithmetic.low import underflow_at
from diagnostics.arithmetic.power_of_two import adjoint_norms
from diagnostics.arithmetic.precision import Precision, enter_rows, precision
from diagnostics.arithmetic.rescaling import Rescaled, parse, rescale
from diagnostics.certified import Certified, affordable, certified, certified_stationary, certified_unrolled
from diagnostics.chunks import in_chunks, tasks_that_fit
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Optimizer, Trajectory, make_optimizer, optimizers, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.reference import FLOAT64, in_arithmetic
from diagnostics.rows import Data, row_norms, take_rows
from diagnostics.sweep import Sweep, along_the_path, implicit_at_ends, spectrum_at_ends


@dataclass(frozen=True)
class RoundingCell:
    """One cell of work, in plain numbers and names; see `settings.Rounding`."""

    problem: str
    seed: int
    tasks: int
    steps: tuple[int, ...]
    iterations: tuple[int, ...]
    precisions: tuple[str, ...]
    scaling: str = "none"
    inner_optimizer: str = "gd"
    inner_lr: float | None = None
    strength: float | None = None
    patience: int = 5000
    reference_seconds: float = 120.0
    traced: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Loop:
    """An inner loop that may be run: of what, from which float64 numbers."""

    problem: Problem
    optimizer: Optimizer
    theta: Tensor
    data: Data

    def run(self, arithmetic: Precision, steps: int) -> Trajectory:
        """Run it in an arithmetic."""
        with arithmetic.running():
            theta, data = arithmetic.enter(self.theta), enter_rows(arithmetic, self.data)
            return run_inner(self.problem, self.optimizer, theta, data, steps)


def studies(settings: Settings) -> list[list[Cell]]:
    """For each study, a cell for each problem, seed and rescaling; `ValueError` for a name that is unknown."""
    return [_cells_of(study) for study in settings.roundings]


def _cells_of(study: Rounding) -> list[Cell]:
    optimizers[study.inner_optimizer]
    for known, names in ((build, study.problems), (precision, study.precisions), (parse, study.scalings)):
        for name in names:
            known(name)
    for name in study.traced:
        if not precision(name).eps > FLOAT64.eps:
            raise ValueError(f"traced: expected arithmetics coarser than float64, found {name}")
    own = {key: value for key, value in asdict(study).items() if key not in ("problems", "seeds", "scalings")}
    return [
        Cell.of("rounding", RoundingCell(problem=problem, seed=seed, scaling=scaling, **own))
        for problem, seed, scaling in product(study.problems, study.seeds, study.scalings)
    ]


@measurements.register("rounding")
def measure_spec(spec: Mapping[str, Any]) -> Rows:
    """`measure` for a cell as a store spells it."""
    tuples = {key: tuple(spec[key]) for key in ("steps", "iterations", "precisions", "traced")}
    return measure(RoundingCell(**{**spec, **tuples}))


def measure(cell: RoundingCell) -> Rows:
    """The rows of one problem, seed and rescaling, without the column `analysis`.

    Raises `ValueError` for settings that mean nothing, and for data beyond the range of an arithmetic.
    """
    problem = build(cell.problem, strength=cell.strength, learning_rate=cell.inner_lr)
    optimizer = make_optimizer(cell.inner_optimizer, problem, cell.inner_lr)
    theta, data = problem.draw(cell.tasks, cell.seed, cell.device)
    exact = affordable(problem, theta, data, max(cell.steps), cell.reference_seconds)
    size = tasks_that_fit(problem, theta, data, copies=4 * len(cell.steps))

    def chunk(tasks: slice) -> Rows:
        original = Loop(problem, optimizer, theta[tasks], take_rows(data, tasks))
        return list(_measured(cell, original, exact, tasks.start))

    return [row for rows in in_chunks(chunk, cell.tasks, size) for row in rows]


def held_by_all(arithmetics: list[Precision], loop: Loop) -> Loop:
    """The loop from numbers that every arithmetic holds exactly. `ValueError` where one is beyond a range."""
    floating = {key: value for key, value in loop.data.items() if value.is_floating_point()}
    held = {"theta": loop.theta, **floating}
    for arithmetic in arithmetics:
        for name, x in held.items():
            held[name] = arithmetic.leave(arithmetic.enter(x))
            if not held[name].isfinite().all():
                raise ValueError(
                    f"{arithmetic.name}: expected numbers within its range, found {name} of problem "
                    f"{loop.problem.name!r} with {float(x.abs().max()):g}; use the rescaling power_of_two, or an "
                    "arithmetic of wider range"
                )
    return replace(loop, theta=held.pop("theta"), data={**loop.data, **held})


def _held_if_possible(arithmetics: list[Precision], loop: Loop) -> Loop:
    """`held_by_all`, or the loop as it is where only a rescaling brings its numbers into range."""
    try:
        return held_by_all(arithmetics, loop)
    except ValueError:
        return loop


def _measured(cell: RoundingCell, original: Loop, exact: Precision, first_task: int) -> Iterator[dict[str, object]]:
    arithmetics = [precision(name) for name in cell.precisions]
    longest, tiny = max(cell.steps), max(arithmetic.tiny for arithmetic in arithmetics)
    original = _held_if_possible(arithmetics, original)
    scaled = rescale(cell.scaling, original.problem, original.optimizer, original.theta, original.data, longest, tiny)
    loop = held_by_all(arithmetics, Loop(scaled.problem, scaled.optimizer, scaled.theta, scaled.data))
    exact_run = loop.run(exact, longest)
    references = _references(cell, loop.problem, exact_run, exact)
    stationary = {name: references[name] for name in ("stationary",) if name in references}
    unscaled = _unscaled(cell, original, scaled)
    ends = _ends(cell, loop, exact_run, first_task)

    for arithmetic in [*(a for a in arithmetics if a != exact), exact]:
        known = arithmetic == exact
        run = exact_run if known else loop.run(arithmetic, longest)
        found = {} if known else _gradients(cell, loop.problem, run, arithmetic)
        here = _in_arithmetic(ends, run, arithmetic)
        for name, label in _labels(cell, loop.problem).items():
            sweep = references[name].sweep if known else found[name]
            targets = stationary if known else {"exact_arithmetic": references[name]} | stationary
            if name != "unrolled":
                yield from judged(here, label, sweep, targets | {"unrolled": references["unrolled"]})
                continue
            exact_sweep = references[name].sweep
            lost = _underflow(cell.steps, sweep, exact_sweep, loop.problem, run, exact_run, arithmetic)
            codes = outcome.graver(sweep.outcome, outcome.where(lost >= 0, Outcome.UNDERFLOW))
            sweep = replace(sweep, outcome=codes)
            at = replace(here, stopped_at=torch.maximum(here.stopped_at, lost))
            yield from judged(at, label, sweep, targets)
            if unscaled is not None:
                yield from judged(at, label, _carried_back(scaled, sweep, arithmetic), {"original": unscaled})
    yield from predicted_rows(loop.problem, loop.run(FLOAT64, longest), ends, arithmetics)
    yield from traced_rows(loop.problem, ends, [(a, loop.run(a, longest)) for a in map(precision, cell.traced)])


def _labels(cell: RoundingCell, problem: Problem) -> dict[str, dict[str, object]]:
    """The gradients that are studied, and what the table calls them."""
    labels: dict[str, dict[str, object]] = {"unrolled": {"estimator": "unrolled_adjoint"}}
    if problem.has_implicit_gradient:
        implicit: dict[str, object] = {"estimator": "implicit", "solver": "cg_unchecked"}
        labels |= {f"cg {count}": implicit | {"solver_iterations": count} for count in cell.iterations}
    return labels


def _gradients(cell: RoundingCell, problem: Problem, run: Trajectory, arithmetic: Precision) -> dict[str, Sweep]:
    """Each of the gradients at the ends of a loop, in the loop's arithmetic."""
    with arithmetic.running():
        found = {"unrolled": along_the_path(UnrolledAdjoint(), problem, run, cell.steps)}
        if problem.has_implicit_gradient:
            solver = ConjugateGradients(max(cell.iterations), keep=cell.iterations, past_negative_curvature=True)
            sweeps = implicit_at_ends(solver, problem, run, cell.steps)
            found |= {f"cg {count}": sweep for count, sweep in zip(cell.iterations, sweeps, strict=True)}
    return found


def _references(cell: RoundingCell, problem: Problem, run: Trajectory, exact: Precision) -> dict[str, Certified]:
    """The same gradients in the arithmetic of the references, and the stationary one."""

    def compute(setting: Precision) -> dict[str, Sweep]:
        return _gradients(cell, problem, in_arithmetic(problem, run, setting), setting)

    finest = min((precision(name) for name in cell.precisions), key=lambda arithmetic: arithmetic.eps)
    found = certified(compute, exact, finest)
    if problem.has_implicit_gradient:
        ends = found["unrolled"].sweep
        found["stationary"] = certified_stationary(problem, run, ends, cell.patience, exact, finest)
    return found


def _unscaled(cell: RoundingCell, original: Loop, scaled: Rescaled) -> Certified | None:
    """The unrolled gradient of the problem as it was, where one of the rescaled problem can be compared with it."""
    if cell.scaling == "none" or scaled.carry_back is None:
        return None
    run = original.run(FLOAT64, max(cell.steps))
    return certified_unrolled(original.problem, run, cell.steps, FLOAT64, FLOAT64)


def _carried_back(scaled: Rescaled, sweep: Sweep, arithmetic: Precision) -> Sweep:
    assert scaled.carry_back is not None
    return replace(sweep, value=torch.stack([scaled.carry_back(arithmetic.leave(value)) for value in sweep.value]))


def _ends(cell: RoundingCell, loop: Loop, run: Trajectory, first_task: int) -> Ends:
    """What is the same in every arithmetic."""
    run64, device = in_arithmetic(loop.problem, run, FLOAT64), run.theta.device
    return Ends(
        steps=cell.steps,
        common={
            "problem": cell.problem,
            "seed": cell.seed,
            "inner_optimizer": cell.inner_optimizer,
            "inner_lr": loop.optimizer.learning_rate,
            "strength": loop.problem.strength,
            "damping": 0.0,
            "scaling": cell.scaling,
            "chunk": len(loop.theta),
        },
        first_task=first_task,
        spectrum=spectrum_at_ends(loop.problem, run64, cell.steps, iterations=60, dense_below=256),
        stationarity=run64.stationarity[torch.as_tensor(cell.steps, device=device)],
        stopped_at=torch.full((len(cell.steps), len(loop.theta)), -1, device=device),
        references={},
    )


def _in_arithmetic(ends: Ends, run: Trajectory, arithmetic: Precision) -> Ends:
    """The ends of the loop that was run in an arithmetic."""
    steps = torch.as_tensor(ends.steps, device=run.theta.device)
    return replace(
        ends,
        common=ends.common | {"precision": arithmetic.name},
        stationarity=run.stationarity[steps],
        stopped_at=torch.where(run.diverged_at <= steps.unsqueeze(-1), run.diverged_at, -1),
    )


def _underflow(
    counts: tuple[int, ...],
    sweep: Sweep,
    exact: Sweep,
    problem: Problem,
    run: Trajectory,
    exact_run: Trajectory,
    arithmetic: Precision,
) -> Tensor:
    """The steps `(E, B)` at which underflow took an unrolled gradient's digits, or -1.

    On the way forward an inner gradient vanishes that would still have moved the weights (beyond that it may be zero
    because the loop has arrived); on the way back the adjoint does, and the gradient with it.
    """
    before, moves = [], _moves(exact_run, arithmetic)
    for steps, value, should_be in zip(counts, sweep.value, exact.value, strict=True):
        end = run.prefix(steps)
        forward = underflow_at(end.gradient_norms, arithmetic.tiny, moves[: steps + 1])
        gone = (row_norms(arithmetic.leave(value)) < arithmetic.tiny) & (row_norms(rounded(should_be)) > 0)
        backward = torch.full_like(forward, -1)
        if bool(gone.any()):
            with arithmetic.running():
                norms = adjoint_norms(problem, end)
            backward = torch.where(gone, underflow_at(arithmetic.leave(norms), arithmetic.tiny, backward=True), -1)
        before.append(torch.where(forward >= 0, forward, backward))
    return torch.stack(before)


def _moves(exact_run: Trajectory, arithmetic: Precision) -> Tensor:
    """Whether `(K+1, B)` the step from each state is larger than the roundings of the N terms of a gradient."""
    states = exact_run.states
    taken, length = row_norms(rounded(states[1:] - states[:-1])), row_norms(rounded(states[:-1]))
    moves = taken > arithmetic.eps * exact_run.size**0.5 * length
    return torch.cat([moves, moves.new_zeros(1, moves.shape[1])])
