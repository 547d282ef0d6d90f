"""The one table: a measured meta-gradient a row, the same columns in every analysis."""

from collections.abc import Iterable, Mapping

import pandas as pd

COLUMNS: dict[str, str] = {
    "analysis": "the analysis that the row belongs to",
    "problem": "the problem, with its parameters where they are not the default",
    "task": "task number within the seed; -1 where the row speaks of no single task",
    "seed": "seed of the meta-parameters and of the tasks",
    "inner_optimizer": "inner optimizer",
    "inner_steps": "number of inner steps, K",
    "inner_lr": "size of an inner step",
    "strength": "strength of the proximal term, lambda",
    "estimator": "how the meta-gradient was computed, or `predicted_*`, `bound_*` for a line that theory gives",
    "solver": "linear solver of an implicit estimator",
    "solver_iterations": "iterations that the solver was allowed",
    "damping": "damping added to the Hessian in the solve",
    "precision": "arithmetic of the inner loop and of the estimator",
    "scaling": "rescaling of the problem",
    "target": "the exact gradient compared with: unrolled, stationary, or exact_solve (the implicit formula at the "
    "same point with the linear system solved to rounding)",
    "part": "in a split of an error, the part that the row measures: `total`, or what is the fault of rounding, of the "
    "linear `solver`, of the `inner` loop that has not converged, of `truncation` of the loop, or of `first_order`",
    "share": "<part, total> / |total|^2: signed, and 1 when summed over the parts",
    "reference": "arithmetic that the target was computed in",
    "reference_uncertainty": "relative difference of two settings of that arithmetic; a relative error that is not 100 "
    "times larger is `unresolved`",
    "cosine": "cosine of the angle to the target",
    "cosine_distance": "1 - cosine, computed without cancellation",
    "relative_error": "|estimate - target| / |target|",
    "norm_ratio": "|estimate| / |target|",
    "digits": "-log10 of the relative error",
    "stationarity": "norm of the inner gradient where the loop ended, relative to where it began",
    "solver_residual": "|b - Hx| / |b| of the linear solve, recomputed",
    "min_eigenvalue": "smallest eigenvalue of the inner Hessian where the loop ended, proximal term included",
    "max_eigenvalue": "largest eigenvalue of the same",
    "growth_rate": "logarithm of what the loop multiplies a difference by, per inner step",
    "stage": "of a training run, what the row tells: `train` and `validation` losses, a `probe` of the gradient, a "
    "`test` of the trained, and its `end`",
    "iteration": "outer iterations that were made when the row was measured",
    "test_steps": "inner steps where a training run was validated or tested; `inner_steps` are those in training",
    "outer_optimizer": "outer optimizer of a training run",
    "outer_lr": "its largest step",
    "elapsed": "seconds that training took so far, validation and probes apart: on a CPU the processor's, with all "
    "threads, else the clock's",
    "loss": "outer loss, of one task or the mean over them (task -1)",
    "accuracy": "share of the queries that were classified rightly, of one task or the mean",
    "calibration": "of generalized few-shot: `none`, or `tuned` where a bias is taken off the base classes' scores",
    "bias": "that bias, tuned on validation episodes for the best harmonic mean of the mean accuracies",
    "base_accuracy": "accuracy on queries of base classes, with base and novel classes to choose from",
    "novel_accuracy": "the same on queries of novel classes",
    "harmonic_mean": "2 S U / (S + U) of base accuracy S and novel accuracy U of one task; in a row of all tasks "
    "(task -1) the mean over them, which is at most that of the mean accuracies",
    "delta1": "(S' + U')/2 less the accuracy on all queries, S' and U' being accuracies with classes of the own kind "
    "alone to choose from",
    "delta2": "((S' - S) + (U' - U))/2",
    "area": "area under the curve of S against U over all biases",
    "transductive": "`yes` where queries are classified by statistics of each other too, `no` where each is by itself",
    "outcome": "what became of it; `ok`, a warning, a failure, or `prediction`",
    "outcome_step": "the inner step at which a loop diverged or a gradient underflowed",
    "seconds": "wall time of one gradient of the whole batch of `chunk` tasks, inner loop and estimator: the median of "
    "several; like the other costs it is the batch's, and stands on the row of each of its tasks",
    "seconds_low": "lower quartile of the same",
    "seconds_high": "upper quartile of the same",
    "peak_bytes": "most bytes of tensors that the same has alive at once, the problem's own data apart",
    "saved_bytes": "most bytes that autograd holds at once for backward passes in it",
    "process_bytes": "what it adds to the high-water mark of a fresh process",
    "flops": "floating-point operations in it that are products of matrices or convolutions",
    "chunk": "number of tasks computed together",
    "gradient_count": "gradients computed beyond the inner loop's own",
    "hvp_count": "Hessian-vector products",
}

TEXT = (
    "analysis", "problem", "inner_optimizer", "estimator", "solver", "precision", "scaling", "target", "part",
    "reference", "stage", "outer_optimizer", "calibration", "transductive", "outcome",
)  # fmt: skip
WHOLE = (
    "task", "seed", "inner_steps", "solver_iterations", "iteration", "test_steps", "outcome_step", "chunk",
    "gradient_count", "hvp_count",
)  # fmt: skip


def tidy(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """The rows as the one table: every column, in order and of its kind; `ValueError` for a column nobody knows."""
    return in_kind(pd.DataFrame(list(rows)))


def in_kind(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every column of the table, in order and of its kind; `ValueError` for a column nobody knows."""
    strange = [name for name in frame.columns if name not in COLUMNS]
    if strange:
        raise ValueError(f"table: expected the columns of analyses.table.COLUMNS, found {', '.join(strange)}")
    kinds = {name: "str" if name in TEXT else "Int64" if name in WHOLE else "float64" for name in COLUMNS}
    return frame.reindex(columns=list(COLUMNS)).astype(kinds)
