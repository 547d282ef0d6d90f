"""What theory says of a study of rounding, and each inner step's own part, as rows beside the measured gradients."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from analyses.grid_rows import Ends
from diagnostics.arithmetic.precision import Precision
from diagnostics.growth import growth, predicted_error
from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import outer_gradients
from diagnostics.outcome import decode
from diagnostics.problem import Problem
from diagnostics.reference import FLOAT64
from diagnostics.rounding import backward_rounding, by_kind, forward_rounding, run_again
from diagnostics.rows import row_norms


def predicted_rows(
    problem: Problem, run: Trajectory, ends: Ends, arithmetics: Sequence[Precision]
) -> Iterator[dict[str, object]]:
    """The error that each arithmetic should have, from the growth rate of the float64 loop `run`; see `growth`."""
    if run.steps == 0:
        return
    rate = growth(problem, run, iterations=3, tolerance=1e-2).rate
    norm = row_norms(outer_gradients(problem, run)[0])
    largest = ends.spectrum.largest[-1]
    condition = (largest / problem.strength).clamp(min=1.0) if problem.strength else None
    for arithmetic in arithmetics:
        error = predicted_error(ends.steps, rate, arithmetic.eps, arithmetic.tiny, norm=norm, condition=condition)
        label = {"estimator": "predicted_rounding", "precision": arithmetic.name, "target": "exact_arithmetic"}
        yield from _lines(ends, label, error, ["prediction"] * len(rate), ends.steps, {"growth_rate": rate})


def traced_rows(
    problem: Problem, ends: Ends, runs: Sequence[tuple[Precision, Trajectory]]
) -> Iterator[dict[str, object]]:
    """The errors of every state and adjoint of the longest loop, and of its gradient by kind of operation.

    The row with `inner_steps` k speaks of the state after k steps. Against float64, which is finer by 2^29 or more.
    """
    for arithmetic, run in runs:
        loops = run_again(problem, run, arithmetic, FLOAT64)
        forward, backward, kinds = forward_rounding(loops), backward_rounding(loops), by_kind(loops)
        outcomes = [found.label for found in decode(backward.outcome)]
        steps = tuple(range(run.steps + 1))
        for name, error in (
            ("state", forward.accumulated),
            ("state_local", forward.local),
            ("adjoint", backward.accumulated),
            ("adjoint_by_states", backward.by_states),
            ("adjoint_by_sweep", backward.by_sweep),
            ("adjoint_local", backward.local),
        ):
            label = {"estimator": f"trace_{name}", "precision": arithmetic.name, "target": "exact_arithmetic"}
            yield from _lines(ends, label, error, outcomes, steps)
        for kind, error in {**kinds.relative, "all": kinds.together}.items():
            label = {"estimator": f"rounded_{kind}", "precision": arithmetic.name, "target": "exact_arithmetic"}
            yield from _lines(ends, label, error.unsqueeze(0), outcomes, (run.steps,))


def _lines(
    ends: Ends,
    label: Mapping[str, object],
    error: Tensor,
    outcomes: list[str],
    steps: Sequence[int],
    more: dict[str, Tensor] | None = None,
) -> Iterator[dict[str, object]]:
    """Rows that have a relative error `(E, B)`, columns `more` of one value a task, and nothing else to tell."""
    tasks = error.shape[1]
    columns = {name: values.tolist() for name, values in (more or {}).items()}
    for index, value in enumerate(error.flatten().tolist()):
        end, task = divmod(index, tasks)
        at = {"task": ends.first_task + task, "inner_steps": steps[end], "outcome": outcomes[task]}
        yield (
            ends.common | dict(label) | at | {"relative_error": value} | {name: x[task] for name, x in columns.items()}
        )
