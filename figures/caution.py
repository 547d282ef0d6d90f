"""Warnings that go with a number: where the implicit formula does not apply, and why a number is missing."""

from collections.abc import Sequence

import pandas as pd

from analyses.summary import UNIT
from figures.table_view import finest

IMPLICIT = ("exact", "cg", "cg_unchecked")

# The advice of `diagnostics.outcome`, restated because figures do without the library that it needs; a test compares.
ADVICE = {
    "solver unfinished": "The linear solver used all its iterations before it met its tolerance; allow more "
    "iterations.",
    "indefinite": "The inner Hessian has a negative eigenvalue here, so this is no minimum and the implicit formula "
    "does not apply; take more inner steps or a larger strength.",
    "negative curvature": "Conjugate gradients met a direction of negative curvature: the inner Hessian is indefinite "
    "and the implicit formula does not apply; take more inner steps or a larger strength.",
    "singular": "The inner Hessian is singular to working precision; add damping or a larger strength.",
    "no minimiser": "No minimiser was reached from where the inner loop ended, so there is no stationary gradient to "
    "compare with; take more inner steps, or smooth the loss (relu and max-pool have kinks).",
    "replay differs": "The loop that was rerun for its graph left the recorded states; the inner loss is not "
    "deterministic.",
    "not finite": "The gradient overflowed or is not a number although the inner loop is finite.",
    "diverged": "The inner loop overflowed; take a smaller inner step.",
}


def mostly_indefinite(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """For each cell, whether more than half of its implicit gradients were taken at an indefinite Hessian."""
    implicit = rows.assign(mostly_indefinite=rows["indefinite"] & (rows["estimator"] == "implicit"))
    share = implicit.groupby(list(keys), dropna=False, as_index=False)["mostly_indefinite"].mean()
    return share.assign(mostly_indefinite=share["mostly_indefinite"] > 0.5)


def tasks_where(rows: pd.DataFrame, outcome: str) -> tuple[int, int]:
    """In how many tasks any measured row has this outcome, and how many tasks there are."""
    units = rows[~rows["theory"]].assign(hit=rows["outcome"] == outcome).groupby(list(UNIT), dropna=False)["hit"].any()
    return int(units.sum()), len(units)


def row_note(rows: pd.DataFrame) -> str:
    """A remark on the tasks of a case that are missing from its medians, for want of a number; empty where none is."""
    rows = finest(rows[~rows["theory"]])
    diverged, tasks = tasks_where(rows, "diverged")
    restless, compared = tasks_where(rows[rows["target"] == "stationary"], "no minimiser")
    said = [f"inner loop diverged in {diverged} of {tasks} tasks"] if diverged else []
    said += [f"no minimiser reached in {restless} of {compared} tasks"] if restless else []
    return "; ".join(said)


def nothing_to_compare(rows: pd.DataFrame, target: str) -> str:
    """Why a case has no number against this target."""
    rows = finest(rows[(rows["target"] == target) & ~rows["theory"]])
    if rows.empty:
        return "not measured"
    hits = {outcome: tasks_where(rows, outcome) for outcome in ("no minimiser", "diverged", "not finite")}
    worst, (hit, tasks) = max(hits.items(), key=lambda item: item[1][0])
    if not hit:
        return f"no number in {tasks} of {tasks} tasks"
    words = {
        "no minimiser": "no minimiser reached",
        "diverged": "the inner loop diverged",
        "not finite": "the gradient is not finite",
    }
    return f"{words[worst]}\nin {hit} of {tasks} tasks"
