"""Differences of trained networks to MAML's, judged by their intervals, and numbers of them as text."""

import numpy as np
import pandas as pd

from figures.training_lines import Line
from figures.training_view import Case, at
from figures.training_wording import NEGLIGIBLE, judged, with_half

IMPLICIT_SOLVERS = ("cg_unchecked", "cg")


def implicit_line(case: Case) -> Line | None:
    """The implicit line that is held against MAML: the first there is."""
    return next((line for line in case.plain if line.method in IMPLICIT_SOLVERS), None)


def judged_gaps(case: Case, line: Line) -> list[tuple[float, str]]:
    """What each of a line's differences says, by number of inner steps."""
    rows = case.gaps[case.gaps["line"] == line.name].sort_values("inner_steps")
    return list(zip(rows["inner_steps"].tolist(), each_judged(rows, case), strict=True))


def each_judged(rows: pd.DataFrame, case: Case) -> list[str]:
    """What each row of differences says; what is negligible is so beside MAML's own loss there."""
    found = []
    for row in rows[["inner_steps", case.measure, f"{case.measure}_half"]].to_numpy(dtype=float).tolist():
        own = at(case.as_trained, case.reference.name, row[0]) if case.reference else None
        size = 1.0 if own is None or case.measure == "accuracy" else abs(float(own[case.measure]))
        found.append(judged(row[1], row[2], case.better, NEGLIGIBLE * size))
    return found


def clearest(rows: pd.DataFrame, case: Case) -> pd.Series | None:
    """The difference that is largest in its own half intervals; in itself where there are none."""
    known = rows[np.isfinite(rows[case.measure].to_numpy(dtype=float))]
    if known.empty:
        return None
    size = known[case.measure].abs()
    half = known[f"{case.measure}_half"]
    return known.loc[(size / half.where(half > 0)).fillna(size).idxmax()]


def best_of(rows: pd.DataFrame, case: Case) -> pd.Series:
    """The row with the best mean."""
    return rows.loc[(case.better * rows[case.measure]).idxmax()]


def mean_text(row: pd.Series, case: Case) -> str:
    """The performance of a row with its interval."""
    return with_half(float(row[case.measure]), float(row[f"{case.measure}_half"]), percent=case.measure == "accuracy")


def gap_text(row: pd.Series, case: Case) -> str:
    """The difference of a row with its interval."""
    return difference_text(float(row[case.measure]), float(row[f"{case.measure}_half"]), case)


def difference_text(mean: float, half: float, case: Case) -> str:
    """A difference in performance with its interval."""
    return with_half(mean, half, percent=case.measure == "accuracy", sign=True)
