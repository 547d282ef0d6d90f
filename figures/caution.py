"""Warnings that go with a number: where the implicit formula does not apply, and why a number is missing."""

from collections.abc import Sequence

import pandas as pd

from analyses.summary import UNIT
from diagnostics.outcome import Outcome
from figures.table_view import finest

ADVICE = {outcome.label: outcome.advice for outcome in Outcome}


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
    words = {
        "no minimiser": "no minimiser reached",
        "no exact solve": "linear system not solved",
        "diverged": "the inner loop diverged",
        "not finite": "the gradient is not finite",
    }
    hits = {outcome: tasks_where(rows, outcome) for outcome in words}
    worst, (hit, tasks) = max(hits.items(), key=lambda item: item[1][0])
    if not hit:
        return f"no number in {tasks} of {tasks} tasks"
    return f"{words[worst]}\nin {hit} of {tasks} tasks"
